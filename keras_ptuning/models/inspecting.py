"""What a checkpoint is, and whether it can answer a cloze, found out without building it."""

import math
import warnings
from typing import Any

from keras_ptuning.checkpoints import find_config, find_weights
from keras_ptuning.checks import Path
from keras_ptuning.models.build import (
    build_transformer_model,
    find_application,
    find_model,
    max_length,
)
from keras_ptuning.models.config import read_config
from keras_ptuning.models.heads import has_head
from keras_ptuning.models.weights import NamedTensors
from keras_ptuning.text import as_tokenizer, find_vocab


def inspect_checkpoint(
    path: Path, model: str | None = None, application: str | None = None
) -> dict[str, Any]:
    """Looks at a checkpoint: what it is, its size, its vocabulary, and its head.

    It is loaded too, so that what is said of it holds.

    Args:
        path: Path of a checkpoint's folder, or of its weights in such a folder; or the name of an
            embedded checkpoint.
        model, application: Where nothing tells them, as `build_transformer_model` takes them.

    Returns:
        A dictionary:

        - `weights`, `format`, `layout`: the path of the weights, `"TensorFlow"`, `"Safetensors"` or
          `"PyTorch"`, and whose names its tensors have, `"google"` or `"hugging_face"`;
        - `architecture`, `application`: what it would be built as;
        - `layers`, `hidden_size`, `heads`, `max_length`, `parameters`: its size;
        - `vocabulary`, `unused_tokens`: how many tokens it has, and how many `[unused]` ones that
          virtual tokens can take; `None` if there is no vocabulary in its folder;
        - `head`: `"masked"` or `"causal"`, or `None` if it cannot predict tokens;
        - `problems`: a list of sentences, what keeps it from answering a cloze; if it is empty,
          nothing does.

    Raises:
        FileNotFoundError: if there is no checkpoint, or no configuration.
        ValueError: if a file is damaged, or the architecture is not known.

    Example:

    >>> found = inspect_checkpoint("bert-mini-zh")
    >>> found["architecture"], found["layers"], found["head"], found["problems"]
    ('bert', 3, 'masked', [])
    """
    weights = find_weights(path)
    config, checkpoint = find_model(find_config(path), weights, model)
    settings = read_config(config)
    application = find_application(config, application=application)
    tensors = NamedTensors(checkpoint, config["model_type"])
    shapes, problems = checkpoint.shapes, []
    whole = settings.get("tie_embeddings", True) or tensors.has("Output-Token")
    head = None
    if whole and has_head(tensors):
        head = "causal" if application in ("lm", "encoder-decoder") else "masked"
    if head is None:
        problems.append("It has no head that predicts tokens, so it cannot fill in a mask.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            build_transformer_model(
                config, checkpoint, application=application, with_mlm=head and "linear"
            )
        except ValueError as error:
            problems.append(str(error))
    problems += [str(warning.message) for warning in caught if warning.category is UserWarning]
    rows = settings["vocab_size"]
    try:
        tokenizer = as_tokenizer(find_vocab(path))
        vocab = tokenizer.vocab
    except (FileNotFoundError, ValueError) as error:
        vocab = None
        problems.append(f"Its vocabulary cannot be read. {error}")
    if vocab is not None and not 0 <= rows - len(vocab) < tokenizer.most_spare:
        problems.append(f"Its vocabulary has {len(vocab)} tokens, and its embedding {rows} rows.")
    names = tensors.names(settings["num_hidden_layers"])
    return {
        "weights": checkpoint.path,
        "format": type(checkpoint).__name__.removesuffix("Checkpoint"),
        "layout": tensors.layout,
        "architecture": tensors.architecture.architecture,
        "application": application,
        "layers": settings["num_hidden_layers"],
        "hidden_size": settings["hidden_size"],
        "heads": settings["num_attention_heads"],
        "max_length": max_length(config),
        "parameters": sum(math.prod(shapes.get(name, (0,))) for name in names),
        "vocabulary": vocab and len(vocab),
        "unused_tokens": vocab and sum(token.startswith("[unused") for token in vocab),
        "head": head,
        "problems": problems,
    }
