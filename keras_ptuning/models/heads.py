"""Whether a checkpoint's head that predicts tokens is there, and has been trained."""

import numpy as np

# Vectors that start as 0 or 1 everywhere, and are so no more after a few steps of training.
VECTORS = {
    "MLM-Dense": ["kernel", "bias"],
    "MLM-Norm": ["scale", "bias"],
    "MLM-Bias": ["bias"],
    "Output-Norm": ["scale", "bias"],
    "Decoder-Output-Norm": ["scale"],
}


def has_head(tensors):
    """Whether all tensors of the head are there; a GPT's is the token embedding.

    Args:
        tensors: `NamedTensors` of the checkpoint.
    """
    names = [t.name for layer in VECTORS for t in tensors.of(layer)]
    return bool(names) and all(name in tensors.checkpoint.shapes for name in names)


def untrained_evidence(tensors):
    """Why the head that predicts tokens looks as if it had never been trained.

    Some releases have a head of random numbers, since theirs was not published. Its biases are then
    0 everywhere, and the scale of its normalisation 1, which no training leaves so.

    Args:
        tensors: `NamedTensors` of a checkpoint with such a head.

    Returns:
        A list of sentences, such as `"cls/predictions/output_bias is 0 everywhere"`; empty if the
        head looks trained.

    Example:

    ```python
    untrained_evidence(NamedTensors(open_checkpoint("bert_model.ckpt"), "bert"))  # []
    ```
    """
    vectors = [
        tensor
        for layer, weights in VECTORS.items()
        for tensor, weight in zip(tensors.of(layer), weights, strict=False)
        if weight != "kernel"
    ]
    evidence = []
    for tensor in vectors:
        value = np.asarray(tensors.checkpoint.read(tensor.name), "float32")
        if value.min() == value.max():
            evidence.append(f"{tensor.name} is {value.flat[0]:g} everywhere")
    # One of them may have been left out of training.
    return evidence if len(evidence) > 1 else []
