"""What tuning methods share."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from keras_ptuning.models import pretrained_weights
from keras_ptuning.models.transformer import Transformer
from keras_ptuning.text.templates import Template


class Method:
    """A way to tune a pretrained model: what it adds, what of it trains, what is saved.

    A method is a subclass in one file. It says four things:

    - which layers it adds, by name (`added_layers`), or changes once they are built (`attach`);
    - what trains (`weights`);
    - which tensors are saved (`tensors`, `load`), if they are others than the weights;
    - how they merge into the backbone (`merge`), or that they do not.

    A method has its settings alone; what it trains is in the model. Settings are attributes with
    the names of the arguments of `__init__`, listed in `settings`. A class outside of this package
    is registered with `keras.saving.register_keras_serializable`, so that files can name it.

    Attributes, of the class:
        name: What `tune` and the files call it.
        settings: The names of its arguments.
        learning_rate: The rate of Adam, if `compile` gets no optimizer.
        steps: Steps that `PromptClassifier` trains for.
        passes: The most passes over the texts that `PromptClassifier` takes for these steps.
        pretrained_rate: Whether `learning_rate` is for BERT-base, and smaller models take a larger
            one.
        merges: Whether a checkpoint can have what it trained.
        starts_pretrained: Whether the model computes what the pretrained one does, before training.
    """

    name = None
    settings = ()
    learning_rate = 1e-3
    steps = 250
    passes = 100
    pretrained_rate = False
    merges = False
    starts_pretrained = True

    def added_layers(
        self, transformer: Transformer, template: Template
    ) -> dict[str, keras.layers.Layer]:
        """The layers to add, before the model is built.

        Args:
            transformer: The builder, a `Transformer`, whose documentation has the places.
            template: The `Template` or `PlainText`.

        Returns:
            A dictionary from names to layers.
        """
        return {}

    def attach(self, model: keras.Model, template: Template) -> None:
        """What is left to do once pretrained weights are loaded: changing layers, a start.

        Args:
            model: The functional Keras model, with its builder as `model.transformer`.
            template: The `Template` or `PlainText`.
        """

    def weights(self, model: keras.Model) -> dict[str, keras.Variable]:
        """What trains: a dictionary from names, `layer/variable`, to variables."""
        raise NotImplementedError

    def tensors(self, model: keras.Model) -> dict[str, np.ndarray]:
        """What a tuned file has: a dictionary from names, `layer/variable`, to arrays."""
        return {name: to_numpy(v) for name, v in self.weights(model).items()}

    def load(self, model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
        """Puts in place what `tensors` returned.

        Raises:
            ValueError: if tensors are missing, or have another shape.
        """
        assign(self.weights(model), tensors)

    def saved_as(self) -> "Method":
        """The method whose `load` takes the tensors, if it is not this one."""
        return self

    def default_learning_rate(self, model: keras.Model) -> float:
        """The rate of Adam for a model of this size, if `compile` gets no optimizer."""
        if not self.pretrained_rate:
            return self.learning_rate
        # Between what suits 768 numbers and 192, of which both were tried, and no larger.
        return self.learning_rate * (768 / max(model.transformer.hidden_size, 192)) ** 2

    def merge(self, model: keras.Model) -> None:
        """Makes predictions as fast as those of the backbone; the weights stay as they are."""

    def unmerge(self, model: keras.Model) -> None:
        """Undoes `merge`."""

    def describe(self, model: keras.Model) -> str:
        """What trains, in a few words, for the summary."""
        return ""

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    def __repr__(self):
        config = self.get_config().items()
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in config)})"


# What `tune` takes.
Tune = str | Method | Sequence[str | Method] | None


@keras.saving.register_keras_serializable(package="keras_ptuning")
class All(Method):
    """All pretrained weights train."""

    name = "all"
    learning_rate = 3e-5
    steps = 60
    passes = 10
    pretrained_rate = True
    merges = True

    def weights(self, model):
        found = {}
        for layer in model.layers:
            own = {id(v) for v in pretrained_weights(layer)}
            found.update((k, v) for k, v in named_weights(layer).items() if id(v) in own)
        return found


def named_weights(layer):
    """The weights of a layer and of the layers in it, by `layer/variable`."""
    found = {
        f"{layer.name}/{variable.name}": variable
        for variable in layer._trainable_variables + layer._non_trainable_variables
        if variable.name != "seed_generator_state"
    }
    for part in layer._layers:
        # With all names on the way: the cells of several LSTMs have one name.
        found.update((f"{layer.name}/{name}", v) for name, v in named_weights(part).items())
    return found


def to_numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def assign(variables, tensors):
    """Assigns tensors to the variables of the same names; nothing if one does not fit."""
    for name, variable in variables.items():
        found = None if name not in tensors else tensors[name].shape
        if found != tuple(variable.shape):
            raise ValueError(
                f"it has {'no tensor' if found is None else f'the shape {found} for'} {name!r}, "
                f"and the model needs {tuple(variable.shape)}"
            )
    for name, variable in variables.items():
        variable.assign(tensors[name])
