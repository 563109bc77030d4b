"""Pretrains a small BERT, GPT or T5 on texts of your own, one document a line.

    python examples/pretrain.py corpus.txt.gz my_bert
    python examples/pretrain.py corpus.txt.gz my_gpt --application lm
    python examples/pretrain.py corpus.txt.gz my_t5 --application encoder-decoder
    python examples/pretrain.py corpus.txt.gz adapted --application encoder-decoder \\
        --checkpoint my_t5 --objective continuation
    python examples/pretrain.py reviews.txt reviews_bert --checkpoint bert-mini-zh --steps 2000 \\
        --learning-rate 1e-3

A T5 learns to write spans that are left out, or, with the objective "continuation", the rest of a
text: LM adaptation, of https://arxiv.org/abs/2104.08691. The last command continues from a
checkpoint, on the texts of a task: the unsupervised regime of https://kexue.fm/archives/7764.
You can stop a command at any moment; the same command continues where it stopped.

Options can be in a file, one a line, given as `@file`. Those of the checkpoints that come with
the library are next to this script; a BERT that begins as a GPT learns faster:

    python examples/pretrain.py corpus.txt.gz gpt @examples/gpt-mini-zh.args
    python examples/pretrain.py corpus.txt.gz bert --checkpoint gpt @examples/bert-mini-zh.args
    python examples/pretrain.py corpus.txt.gz t5-mini-zh @examples/t5-mini-zh.args
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_ptuning import (
    PackedDataset,
    TextToTextDataset,
    build_transformer_model,
    build_vocab,
    datasets,
    pretrain,
    save_transformer_model,
)
from keras_ptuning.models import find_model
from keras_ptuning.text import as_tokenizer


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        fromfile_prefix_chars="@",
    )
    add = parser.add_argument
    add("texts", help="UTF-8 text, or a gzip of it, one document a line")
    add("folder", help="where to write the checkpoint")
    applications = ["encoder", "lm", "encoder-decoder"]
    add("--application", choices=applications, default="encoder", help="BERT, GPT or T5")
    add("--objective", choices=["spans", "continuation"], default="spans", help="of a T5")
    add("--checkpoint", help="folder or embedded name to continue from, at its size")
    add("--vocab", help="if left out, the checkpoint's, or one built from the texts")
    add("--min-count", type=int, default=10, help="how often a token of a new vocabulary occurs")
    add("--layers", type=int, default=3, help="blocks of a new model")
    add("--hidden-size", type=int, default=192, help="a multiple of 64")
    add("--length", type=int, default=128, help="tokens of a sequence")
    add("--batch-size", type=int, default=32, help="sequences")
    add("--steps", type=int, default=20_000, help="steps of training")
    add("--save-every", type=int, default=100, help="steps")
    add("--predict-rate", type=float, help="if left out, 0.15 of the tokens, or all for lm")
    add("--whole-words", action="store_true", help="mask whole words, as jieba finds them")
    add(
        "--optimizer",
        choices=["adamw", "muon"],
        default="adamw",
        help="muon needs fewer steps from scratch",
    )
    add("--learning-rate", type=float, default=1e-3, help="the highest rate")
    add("--warmup", type=float, default=0.05, help="share of the steps")
    add("--dropout", type=float, default=0.0, help="in a new configuration too")
    add("--dtype", default="mixed_bfloat16", help="or float32")
    add(
        "--held-out",
        type=int,
        default=1000,
        help="documents, the first of the file, at most a tenth",
    )
    add("--snapshots", action="store_true", help="keep the weights of each evaluation")
    add("--half", action="store_true", help="half precision in the final safetensors file")
    add("--seed", type=int, default=0, help="of all that is random")
    args = parser.parse_args()
    args.save_every = min(args.save_every, args.steps)
    if args.steps < 1 or args.steps % args.save_every:
        parser.error(f"--steps must be a multiple of --save-every. Received: {args.steps}")
    return args


def plot(curve, path):
    try:
        from matplotlib import pyplot
    except ImportError:
        print("For a plot of the curve, `pip install matplotlib`.")
        return
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot([row["tokens"] for row in curve], [row["loss"] for row in curve], label="training")
    scored = [row for row in curve if "val_loss" in row]
    if scored:
        x, y = [row["tokens"] for row in scored], [row["val_loss"] for row in scored]
        axes.plot(x, y, "o-", label="held out")
    axes.set(xlabel="tokens", ylabel="loss", ylim=(None, curve[min(len(curve) // 20, 5)]["loss"]))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100, bbox_inches="tight")


def main():
    args = parse_arguments()
    texts = datasets.read_documents(args.texts)
    number = min(args.held_out, len(texts) // 10)
    held_out, texts = texts[:number], texts[number:]
    vocab, checkpoint = args.vocab, None
    if args.checkpoint:
        config, checkpoint = find_model(args.checkpoint)
        vocab = vocab or args.checkpoint
    text_to_text = args.application == "encoder-decoder"
    if not vocab:
        vocab = build_vocab(texts, args.min_count)
        vocab += [f"<extra_id_{i}>" for i in range(100)] if text_to_text else []
    tokenizer = as_tokenizer(vocab)
    if not args.checkpoint and text_to_text:
        # As T5 1.1, but for the head, which is the embedding.
        config = {
            "model_type": "t5",
            "vocab_size": tokenizer.vocab_size,
            "d_model": args.hidden_size,
            "d_kv": 64,
            "d_ff": 4 * args.hidden_size,
            "num_layers": args.layers,
            "num_heads": args.hidden_size // 64,
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": args.dropout,
            "pad_token_id": tokenizer.pad_id,
            "eos_token_id": tokenizer.end_id,
            "decoder_start_token_id": tokenizer.start_id,
        }
    elif not args.checkpoint:
        config = {
            "vocab_size": tokenizer.vocab_size,
            "hidden_size": args.hidden_size,
            "num_hidden_layers": args.layers,
            "num_attention_heads": args.hidden_size // 64,
            "intermediate_size": 4 * args.hidden_size,
            "hidden_act": "gelu",
            "hidden_dropout_prob": args.dropout,
            "attention_probs_dropout_prob": args.dropout,
            "max_position_embeddings": args.length,
            "type_vocab_size": 2,
            "initializer_range": 0.02,
        }
    causal = args.application == "lm"
    if not text_to_text:
        config["is_decoder"] = causal
    if args.whole_words:
        import jieba
    options = {"length": args.length, "batch_size": args.batch_size, "seed": args.seed}
    dataset_class = PackedDataset
    if text_to_text:
        dataset_class = TextToTextDataset
        options["objective"] = args.objective
    else:
        options |= {"causal": causal, "split_words": jieba.lcut if args.whole_words else None}
    usual = 1.0 if causal else 0.15
    rate = args.predict_rate or usual
    dataset = dataset_class(texts, tokenizer, steps=args.save_every, predict_rate=rate, **options)
    if held_out:
        held_out = dataset_class(held_out, tokenizer, predict_rate=usual, **options)
    print(
        f"{len(texts):,} documents, {(dataset.sequences > 0).sum():,} tokens of "
        f"{tokenizer.vocab_size:,} different ones, packed into {len(dataset.sequences):,} "
        f"sequences of {args.length}"
    )

    keras.utils.set_random_seed(args.seed)
    settings = {}
    if not text_to_text:
        settings = {
            "gather_positions": True,
            "document_start_id": tokenizer.start_id,
            "sequence_length": args.length,
        }
    model = build_transformer_model(
        config,
        checkpoint,
        application=args.application,
        with_mlm="linear",
        dropout_rate=args.dropout,
        attention_dropout_rate=args.dropout,
        dtype=args.dtype,
        **settings,
    )
    print(f"{model.count_params():,} parameters")

    def snapshot(epoch, logs):
        if args.snapshots and "val_loss" in logs:
            step = (epoch + 1) * args.save_every
            folder = os.path.join(args.folder, f"step-{step:06d}")
            save_transformer_model(model, folder, config, tokenizer)

    curve = pretrain(
        model,
        dataset,
        args.steps // args.save_every,
        args.folder,
        held_out=held_out or None,
        learning_rate=args.learning_rate,
        warmup=args.warmup,
        optimizer=args.optimizer,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=snapshot)],
    )
    dtype = "float16" if args.half else "float32"
    save_transformer_model(model, args.folder, config, tokenizer, dtype)
    plot(curve, os.path.join(args.folder, "curve.png"))
    print(f"The checkpoint is in {args.folder}. Last: {json.dumps(curve[-1])}")


if __name__ == "__main__":
    main()
