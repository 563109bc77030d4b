"""Exported models score as the models themselves do."""

import importlib.util

import keras
import numpy as np
import pytest
from small_bert import CONFIG, vocabulary
from small_gpt2 import write_small_gpt2

from keras_ptuning import (
    PlainText,
    PromptClassifier,
    Template,
    build_classifier,
    build_ptuning_model,
    build_vat_classifier,
)

pytestmark = [
    pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="no TensorFlow"),
    pytest.mark.skipif(
        keras.backend.backend() == "torch", reason="Keras exports no lengths that differ"
    ),
]
TEXTS = ["书贵", "屏幕很好，喜欢", "服务态度糟糕" * 3]


def check(model, path, *encoded):
    """Compares the scores of encoded texts with those of an exported model."""
    import tensorflow as tf

    encoded = encoded or [model.template.encode(texts) for texts in (TEXTS, TEXTS[:1] * 5)]
    expected = [model.predict(x, verbose=0) for x in encoded]
    model.export(path, verbose=False)
    served = tf.saved_model.load(str(path))
    for x, scores in zip(encoded, expected, strict=True):
        found = served.serve({name: x[name] for name in model.export_inputs})
        np.testing.assert_allclose(found, scores, atol=1e-5)


def test_one_size_only_on_pytorch(make_model, monkeypatch, tmp_path):
    model = make_model()
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="load the file where the backend is TensorFlow or JAX"):
        model.export(tmp_path / "served")


@pytest.mark.parametrize(
    "tune", [None, "prefix", ["lora", "adapter"], "all"], ids=["prompt", "prefix", "two", "all"]
)
def test_clozes(make_model, tune, tmp_path):
    check(make_model(tune=tune), tmp_path / "served")


def test_several_words_and_merged(make_model, make_template, tmp_path):
    template = make_template("[u1][MASK][MASK]{text}", {"a": ["不好", "差"], "b": "很满"})
    model = make_model(template, tune="lora")
    model.merge()
    check(model, tmp_path / "served")


def test_candidates(make_model, make_template, tmp_path):
    template = make_template("{text}[u1][MASK]", None)
    model = make_model(template)
    x = template.encode(["书", "贵"], candidates=[["很", "不", "一"], ["很", "不"]])
    check(model, tmp_path / "served", x)


@pytest.mark.parametrize("build", [build_classifier, build_vat_classifier])
def test_classifiers(small_bert, build, tmp_path):
    plain = PlainText(["负面", "正面"], small_bert[2], maxlen=64)
    check(build(*small_bert[:2], plain), tmp_path / "served")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="another exporter")
@pytest.mark.parametrize("size", [32, 768])
def test_onnx(make_template, size, tmp_path):
    """Converters treat the large products of a BERT-base in another way."""
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    config = {**CONFIG, "hidden_size": size, "intermediate_size": 4 * size}
    model = build_ptuning_model(config, None, make_template())
    model.export(tmp_path / "model.onnx", "onnx", verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    inputs = model.template.encode(TEXTS)
    found = session.run(None, {name: inputs[name] for name in model.export_inputs})[0]
    expected = model.predict(model.template.dataset(TEXTS), verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_causal(tmp_path):
    config, checkpoint = write_small_gpt2(tmp_path)
    labels = {"a": ["不好", "差"], "b": "很满"}
    template = Template("{text}[u1][MASK][MASK]", labels, vocabulary(), maxlen=32, causal=True)
    check(build_ptuning_model(config, checkpoint, template), tmp_path / "served")


@pytest.mark.slow
def test_a_t5(tmp_path):
    labels = {"a": "不好", "b": "很满"}
    template = Template("[u1]{text}[DECODER][MASK][MASK]", labels, "t5-mini-zh", maxlen=48)
    check(build_ptuning_model("t5-mini-zh", template=template), tmp_path / "served")


@pytest.mark.usefixtures("eagerly")
def test_an_estimator(make_template, small_bert, reviews, tmp_path):
    classifier = PromptClassifier(make_template(), small_bert[1], epochs=1, verbose=0)
    with pytest.raises(ValueError, match="not fitted"):
        classifier.export(tmp_path / "served")
    classifier.fit(*reviews)
    import tensorflow as tf

    classifier.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    found = served.serve(classifier.template.encode(TEXTS))
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(np.array(found)))
    columns = [classifier.template.label_names.index(name) for name in classifier.classes_]
    np.testing.assert_allclose(
        probabilities[:, columns], classifier.predict_proba(TEXTS), atol=1e-5
    )
