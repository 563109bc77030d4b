"""Adapters: bottlenecks on the residual branches."""

import keras
import numpy as np
import pytest
import small_bert
import small_checkpoints
import small_gpt2
from keras import ops

from keras_ptuning import Adapter, Template, build_ptuning_model
from keras_ptuning.layers import Bottleneck

pytestmark = pytest.mark.usefixtures("eagerly")

TEXTS = ["书贵", "屏幕很好，喜欢", "服务态度糟糕"]
WORDS = "[MASK]满意{text}"


def adapters(model):
    return [layer for layer in model.backbone.layers if isinstance(layer, Bottleneck)]


@pytest.mark.parametrize(
    ("kind", "halves"),
    [("houlsby", ["MultiHeadSelfAttention", "FeedForward"]), ("pfeiffer", ["FeedForward"])],
)
def test_a_start_at_zero_is_the_pretrained_model(make_model, make_template, kind, halves):
    template = make_template(WORDS)
    x = template.encode(TEXTS)
    expected = ops.convert_to_numpy(make_model(template)(x))
    model = make_model(template, tune=Adapter(5, kind))
    names = {f"Transformer-{i}-{half}-Adapter" for i in range(2) for half in halves}
    assert {layer.name for layer in adapters(model)} == names
    # Close to the identity, and not quite.
    near = np.abs(ops.convert_to_numpy(model(x)) - expected).max()
    assert 0 < near < 1e-2
    for layer in adapters(model):
        layer.up.kernel.assign(np.zeros(layer.up.kernel.shape))
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), expected)


def test_only_adapters_learn(make_model, make_template, reviews):
    template = make_template(WORDS)
    model = make_model(template, tune=Adapter(5))
    own = {id(v) for layer in adapters(model) for v in layer.weights}
    before = [ops.convert_to_numpy(v).copy() for v in model.backbone.weights]
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    loss = model.fit(template.dataset(*reviews, batch_size=8), epochs=5, verbose=0).history["loss"]
    assert loss[-1] < loss[0]
    for variable, value in zip(model.backbone.weights, before, strict=True):
        same = np.array_equal(ops.convert_to_numpy(variable), value)
        assert same != (id(variable) in own), variable.path


def test_what_it_computes(make_model, make_template):
    """x + up(gelu(down(x))), of what attention and feed-forward add, in each block."""
    template = make_template(WORDS)
    model, x = make_model(template, tune=Adapter(5)), template.encode(TEXTS)
    expected = ops.convert_to_numpy(model(x))
    rng = np.random.default_rng(0)
    for layer in adapters(model):
        # Not one number everywhere, which a normalisation takes away.
        layer.up.bias.assign(np.linspace(-1, 1, 32))
        assert np.abs(ops.convert_to_numpy(model(x)) - expected).max() > 1e-3
        layer.up.bias.assign(np.zeros(32))
    inputs, down, up = (rng.normal(size=s) for s in ((2, 3, 32), (32, 5), (5, 32)))
    layer.down.kernel.assign(down)
    layer.up.kernel.assign(up)
    inner = ops.convert_to_numpy(keras.activations.gelu(inputs @ down, approximate=False))
    found = ops.convert_to_numpy(layer(inputs.astype("float32")))
    np.testing.assert_allclose(found, inputs + inner @ up, rtol=1e-4, atol=1e-4)


def test_gpt2(tmp_path):
    paths = small_gpt2.write_small_gpt2(tmp_path)
    template = Template(
        "{text}[MASK]", {0: "不", 1: "很"}, small_bert.vocabulary(), 16, causal=True
    )
    kwargs = {"template": template, "dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    base = build_ptuning_model(*paths, **kwargs)
    model, x = build_ptuning_model(*paths, tune=Adapter(5), **kwargs), template.encode(TEXTS)
    for layer in adapters(model):
        layer.up.kernel.assign(np.zeros(layer.up.kernel.shape))
    expected = ops.convert_to_numpy(base(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), expected)
    adapters(model)[0].up.bias.assign(np.linspace(-1, 1, 32))
    assert np.abs(ops.convert_to_numpy(model(x)) - expected).max() > 1e-3


def test_a_checkpoint_has_no_place_for_it(make_model, make_template, tmp_path):
    model = make_model(make_template(WORDS), tune=Adapter(5))
    with pytest.raises(ValueError, match=r"no place for Adapter\(size=5.*save_tuned"):
        model.save_checkpoint(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_blocks_that_share_layers_share_adapters(tmp_path, tokenizer):
    small_checkpoints.write_hugging_face(tmp_path, "albert")
    template = Template(WORDS, {0: "不", 1: "很"}, tokenizer, maxlen=32)
    model = build_ptuning_model(tmp_path, template=template, tune="adapter")
    assert [layer.name for layer in adapters(model)] == [
        "Transformer-MultiHeadSelfAttention-Adapter",
        "Transformer-FeedForward-Adapter",
    ]


def test_half_precision(make_model, make_template):
    """Adapters compute as their blocks: the last one, of a few positions, in float32."""
    model = make_model(make_template(WORDS), tune=Adapter(5, "pfeiffer"), dtype="mixed_bfloat16")
    assert [layer.compute_dtype for layer in adapters(model)] == ["bfloat16", "float32"]


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 2.0}, {"kind": "parallel"}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="Received: "):
        Adapter(**options)
