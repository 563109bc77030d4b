"""`build_transformer_model`: from a configuration and a checkpoint to a Keras model."""

import contextlib
import inspect
import json
import os

from keras_ptuning.assets import find_asset
from keras_ptuning.checkpoints import (
    check_depth,
    checkpoint_tensors,
    load_weights,
    open_checkpoint,
    write_safetensors,
    write_tensorflow,
)
from keras_ptuning.files import replacing
from keras_ptuning.models.bert import BERT
from keras_ptuning.models.config import is_gpt2, load_config, read_config
from keras_ptuning.models.gpt2 import GPT2
from keras_ptuning.tokenizers import Tokenizer

MODELS = {"bert": BERT, "gpt2": GPT2, "roberta": BERT}


def build_transformer_model(
    config_path, checkpoint_path=None, model=None, application=None, **kwargs
):
    """Builds a transformer in Keras, and loads pretrained weights into it.

    The layers have bert4keras's names (`Embedding-Token`,
    `Transformer-0-MultiHeadSelfAttention`, `MLM-Dense`...), the inputs are a list
    `[token_ids, segment_ids]`, and id 0 is padding. A GPT-2 has one input, `token_ids`.

    Args:
        config_path: Path of `bert_config.json` or a GPT-2's `config.json`, or a dictionary with
            what stands in one; or the name of an embedded checkpoint, `"bert-mini-zh"` or
            `"gpt-mini-zh"`.
        checkpoint_path: Prefix of a TensorFlow checkpoint, e.g. `bert_model.ckpt`, or path of a
            `.safetensors` file with tensors of the same names; for a GPT-2 path of a
            `.safetensors` file of Hugging Face. Without one the weights are those of the embedded
            checkpoint, or else random.
        model: The architecture: `"bert"` (also for RoBERTa-wwm, which shares its body), `"gpt2"`
            (whose id 0 is padding too, as in Chinese releases), or a subclass of
            `keras_ptuning.models.BERT`. Defaults to the configuration's `model_type`, and where
            it has none to `"bert"`.
        application: `"encoder"`, where all tokens see each other, or `"lm"`, a causal language
            model, where each sees only what came before it. Defaults to what the configuration
            says: `"lm"` if its `is_decoder` is true. A GPT-2 is always `"lm"`.
        **kwargs: Further arguments of the model:
            with_pool: Return the first token's vector through the pooler, `(batch, hidden)`.
            with_mlm: Return probabilities of tokens, `(batch, length, vocabulary)`; with
                `"linear"`, logits. With `with_pool` too, a list of both.
            gather_positions: Add a last input, integers of shape `(batch, n)`; the MLM head
                then works at these positions only and returns `(batch, n, vocabulary)`.
            document_start_id: The id of the token, `[CLS]`, that each of several documents in one
                sequence begins with; they do not see each other then.
            branching: Add an input, integers of shape `(batch, length)`: for each token the place
                of the last one that sees it. A causal model then reads several continuations of
                one text in one sequence: a token that a continuation ends with reaches only to
                there. Positions count what a token sees.
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

    gpt = build_transformer_model("gpt-mini-zh", with_mlm=True)  # the next token, at each position
    ```

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805)
    """
    causal = is_causal(config_path, model, application)
    model = _find_architecture(load_config(config_path), model)
    checkpoint_path = checkpoint_path or find_asset(config_path, "bert_model.safetensors")
    settings = read_config(config_path)
    known = inspect.signature(model).parameters
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        raise ValueError(f"Unknown arguments {unknown}. Expected some of {sorted(known)}.")
    transformer = model(**{**settings, "causal": causal, **kwargs})
    keras_model = transformer.build()
    if checkpoint_path is not None:
        checkpoint, architecture = open_checkpoint(checkpoint_path), transformer.weight_table
        if "num_hidden_layers" not in kwargs:
            check_depth(transformer.num_hidden_layers, checkpoint, architecture)
        load_weights(transformer.layers, checkpoint, architecture, transformer.keep_tokens)
    return keras_model


def is_causal(config_path, model=None, application=None):
    """Whether `build_transformer_model`, of the same arguments, makes a causal language model.

    Args:
        config_path, model, application: As `build_transformer_model` takes them.

    Returns:
        A boolean.

    Raises:
        FileNotFoundError: if there is no such configuration.
        ValueError: if there is no such architecture, or it has no such application.

    Example:

    >>> is_causal("bert-mini-zh"), is_causal("gpt-mini-zh")
    (False, True)
    """
    config = load_config(config_path)
    architecture = _find_architecture(config, model)
    if application is None:
        application = "lm" if config.get("is_decoder") or architecture.always_causal else "encoder"
    expected = ("lm",) if architecture.always_causal else ("encoder", "lm")
    if application not in expected:
        raise ValueError(
            f"`application` must be {' or '.join(map(repr, expected))} for a "
            f"{architecture.__name__}. Received: application={application!r}."
        )
    return application == "lm"


def _find_architecture(config, model):
    """The class that `model` names, or else the configuration."""
    if model is None:
        model = str(config.get("model_type") or "bert")
    if not isinstance(model, str):
        return model
    if model.lower() not in MODELS:
        raise ValueError(
            f"Unknown architecture. Expected one of {sorted(MODELS)}, or a subclass of BERT, as "
            f"`model` or as the configuration's model_type. Received: model={model!r}."
        )
    return MODELS[model.lower()]


def save_transformer_model(model, folder, config, vocab, dtype="float32"):
    """Writes a transformer as a checkpoint that this library and others load.

    The files are `bert_config.json`, `vocab.txt`, `bert_model.safetensors`, and, where TensorFlow
    is installed, `bert_model.ckpt.index` and `.data-00000-of-00001`: Google's format, which
    bert4keras loads too. The tensors have the same names in both. Of a GPT-2 they are
    `config.json`, `vocab.txt` and `model.safetensors`, as Hugging Face has them.

    Args:
        model: A Keras model, as `build_transformer_model` returns it.
        folder: Path of a folder; made if need be.
        config: Dictionary with what is to stand in the configuration, or the path of one.
        vocab: List of tokens, as `Tokenizer.vocab`, or the path of a `vocab.txt`.
        dtype: Type of the numbers in the safetensors file: `"float32"`, or `"float16"` for half
            the size. Defaults to `"float32"`.

    Raises:
        ValueError: if the model has layers that such a checkpoint has no names for, or the
            vocabulary is not of the size that the configuration says.

    Example:

    ```python
    save_transformer_model(model, "my_bert", load_config("bert_config.json"), tokenizer.vocab)
    build_transformer_model("my_bert/bert_config.json", "my_bert/bert_model.ckpt")
    ```
    """
    config, vocab = load_config(config), Tokenizer(vocab).vocab
    if len(vocab) != config.get("vocab_size"):
        raise ValueError(
            f"The vocabulary has {len(vocab)} tokens, and the configuration says "
            f"vocab_size={config.get('vocab_size')}."
        )
    architecture = GPT2 if is_gpt2(config) else BERT
    prefix = "" if architecture is GPT2 else "bert_"
    tensors = checkpoint_tensors(model.layers, architecture.weight_table)
    os.makedirs(folder, exist_ok=True)
    config_text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    vocab_text = "\n".join(vocab) + "\n"
    for name, text in ((f"{prefix}config.json", config_text), ("vocab.txt", vocab_text)):
        path = os.path.join(folder, name)
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
    write_safetensors(os.path.join(folder, f"{prefix}model.safetensors"), tensors, dtype)
    if architecture is BERT:
        with contextlib.suppress(ImportError):
            write_tensorflow(os.path.join(folder, "bert_model.ckpt"), tensors)
