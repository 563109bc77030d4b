"""`build_transformer_model`: from a configuration and a checkpoint to a Keras model."""

import contextlib
import inspect
import json
import os
import warnings
from typing import Any, Literal

import keras
import numpy as np

from keras_ptuning.checkpoints import (
    find_weights,
    open_checkpoint,
    write_safetensors,
    write_tensorflow,
)
from keras_ptuning.checks import Config, Path, Vocabulary, check_finite
from keras_ptuning.files import find_local, replacing_all
from keras_ptuning.models.architectures import architecture_of, find_architecture
from keras_ptuning.models.config import load_config, override, read_config
from keras_ptuning.models.entries import check_setting, read_flag
from keras_ptuning.models.heads import untrained_evidence
from keras_ptuning.models.transformer import Transformer
from keras_ptuning.models.weights import (
    NamedTensors,
    check_checkpoint,
    check_memory,
    checkpoint_tensors,
    load_weights,
)
from keras_ptuning.text import PieceTokenizer, as_tokenizer
from keras_ptuning.text.tokenizers import Tokenizer

APPLICATIONS = ("encoder", "lm", "unilm")
# What a checkpoint can be written in.
DTYPES = ("float32", "float16", "bfloat16")
# Files that are read before those of a new checkpoint, or belong to one that was written before.
OTHERS = (
    *("bert_config.json", "bert_model.safetensors"),
    *("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "template.json"),
    *("vocab.txt", "tokenizer.json", "tokenizer_config.json", "spiece.model", "added_tokens.json"),
)


def build_transformer_model(
    config_path: Config,
    checkpoint_path: Path | None = None,
    model: str | type[Transformer] | None = None,
    application: Literal["encoder", "lm", "unilm", "encoder-decoder"] | None = None,
    **kwargs: Any,
) -> keras.Model:
    """Builds a transformer in Keras, and loads pretrained weights into it.

    The layers have bert4keras's names (`Embedding-Token`,
    `Transformer-0-MultiHeadSelfAttention`, `MLM-Dense`...), the inputs are a list
    `[token_ids, segment_ids]`, and id 0 is padding. Causal models such as GPT-2 have one input,
    `token_ids`; in a LLaMA or Qwen the configuration says which token is padding, if any. A T5 has
    the token ids of its encoder and those of its decoder.

    Args:
        config_path: Path of a checkpoint's folder, in which all the rest is found; or the name of
            an embedded checkpoint, `"bert-mini-zh"`, `"bert-small-zh"`, `"gpt-mini-zh"` or
            `"t5-mini-zh"`; or the name of a model of Hugging Face's hub, e.g.
            `"hfl/chinese-roberta-wwm-ext"`, if there is no folder of this name or its first part;
            or path of a `bert_config.json` or `config.json`, or a dictionary with what is in one.
        checkpoint_path: The weights: prefix of a TensorFlow checkpoint, e.g. `bert_model.ckpt`;
            path of a `.safetensors` file, of a PyTorch file, or of the `.index.json` of several.
            The tensors have Google's names or Hugging Face's. Without it the weights are those
            in the folder; with a configuration alone they are random.
        model: The architecture: `"bert"` (also for what shares its body: RoBERTa-wwm, MacBERT,
            UER's, LERT, PERT), `"albert"`, `"electra"` (its generator), `"ernie"`, `"nezha"`,
            `"roformer"`, `"megatron-bert"`, `"gpt2"` (whose id 0 is padding too, as in Chinese
            releases), `"llama"`, `"qwen2"`, `"qwen3"`, `"t5"` (also mT5; or one of bert4keras's
            names, `"t5.1.0"`, `"t5.1.1"`, `"mt5.1.1"`), or a subclass of
            `keras_ptuning.models.Transformer`. Defaults to what the configuration says, or else the
            names of the tensors.
        application: `"encoder"`, where all tokens see each other; `"lm"`, a causal language model,
            where each sees only what came before it; or `"unilm"`, where this holds for the second
            segment alone. Defaults to what the configuration says: `"lm"` if its `is_decoder` is
            true. A GPT-2 is always `"lm"`, and a T5 `"encoder-decoder"`.
        **kwargs: Further arguments of the model:
            with_pool: Return the first token's vector through the pooler, `(batch, hidden)`; with
                the name of an activation, such as `"linear"`, in place of tanh. With more than one
                of these three, a list in the order pool, mean, tokens.
            with_mean: Return the mean vector of each text's tokens, `(batch, hidden)`.
            with_mlm: Return probabilities of tokens, `(batch, length, vocabulary)`; with
                `"linear"`, logits.
            gather_positions: Add a last input, integers of shape `(batch, n)`; the last block and
                the MLM head then work at these positions only, and what is returned has shape
                `(batch, n, ...)`. Not with `with_pool`.
            document_start_id: The id of the token, `[CLS]`, that each of several documents in one
                sequence begins with; they do not see each other then.
            branching: Add an input, integers of shape `(batch, length)`: for each token the place
                of the last one that sees it. A causal model then reads several continuations of
                one text in one sequence: a token that a continuation ends with reaches only to
                there. Positions count what a token sees.
            first_is_text: Whether the first token is text even if it is the one for padding, which
                a LLaMA may begin texts with. Then padding must follow the texts.
            own_vectors: Add an input, `(batch, n, embedding)`: vectors that each text has for
                itself. The token ids from the size of the vocabulary on mean these. With
                `with_mlm` there is a last output, `(batch, length, n)`: their logits, without bias.
            own_prefix: Add two inputs: the keys and values of a prefix for each text, `(batch,
                layers, 2, heads, m, head_size)`; and how many of the `m` it has, `(batch,)`.
            keep_tokens: List of token ids; the vocabulary shrinks to these, in this order.
            sequence_length: Fixed length of the input. Defaults to any.
            hierarchical_position: For texts longer than the checkpoint has positions: `True`, or a
                weight between 0 and 1 (see `keras_ptuning.layers.PositionEmbedding`).
            scale_output, cross_position_bias: Of a T5, see `keras_ptuning.models.T5`.
            dropout_rate, attention_dropout_rate: Default to those of the configuration.
            layers: Dictionary of layers by name, used in place of the ones made here. This is
                where tuning methods attach, e.g.
                `{"Embedding-Token": PtuningEmbedding(...)}`.
            dtype: Keras dtype or policy, e.g. `"mixed_bfloat16"`. A mixed one is that of attention
                and feed-forward alone; all else computes in float32, and so does the last block
                with `gather_positions` (not of a causal model, or where blocks share layers).
            name: Name of the Keras model.
            Entries of the configuration can be given too, under their names in `Transformer`.

    Returns:
        A functional Keras model.

    Raises:
        FileNotFoundError: if the configuration or (a part of) the checkpoint does not exist.
        ImportError: if the checkpoint is TensorFlow's or PyTorch's, and that is not installed.
        ValueError: if a file is damaged, the configuration does not match the checkpoint, or the
            checkpoint lacks what was asked for, such as an MLM head.

    A head that looks as if it had never been trained gives a warning.

    Example:

    ```python
    model = build_transformer_model("chinese_L-12_H-768_A-12", with_mlm=True)
    model = build_transformer_model("bert_config.json", "bert_model.ckpt", with_mlm=True)
    token_ids, segment_ids = tokenizer.encode("科学空间")
    token_ids[3] = tokenizer.token_to_id("[MASK]")
    model.predict([np.array([token_ids]), np.array([segment_ids])])  # (1, 6, vocabulary)

    gpt = build_transformer_model("gpt-mini-zh", with_mlm=True)  # the next token, at each position
    ```

    Reference:
        - [Devlin et al., 2018](https://arxiv.org/abs/1810.04805)
    """
    config, checkpoint = find_model(config_path, checkpoint_path, model)
    return load(make_transformer(config, checkpoint, model, application, **kwargs), checkpoint)


def make_transformer(config, checkpoint=None, model=None, application=None, **kwargs):
    """The builder of a transformer, which tuning methods may still attach layers to.

    Args:
        config, checkpoint: As `find_model` returns them.
        model, application, **kwargs: As `build_transformer_model` takes them.

    Returns:
        A `Transformer`, for `load`.

    Raises:
        ValueError: if an argument is unknown.
    """
    architecture = find_architecture(config, model)
    known = _arguments(architecture)
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        raise ValueError(f"Unknown arguments {unknown}. Expected some of {sorted(known)}.")
    # What the configuration says.
    for argument in ("dtype", "dropout_rate", "attention_dropout_rate"):
        if kwargs.get(argument) is None:
            kwargs.pop(argument, None)
    for argument, _, check, expected in architecture.config_entries(config).values():
        if argument in kwargs:
            check_setting(f"`{argument}`", kwargs[argument], check, expected)
    settings = {
        **read_config(config, model=model),
        "application": find_application(config, model, application),
        "pretrained": checkpoint is not None,
        **kwargs,
    }
    transformer = architecture(**settings)
    transformer.settings = settings
    transformer.all_layers = "num_hidden_layers" not in kwargs
    return transformer


def load(transformer, checkpoint=None):
    """Builds the Keras model, and loads a checkpoint into it.

    Args:
        transformer: What `make_transformer` returned.
        checkpoint: As `find_model` returns it. With `None` the weights are random.

    Returns:
        A functional Keras model, with the builder in its attribute `transformer`.
    """
    if checkpoint is None:
        return transformer.build()
    tensors = NamedTensors(checkpoint, type(transformer))
    check_memory(tensors, transformer.num_hidden_layers, transformer.exact)
    keras_model = transformer.build()
    load_weights(transformer.layers, tensors, transformer.keep_tokens)
    blocks = transformer.blocks() if transformer.all_layers else None
    check_checkpoint(tensors, blocks, transformer.with_mlm and transformer.tie_embeddings)
    if transformer.with_mlm:
        evidence = untrained_evidence(tensors)
        if evidence:
            warnings.warn(
                f"The head of {checkpoint.path!r} that predicts tokens looks as if it had never "
                f"been trained: {'; '.join(evidence)}. Its answers are noise, zero-shot and with "
                "a tuned prompt. Take a release whose head was published.",
                stacklevel=3,
            )
    return keras_model


def find_model(config_path, checkpoint_path=None, model=None):
    """Finds out what a checkpoint is, by looking at its configuration and its tensors.

    Args:
        config_path, checkpoint_path, model: As `build_transformer_model` takes them.

    Returns:
        `(config, checkpoint)`: the configuration as a dictionary, with its `model_type`, and the
        checkpoint, as `open_checkpoint` returns it, `None` if there is none.

    Raises:
        FileNotFoundError: if there is no configuration, or no checkpoint.
        ValueError: if a file is damaged, or nothing tells the architecture.

    Example:

    >>> find_model("bert-mini-zh")[0]["model_type"]
    'bert'
    """
    config = dict(load_config(config_path))
    if config.get("model_type") is None:
        # Some files have the entry, without a value.
        config.pop("model_type", None)
    if isinstance(model, str):
        config["model_type"] = model
    architecture = find_architecture(config, model)
    told = "model_type" in config or any(map(config.get, architecture.config_signs))
    if (model is not None or told) and config.get("model_type") != "mt5":
        # One architecture may have several names; an mT5 is a T5 with a default of its own.
        config["model_type"] = architecture.architecture
    is_folder = not isinstance(config_path, dict) and not str(config_path).endswith(".json")
    if checkpoint_path is None and is_folder:
        checkpoint_path = find_weights(config_path)
    if checkpoint_path is None or "model_type" in config:
        read_config(config, config_path, model)
    if checkpoint_path is None:
        config.setdefault("model_type", "bert")
        if not isinstance(config_path, dict):
            warnings.warn(
                f"The weights are random, since only a configuration was given: {config_path!s}. "
                "Give the folder, or the path of the weights too.",
                stacklevel=3,
            )
        return config, None
    is_path = isinstance(checkpoint_path, str | os.PathLike)
    if is_path and os.path.isdir(find_local(checkpoint_path)):
        checkpoint_path = find_weights(checkpoint_path)
    checkpoint = open_checkpoint(checkpoint_path)
    found = config.setdefault("model_type", architecture_of(checkpoint.shapes))
    if found is None:
        raise ValueError(
            f"Nothing tells the architecture of {checkpoint.path!r}: it has no position "
            "embeddings, as a NEZHA or a RoFormer. Say which, model='nezha' or model='roformer'."
        )
    read_config(config, config_path, model)
    architecture = find_architecture(config, model)
    return architecture.complete_config(config, NamedTensors(checkpoint, architecture)), checkpoint


def find_application(config_path, model=None, application=None):
    """What `build_transformer_model`, of the same arguments, makes.

    Args:
        config_path, model, application: As `build_transformer_model` takes them.

    Returns:
        `"encoder"`, `"lm"`, `"unilm"` or, for a T5, `"encoder-decoder"`.

    Raises:
        FileNotFoundError: if there is no such configuration.
        ValueError: if there is no such architecture, or it has no such application.

    Example:

    >>> find_application("bert-mini-zh"), find_application("gpt-mini-zh")
    ('encoder', 'lm')
    """
    config = load_config(config_path)
    architecture = find_architecture(config, model)
    expected = APPLICATIONS
    if architecture.always_causal or architecture.writes:
        expected = ("lm",) if architecture.always_causal else ("encoder-decoder",)
    if application is None:
        causal = read_flag(config, "is_decoder", False) and "lm" in expected
        application = "lm" if causal else expected[0]
    if application not in expected:
        raise ValueError(
            f"`application` must be {' or '.join(map(repr, expected))} for a "
            f"{architecture.__name__}. Received: application={application!r}."
        )
    return application


def max_length(config_path, model=None, hierarchical_position=None):
    """How many tokens a model can read; `None` if as many as one likes.

    Args:
        config_path, model, hierarchical_position: As `build_transformer_model` takes them.

    Example:

    >>> max_length("bert-mini-zh"), max_length("bert-mini-zh", hierarchical_position=True)
    (256, 65536)
    """
    architecture = find_architecture(load_config(config_path), model)
    positions = read_config(config_path, model=model)["max_position"]
    return architecture.count_positions(positions, hierarchical_position)


def _arguments(model):
    classes = [c for c in model.__mro__ if c is not object]
    return {name for c in classes for name in inspect.signature(c.__init__).parameters} - {
        "self",
        "args",
        "kwargs",
    }


def save_transformer_model(
    model: keras.Model,
    folder: Path,
    config: Config,
    vocab: Tokenizer | Vocabulary,
    dtype: str = "float32",
) -> None:
    """Writes a transformer as a checkpoint that this library and others load.

    The files are `config.json`, `vocab.txt`, `model.safetensors`, which Hugging Face's libraries
    load, and, where TensorFlow is installed, `bert_model.ckpt.index` and `.data-00000-of-00001` in
    Google's format, which bert4keras loads. Vectors of tuned tokens are in their rows. Of a
    `Tokenizer` there is a `tokenizer_config.json` too, so that others read texts like it.

    All files are written first, and then take their places at once; other files in the folder
    stay. If the process is killed, the folder has the old checkpoint or the new one.

    Args:
        model: A Keras model, as `build_transformer_model` returns it.
        folder: Path of a folder; made if need be.
        config: Dictionary with what the configuration is to have, or the path of one. What the
            model was built with goes before it, but for rates of dropout.
        vocab: A tokenizer; or list of tokens, as `Tokenizer.vocab`, or the path of a `vocab.txt`.
            A `PieceTokenizer` is written as `tokenizer.json`.
        dtype: Type of the numbers in the safetensors file: `"float32"`, or `"float16"` or
            `"bfloat16"` for half the size. Defaults to `"float32"`.

    Raises:
        OSError: if the files cannot be written.
        ValueError: if the model has layers that such a checkpoint has no names for; if the
            vocabulary is not of the size that the configuration says; if a weight is not finite; or
            if the folder has files of another checkpoint, which would be mixed with the new ones.
            Nothing is written then.

    Example:

    ```python
    save_transformer_model(model, "my_bert", load_config("bert_config.json"), tokenizer.vocab)
    build_transformer_model("my_bert")
    ```
    """
    config, tokenizer = dict(load_config(config)), as_tokenizer(vocab)
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}. Received: dtype={dtype!r}.")
    tokens = tokenizer.vocab
    if not 0 <= config.get("vocab_size", 0) - len(tokens) < tokenizer.most_spare:
        raise ValueError(
            f"The vocabulary has {len(tokens)} tokens, and the configuration says "
            f"vocab_size={config.get('vocab_size')}."
        )
    builder = getattr(model, "transformer", None)
    architecture = find_architecture(config) if builder is None else type(builder)
    known = config.setdefault("model_type", architecture.architecture)
    if find_architecture(config, known) is not architecture:
        raise ValueError(
            f"The configuration is of the architecture {known!r}, and the model of "
            f"{architecture.architecture!r}. Give the configuration of this model."
        )
    depth = read_config(config, model=architecture)["num_hidden_layers"]
    if builder is not None and depth != builder.num_hidden_layers:
        raise ValueError(
            f"The model has {builder.num_hidden_layers} layers, and the configuration says "
            f"{depth}. Give the configuration of this model."
        )
    config = _describing(config, builder)
    written = {
        layout: checkpoint_tensors(model.layers, table)
        for layout, table in architecture.tables().items()
    }
    if config.get("torch_dtype") or config.get("dtype"):
        config |= {"torch_dtype": dtype, "dtype": dtype}
    # A rate of dropout may be a number of NumPy.
    text = json.dumps(config, indent=2, ensure_ascii=False, default=float)
    texts = {"config.json": f"{text}\n"}
    if not isinstance(tokenizer, PieceTokenizer):
        texts["vocab.txt"] = "\n".join(tokens) + "\n"
    # Others would take the architecture's own tokenizer, and lower-case. A list says nothing.
    reading = None
    if isinstance(tokenizer, PieceTokenizer):
        # Older versions of Transformers would give segments too.
        names = ["input_ids", "attention_mask"]
        reading = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
    elif isinstance(vocab, Tokenizer):
        words = vocab.pre_tokenize and known == "roformer"
        kind = "RoFormerTokenizer" if words else "BertTokenizer"
        reading = {"tokenizer_class": kind, "do_lower_case": vocab.do_lower_case}
    if reading is not None:
        texts["tokenizer_config.json"] = json.dumps(reading) + "\n"
    weights = written.get("hugging_face") or written["google"]
    with np.errstate(over="ignore"):
        check_finite(
            ((f"The tensor {name!r}", value.astype(dtype)) for name, value in weights.items()),
            f"Nothing was written. Received: dtype={dtype!r}. Train again, with a smaller learning "
            "rate, or use dtype='float32'.",
        )
    with replacing_all(folder, OTHERS) as temporary:
        for name, text in texts.items():
            with open(os.path.join(temporary, name), "w", encoding="utf-8") as file:
                file.write(text)
        if isinstance(tokenizer, PieceTokenizer):
            tokenizer.save(os.path.join(temporary, "tokenizer.json"))
        write_safetensors(os.path.join(temporary, "model.safetensors"), weights, dtype)
        if "google" in written:
            with contextlib.suppress(ImportError):
                write_tensorflow(os.path.join(temporary, "bert_model.ckpt"), written["google"])


def _describing(config, builder):
    """A configuration with what the arguments of its model set otherwise, if that is known."""
    settings = getattr(builder, "settings", None)
    if settings is None:
        return config
    known = read_config(config, model=type(builder))
    # Those change no prediction; and the vocabulary has been compared.
    other = {"vocab_size", "dropout_rate", "attention_dropout_rate", "initializer_range", "dtype"}
    if "Input-Segment" not in builder.input_names:
        other.add("segment_vocab_size")
    changed = {n: settings[n] for n in known.keys() - other if settings[n] != known[n]}
    config = override(config, {**changed, "model": type(builder)})
    application = settings["application"]
    if application != find_application(config, type(builder)) and application != "unilm":
        config["is_decoder"] = application == "lm"
    return config
