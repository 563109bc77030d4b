"""Prompt-based few-shot learning with pretrained Chinese language models, in Keras."""

import keras

if int(keras.__version__.split(".")[0]) < 3:
    raise ImportError(
        f"keras_ptuning needs Keras 3. Received: Keras {keras.__version__}. If bert4keras put it "
        "there, import `keras_ptuning` first."
    )

from keras_ptuning import datasets, layers
from keras_ptuning.estimators import PetClassifier, PromptClassifier
from keras_ptuning.layers import PromptEncoder, PtuningEmbedding
from keras_ptuning.methods import Adapter, LoRA, Method, Prefix, Prompt
from keras_ptuning.models import (
    build_transformer_model,
    inspect_checkpoint,
    save_transformer_model,
)
from keras_ptuning.pretraining import PackedDataset, TextToTextDataset, build_vocab, pretrain
from keras_ptuning.text import PieceTokenizer, PlainText, TaggedText, Template, Tokenizer
from keras_ptuning.tuning import (
    ClozeModel,
    LabelWords,
    PromptBank,
    PromptEnsemble,
    Tagger,
    TextClassifier,
    TextPredictor,
    VATClassifier,
    WeighedTemplates,
    build_classifier,
    build_prompt_ensemble,
    build_ptuning_model,
    build_tagger,
    build_vat_classifier,
    calibrate,
    describe_prompt,
    load_model,
    load_tuned,
    mine_templates,
    plot_prompt,
    predict_to_file,
    probe,
    prompt_table,
    search_label_words,
    search_template,
    weigh_templates,
)

__version__ = "0.2.0"

__all__ = [
    "Adapter",
    "ClozeModel",
    "LabelWords",
    "LoRA",
    "Method",
    "PackedDataset",
    "PetClassifier",
    "PieceTokenizer",
    "PlainText",
    "Prefix",
    "Prompt",
    "PromptBank",
    "PromptClassifier",
    "PromptEncoder",
    "PromptEnsemble",
    "PtuningEmbedding",
    "TaggedText",
    "Tagger",
    "Template",
    "TextClassifier",
    "TextPredictor",
    "TextToTextDataset",
    "Tokenizer",
    "VATClassifier",
    "WeighedTemplates",
    "build_classifier",
    "build_prompt_ensemble",
    "build_ptuning_model",
    "build_tagger",
    "build_transformer_model",
    "build_vat_classifier",
    "build_vocab",
    "calibrate",
    "datasets",
    "describe_prompt",
    "inspect_checkpoint",
    "layers",
    "load_model",
    "load_tuned",
    "mine_templates",
    "plot_prompt",
    "predict_to_file",
    "pretrain",
    "probe",
    "prompt_table",
    "save_transformer_model",
    "search_label_words",
    "search_template",
    "weigh_templates",
]
