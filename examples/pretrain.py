"""Pretrains a small BERT, GPT or T5 on texts of your own, one document a line.

    python examples/pretrain.py corpus.txt.gz my_bert
    python examples/pretrain.py corpus.txt.gz my_gpt --application lm
    python examples/pretrain.py corpus.txt.gz my_t5 --application encoder-decoder
    python examples/pretrain.py reviews.txt reviews_bert --checkpoint bert-mini-zh --steps 2000
    python examples/pretrain.py corpus.txt.gz long_bert --checkpoint bert-mini-zh --positions 512

You can stop a command at any moment. The same command continues where it stopped. Options can be
in a file, one a line, given as `@file`. Those of the checkpoints that come with the library are
next to this script, such as `@examples/t5-mini-zh.args`.
"""

import argparse
import functools
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jieba
import keras
import numpy as np

from keras_ptuning import (
    PackedDataset,
    TextToTextDataset,
    build_transformer_model,
    build_vocab,
    datasets,
    pretrain,
    save_transformer_model,
)
from keras_ptuning.models import find_model, new_config, override
from keras_ptuning.text import as_tokenizer


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        fromfile_prefix_chars="@",
    )
    add = parser.add_argument
    applications = ["encoder", "lm", "encoder-decoder"]
    add("texts", help="UTF-8 text, or a gzip of it, one document a line")
    add("folder", help="where to write the checkpoint")
    add("--application", choices=applications, default="encoder", help="BERT, GPT or T5")
    add("--objective", choices=["spans", "continuation"], default="spans", help="of a T5")
    add("--checkpoint", help="folder or embedded name to continue from, at its size")
    add("--positions", type=int, help="give --checkpoint this many, and train the new ones alone")
    add("--min-count", type=int, default=10, help="how often a token of a new vocabulary occurs")
    add("--layers", type=int, default=3, help="blocks of a new model")
    add("--hidden-size", type=int, default=192, help="a multiple of 64")
    add("--length", type=int, help="tokens of a sequence; if left out, --positions or else 128")
    add("--batch-size", type=int, default=32, help="sequences")
    add("--steps", type=int, default=20_000, help="steps of training")
    add("--save-every", type=int, default=100, help="steps")
    add("--predict-rate", type=float, help="if left out, 0.15 of the tokens, or all for lm")
    add("--whole-words", action="store_const", const=jieba.lcut, help="mask words of jieba")
    add("--optimizer", choices=["adamw", "muon"], default="adamw", help="muon needs fewer steps")
    add("--learning-rate", type=float, default=1e-3, help="the highest rate")
    add("--dropout", type=float, default=0.0, help="in a new configuration too")
    add("--dtype", default="mixed_bfloat16", help="or float32")
    add("--held-out", type=int, default=1000, help="first documents of the file, at most a tenth")
    add("--half", action="store_true", help="half precision in the final safetensors file")
    add("--seed", type=int, default=0, help="of all that is random")
    args = parser.parse_args()
    args.save_every = min(args.save_every, args.steps)
    if args.steps < 1 or args.steps % args.save_every:
        parser.error(f"--steps must be a multiple of --save-every. Received: {args.steps}")
    if args.held_out < 0:
        parser.error(f"--held-out must not be negative. Received: {args.held_out}")
    if args.positions is not None:
        if not args.checkpoint:
            parser.error("--positions needs --checkpoint. A new model has --length positions.")
        if args.length is not None:
            parser.error("--positions is the length of the sequences too: leave out --length.")
    args.length = args.length or args.positions or 128
    return args


def with_more_positions(number, config, checkpoint, dataset_options, **options):
    """Builds a model with more positions than its checkpoint has. The new ones alone train.

    They start as copies of the others (https://arxiv.org/abs/2004.05150, section 5). Texts that
    need none of them have the logits that they had.
    """
    model = build_transformer_model(config, checkpoint, **options)
    name = "Embedding-Position"
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    if name not in weights:
        raise SystemExit("--positions: this checkpoint has no vectors of positions.")
    old = weights[name][0]
    if number <= len(old):
        raise SystemExit(
            f"--positions must be more than the {len(old)} of the checkpoint. Received: {number}"
        )
    weights[name] = [old[np.arange(number) % len(old)]]
    model = build_transformer_model(config, max_position=number, **options, **dataset_options)
    for layer in model.layers:
        layer.trainable = layer.name == name
        layer.set_weights(weights.get(layer.name, []))
    # The optimizer calls it after each step.
    table = model.get_layer(name).embeddings
    table.constraint = lambda rows: keras.ops.concatenate([old, rows[len(old) :]])
    return model


def main():
    args = parse_arguments()
    keras.utils.set_random_seed(args.seed)
    texts = datasets.read_documents(args.texts)
    number = min(args.held_out, len(texts) // 10)
    held_out, texts = texts[:number], texts[number:]
    t5, causal = args.application == "encoder-decoder", args.application == "lm"
    if args.checkpoint:
        config, checkpoint = find_model(args.checkpoint)
        config |= {} if t5 else {"is_decoder": causal}
        tokenizer = as_tokenizer(args.checkpoint)
    else:
        sentinels = [f"<extra_id_{i}>" for i in range(100)] if t5 else []
        tokenizer = as_tokenizer(build_vocab(texts, args.min_count) + sentinels)
        size = args.layers, args.hidden_size, args.length, args.dropout
        config, checkpoint = new_config(tokenizer, args.application, *size), None
    options = {"length": args.length, "batch_size": args.batch_size, "seed": args.seed}
    bert = {"causal": causal, "split_words": args.whole_words}
    options |= {"objective": args.objective} if t5 else bert
    pack = functools.partial(TextToTextDataset if t5 else PackedDataset, **options)
    dataset = pack(texts, tokenizer, steps=args.save_every, predict_rate=args.predict_rate)
    print(f"{len(texts):,} documents, in {len(dataset.sequences):,} sequences of {args.length}")
    options = {
        "application": args.application,
        "with_mlm": "linear",
        "dropout_rate": args.dropout,
        "attention_dropout_rate": args.dropout,
        "dtype": args.dtype,
    }
    if args.positions:
        model = with_more_positions(
            args.positions, config, checkpoint, dataset.model_options, **options
        )
        config = override(config, {"max_position": args.positions})
    else:
        model = build_transformer_model(config, checkpoint, **options, **dataset.model_options)
    curve = pretrain(
        model,
        dataset,
        args.steps // args.save_every,
        args.folder,
        held_out=pack(held_out, tokenizer) if held_out else None,
        learning_rate=args.learning_rate,
        optimizer=args.optimizer,
    )
    dtype = "float16" if args.half else "float32"
    save_transformer_model(model, args.folder, config, tokenizer, dtype)
    print(f"The checkpoint is in {args.folder}. Last: {json.dumps(curve[-1])}")


if __name__ == "__main__":
    main()
