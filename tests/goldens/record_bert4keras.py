"""Records what bert4keras 0.11.5 computes, for `tests/test_bert4keras_parity.py`.

Run in an environment of its own (bert4keras's release pins a Keras that no TensorFlow has had for
years, hence `--no-deps`):

    pip install tensorflow tf-keras jieba && pip install --no-deps bert4keras==0.11.5
    TF_KERAS=1 TF_USE_LEGACY_KERAS=1 python tests/goldens/record_bert4keras.py

The model is the random one of `tests/small_bert.py`, so this needs no download. It writes, next to
itself, `bert4keras_logits.npz`, `bert4keras_lm.npz`, `bert4keras_ptuning.npz`,
`bert4keras_tokens.json`, and of the checkpoints that come with the library `bert4keras_assets.npz`
(with `--only-assets` nothing else); with `--sentiment FOLDER --vocab vocab.txt` also
`bert4keras_sentiment.json`, a hash of the ids of all reviews in
`FOLDER/sentiment.{train,valid,test}.data`.
"""

import os

os.environ.setdefault("TF_KERAS", "1")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import hashlib
import json
import pathlib
import sys
import tempfile
import unicodedata

import numpy as np
import safetensors.numpy
import tensorflow as tf
import tf_keras
from bert4keras.layers import Embedding
from bert4keras.models import BERT, build_transformer_model
from bert4keras.tokenizers import Tokenizer

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
import small_bert  # noqa: E402

VOCABULARY = small_bert.vocabulary()
IDS = {token: i for i, token in enumerate(VOCABULARY)}
PROMPT_IDS = [IDS[f"[unused{i}]"] for i in range(1, 9)]
LABEL_IDS = [IDS["不"], IDS["很"]]
ORDINARY_IDS = [i for i, token in enumerate(VOCABULARY) if not token.startswith("[")]
NO_DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}


# Logits, hidden states, pooled output; logits of a causal language model.


def make_inputs():
    rng = np.random.default_rng(1)
    lengths = [24, 17, 3, 10]
    token_ids = np.zeros((4, 24), "int32")
    segment_ids = np.zeros((4, 24), "int32")
    for row, length in enumerate(lengths):
        words = rng.integers(1, len(VOCABULARY), length - 2)
        token_ids[row, :length] = [IDS["[CLS]"], *words, IDS["[SEP]"]]
    token_ids[0, 5:7] = IDS["[MASK]"]
    segment_ids[0, 14:] = 1
    segment_ids[3, 4:10] = 1
    return token_ids, segment_ids


def record_logits(config, checkpoint):
    token_ids, segment_ids = make_inputs()

    def outputs(**kwargs):
        model = build_transformer_model(config, checkpoint, **NO_DROPOUT, **kwargs)
        return np.asarray(model([token_ids, segment_ids], training=False), "float32")

    np.savez_compressed(
        FOLDER / "bert4keras_logits.npz",
        token_ids=token_ids,
        segment_ids=segment_ids,
        logits=outputs(with_mlm="linear"),
        hidden=outputs(),
        pooled=outputs(with_pool=True),
    )
    np.savez_compressed(
        FOLDER / "bert4keras_lm.npz",
        token_ids=token_ids,
        segment_ids=segment_ids,
        logits=outputs(with_mlm="linear", application="lm"),
    )


# P-tuning: a frozen BERT, of whose token embedding eight rows learn.


class LaidEmbedding(Embedding):
    """The token embedding, through which only the rows `PROMPT_IDS` receive gradients."""

    def laid(self):
        mask = np.zeros((self.input_dim, 1), "float32")
        mask[PROMPT_IDS] = 1
        return self.embeddings * mask + tf.stop_gradient(self.embeddings) * (1 - mask)

    def call(self, inputs, mode="embedding"):
        if mode == "embedding":
            return tf.gather(self.laid(), tf.cast(inputs, "int32"))
        return tf.matmul(inputs, self.laid(), transpose_b=True)


class PtuningBERT(BERT):
    def apply(self, inputs=None, layer=None, arguments=None, **kwargs):
        if layer is Embedding and kwargs.get("name") == "Embedding-Token":
            layer = LaidEmbedding
        return super().apply(inputs, layer, arguments, **kwargs)


def make_batches(steps=20, batch=4, length=32):
    """Sequences `[CLS] u1..u4 [MASK] u5..u8 text [SEP]` with targets, 0 where there are none."""
    rng = np.random.default_rng(2)
    shape = (steps, batch, length)
    token_ids, masked_ids, targets = (np.zeros(shape, "int32") for _ in range(3))
    labels = rng.integers(0, 2, (steps, batch)).astype("int32")
    start = 10
    for step, row in np.ndindex(steps, batch):
        # One row of each batch is full, the others are padded.
        size = length - start - 1 if row == step % batch else rng.integers(1, length - start - 1)
        front = [IDS["[CLS]"], *PROMPT_IDS[:4], IDS["[MASK]"], *PROMPT_IDS[4:]]
        ids = np.array([*front, *rng.choice(ORDINARY_IDS, size), IDS["[SEP]"]], "int32")
        token_ids[step, row, : len(ids)] = ids
        targets[step, row, 5] = LABEL_IDS[labels[step, row]]
        # At least one; of the chosen, most become [MASK], some another word, some stay.
        for position in start + rng.choice(size, max(1, round(0.15 * size)), replace=False):
            targets[step, row, position] = ids[position]
            ids[position] = rng.choice(
                [IDS["[MASK]"], rng.choice(ORDINARY_IDS), ids[position]], p=[0.8, 0.1, 0.1]
            )
        masked_ids[step, row, : len(ids)] = ids
    return token_ids, masked_ids, targets, labels


def record_ptuning(config, checkpoint):
    model = build_transformer_model(
        config, checkpoint, model=PtuningBERT, with_mlm="linear", **NO_DROPOUT
    )
    # Only now: bert4keras loads a checkpoint into trainable weights only.
    for layer in model.layers:
        layer.trainable = layer.name == "Embedding-Token"
    (table,) = model.trainable_variables
    before = table.numpy()
    optimizer = tf_keras.optimizers.Adam(6e-4)
    token_ids, masked_ids, targets, labels = make_batches()
    losses, prompts = [], []
    for inputs, wanted in zip(masked_ids, targets, strict=True):
        with tf.GradientTape() as tape:
            logits = model([inputs, np.zeros_like(inputs)], training=True)
            # On logits: on probabilities tf_keras's cross-entropy would clip.
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
            counts = tf.cast(wanted != 0, "float32")
            loss = tf.reduce_sum(each * counts) / tf.reduce_sum(counts)
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])
        losses.append(float(loss))
        prompts.append(table.numpy()[PROMPT_IDS])
    others = np.setdiff1d(np.arange(len(VOCABULARY)), PROMPT_IDS)
    np.testing.assert_array_equal(table.numpy()[others], before[others])
    assert np.abs(prompts[-1] - before[PROMPT_IDS]).min() > 0
    # The same targets, as positions and ids of at most K a row.
    answerless = targets.copy()
    answerless[:, :, 5] = 0
    most = (answerless != 0).sum(-1).max()
    positions = np.zeros((*targets.shape[:2], most), "int32")
    auxiliary_ids = np.zeros_like(positions)
    for step, row in np.ndindex(*targets.shape[:2]):
        (where,) = np.nonzero(answerless[step, row])
        positions[step, row, : len(where)] = where
        auxiliary_ids[step, row, : len(where)] = answerless[step, row, where]
    np.savez_compressed(
        FOLDER / "bert4keras_ptuning.npz",
        token_ids=token_ids,
        masked_token_ids=masked_ids,
        mask_positions=np.full((*targets.shape[:2], 1), 5, "int32"),
        auxiliary_positions=positions,
        auxiliary_ids=auxiliary_ids,
        labels=labels,
        losses=np.array(losses, "float32"),
        prompts=np.array(prompts, "float32"),
    )


# Tokens.

TEXTS = {
    "empty": "",
    "spaces": "   ",
    "chinese": "这趟北京之旅我感觉很不错。",
    "chinese unknown": "龘靐齉爩",
    "traditional": "這趟北京之旅我感覺很滿意",
    "simplified and traditional": "满意滿意",
    "full-width punctuation": "很好！一书？错，。",
    "quotes and dashes": "“很好”——『不错』…《书》·、；：",
    "latin": "okay good goods",
    "latin unknown": "hello",
    "latin piece unknown": "okayz",
    "capitals": "OKay GOOD Good",
    "accents": "góód ökây Ább",
    "accents decomposed": "go\u0301o\u0301d",
    "dotted capital i": "İi",
    "sharp s": "ẞß",
    "kelvin and angstrom": "\u212a\u212b",
    "greek": "σοφία ΣΟΦΊΑ",
    "greek final sigma": "ΟΔΟΣ",
    "cyrillic": "Ёлка й",
    "digits": "12 1 2 122",
    "digits full-width": "１２ １",
    "letters full-width": "ＯＫ ｏｋ",
    "superscripts and fractions": "1² ½ ①",
    "mixed": "很good不ok12好",
    "mixed without spaces": "房间a服务bb态度1",
    "ascii punctuation": "ok,good.a-b_b/b@1#2$1%2^1&2*1(2)1+2=1~`|\\<>?!;:'\"{}",
    "currency": "¥1 €2 ￥12 £1",
    "mathematics": "1×2÷1±2≤1√2∞",
    "emoji": "很好😀👍",
    "emoji of 2017": "很好🤩🥰a🤣b",
    "emoji joined": "👨\u200d👩\u200d👧",
    "emoji with skin and variation": "👍🏽❤\ufe0f☺",
    "flag": "🇨🇳",
    "control characters": "很\x00好\x01不\x07错\x1fok\x7f",
    "control in a word": "o\x08k go\x0bod a\x0cb b\x85b",
    "replacement character": "很\ufffd好o\ufffdk",
    "zero-width": "很\u200b好o\u200bk\u200cay\u200d\ufeff",
    "soft hyphen": "o\u00adk",
    "directions": "\u202aok\u202c\u200e\u200f",
    "no-break and other spaces": "很\u00a0好\u3000ok\u2002good\u202fa",
    "line and paragraph separators": "ok\u2028good\u2029a",
    "ogham space": "a\u1680b",
    "tabs and newlines": "很\t好\nok\r\ngood\r",
    "leading and trailing spaces": "  \t很好 ok\n ",
    "private use": "很\ue000好",
    "private use in a word": "o\ue000k",
    "private use, last plane": "a\U0010fffdb",
    "unassigned": "a\u0378b",
    "noncharacter": "a\uffffb",
    "cjk extension a": "很㐀好㐀a",
    "cjk extension b": "很𠀀好a𠀀b",
    "cjk extension e": "a\U0002b820b",
    "cjk extension e, later": "a\U0002b920b",
    "cjk extension f": "a\U0002cebb\U0002cebbb",
    "cjk extension g": "a\U00030000b",
    "compatibility ideographs": "豈\uf900更a\U0002f800b",
    "radicals": "⼀⺀a",
    "ideographic zero and iteration": "〇々〆a",
    "bopomofo": "ㄅㄆㄇ",
    "kana": "ひらがな カタカナ が ガ ｶﾞ",
    "hangul": "한국어 안녕",
    "hangul jamo": "한",
    "combining marks": "o\u0301k\u0323 b\u20ddb",
    "combining mark alone": "\u0301",
    "combining mark on chinese": "很\u0301好",
    "combining mark, spacing": "क\u093eb",
    "combining mark of 2017": "a\u0afab",
    "arabic and hebrew": "العَرَبِيَّة שָׁלוֹם",
    "thai": "ภาษาไทยดีก็",
    "punctuation of 2014": "a\u2e42b",
    "punctuation of 2016": "a\u2e43b",
    "arabic format sign of 2016": "a\u08e2b",
    "surrogate alone": "o\ud800k",
    "long word of 199": "b" * 199,
    "long word of 200": "b" * 200,
    "long word of 201": "b" * 201,
    "long word with accents": "b\u0301" * 200,
    "long word of 201 with a control": "b" * 200 + "\x01",
    "long hangul of 100": "한" * 100,
    "long chinese of 201": "很" * 201,
    "mask in the text": "很[MASK]好",
    "mask, lower case": "[mask]",
    "cls in the text": "[CLS]ok[SEP]",
    "unused in the text": "[unused1] [PAD] [UNK]",
    "piece in the text": "##ay ok##ay",
    "filler word": "filler60 filler 60",
    "markup": "<b>a</b>&amp;",
    "url": "https://a.b/12?a=b&b=1",
}
PAIRS = [
    # text, second text, maxlen
    ("很不满意", None, None),
    ("很不满意", None, 6),
    ("很不满意", None, 5),
    ("很不满意", None, 3),
    ("okay good", None, 4),
    ("", "", None),
    ("很好", "", None),
    ("", "很好", 4),
    ("很好", "不错ok", None),
    ("这趟北京之旅我感觉很不错。", "好", 10),
    ("好", "这趟北京之旅我感觉很不错。", 10),
    ("很好不错", "满意快慢", 11),
    ("很好不错", "满意快慢", 10),
    ("很好不错", "满意快慢", 9),
    ("很好不错", "满意快慢", 8),
    ("很好不错", "满意快慢", 5),
    ("很好不", "满意快慢okay", 8),
    ("很好不", "满意快慢okay", 7),
    ("[MASK]很", "[SEP]好", 9),
]


def every_character(texts):
    """The small vocabulary, and all characters that could come out of the texts.

    With it few tokens are [UNK], so that the ids show where words were cut and what was dropped.
    """
    text = "".join(texts)
    for form in (text.lower(), unicodedata.normalize("NFD", text), text.upper().lower()):
        text += form + unicodedata.normalize("NFD", form)
    characters = sorted(c for c in set(text) if not c.isspace() and not 0xD800 <= ord(c) < 0xE000)
    pieces = [*characters, *("##" + c for c in characters)]
    return list(dict.fromkeys([*VOCABULARY, *pieces]))


def record_tokens():
    wide = every_character(TEXTS.values())
    small_tokenizer = Tokenizer(IDS, do_lower_case=True)
    wide_tokenizer = Tokenizer({token: i for i, token in enumerate(wide)}, do_lower_case=True)
    texts = {
        name: {
            "text": text,
            "small": small_tokenizer.encode(text)[0],
            "wide": wide_tokenizer.encode(text)[0],
        }
        for name, text in TEXTS.items()
    }
    pairs = []
    for text, second_text, maxlen in PAIRS:
        ids, segments = small_tokenizer.encode(text, second_text, maxlen=maxlen)
        pairs.append(
            {
                "text": text,
                "second_text": second_text,
                "maxlen": maxlen,
                "token_ids": ids,
                "segment_ids": segments,
            }
        )
    # One entry a line, in ASCII: editors and diffs would not show what these texts consist of.
    with open(FOLDER / "bert4keras_tokens.json", "w", encoding="ascii", newline="\n") as file:
        file.write('{"wide_vocabulary": ' + json.dumps(wide) + ',\n"texts": {\n')
        file.write(",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in texts.items()))
        file.write('\n},\n"pairs": [\n' + ",\n".join(map(json.dumps, pairs)) + "\n]}\n")


def record_sentiment(folder, vocab):
    tokenizer = Tokenizer(str(vocab), do_lower_case=True)
    digest, count = hashlib.sha256(), 0
    for split in ("train", "valid", "test"):
        path = pathlib.Path(folder) / f"sentiment.{split}.data"
        with open(path, encoding="utf-8", newline="\n") as lines:
            for line in lines:
                text, _ = line.rstrip("\n").split("\t")
                ids, _ = tokenizer.encode(text)
                digest.update((" ".join(map(str, ids)) + "\n").encode())
                count += 1
    golden = {
        "hash": "SHA-256 over train, valid, test: of each review the ids, joined by spaces, + \\n",
        "count": count,
        "ids_sha256": digest.hexdigest(),
        "vocab_sha256": hashlib.sha256(pathlib.Path(vocab).read_bytes()).hexdigest(),
    }
    (FOLDER / "bert4keras_sentiment.json").write_text(json.dumps(golden, indent=1) + "\n", "ascii")


def record_assets():
    """Logits of the checkpoints that come with the library, for some of the vocabulary."""
    texts = ["[MASK]满意。房间很小，隔音也差。", "物流很快，包装也好。", "iPhone 6 的屏幕！"]
    golden = {}
    for name, application in (("bert-mini-zh", "encoder"), ("gpt-mini-zh", "lm")):
        source = FOLDER.parents[1] / "keras_ptuning" / "assets" / name
        tokenizer = Tokenizer(str(source / "vocab.txt"), do_lower_case=True)
        rows = [tokenizer.encode(text)[0] for text in texts]
        token_ids = np.zeros((len(rows), max(map(len, rows))), "int32")
        for row, ids in zip(token_ids, rows, strict=True):
            row[: len(ids)] = ids
        with tempfile.TemporaryDirectory() as folder:
            tensors = safetensors.numpy.load_file(source / "bert_model.safetensors")
            checkpoint = os.path.join(folder, "bert_model.ckpt")
            small_bert.write_tensors(
                checkpoint, {n: value.astype("float32") for n, value in tensors.items()}
            )
            model = build_transformer_model(
                str(source / "bert_config.json"),
                checkpoint,
                with_mlm="linear",
                application=application,
            )
        logits = model([token_ids, np.zeros_like(token_ids)], training=False)
        golden[f"{name}-token_ids"] = token_ids
        golden[f"{name}-logits"] = np.asarray(logits, "float32")[:, :, ::20]
    np.savez_compressed(FOLDER / "bert4keras_assets.npz", **golden)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentiment", metavar="FOLDER", help="with sentiment.train.data etc.")
    parser.add_argument("--vocab", metavar="FILE", help="the vocab.txt for --sentiment")
    parser.add_argument("--only-assets", action="store_true")
    arguments = parser.parse_args()
    if arguments.only_assets:
        return record_assets()
    if arguments.sentiment and not arguments.vocab:
        parser.error("--sentiment needs --vocab")
    with tempfile.TemporaryDirectory() as folder:
        config, checkpoint, _ = small_bert.write_small_bert(folder)
        record_logits(config, checkpoint)
        record_ptuning(config, checkpoint)
    record_tokens()
    record_assets()
    if arguments.sentiment:
        record_sentiment(arguments.sentiment, arguments.vocab)


if __name__ == "__main__":
    main()
