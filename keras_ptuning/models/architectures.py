"""The list of architectures, and which of them something is."""

from keras_ptuning.models.albert import ALBERT
from keras_ptuning.models.bert import BERT
from keras_ptuning.models.electra import ELECTRA
from keras_ptuning.models.ernie import ERNIE
from keras_ptuning.models.gpt2 import GPT2
from keras_ptuning.models.llama import LLaMA, Qwen2, Qwen3
from keras_ptuning.models.megatron_bert import MegatronBERT
from keras_ptuning.models.nezha import NEZHA
from keras_ptuning.models.roformer import RoFormer
from keras_ptuning.models.t5 import T5
from keras_ptuning.models.transformer import Transformer

# BERT comes last: the others have its signs too.
ARCHITECTURES = (
    ALBERT,
    ELECTRA,
    GPT2,
    T5,
    Qwen2,
    Qwen3,
    LLaMA,
    ERNIE,
    NEZHA,
    RoFormer,
    MegatronBERT,
    BERT,
)
# What Hugging Face and bert4keras call some of them. As an argument, "roberta" is a BERT, as in
# bert4keras; in a configuration it is refused below.
_OTHER_NAMES = {"roberta": BERT, "mt5": T5, "t5.1.0": T5, "t5.1.1": T5, "mt5.1.1": T5}


def find_architecture(config, model=None):
    """The class that `model` names, or else the configuration.

    Args:
        config: The configuration, a dictionary.
        model: Name of an architecture, or a subclass of `Transformer`. Optional.

    Raises:
        ValueError: if there is no such architecture.

    Example:

    >>> find_architecture({"n_embd": 768}).__name__, find_architecture({}).__name__
    ('GPT2', 'BERT')
    """
    if model is None:
        model = config.get("model_type") or _told_by(config).architecture
        if model == "roberta" and model not in Transformer.known:
            raise ValueError(
                "The configuration is of a RoBERTa of Hugging Face, which counts positions "
                "otherwise, and splits words otherwise; it is not implemented. The Chinese ones, "
                "such as RoBERTa-wwm-ext, are BERTs: give model='bert' if this is one."
            )
    if isinstance(model, type) and issubclass(model, Transformer):
        return model
    known = {**_OTHER_NAMES, **Transformer.known}
    if not isinstance(model, str) or model.lower() not in known:
        # A "roberta" is none in a configuration.
        names = sorted(known.keys() - ({"roberta"} - Transformer.known.keys()))
        raise ValueError(
            f"Unknown architecture. Expected one of {names}, or a subclass of "
            "`keras_ptuning.models.Transformer`, as `model` or as the configuration's model_type. "
            f"If it is your own, import its module first. Received: model={model!r}."
        )
    return known[model.lower()]


def _told_by(config):
    told = (a for a in ARCHITECTURES if any(config.get(sign) for sign in a.config_signs))
    return next(told, BERT)


def architecture_of(names):
    """The name of the architecture that has tensors of these names; `None` if nothing tells."""
    told = (a for a in ARCHITECTURES if any(s in name for name in names for s in a.signs))
    found = next(told, None)
    return found and found.architecture
