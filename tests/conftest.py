import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(__file__))

import keras
import pytest
from small_bert import write_small_bert

from keras_ptuning import Template, Tokenizer, build_ptuning_model

# One runs with bert4keras, in an environment of its own, the others with arguments.
collect_ignore = ["goldens/record_bert4keras.py", "tuning/distribution_run.py", "kills.py"]

LABELS = {"负面": "不", "正面": "很"}
PATTERN = "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}"


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory):
    """Paths of the configuration, the checkpoint and the vocabulary of a small random BERT."""
    return write_small_bert(tmp_path_factory.mktemp("small_bert"))


@pytest.fixture(scope="session")
def tokenizer(small_bert):
    return Tokenizer(small_bert[2])


@pytest.fixture
def make_template(tokenizer):
    def make(pattern=PATTERN, labels=LABELS, maxlen=64, tokenizer=tokenizer):
        return Template(pattern, labels, tokenizer, maxlen=maxlen)

    return make


@pytest.fixture
def make_model(small_bert, make_template):
    """A model on the small BERT, without dropout so that calls repeat exactly."""

    def make(template=None, **kwargs):
        kwargs = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, **kwargs}
        template = template or make_template()
        return build_ptuning_model(small_bert[0], small_bert[1], template, **kwargs)

    return make


@pytest.fixture
def reviews():
    """Texts of different lengths, about books or about screens."""
    texts = [("书贵" if i % 2 else "屏幕") * (1 + i % 7) for i in range(24)]
    return texts, ["正面" if i % 2 else "负面" for i in range(24)]
