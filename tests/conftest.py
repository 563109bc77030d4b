import importlib.util
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: threads of each would only wait for one another.
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(name, "1")
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


@pytest.fixture
def eagerly(request, monkeypatch):
    """Models that train and predict without a graph.

    TensorFlow takes longer to trace a step than to do ten. This is for tests of what is around the
    steps. Each kind of model has others, marked `graph` or without this, which run as `compile`
    says.
    """
    graph = request.node.get_closest_marker("graph")
    if keras.backend.backend() == "tensorflow" and not graph:
        always = property(lambda self: True, lambda self, value: None)
        monkeypatch.setattr(keras.Model, "run_eagerly", always)


@pytest.fixture
def load_script(monkeypatch):
    """Imports a script, which finds those next to it."""

    def load(path):
        monkeypatch.syspath_prepend(path.parent)
        spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def run_script(load_script, monkeypatch, capsys):
    """Calls `main` of a script, in this process and the present folder. Returns what it prints.

    TensorFlow need not be imported again. Keywords replace constants of the script.
    """

    def run(path, *arguments, **constants):
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        module = load_script(path)
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out

    return run


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
