"""`inspect_checkpoint`, and the warning about heads that were never trained."""

import json
import re
import warnings

import numpy as np
import pytest
import small_bert
import small_checkpoints
import small_gpt2

from keras_ptuning import Template, build_ptuning_model, build_transformer_model, inspect_checkpoint

LABELS = {"负面": "不", "正面": "很"}
HEAD = "cls/predictions/"
UNTRAINED = {
    f"{HEAD}transform/dense/bias": 0.0,
    f"{HEAD}transform/LayerNorm/gamma": 1.0,
    f"{HEAD}transform/LayerNorm/beta": 0.0,
    f"{HEAD}output_bias": 0.0,
}


def write_bert(folder, change=None, without="nothing"):
    values = {k: v for k, v in small_bert.tensors().items() if not k.startswith(without)}
    for name, number in (change or {}).items():
        values[name] = np.full_like(values[name], number)
    small_bert.write_small_bert(str(folder), values=values)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "head", "application"),
    [("bert-mini-zh", "masked", "encoder"), ("gpt-mini-zh", "causal", "lm")],
)
def test_embedded_checkpoints(name, head, application):
    found = inspect_checkpoint(name)
    assert (found["format"], found["layout"]) == ("Safetensors", "google")
    assert (found["architecture"], found["application"]) == ("bert", application)
    assert (found["head"], found["problems"]) == (head, [])
    assert (found["layers"], found["hidden_size"], found["heads"]) == (3, 192, 3)
    model = build_transformer_model(name, with_mlm="linear")
    assert found["parameters"] == model.count_params()
    assert found["vocabulary"] == 4400 and found["unused_tokens"] == 99


def test_what_is_on_the_disk(tmp_path):
    folder = write_bert(tmp_path)
    for path in (folder, f"{folder}/bert_model.ckpt", f"{folder}/bert_model.ckpt.index"):
        found = inspect_checkpoint(path)
        assert (found["format"], found["layout"], found["head"]) == (
            "TensorFlow",
            "google",
            "masked",
        )
        assert found["weights"] == f"{folder}/bert_model.ckpt"
        assert found["max_length"] == 64 and found["problems"] == []


@pytest.mark.parametrize("name", ["ernie", "albert", "electra", "roformer-factorised", "nezha"])
def test_hugging_face(tmp_path, name):
    small_checkpoints.write_hugging_face(tmp_path, name)
    found = inspect_checkpoint(tmp_path)
    assert (found["format"], found["layout"], found["head"]) == (
        "Safetensors",
        "hugging_face",
        "masked",
    )
    assert found["architecture"] == name.split("-")[0]
    assert (
        found["parameters"] == build_transformer_model(tmp_path, with_mlm="linear").count_params()
    )
    assert found["vocabulary"] == 120 and found["problems"] == []


def test_no_head(tmp_path):
    found = inspect_checkpoint(write_bert(tmp_path, without="cls/"))
    assert found["head"] is None and found["problems"] == [
        "It has no head that predicts tokens, so it cannot fill in a mask."
    ]


def test_a_discriminator(tmp_path):
    small_checkpoints.write_hugging_face(tmp_path, "electra")
    values = {
        "discriminator_predictions.dense.weight": np.ones((32, 32), "float32"),
        **{
            k: v
            for k, v in small_checkpoints.hugging_face_tensors("electra").items()
            if not k.startswith("generator")
        },
    }
    small_checkpoints.write_hugging_face(tmp_path, "electra", values=values)
    assert inspect_checkpoint(tmp_path)["head"] is None
    with pytest.raises(ValueError, match=r"discriminator of an ELECTRA.*generator's release"):
        build_transformer_model(tmp_path, with_mlm=True)


@pytest.mark.parametrize("count", [2, 4])
def test_an_untrained_head(tmp_path, count):
    """One constant vector may be chance; two are not."""
    names = list(UNTRAINED)
    folder = write_bert(tmp_path, {name: UNTRAINED[name] for name in names[:count]})
    (problem,) = inspect_checkpoint(folder)["problems"]
    assert "never been trained" in problem
    assert all((name in problem) == (name in names[:count]) for name in names)
    template = Template("[MASK]{text}", LABELS, folder, maxlen=32)
    with pytest.warns(UserWarning, match=r"never been trained: cls/.*bias is 0 everywhere"):
        build_ptuning_model(folder, template=template)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_transformer_model(folder)  # without the head nothing is wrong


def test_a_trained_head_gives_no_warning(tmp_path):
    folder = write_bert(tmp_path, {f"{HEAD}transform/dense/bias": 0.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_transformer_model(folder, with_mlm=True)
    assert inspect_checkpoint(folder)["problems"] == []


def test_an_untrained_gpt(tmp_path):
    values = small_gpt2.tensors()
    values["transformer.ln_f.weight"][:] = 1
    values["transformer.ln_f.bias"][:] = 0
    small_gpt2.write_small_gpt2(tmp_path, values=values)
    found = inspect_checkpoint(tmp_path)
    assert (found["architecture"], found["head"]) == ("gpt2", "causal")
    assert any("never been trained" in problem for problem in found["problems"])
    with pytest.warns(UserWarning, match="never been trained"):
        build_transformer_model(tmp_path, with_mlm=True)


def test_files_that_do_not_go_together(tmp_path):
    folder = write_bert(tmp_path)
    for change, message in (
        ({"num_hidden_layers": 3}, "not have all the tensors.*bert/encoder/layer_2"),
        ({"num_hidden_layers": 1}, "num_hidden_layers=1, and the checkpoint has more"),
        ({"vocab_size": 119}, r"word_embeddings' has the shape \(120, 32\).*\(119, 32\)"),
        ({"intermediate_size": 65}, r"shape \(32, 64\).*\(32, 65\)"),
        ({"max_position_embeddings": 32}, r"shape \(64, 32\).*\(32, 32\)"),
    ):
        (tmp_path / "bert_config.json").write_text(json.dumps({**small_bert.CONFIG, **change}))
        (problem, *_) = inspect_checkpoint(folder)["problems"]
        assert re.search(message, problem)
    (tmp_path / "bert_config.json").write_text(json.dumps(small_bert.CONFIG))
    (tmp_path / "vocab.txt").write_text("\n".join([*small_bert.vocabulary(), "more"]), "utf-8")
    (problem,) = inspect_checkpoint(folder)["problems"]
    assert "vocabulary has 121 tokens, and its embedding 120 rows" in problem


def test_what_has_to_be_said(tmp_path):
    small_checkpoints.write_tensorflow(tmp_path, "nezha-gpt")
    found = inspect_checkpoint(tmp_path, "nezha", "lm")
    assert (found["architecture"], found["head"]) == ("nezha", "causal")
