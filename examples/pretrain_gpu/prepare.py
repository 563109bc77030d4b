"""Writes what `train.py` needs: packed tokens, and two cuts of multilingual-e5-small.

    python examples/pretrain_gpu/prepare.py DATA --texts a.txt.gz b.txt.gz --e5 e5-small-q4.bin

The files have one document a line; `e5.py` says where the model is. One cut is the teacher, with
those of its own pieces that the texts have. The other is a start for a student: a row for each
token of a vocabulary of characters, made of the texts. Needs `jieba` and `tokenizers`.
"""

import argparse
import contextlib
import json
import os
import unicodedata

import numpy as np
from e5 import E5, SPECIAL, WORDS, decode
from text import join

from keras_ptuning import Tokenizer, build_vocab, datasets
from keras_ptuning.pretraining.packing import pack

# Pieces that are rarer do not get a row in the teacher's table.
LEAST = 15
CHUNK = 10_000


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("data", help="folder to write")
    parser.add_argument("--texts", nargs="+", required=True, help="files, one document a line")
    parser.add_argument("--e5", required=True, help="e5-small-q4.bin")
    parser.add_argument("--vocab-size", type=int, default=6000, help="tokens of the vocabulary")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--held-out", type=int, default=1000, help="documents to evaluate with")
    return parser.parse_args()


def tokenize(texts, tokenizer):
    """For each text its tokens, and at which of them a word begins."""
    import jieba

    tokens, starts = [], []
    for i in range(0, len(texts), CHUNK):
        chunk = texts[i : i + CHUNK]
        tokens += [np.array(ids, "uint16") for ids in tokenizer.token_ids(chunk)]
        starts += [np.diff(n, prepend=-1) != 0 for n in tokenizer.word_numbers(chunk, jieba.lcut)]
        print(f"{len(tokens):,} of {len(texts):,} texts", end="\r", flush=True)
    return tokens, starts


def lay_out(tokens, starts, tokenizer, length, held_out):
    """Packed sequences, where words begin in them, and the number of held-out sequences.

    Those of the first `held_out` texts come first. Long texts become several.
    """
    room = length - 2
    pieces = [(i, at) for i, ids in enumerate(tokens) for at in range(0, len(ids), room)]
    number = next(j for j, (i, _) in enumerate(pieces) if i >= held_out)
    lengths = np.array([min(len(tokens[i]) - at, room) + 2 for i, at in pieces])
    bins = pack(lengths[:number], length)
    first = len(bins)
    rest = [[number + j for j in members] for members in pack(lengths[number:], length)]
    np.random.default_rng(0).shuffle(rest)
    rows = np.zeros((first + len(rest), length), "uint16")
    begins = np.zeros(rows.shape, bool)
    for row, members in enumerate(bins + rest):
        place = 0
        for i, at in (pieces[j] for j in members):
            ids = tokens[i][at : at + room]
            stop = place + len(ids) + 2
            rows[row, place:stop] = [tokenizer.start_id, *ids, tokenizer.end_id]
            begins[row, place + 1 : stop - 1] = starts[i][at : at + room]
            begins[row, [place, place + 1, stop - 1]] = True
            place = stop
    return rows, begins, first


def count_pieces(rows, tokenizer, teacher):
    """How often the teacher's tokenizer uses each of its pieces for these texts."""
    counts = np.zeros(len(teacher.pieces), "int64")
    full = teacher.tokenizer()
    for i in range(0, len(rows), CHUNK):
        texts = join(rows[i : i + CHUNK], tokenizer.vocab)
        ids = [np.array(e.ids, "int64") for e in full.encode_batch_fast(texts)]
        counts += np.bincount(np.concatenate(ids), minlength=len(counts))
    return counts


def student_rows(vocab, teacher, table, kept):
    """A row for each token: that of the same piece, or the mean of the pieces it consists of."""
    full = teacher.tokenizer()
    rng = np.random.default_rng(0)
    rows = []
    for token in vocab:
        inside = token.startswith("##") and len(token) > 2
        word = unicodedata.normalize("NFKC", token[2:] if inside else token)
        if token in SPECIAL:
            ids = [teacher.ids[SPECIAL[token]]]
        elif token.startswith("[unused"):
            rows.append(table[kept].mean(0) + 0.01 * rng.normal(size=table.shape[1]))
            continue
        # In Latin, pieces that begin a word differ from those inside of it.
        elif not inside and word.isascii() and f"▁{word}" in teacher.ids:
            ids = [teacher.ids[f"▁{word}"]]
        else:
            pieces = [i for i in full.encode(word).ids if teacher.pieces[i] != "▁"]
            ids = [teacher.ids[word]] if word in teacher.ids else pieces or [teacher.unk_id]
        rows.append(table[ids].mean(0))
    return np.stack(rows).astype("float16")


def main():
    args = parse_arguments()
    os.makedirs(args.data, exist_ok=True)
    texts = [text for path in args.texts for text in datasets.read_documents(path)]
    if not 0 < args.held_out < len(texts):
        raise SystemExit(
            f"--held-out must be from 1 to {len(texts) - 1}, as there are {len(texts)} texts. "
            f"Received: {args.held_out}."
        )
    np.random.default_rng(0).shuffle(texts)
    vocab = build_vocab(texts, max_size=args.vocab_size)
    with open(os.path.join(args.data, "vocab.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{token}\n" for token in vocab)
    tokenizer = Tokenizer(vocab)
    tokens, starts = tokenize(texts, tokenizer)
    rows, begins, held_out = lay_out(tokens, starts, tokenizer, args.length, args.held_out)
    with contextlib.suppress(FileNotFoundError):
        # The teacher's vectors of other texts.
        os.remove(os.path.join(args.data, "targets.npy"))
    np.save(os.path.join(args.data, "rows.npy"), rows)
    np.save(os.path.join(args.data, "words.npy"), np.packbits(begins, axis=1))

    teacher = E5(args.e5)
    special = [teacher.ids[piece] for piece in SPECIAL.values()]
    counts = count_pieces(rows, tokenizer, teacher)
    kept = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i] >= LEAST]
    kept = special + [i for i in kept if i not in special]
    teacher.tokenizer(kept).save(os.path.join(args.data, "teacher.json"))
    table = teacher.blocks.pop(WORDS)
    frequency = np.bincount(rows[held_out:].ravel(), minlength=len(vocab)) + 1.0
    np.savez_compressed(
        os.path.join(args.data, "teacher.npz"),
        words=table[kept],
        student_words=student_rows(vocab, teacher, decode(table), kept),
        log_frequency=np.log(frequency / frequency.sum()).astype("float32"),
        **{f"blocks {name}": array for name, array in teacher.blocks.items()},
        **teacher.tensors,
    )
    with open(os.path.join(args.data, "settings.json"), "w") as file:
        json.dump({"held_out": held_out, "config": teacher.config}, file, indent=2)
    print(
        f"{len(texts):,} texts, {(rows > 0).sum():,} tokens of {len(vocab):,}, {len(rows):,} "
        f"sequences, {begins.sum():,} words; the teacher has {len(kept):,} pieces, "
        f"{counts[kept].sum() / counts.sum():.2%} of its tokens"
    )


if __name__ == "__main__":
    main()
