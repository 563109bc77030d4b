"""P-tuning: the words of a template become trainable vectors in a frozen model."""

from keras_ptuning.models import load_config
from keras_ptuning.templates import Template
from keras_ptuning.tokenizers import Tokenizer
from keras_ptuning.tuning.cloze import ClozeModel
from keras_ptuning.tuning.prompts import read_prompt, vocabulary_fingerprint


def build_ptuning_model(
    config_path,
    checkpoint_path,
    template,
    trainable="prompt",
    normalization="vocabulary",
    auxiliary=True,
    **kwargs,
):
    """Builds a classifier out of a pretrained masked language model and a template.

    Args:
        config_path: Path of `bert_config.json`, or a dictionary with what stands in one.
        checkpoint_path: Prefix of a TensorFlow checkpoint with an MLM head, e.g.
            `bert_model.ckpt`; `None` for random weights.
        template: A `Template` over the checkpoint's vocabulary.
        trainable: `"prompt"`, to train the vectors of the virtual tokens and freeze all else (for
            few labels), or `"all"`, to train everything (for many). Defaults to `"prompt"`.
        normalization: What the label words compete with in the loss: `"vocabulary"`, all tokens,
            as in pretraining, or `"labels"`, each other only. Defaults to `"vocabulary"`.
        auxiliary: Whether training also predicts other words, masked at random in each epoch
            (`mask_rate` of `Template.dataset`). Defaults to `True`.
        **kwargs: Other arguments of `build_transformer_model`: `model`, `dropout_rate`,
            `attention_dropout_rate`, `keep_tokens`, `dtype` (e.g. `"mixed_bfloat16"`), `name`.

    Returns:
        A `ClozeModel`: a Keras model with `compile`, `fit`, `evaluate`, `predict`, `summary`,
        `save`, and `save_prompt`. Its inputs are what `template.dataset` and `template.encode`
        make; its output has shape `(batch, num_labels)`, the log-probability of each label.

    Raises:
        FileNotFoundError: if the configuration or (a part of) the checkpoint does not exist.
        ValueError: if the configuration does not match the checkpoint, the checkpoint has no MLM
            head, the vocabulary has another size than the embedding, the template's `maxlen` is
            more than the model has positions, or an argument makes no sense.

    Example:

    ```python
    tokenizer = Tokenizer("vocab.txt")
    template = Template("[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}",
                        labels={"负面": "不", "正面": "很"}, tokenizer=tokenizer)
    model = build_ptuning_model("bert_config.json", "bert_model.ckpt", template)
    model.compile()
    model.fit(template.dataset(texts, labels), epochs=50)
    template.decode(model.predict(template.dataset(new_texts)))
    ```

    Reference:
        - [Liu et al., 2021](https://arxiv.org/abs/2103.10385), section 3.
        - [Su, 2021](https://kexue.fm/archives/8295): frozen model, masked stop-gradient, and the
          auxiliary task in place of an LSTM.
    """
    return ClozeModel(
        load_config(config_path),
        template,
        trainable=trainable,
        normalization=normalization,
        auxiliary=auxiliary,
        checkpoint_path=checkpoint_path,
        **kwargs,
    )


def load_prompt(filepath, config_path, checkpoint_path, vocab, **kwargs):
    """Builds the classifier of a saved prompt, on the checkpoint it was trained with.

    Args:
        filepath: Path of a file that `ClozeModel.save_prompt` wrote.
        config_path: Path of `bert_config.json`, or a dictionary with what stands in one.
        checkpoint_path: Prefix of the TensorFlow checkpoint.
        vocab: Path of `vocab.txt`, or what else `Tokenizer` takes as its vocabulary.
        **kwargs: Other arguments of `build_ptuning_model`.

    Returns:
        A `ClozeModel`, whose `template` has the pattern and the labels of the prompt.

    Raises:
        FileNotFoundError: if one of the files does not exist.
        ValueError: if the prompt file is damaged, or belongs to another checkpoint or vocabulary.

    Example:

    ```python
    model.save_prompt("sentiment.prompt")

    model = load_prompt("sentiment.prompt", "bert_config.json", "bert_model.ckpt", "vocab.txt")
    model.template.decode(model.predict(model.template.dataset(["物流很快，包装也好。"])))
    ```
    """
    vectors, metadata = read_prompt(filepath)
    settings = metadata["template"]["tokenizer"]
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
            f"{str(checkpoint_path)!r}: the weights differ. Give the checkpoint it was trained "
            "with, or train a prompt for this one."
        )
    if vectors.shape != tuple(model.prompt.shape):
        raise ValueError(
            f"The prompt file {str(filepath)!r} is damaged: it has vectors of shape "
            f"{vectors.shape}, and its template needs {tuple(model.prompt.shape)}."
        )
    model.prompt.assign(vectors)
    return model
