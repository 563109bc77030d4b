"""Tuning methods: one file for each, and the list of them."""

import keras

from keras_ptuning.methods.adapter import Adapter
from keras_ptuning.methods.lora import LoRA
from keras_ptuning.methods.method import All, Method, named_weights
from keras_ptuning.methods.prefix import Prefix
from keras_ptuning.methods.prompt import Prompt
from keras_ptuning.models.build import load, make_transformer

METHODS = {method.name: method for method in (Adapter, All, LoRA, Prefix, Prompt)}

__all__ = [
    "METHODS",
    "Adapter",
    "All",
    "LoRA",
    "Method",
    "Prefix",
    "Prompt",
    "build_tuned_backbone",
    "method_from_config",
    "method_to_config",
    "named_weights",
    "read_methods",
]


def read_methods(tune, template):
    """The methods that `tune` means.

    Args:
        tune: Name of a method, such as `"lora"`, or a `Method`, or a list of these. `None` for
            nothing but the template's tokens that learn.
        template: The `Template` or `PlainText`. Its tokens that learn do so with every method.

    Returns:
        A list of `Method`s.

    Raises:
        ValueError: if there is no such method, or two of them cannot be together.

    Example:

    >>> from keras_ptuning import PlainText
    >>> read_methods(["prefix", "all"], PlainText(["负面", "正面"], "bert-mini-zh"))
    [Prefix(length=20, reparametrize=None, start='random'), All()]
    """
    chosen = [] if tune is None else [tune] if isinstance(tune, str | Method) else tune
    if not isinstance(chosen, list | tuple):
        chosen = [tune]
    methods = []
    for method in chosen:
        if isinstance(method, str) and method in METHODS:
            method = METHODS[method]()
        if not isinstance(method, Method):
            raise ValueError(
                f"`tune` must be a method, or a list of methods: one of {tuple(METHODS)}, or an "
                f"object such as Prefix(20). Received: tune={tune!r}."
            )
        methods.append(method)
    names = [method.name for method in methods]
    if template.tuned_names and "prompt" not in names:
        methods.append(Prompt())
    if names.count("all") > 1 or ("all" in names and "lora" in names):
        raise ValueError(
            "Two methods cannot share one place: 'all' trains all pretrained weights, and LoRA "
            f"updates some of them that stay frozen. Received: tune={tune!r}."
        )
    return methods


def build_tuned_backbone(config, checkpoint, methods, template, **kwargs):
    """A transformer with tuning methods attached, of which nothing trains but what they say.

    Args:
        config, checkpoint: As `find_model` returns them.
        methods: List of `Method`s.
        template: The `Template` or `PlainText`.
        **kwargs: Other arguments of `build_transformer_model`.

    Returns:
        A functional Keras model.

    Raises:
        ValueError: if two methods need one place, or the architecture lacks a place.
    """
    model, application = kwargs.pop("model", None), kwargs.pop("application", None)
    transformer = make_transformer(config, checkpoint, model, application, **kwargs)
    for method in methods:
        for name, layer in method.added_layers(transformer, template).items():
            transformer.add_layer(name, layer)
    backbone = load(transformer, checkpoint)
    for method in methods:
        method.attach(backbone, template)
    freeze(backbone, methods)
    return backbone


def freeze(model, methods):
    """Lets train what the methods say, and nothing else."""
    owners = {}
    for method in methods:
        for name, variable in method.weights(model).items():
            if id(variable) in owners:
                raise ValueError(
                    f"Two methods cannot share one place. Both {owners[id(variable)]!r} and "
                    f"{method!r} train {name!r}."
                )
            owners[id(variable)] = method
    for layer in model.layers:
        if not any(id(variable) in owners for variable in layer.weights):
            layer.trainable = False
            continue
        for variable in layer.weights:
            variable.trainable = id(variable) in owners


def method_to_config(method):
    """A method as a dictionary for JSON."""
    return {"class": keras.saving.get_registered_name(type(method)), "config": method.get_config()}


def method_from_config(config):
    """The method of such a dictionary.

    Raises:
        ValueError: if it is none that is registered here.
    """
    found = keras.saving.get_registered_object(config["class"])
    if not isinstance(found, type) or not issubclass(found, Method):
        raise ValueError(
            f"There is no tuning method {config['class']!r}. If it is yours, import the module "
            "that registers it with `keras.saving.register_keras_serializable`."
        )
    return found.from_config(config["config"])
