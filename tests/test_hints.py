"""Type hints of public functions; mypy checks what is behind them."""

import inspect

import keras
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

import keras_ptuning
from keras_ptuning import datasets, layers
from keras_ptuning.tuning.base import LabelModel

# What users of these classes have no need to call.
INNER = {"backbone_inputs", "check_weights", "label_losses", "load_tensors", "log_probs"}
INNER |= {"whole_bias", "whole_table"}
# These methods of Keras have arguments of ours; the others have Keras's.
OURS = {"compile", "evaluate", "export", "fit", "load_weights", "predict", "save", "save_weights"}
OURS |= {"summary"}
FOREIGN = (keras.Model, keras.layers.Layer, keras.layers.Embedding, keras.utils.PyDataset)
FOREIGN += (BaseEstimator, ClassifierMixin, dict)


def methods_of(cls):
    """Those that have to have types: those of ours that no typed class of ours has already."""
    foreign = {name for base in FOREIGN if issubclass(cls, base) for name in dir(base)} - OURS
    for name, function in inspect.getmembers(cls, inspect.isroutine):
        owners = [c for c in cls.__mro__ if name in vars(c) and c.__module__.startswith("keras_pt")]
        # `build_...` makes the models.
        if name == "__init__" and owners and not issubclass(cls, LabelModel):
            yield name, function
        elif owners and not name.startswith("_") and name not in foreign | INNER:
            yield name, getattr(owners[-1], name)


def public():
    found = {}
    for name in keras_ptuning.__all__:
        value = getattr(keras_ptuning, name)
        if inspect.isfunction(value):
            found[name] = value
        elif inspect.isclass(value):
            found |= {f"{name}.{method}": function for method, function in methods_of(value)}
    for name in layers.__all__:
        if "__init__" in vars(getattr(layers, name)):
            found[f"layers.{name}"] = getattr(layers, name).__init__
    for name, function in inspect.getmembers(datasets, inspect.isfunction):
        if function.__module__ == datasets.__name__ and not name.startswith("_"):
            found[f"datasets.{name}"] = function
    return found


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_each_argument_has_a_type(name):
    signature = inspect.signature(PUBLIC[name])
    missing = [
        argument
        for argument, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and argument != "self"
    ]
    assert not missing and signature.return_annotation is not signature.empty


def test_the_names():
    """Functions, constructors and methods are among them."""
    names = {"build_ptuning_model", "Template.__init__", "Template.dataset", "ClozeModel.fit"}
    assert names | {"PromptClassifier.fit", "datasets.load_sentiment", "Method.weights"} < {*PUBLIC}
