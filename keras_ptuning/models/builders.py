"""`build_transformer_model`: from a configuration and a checkpoint to a Keras model."""

import inspect

from keras_ptuning.checkpoints import TensorFlowCheckpoint, check_depth, load_weights
from keras_ptuning.models.bert import BERT
from keras_ptuning.models.config import read_config

MODELS = {"bert": BERT, "roberta": BERT}


def build_transformer_model(
    config_path, checkpoint_path=None, model="bert", application="encoder", **kwargs
):
    """Builds a transformer in Keras, and loads pretrained weights into it.

    The layers have bert4keras's names (`Embedding-Token`,
    `Transformer-0-MultiHeadSelfAttention`, `MLM-Dense`...), the inputs are a list
    `[token_ids, segment_ids]`, and id 0 is padding.

    Args:
        config_path: Path of `bert_config.json`, or a dictionary with what stands in one.
        checkpoint_path: Prefix of a TensorFlow checkpoint, e.g. `bert_model.ckpt`. Without one
            the weights are random.
        model: The architecture: `"bert"` (also for RoBERTa-wwm, which shares its body),
            or a subclass of `keras_ptuning.models.BERT`.
        application: `"encoder"`.
        **kwargs: Further arguments of the model:
            with_pool: Return the first token's vector through the pooler, `(batch, hidden)`.
            with_mlm: Return probabilities of tokens, `(batch, length, vocabulary)`; with
                `"linear"`, logits. With `with_pool` too, a list of both.
            gather_positions: Add a third input, integers of shape `(batch, n)`; the MLM head
                then works at these positions only and returns `(batch, n, vocabulary)`.
            keep_tokens: List of token ids; the vocabulary shrinks to these, in this order.
            sequence_length: Fixed length of the input. Defaults to any.
            dropout_rate, attention_dropout_rate: Default to those of the configuration.
            layers: Dictionary of layers by name, used in place of the ones made here. This is
                where tuning methods attach, e.g.
                `{"Embedding-Token": PtuningEmbedding(...)}`.
            dtype: Keras dtype or policy of all layers, e.g. `"mixed_bfloat16"`.
            name: Name of the Keras model.
            Entries of the configuration can be given too, under their names in `BERT`.

    Returns:
        A functional Keras model.

    Raises:
        FileNotFoundError: if the configuration or (a part of) the checkpoint does not exist.
        ValueError: if the configuration is damaged, does not match the checkpoint, or the
            checkpoint lacks what was asked for, such as an MLM head.

    Example:

    ```python
    model = build_transformer_model("bert_config.json", "bert_model.ckpt", with_mlm=True)
    token_ids, segment_ids = tokenizer.encode("科学空间")
    token_ids[3] = tokenizer.token_to_id("[MASK]")
    model.predict([np.array([token_ids]), np.array([segment_ids])])  # (1, 6, vocabulary)
    ```

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805)
    """
    if isinstance(model, str):
        if model.lower() not in MODELS:
            raise ValueError(
                f"Unknown architecture. Expected one of {sorted(MODELS)}, or a subclass of BERT. "
                f"Received: model={model!r}."
            )
        model = MODELS[model.lower()]
    if application != "encoder":
        raise ValueError(
            f"Only the application 'encoder' exists so far. Received: application={application!r}."
        )
    known = inspect.signature(model).parameters
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        raise ValueError(f"Unknown arguments {unknown}. Expected some of {sorted(known)}.")
    transformer = model(**{**read_config(config_path), **kwargs})
    keras_model = transformer.build()
    if checkpoint_path is not None:
        checkpoint, architecture = TensorFlowCheckpoint(checkpoint_path), transformer.weight_table
        if "num_hidden_layers" not in kwargs:
            check_depth(transformer.num_hidden_layers, checkpoint, architecture)
        load_weights(transformer.layers, checkpoint, architecture, transformer.keep_tokens)
    return keras_model
