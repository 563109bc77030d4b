"""Loading files: a tuned one onto its checkpoint, and a whole model."""

import zipfile
from typing import Any

import keras

from keras_ptuning.checkpoints import find_vocab
from keras_ptuning.checks import Config, Path, Vocabulary
from keras_ptuning.files import check_keras_file
from keras_ptuning.methods import method_from_config
from keras_ptuning.text import as_tokenizer, template_from_config
from keras_ptuning.text.tokenizers import Tokenizer
from keras_ptuning.tuning.base import LabelModel
from keras_ptuning.tuning.classifier import build_classifier
from keras_ptuning.tuning.cloze import build_ptuning_model
from keras_ptuning.tuning.tagger import build_tagger
from keras_ptuning.tuning.tuned_file import damaged, read_tuned, vocabulary_fingerprint
from keras_ptuning.tuning.vat import build_vat_classifier

BUILDERS = {
    "ClozeModel": build_ptuning_model,
    "Tagger": build_tagger,
    "TextClassifier": build_classifier,
    "VATClassifier": build_vat_classifier,
}


def load_tuned(
    filepath: Path,
    config_path: Config,
    checkpoint_path: Path | None = None,
    vocab: Tokenizer | Vocabulary | None = None,
    **kwargs: Any,
) -> LabelModel:
    """Builds the classifier of a tuned file, on the checkpoint it was trained with.

    Its training can continue. What was frozen by hand stays frozen.

    Args:
        filepath: Path of a file that `save_tuned` wrote, or `save_prompt` of version 0.1.0.
        config_path: Path of a checkpoint's folder, or the name of an embedded one; nothing else is
            needed then. Or the path of a configuration, or a dictionary with what is in one.
        checkpoint_path: The checkpoint, as `build_ptuning_model` takes it.
        vocab: What `Tokenizer` takes as its vocabulary. Defaults to the one in the same folder.
        **kwargs: Other arguments of `build_ptuning_model`, or of the function that built the model,
            but for `tune`.

    Returns:
        A `ClozeModel`, `TextClassifier`, `VATClassifier` or `Tagger`, as it was saved. Its
        `template` has the pattern and the labels.

    Raises:
        FileNotFoundError: if one of the files does not exist.
        ValueError: if the file is damaged, or belongs to another checkpoint or vocabulary; if it
            has a method that is not known; if `tune` is given.

    Example:

    ```python
    model.save_tuned("sentiment.tuned")

    model = load_tuned("sentiment.tuned", "bert-mini-zh")
    model.template.decode(model.predict(model.template.dataset(["物流很快，包装也好。"])))
    ```
    """
    if "tune" in kwargs:
        raise ValueError(
            "A tuned file has its own methods: leave out `tune`. Received: "
            f"tune={kwargs['tune']!r}."
        )
    tensors, content = read_tuned(filepath)
    if vocab is None and isinstance(config_path, dict):
        raise ValueError("A dictionary does not say where the vocabulary is: give `vocab`.")
    vocab = find_vocab(config_path) if vocab is None else vocab
    template, methods = read_content(filepath, content, as_tokenizer(vocab))
    build, options = BUILDERS[content["model"]], content["options"]
    model = build(config_path, checkpoint_path, template, tune=methods, **{**options, **kwargs})
    check_backbone(filepath, content, model.fingerprint(), checkpoint_path or config_path)
    try:
        model.load_tensors(tensors)
        model._set_trainable(content.get("frozen", ()))
    except ValueError as error:
        raise damaged(filepath, error) from None
    return model


def read_content(filepath, content, tokenizer):
    """The template and the methods of a tuned file.

    Args:
        filepath: Path of the file, for errors.
        content: What `read_tuned` returned.
        tokenizer: A `Tokenizer` of the checkpoint's vocabulary. The template has this very one if
            the file does not say that texts are to be read otherwise.

    Returns:
        `(template, methods)`.

    Raises:
        ValueError: if the file is damaged, has a method that is not known, or belongs to another
            vocabulary.
    """
    try:
        settings = content["template"]["tokenizer"]
        methods = [method_from_config(method) for method in content["methods"]]
        fingerprint = settings["vocab"]
        for name in ("backbone", "options"):
            content[name]
        BUILDERS[content["model"]]
        if not isinstance(content.get("frozen", []), list):
            raise TypeError("its entry 'frozen' is no list")
    except (KeyError, TypeError) as error:
        raise damaged(filepath, error) from None
    vocab = tokenizer.get_config()["vocab"]
    if vocabulary_fingerprint(vocab) != fingerprint:
        raise ValueError(
            f"The tuned file {str(filepath)!r} belongs to another vocabulary than the one given, "
            f"which has {tokenizer.vocab_size} tokens. Its vectors would mean nothing there."
        )
    settings = {**settings, "vocab": vocab}
    same = settings == tokenizer.get_config()
    config = {**content["template"], "tokenizer": tokenizer if same else settings}
    try:
        template = template_from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(filepath, error) from None
    return template, methods


def check_backbone(filepath, content, fingerprint, checkpoint):
    """Refuses a tuned file that was trained with other weights than those of a checkpoint."""
    if content["backbone"] != fingerprint:
        raise ValueError(
            f"The tuned file {str(filepath)!r} belongs to another checkpoint than "
            f"{str(checkpoint)!r}: the weights differ. Give the checkpoint it was trained with, or "
            "train on this one. A `dtype` that rounds the weights, such as 'bfloat16', must be the "
            "same too."
        )


def load_model(filepath: Path, **kwargs: Any) -> Any:
    """Loads a whole model.

    `keras.models.load_model` does the same once `keras_ptuning` is imported. This function has
    errors that are easier to read. A file that was saved with one backend loads with all.

    Args:
        filepath: Path of a `.keras` file that `save` of a model or of a classifier wrote.
        **kwargs: Other arguments of `keras.models.load_model`.

    Returns:
        A `ClozeModel`, `PromptEnsemble`, `TextClassifier`, `VATClassifier` or `Tagger`, as it was
        saved; compiled, and ready to continue its training.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or not a `.keras` file, or has weights that are not finite.

    Example:

    ```python
    model.save("model.keras")

    model = load_model("model.keras")
    model.template.decode(model.predict(model.template.dataset(["物流很快，包装也好。"])))
    ```
    """
    # Keras says of other files that there are none.
    check_keras_file(filepath)
    try:
        model = keras.models.load_model(filepath, **kwargs)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"The file {str(filepath)!r} is damaged, or not a model that `save` wrote ({error})."
        ) from None
    if isinstance(model, LabelModel):
        model.check_weights(f"The file {str(filepath)!r} cannot be used: save the model again.")
    return model
