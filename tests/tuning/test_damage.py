"""What is damaged or hostile is refused at each door, and named."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest
from small_bert import tensors, write_small_bert

import keras_ptuning
from keras_ptuning import (
    PlainText,
    PromptClassifier,
    Template,
    Tokenizer,
    build_ptuning_model,
    calibrate,
)

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def broken(make_model):
    """A model with a NaN in a frozen weight."""
    model = make_model(auxiliary=False)
    bias = model.backbone.get_layer("MLM-Norm").beta
    bias.assign(np.where(np.arange(32) == 5, np.nan, 0.0))
    return model


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "folder"])
def test_nothing_that_is_not_finite_is_saved(make_model, broken, tmp_path, name):
    good = make_model()
    save = {"model.keras": "save", "folder": "save_checkpoint"}.get(name, "save_weights")
    getattr(good, save)(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"MLM-Norm|transform\.LayerNorm") as error:
        getattr(broken, save)(tmp_path / name)
    assert "not finite" in str(error.value) and "Nothing was written" in str(error.value)
    after = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_checkpoint_too_large_for_its_type(make_model, tmp_path):
    model = make_model()
    beta = model.backbone.get_layer("MLM-Norm").beta
    beta.assign(np.full(32, 1e5))
    with pytest.raises(ValueError, match=r"not finite.*'float16'"):
        model.save_checkpoint(tmp_path / "half", dtype="float16")
    assert not os.listdir(tmp_path)
    model.save_checkpoint(tmp_path / "whole")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_checkpoints(tmp_path, number):
    values = tensors()
    values["bert/embeddings/word_embeddings"][7, 3] = number
    paths = write_small_bert(tmp_path, values=values)
    template = Template("[u1][MASK]{text}", {"a": "不", "b": "很"}, paths[2], maxlen=64)
    with pytest.raises(ValueError, match=r"word_embeddings'.*not finite.*download it again"):
        build_ptuning_model(*paths[:2], template)


def test_large_numbers_are_finite(tmp_path):
    """Their sum is not."""
    values = tensors()
    values["bert/pooler/dense/kernel"][:] = 3e38
    save = write_small_bert(tmp_path, values=values)
    keras_ptuning.build_transformer_model(*save[:2], with_pool=True)


def test_whole_files_and_weights(broken, make_model, monkeypatch, tmp_path):
    """Those of earlier versions may have such numbers."""
    with monkeypatch.context() as patch:
        patch.setattr(type(broken), "check_weights", lambda *args: None)
        broken.save(tmp_path / "model.keras")
        broken.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"MLM-Norm/beta.*not finite.*model\.keras'"):
        keras_ptuning.load_model(tmp_path / "model.keras")
    model = make_model()
    with pytest.raises(ValueError, match=r"MLM-Norm/beta.*not finite.*model\.weights\.h5'"):
        model.load_weights(tmp_path / "model.weights.h5")
    model.check_weights("They are those from before.")


def test_use(broken, make_template, reviews):
    template = make_template()
    data, x = template.dataset(*reviews), template.encode(reviews[0])
    for texts in (template.dataset(reviews[0]), x):
        with pytest.raises(ValueError, match="predicts has numbers that are not finite"):
            broken.predict(texts, verbose=0)
    for kwargs in ({}, {"return_dict": True}):
        with pytest.raises(ValueError, match="loss has numbers that are not finite"):
            broken.evaluate(data, verbose=0, **kwargs)
    broken.compile()
    with pytest.raises(ValueError, match=r"MLM-Norm/beta.*before this training"):
        broken.fit(data, verbose=0)


def test_a_classifier(broken, make_template, reviews):
    classifier = PromptClassifier(make_template(), verbose=0)
    classifier.model_, classifier.classes_ = broken, np.array(["正面", "负面"])
    for method in (classifier.predict, classifier.predict_proba):
        with pytest.raises(ValueError, match="not finite"):
            method(reviews[0])


def test_scores(make_template):
    nan = [[np.nan, np.nan], [0.0, -1.0]]
    with pytest.raises(ValueError, match="`scores` has numbers that are not finite"):
        make_template().decode(nan)
    for pair in ((nan, nan[1:]), (nan[1:], nan)):
        with pytest.raises(ValueError, match="not finite"):
            calibrate(*pair)


# Files that name other files.


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("password\n" * 9)
    return path


def with_config(source, target, change):
    """A copy of a `.keras` file with another configuration."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config["config"])
                content = json.dumps(config).encode()
            new.writestr(name, content)


@pytest.mark.parametrize("kind", ["file", "fifo", "device"])
@pytest.mark.parametrize(
    "place", ["vocab", "tokenizer", "template", "config", "checkpoint", "labels", "plain"]
)
def test_a_file_opens_no_other(make_model, small_bert, secret, tmp_path, place, kind):
    path = {"file": str(secret), "device": "/dev/zero", "fifo": str(tmp_path / "fifo")}[kind]
    os.mkfifo(tmp_path / "fifo")
    make_model().save(tmp_path / "model.keras")

    def change(config):
        if place == "vocab":
            config["template"]["tokenizer"]["vocab"] = path
        elif place == "plain":
            tokenizer = {"vocab": [path], "do_lower_case": True}
            config["template"] = {"labels": path, "tokenizer": tokenizer, "maxlen": 9}
        elif place in ("tokenizer", "labels"):
            config["template"][place] = path
        else:
            config[place] = path

    hostile = tmp_path / "hostile.keras"
    with_config(tmp_path / "model.keras", hostile, change)
    with pytest.raises(ValueError) as error:
        keras.models.load_model(hostile)
    assert "password" not in str(error.value)
    assert "damaged" in str(error.value)


@pytest.mark.parametrize("kind", [Tokenizer, Template, PlainText])
def test_configurations_hold_data(small_bert, kind):
    """Where the classes themselves take paths."""
    config = {"vocab": small_bert[2], "tokenizer": {"vocab": small_bert[2]}}
    config |= {"pattern": "[MASK]{text}", "labels": [["a", "不"], ["b", "很"]], "maxlen": 9}
    with pytest.raises(ValueError, match=r"Expected 'vocab' to be of the type list"):
        kind.from_config(config)


def test_a_path_as_configuration_is_not_saved(small_bert, make_template, tmp_path):
    """A model that was made of a path has in its file what was there."""
    model = keras_ptuning.ClozeModel(small_bert[0], make_template())
    assert isinstance(model.get_config()["config"], dict)
    model.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras")


def test_a_file_without_its_vocabulary(make_model, monkeypatch, tmp_path):
    model = make_model()
    monkeypatch.setattr(
        type(model), "save_own_variables", lambda self, store: store.__setitem__("x", np.zeros(1))
    )
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="has no vocabulary: it is damaged"):
        keras_ptuning.load_model(tmp_path / "model.keras")
    (tmp_path / "text.keras").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.keras' is damaged"):
        keras_ptuning.load_model(tmp_path / "text.keras")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.keras"):
        keras_ptuning.load_model(tmp_path / "nowhere.keras")
