"""P-tuning: the words of a template become trainable vectors in a frozen model."""

from keras_ptuning.checkpoints import find_vocab
from keras_ptuning.distribution import build_model
from keras_ptuning.models import find_model
from keras_ptuning.templates import Template
from keras_ptuning.tokenizers import Tokenizer
from keras_ptuning.tuning.cloze import ClozeModel
from keras_ptuning.tuning.prompts import read_prompt, vocabulary_fingerprint


def build_ptuning_model(
    config_path,
    checkpoint_path=None,
    template=None,
    trainable="prompt",
    normalization="vocabulary",
    auxiliary=True,
    prompt_encoder=None,
    prompt_start="unused",
    **kwargs,
):
    """Builds a classifier out of a pretrained language model, masked or causal, and a template.

    Args:
        config_path: Path of a checkpoint's folder, in which all the rest is found; or the name of
            an embedded checkpoint, `"bert-mini-zh"` or `"gpt-mini-zh"`; or path of a
            configuration, or a dictionary with what stands in one.
        checkpoint_path: The weights, with a head that predicts tokens, as
            `build_transformer_model` takes them. `None` for those in the folder; with a
            configuration alone they are random.
        template: A `Template` over the checkpoint's vocabulary; for a causal language model, one
            with `causal=True`.
        trainable: `"prompt"`, to train the vectors of the virtual tokens and freeze all else (for
            few labels), or `"all"`, to train everything (for many). Defaults to `"prompt"`.
        normalization: What the label words compete with in the loss: `"vocabulary"`, all tokens,
            as in pretraining, or `"labels"`, each other only. Defaults to `"vocabulary"`.
        auxiliary: Whether training also predicts other words, masked at random in each epoch, or
            with a causal model the whole text (`mask_rate` of `Template.dataset`). Defaults to
            `True`.
        prompt_encoder: What makes the virtual tokens' vectors while they train: `None`, they are
            the numbers that learn; `"lstm"` or `"mlp"`, a small network does, of which
            `save_prompt` keeps what comes out (`PromptEncoder`). Defaults to `None`.
        prompt_start: How the virtual tokens start: `"unused"`, as the vocabulary's `[unused]` rows
            (new random vectors where it has none); `"random"`; `"vocabulary"`, as tokens drawn from
            the 5,000 most frequent; `"labels"`, as the label words; or a list of words, e.g.
            `["感觉很满意"]`, whose tokens they start as, in turn. Drawn with NumPy's global seed,
            which `keras.utils.set_random_seed` sets. Defaults to `"unused"`.
        **kwargs: Other arguments of `build_transformer_model`: `model`, `dropout_rate`,
            `attention_dropout_rate`, `keep_tokens`, `dtype` (e.g. `"mixed_bfloat16"`), `name`;
            `application="lm"` for a BERT that was trained as a causal language model. With
            `data_parallel=True` all devices share each batch: on TensorFlow those of this process,
            or with `TF_CONFIG` in the environment those of all workers; on JAX all that it sees.
            `compile` makes the optimizer anew from its configuration then (it is
            `model.optimizer`), and a saved model is one of a single device again.

    Returns:
        A `ClozeModel`: a Keras model with `compile`, `fit`, `evaluate`, `predict`, `summary`,
        `save`, and `save_prompt`. Its inputs are what `template.dataset` and `template.encode`
        make; its output has shape `(batch, num_labels)`, the log-probability of each label.

    Raises:
        FileNotFoundError: if the configuration or (a part of) the checkpoint does not exist.
        TypeError: if `template` is not a `Template`.
        ValueError: if the configuration does not match the checkpoint, the checkpoint has no MLM
            head, only one of template and model is causal, the vocabulary has another size than
            the embedding, the template's `maxlen` is more than the model has positions, or an
            argument makes no sense.

    Example:

    ```python
    template = Template("[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}",
                        labels={"负面": "不", "正面": "很"}, tokenizer="bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template)
    model.compile()
    model.fit(template.dataset(texts, labels), epochs=50)
    template.decode(model.predict(template.dataset(new_texts)))

    # A GPT goes on where the text ends:
    template = Template("[u1][u2][u3][u4]{text}[u5][u6][u7][u8][MASK]",
                        {"负面": "不", "正面": "很"}, "gpt-mini-zh", causal=True)
    model = build_ptuning_model("gpt-mini-zh", template=template)
    ```

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3.
        - [Su, 2021](https://kexue.fm/archives/8295): frozen model, masked stop-gradient, and the
          auxiliary task in place of an LSTM.
    """
    if not getattr(template, "is_cloze", False):
        raise TypeError(
            "`template` must be a `Template`, e.g. build_ptuning_model('bert-mini-zh', "
            f"template=template). Received: template={template!r}."
        )
    config, checkpoint = find_model(config_path, checkpoint_path, kwargs.get("model"))
    return build_model(
        ClozeModel,
        config,
        template,
        trainable=trainable,
        normalization=normalization,
        auxiliary=auxiliary,
        prompt_encoder=prompt_encoder,
        prompt_start=prompt_start,
        checkpoint_path=checkpoint,
        **kwargs,
    )


def load_prompt(filepath, config_path, checkpoint_path=None, vocab=None, **kwargs):
    """Builds the classifier of a saved prompt, on the checkpoint it was trained with.

    Args:
        filepath: Path of a file that `ClozeModel.save_prompt` wrote.
        config_path: Path of a checkpoint's folder, or the name of an embedded one, and nothing
            else is needed; or path of a configuration, or a dictionary with what stands in one.
        checkpoint_path: The checkpoint, as `build_ptuning_model` takes it.
        vocab: What `Tokenizer` takes as its vocabulary. Defaults to the one beside the
            configuration.
        **kwargs: Other arguments of `build_ptuning_model`.

    Returns:
        A `ClozeModel`, whose `template` has the pattern and the labels of the prompt.

    Raises:
        FileNotFoundError: if one of the files does not exist.
        ValueError: if the prompt file is damaged, or belongs to another checkpoint or vocabulary;
            if `prompt_encoder` or `prompt_start` is given.

    Example:

    ```python
    model.save_prompt("sentiment.prompt")

    model = load_prompt("sentiment.prompt", "bert-mini-zh")
    model.template.decode(model.predict(model.template.dataset(["物流很快，包装也好。"])))
    ```
    """
    if kwargs.get("prompt_encoder") is not None or "prompt_start" in kwargs:
        raise ValueError(
            "A saved prompt is the vectors themselves, which no encoder makes and which start "
            "nowhere else: leave out `prompt_encoder` and `prompt_start`."
        )
    vectors, metadata, start = read_prompt(filepath)
    settings = metadata["template"]["tokenizer"]
    if vocab is None and isinstance(config_path, dict):
        raise ValueError("A dictionary does not say where the vocabulary is: give `vocab`.")
    vocab = find_vocab(config_path) if vocab is None else vocab
    tokens = Tokenizer(vocab).vocab
    if vocabulary_fingerprint(tokens) != settings["vocab"]:
        raise ValueError(
            f"The prompt {str(filepath)!r} belongs to another vocabulary than the one given, which "
            f"has {len(tokens)} tokens. Its vectors would mean nothing there."
        )
    tokenizer = Tokenizer.from_config({**settings, "vocab": tokens})
    template = Template.from_config({**metadata["template"], "tokenizer": tokenizer})
    model = build_ptuning_model(config_path, checkpoint_path, template, **kwargs)
    if model.fingerprint() != metadata["backbone"]:
        raise ValueError(
            f"The prompt {str(filepath)!r} belongs to another checkpoint than "
            f"{str(checkpoint_path or config_path)!r}: the weights differ. Give the checkpoint it "
            "was trained with, or train a prompt for this one."
        )
    if vectors.shape != tuple(model.prompt.shape):
        raise ValueError(
            f"The prompt file {str(filepath)!r} is damaged: it has vectors of shape "
            f"{vectors.shape}, and its template needs {tuple(model.prompt.shape)}."
        )
    model.embedding.start_from(vectors)
    model.embedding.start = start
    return model
