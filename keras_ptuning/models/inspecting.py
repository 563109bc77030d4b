"""What a checkpoint is, and whether it can answer a cloze, found out without building it."""

import math
import os

from keras_ptuning.checkpoints import (
    NamedTensors,
    find_config,
    find_vocab,
    find_weights,
    has_head,
    open_checkpoint,
    untrained_evidence,
)
from keras_ptuning.models.builders import find_application, find_model, max_length
from keras_ptuning.models.config import read_config
from keras_ptuning.tokenizers import Tokenizer


def inspect_checkpoint(path, model=None):
    """Looks at a checkpoint: what it is, its size, its vocabulary, and its head.

    Args:
        path: Path of a checkpoint's folder, or of its weights in such a folder; or the name of an
            embedded checkpoint.
        model: The architecture, where nothing tells it, as `build_transformer_model` takes it.

    Returns:
        A dictionary:

        - `weights`, `format`, `layout`: the path of the weights, `"TensorFlow"`, `"Safetensors"` or
          `"PyTorch"`, and whose names its tensors have, `"google"` or `"hugging_face"`;
        - `architecture`, `application`: what it would be built as;
        - `layers`, `hidden_size`, `heads`, `max_length`, `parameters`: its size;
        - `vocabulary`, `unused_tokens`: how many tokens it has, and how many `[unused]` ones that
          virtual tokens can take; `None` if there is no vocabulary beside it;
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
    config, _ = find_model(find_config(path), weights, model)
    settings = read_config(config)
    application = find_application(config)
    tensors = NamedTensors(open_checkpoint(weights), config["model_type"])
    shapes, depth, problems = tensors.checkpoint.shapes, settings["num_hidden_layers"], []
    blocks = [name for name in tensors.names(depth) if name not in tensors.names(0)]
    missing = [name for name in blocks if name not in shapes]
    if missing:
        problems.append(
            f"It lacks {len(missing)} tensors of its {depth} layers, such as {missing[0]}."
        )
    rows = shapes.get(tensors.of("Embedding-Token")[0].name, (0,))[0]
    if rows != settings["vocab_size"]:
        problems.append(
            f"It has embeddings of {rows} tokens, and the configuration says "
            f"vocab_size={settings['vocab_size']}."
        )
    head = None
    if not has_head(tensors):
        problems.append("It has no head that predicts tokens, so it cannot fill in a mask.")
    else:
        head = "causal" if application == "lm" else "masked"
        evidence = untrained_evidence(tensors)
        if evidence:
            problems.append(
                f"Its head looks as if it had never been trained: {'; '.join(evidence)}."
            )
    try:
        vocab = Tokenizer(find_vocab(path)).vocab
    except (FileNotFoundError, ValueError) as error:
        vocab = None
        problems.append(f"Its vocabulary cannot be read. {error}")
    if vocab is not None and len(vocab) != rows:
        problems.append(f"Its vocabulary has {len(vocab)} tokens, and its embedding {rows} rows.")
    return {
        "weights": os.fspath(weights),
        "format": type(tensors.checkpoint).__name__.removesuffix("Checkpoint"),
        "layout": tensors.layout,
        "architecture": config["model_type"],
        "application": application,
        "layers": settings["num_hidden_layers"],
        "hidden_size": settings["hidden_size"],
        "heads": settings["num_attention_heads"],
        "max_length": max_length(config),
        "parameters": sum(math.prod(shapes.get(name, (0,))) for name in tensors.names(depth)),
        "vocabulary": vocab and len(vocab),
        "unused_tokens": vocab and sum(token.startswith("[unused") for token in vocab),
        "head": head,
        "problems": problems,
    }
