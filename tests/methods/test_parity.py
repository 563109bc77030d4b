"""The numbers of transformers and PEFT, which `goldens/record_peft.py` recorded."""

import pathlib
import sys

import keras
import numpy as np
import pytest
import small_bert
import small_checkpoints
import small_gpt2

from keras_ptuning import LoRA, Prefix, Template, build_ptuning_model
from keras_ptuning.methods.method import to_numpy

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
sys.path.insert(0, str(GOLDENS))
import record_peft as record  # noqa: E402

GOLDEN = dict(np.load(GOLDENS / "peft.npz"))
INPUTS, STARTS, MLP = record.make_inputs(), record.make_starts(), record.make_mlp()
# The texts' own tokens, not padding.
WRITTEN = INPUTS["token_ids"] != 0
LABELS = {"负面": "不", "正面": "很"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    small_checkpoints.write_hugging_face(folder, "bert")
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return small_gpt2.write_small_gpt2(tmp_path_factory.mktemp("gpt2"))


def build_bert(folder, **kwargs):
    template = Template("[MASK]{text}", LABELS, folder, maxlen=16)
    return build_ptuning_model(
        folder, template=template, dropout_rate=0.0, attention_dropout_rate=0.0, **kwargs
    ).backbone


def build_gpt2(paths, pattern="{text}[MASK]", **kwargs):
    # Without [unused] tokens, those of a prompt are additional, and not predicted, as in PEFT.
    vocab = small_bert.vocabulary(unused=False)
    template = Template(pattern, LABELS, vocab, maxlen=16, causal=True)
    model = build_ptuning_model(
        *paths, template, dropout_rate=0.0, attention_dropout_rate=0.0, **kwargs
    )
    return model.backbone, template


def arrays(model, positions, token_ids=INPUTS["token_ids"]):
    """The inputs of a backbone that is read at some positions of the recorded texts."""
    named = {
        "Input-Token": token_ids,
        "Input-Segment": INPUTS["segment_ids"],
        "Input-Reach": np.full(token_ids.shape, 10**6, "int32"),
        "Input-Gather": np.asarray(positions, "int32"),
    }
    return [named[x.name] for x in model.inputs]


def logits(model, length=11, **kwargs):
    everywhere = np.tile(np.arange(length, dtype="int32"), (3, 1))
    return model.predict(arrays(model, everywhere, **kwargs), verbose=0)


def take_steps(name, model, places, **kwargs):
    """Compares the losses of the recorded steps, each that before the step."""
    model.compile(
        keras.optimizers.SGD(record.LEARNING_RATES[name]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    x = arrays(model, places[:, None], **kwargs)
    for step in range(record.STEPS):
        loss = model.train_on_batch(x, INPUTS["targets"][:, None])
        np.testing.assert_allclose(float(loss), GOLDEN[f"{name}_loss_{step}"], rtol=1e-5)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_prefix_of_bert_is_that_of_transformers(bert):
    model = build_bert(bert, tune=Prefix(record.LENGTH))
    model.get_layer("Prefix").prefix.assign(STARTS["prefix"])
    assert_close(logits(model)[WRITTEN], GOLDEN["bert_prefix_logits"][WRITTEN])


def test_lora_of_bert_is_that_of_peft(bert):
    model = build_bert(bert, tune=LoRA(record.RANK, record.ALPHA, record.PROJECTIONS))
    layers = [model.get_layer(f"Transformer-{i}-MultiHeadSelfAttention") for i in range(2)]
    parts = {
        (i, j): getattr(layer, name)
        for i, layer in enumerate(layers)
        for j, name in enumerate(record.PROJECTIONS)
    }
    for place, part in parts.items():
        part.lora_kernel_a.assign(STARTS["lora_a"][place])
        part.lora_kernel_b.assign(STARTS["lora_b"][place])
    assert_close(logits(model)[WRITTEN], GOLDEN["lora_logits"][WRITTEN])
    take_steps("lora", model, INPUTS["masks"])
    for place, part in parts.items():
        assert_close(to_numpy(part.lora_kernel_a), GOLDEN["lora_a"][place])
        assert_close(to_numpy(part.lora_kernel_b), GOLDEN["lora_b"][place])
    moved = np.abs(GOLDEN["lora_a"] - STARTS["lora_a"]).max(axis=(2, 3))
    assert (moved > 1e-3).all()


@pytest.mark.parametrize("name", ["prefix", "mlp"])
def test_a_prefix_of_gpt2_is_that_of_peft(gpt2, name):
    """With the numbers themselves, and with the network that makes them."""
    reparametrize = None if name == "prefix" else "mlp"
    model, _ = build_gpt2(gpt2, tune=Prefix(record.LENGTH, reparametrize))
    layer = model.get_layer("Prefix")
    if name == "prefix":
        layer.prefix.assign(STARTS["prefix"])
    else:
        inner, outer = layer.mlp
        layer.tokens.assign(MLP["tokens"])
        for part, kernel in ((inner, "inner"), (outer, "outer")):
            part.kernel.assign(MLP[kernel])
            part.bias.assign(MLP[f"{kernel}_bias"])
    before = to_numpy(layer.vectors())
    assert_close(logits(model)[WRITTEN], GOLDEN[f"{name}_logits"][WRITTEN])
    take_steps(name, model, INPUTS["last"])
    assert_close(to_numpy(layer.vectors()), GOLDEN[f"{name}_vectors"])
    assert (np.abs(GOLDEN[f"{name}_vectors"] - before).max(axis=(2, 3)) > 1e-3).all()


def test_a_prompt_of_gpt2_is_that_of_peft(gpt2):
    model, template = build_gpt2(gpt2, "[u1][u2][u3]{text}[MASK]")
    rows = model.get_layer("Embedding-Token").prompt
    rows.assign(STARTS["prompt"])
    # By hand, since a template puts [CLS] in front.
    virtual = np.tile(np.array(template.virtual_ids, "int32"), (3, 1))
    token_ids = np.concatenate([virtual, INPUTS["token_ids"]], axis=1)
    written = token_ids != 0
    found = logits(model, 14, token_ids=token_ids)
    assert_close(found[written], GOLDEN["prompt_logits"][written])
    take_steps("prompt", model, INPUTS["last"] + record.LENGTH, token_ids=token_ids)
    assert_close(to_numpy(rows), GOLDEN["prompt_vectors"])
