"""A classifier is served without TensorFlow and Keras."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_ptuning import PlainText, Template, build_classifier, build_ptuning_model

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "onnx_serving.py"
TEXTS = ["物流很快，包装也好。", "屏幕" * 90, "Ok ay[MASK]，不满意！", "书"]
# Runs without what must not be needed.
PREDICT = """
import json, sys
for name in ("tensorflow", "keras", "keras_ptuning", "torch", "jax"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import onnx_serving
classifier = onnx_serving.Classifier(sys.argv[2])
texts = json.loads(sys.argv[3])
print(json.dumps([classifier.token_ids(text) for text in texts]))
print(json.dumps(classifier.predict_proba(texts).tolist()))
"""


@pytest.mark.parametrize(
    "checkpoint", ["bert-mini-zh", pytest.param("bert-small-zh", marks=pytest.mark.slow)]
)
def test_onnx_without_keras(checkpoint, tmp_path):
    """With a vocabulary of characters, and with one of words."""
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    template = Template(
        "[u1]感觉：{text}[u2][MASK]满意", {"负面": "不", "正面": "很"}, checkpoint, 64
    )
    model = build_ptuning_model(checkpoint, template=template)
    model.save(tmp_path / "model.keras")
    command = [sys.executable, SCRIPT, "export", tmp_path / "model.keras", tmp_path / "served"]
    subprocess.run(command, check=True)
    arguments = [SCRIPT.parent, tmp_path / "served", json.dumps(TEXTS)]
    command = [sys.executable, "-c", PREDICT, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    token_ids, found = map(json.loads, done.stdout.splitlines())
    assert token_ids == template.tokenizer.token_ids(TEXTS)
    scores = model.predict(template.dataset(TEXTS), verbose=0)
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(scores))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_tokenizer_file_has_the_same_ids(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = Template("[MASK]{text}", None, "bert-mini-zh").tokenizer
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text, ids in zip(TEXTS, tokenizer.token_ids(TEXTS), strict=True):
        assert loaded.encode(text, add_special_tokens=False).ids == ids
    assert type(tokenizer)(tmp_path / "tokenizer.json").vocab == tokenizer.vocab


@pytest.mark.parametrize("pattern", ["[MASK]满意。{text:9}", "[MASK]满意。{text:-9}", None])
def test_other_templates_are_refused(load_script, small_bert, tmp_path, pattern):
    """Their texts are cut in another way, or they have no mask."""
    labels, config_and_weights = ["负面", "正面"], small_bert[:2]
    if pattern is None:
        template = PlainText(labels, small_bert[2], 32)
        model = build_classifier(*config_and_weights, template)
    else:
        template = Template(pattern, dict(zip(labels, "不好", strict=True)), small_bert[2], 32)
        model = build_ptuning_model(*config_and_weights, template)
    model.save(tmp_path / "model.keras")
    with pytest.raises(SystemExit, match="without a limit"):
        load_script(SCRIPT).export(tmp_path / "model.keras", tmp_path / "served")
    assert not (tmp_path / "served").exists()
