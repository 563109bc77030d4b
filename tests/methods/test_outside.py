"""A method and an architecture of somebody else, each in one place, outside of the package."""

import keras
import numpy as np
import pytest
import small_bert
from keras import ops

from keras_ptuning import (
    LoRA,
    Method,
    Prompt,
    Template,
    build_ptuning_model,
    load_tuned,
)
from keras_ptuning.methods.method import named_weights
from keras_ptuning.models import BERT
from keras_ptuning.models.names import renamed

pytestmark = pytest.mark.usefixtures("eagerly")

TEXTS = ["书贵", "屏幕很好，喜欢", "服务态度糟糕"]


@keras.saving.register_keras_serializable(package="outside")
class BitFit(Method):
    """The biases of the blocks train: Ben Zaken et al., 2021."""

    name = "bitfit"
    learning_rate = 1e-3
    merges = True

    def weights(self, model):
        return {
            name: variable
            for layer in model.layers
            if layer.name.startswith("Transformer-")
            for name, variable in named_weights(layer).items()
            if variable.name == "bias"
        }


@keras.saving.register_keras_serializable(package="outside")
class Scale(keras.layers.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=input_shape[-1:], initializer="ones", name="scale")

    @property
    def added_weights(self):
        return self.weights

    def call(self, inputs):
        return inputs * self.scale


@keras.saving.register_keras_serializable(package="outside")
class ScaleFeedForward(Method):
    """A factor for each number that the feed-forward of a block adds, at the adapters' place."""

    name = "scale"

    def __init__(self, blocks):
        self.blocks = blocks

    settings = ("blocks",)

    def added_layers(self, transformer, template):
        names = [f"{transformer.block_name(i)}-FeedForward-Adapter" for i in range(self.blocks)]
        return {name: Scale(name=name) for name in names}

    def weights(self, model):
        layers = [layer for layer in model.layers if isinstance(layer, Scale)]
        return {name: v for layer in layers for name, v in named_weights(layer).items()}


class Parallel(BERT):
    """Attention and feed-forward read the same sequence, and are added at once."""

    architecture = "parallel"
    google = renamed(BERT.google, ("bert/", "parallel/"))
    hugging_face = None

    def apply_block(self, x, context, name):
        attention, feed_forward = f"{name}-MultiHeadSelfAttention", f"{name}-FeedForward"
        read = self.norm(f"{attention}-Norm")(x)
        y = self.add(attention, self.gather(x, context), self.attend(attention, read, context))
        read = self.norm(f"{feed_forward}-Norm")(self.gather(x, context))
        return self.add(feed_forward, y, self.feed_forward(feed_forward)(read))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of the architecture above, under its names."""
    values = {k.replace("bert/", "parallel/"): v for k, v in small_bert.tensors().items()}
    return small_bert.write_small_bert(tmp_path_factory.mktemp("parallel"), values=values)


def build(checkpoint, tune, pattern="[u1][MASK]{text}", **kwargs):
    template = Template(pattern, {0: "不", 1: "很"}, checkpoint[2], maxlen=32)
    return build_ptuning_model(
        *checkpoint[:2],
        template,
        tune=tune,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        **kwargs,
    )


def predict(model):
    return ops.convert_to_numpy(model(model.template.encode(TEXTS), training=False))


def train(model, epochs=2):
    # Compiling takes longer than these few steps.
    model.compile(run_eagerly=True)
    return model.fit(model.template.dataset(TEXTS, [0, 1, 0]), epochs=epochs, verbose=0)


@pytest.mark.graph
@pytest.mark.parametrize("outside", [BitFit(), ScaleFeedForward(2)], ids=lambda m: m.name)
def test_a_method(small_bert, tmp_path, outside):
    """It trains, with those of the package, is saved, loads, and is in the summary."""
    model = build(small_bert, [outside, LoRA(2), Prompt()])
    frozen = {id(v) for m in model.methods for v in m.weights(model.backbone).values()}
    before = [ops.convert_to_numpy(v).copy() for v in model.backbone.weights]
    train(model)
    for variable, value in zip(model.backbone.weights, before, strict=True):
        same = np.array_equal(ops.convert_to_numpy(variable), value)
        assert same or id(variable) in frozen, variable.path
    moved = outside.weights(model.backbone)
    assert any(
        not np.array_equal(ops.convert_to_numpy(v), b)
        for v, b in zip(model.backbone.weights, before, strict=True)
        if id(v) in {id(w) for w in moved.values()}
    )
    lines = []
    model.summary(print_fn=lines.append)
    assert any(line.strip().startswith(f"{outside.name}:") for line in lines)

    expected = predict(model)
    model.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(predict(again), expected)
    assert len(again.trainable_variables) == len(model.trainable_variables)
    model.save_tuned(tmp_path / "a.tuned")
    again = load_tuned(
        tmp_path / "a.tuned", *small_bert, dropout_rate=0.0, attention_dropout_rate=0.0
    )
    np.testing.assert_allclose(predict(again), expected, atol=1e-6)
    train(again, 1)


def test_an_architecture(checkpoint, tmp_path):
    """It loads its own names, trains with the package's methods, is saved, and loads."""
    model = build(checkpoint, ["lora", "prefix"], model=Parallel)
    assert isinstance(model.backbone.transformer, Parallel)
    train(model)
    expected = predict(model)
    model.save(tmp_path / "a.keras")
    np.testing.assert_array_equal(predict(keras.models.load_model(tmp_path / "a.keras")), expected)
    model.save_tuned(tmp_path / "a.tuned")
    again = load_tuned(
        tmp_path / "a.tuned",
        *checkpoint,
        model="parallel",
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )
    np.testing.assert_allclose(predict(again), expected, atol=1e-6)

    whole = build(checkpoint, "all", "[MASK]{text}", model=Parallel)
    train(whole)
    whole.save_checkpoint(tmp_path / "mine")
    # Its configuration has the name.
    mine = build([tmp_path / "mine", None, checkpoint[2]], None, "[MASK]{text}")
    np.testing.assert_allclose(predict(mine), predict(whole), atol=1e-5)


def test_a_misspelt_layer_is_no_random_numbers(small_bert):
    """Weights that no table names are an error, and so is a layer that nothing uses."""

    class Misspelt(BERT):
        def apply_token_head(self, x):
            x = self.dense("MLM-Dens", self.head_act, self.embedding_size)(x)
            return super().apply_token_head(x)

    with pytest.raises(ValueError, match=r"'MLM-Dens' has 2 pretrained weights.*MLM-Dense"):
        build(small_bert, "all", model=Misspelt)

    class NoPlace(Method):
        name = "no-place"

        def added_layers(self, transformer, template):
            return {"Transformer-0-Feedforward-Adapter": Scale()}

    with pytest.raises(ValueError, match=r"no place for the layers.*Transformer-0-Feedforward"):
        build(small_bert, NoPlace())


def test_an_architecture_without_a_name(small_bert, tmp_path):
    class Nameless(BERT):
        pass

    model = build(small_bert, "lora", model=Nameless)
    with pytest.raises(ValueError, match="name of its own"):
        model.save(tmp_path / "a.keras")
    assert not list(tmp_path.iterdir())
