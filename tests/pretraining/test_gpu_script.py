"""The scripts that made `bert-small-zh`, on a teacher of this test and without a GPU."""

import csv
import json
import pathlib
import struct
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_ptuning import Template, Tokenizer, build_ptuning_model, build_transformer_model

SCRIPTS = pathlib.Path(__file__).parents[2] / "examples/pretrain_gpu"
HIDDEN, INNER, LAYERS, HEADS, POSITIONS = 64, 128, 2, 2, 128
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁ok", "很好", *"很不好满意差，。", "<mask>"]
TEXTS = ["很满意，很好。", "不满意，差。", "ok 很好，不差。", "不好，不满意。"]


def quantize(matrix):
    """Blocks of 32 numbers, in 4 bits each; returns the bytes, and what they say."""
    blocks = matrix.reshape(-1, 32)
    scales = (np.abs(blocks).max(1) / 7).astype("float16")
    numbers = np.rint(blocks / scales[:, None].astype("float32")).astype(int) + 8
    file = np.zeros(len(blocks), [("scale", "<f2"), ("nibbles", "u1", 16)])
    file["scale"], file["nibbles"] = scales, numbers[:, :16] | numbers[:, 16:] << 4
    return file.tobytes(), ((numbers - 8) * scales[:, None].astype("float32")).reshape(matrix.shape)


def write_e5(path):
    """A file as the package has it; returns the matrices and vectors in it."""
    rng = np.random.default_rng(0)
    tensors = {"emb.word": rng.normal(size=(len(PIECES), HIDDEN))}
    tensors["emb.pos"] = rng.normal(size=(POSITIONS, HIDDEN))
    tensors["emb.type"] = rng.normal(size=(2, HIDDEN))
    for i in range(LAYERS):
        shapes = {"q": HIDDEN, "k": HIDDEN, "v": HIDDEN, "ao": HIDDEN, "fi": INNER, "fo": HIDDEN}
        for name, rows in shapes.items():
            columns = INNER if name == "fo" else HIDDEN
            tensors[f"l{i}.{name}.w"] = 0.1 * rng.normal(size=(rows, columns))
            tensors[f"l{i}.{name}.b"] = rng.normal(size=rows)
    for name in ["emb.ln", *(f"l{i}.{norm}" for i in range(LAYERS) for norm in ("aln", "oln"))]:
        tensors[f"{name}.w"], tensors[f"{name}.b"] = 1 + rng.normal(size=(2, HIDDEN)) / 10
    pieces = [piece.encode() for piece in PIECES]
    head = b"E5S1...." + struct.pack("<7i", HIDDEN, LAYERS, HEADS, INNER, len(PIECES), POSITIONS, 2)
    head += struct.pack("<fi", 1e-12, 0) + struct.pack("<5i", len(PIECES), 0, 2, 1, 3)
    head += struct.pack("<Q", sum(map(len, pieces)))
    head += np.cumsum([0, *map(len, pieces)]).astype("<u4").tobytes()
    head += np.linspace(-1, -3, len(PIECES)).astype("<f4").tobytes() + b"".join(pieces)
    head += struct.pack("<iI", 0, 3) + b"..." + struct.pack("<i", len(tensors))
    entries, payload, values = [], b"", {}
    for name, tensor in tensors.items():
        if name == "emb.word" or (name.endswith(".w") and tensor.ndim == 2):
            content, values[name] = quantize(tensor.astype("float32"))
        else:
            content, values[name] = tensor.astype("<f4").tobytes(), tensor.astype("float32")
        entries.append((name.encode(), len(payload), len(content)))
        payload += content
    size = len(head) + sum(2 + len(name) + 21 for name, _, _ in entries)
    for name, offset, nbytes in entries:
        head += struct.pack("<H", len(name)) + name
        head += struct.pack("<BIQQ", 0, 0, size + offset, nbytes)
    path.write_bytes(head + payload)
    return values


def run(script, *arguments):
    command = [sys.executable, SCRIPTS / script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    values = write_e5(folder / "e5.bin")
    (folder / "texts.txt").write_text("\n".join(TEXTS * 30), encoding="utf-8")
    options = ["--texts", folder / "texts.txt", "--e5", folder / "e5.bin", "--length", 16]
    options += ["--held-out", 8, "--vocab-size", 200]
    assert "120 texts" in run("prepare.py", folder / "data", *options)
    return folder / "data", values


def test_texts_become_sequences_and_begins_of_words(data):
    folder, _ = data
    tokenizer = Tokenizer(str(folder / "vocab.txt"))
    rows = np.load(folder / "rows.npy")
    begins = np.unpackbits(np.load(folder / "words.npy"), axis=1)[:, :16]
    words = set()
    for row, begin in zip(rows, begins, strict=True):
        for number in range(1, begin.cumsum().max() + 1):
            ids = row[(begin.cumsum() == number) & (row > 0)]
            words.add("".join(tokenizer.vocab[i] for i in ids))
    assert {"满意", "很", "ok", "[CLS]"} <= words and "不满意" not in words
    assert (rows == tokenizer.start_id).sum() == len(TEXTS) * 30


def test_a_start_has_the_teachers_body_and_the_rows_of_its_pieces(data, tmp_path):
    pytest.importorskip("torch")
    folder, values = data
    options = ["--start", "--steps", 1, "--batch-size", 4, "--learning-rate", 1e-9]
    run("train.py", folder, tmp_path, *options)
    model = build_transformer_model(str(tmp_path))
    kernel = model.get_layer("Transformer-1-FeedForward").get_weights()[0]
    np.testing.assert_allclose(kernel, values["l1.fi.w"].T, atol=2e-3)
    tokenizer = Tokenizer(str(tmp_path))
    table = model.get_layer("Embedding-Token").get_weights()[0]
    for token, piece in (("[MASK]", "<mask>"), ("满", "满"), ("ok", "▁ok")):
        expected = values["emb.word"][PIECES.index(piece)]
        np.testing.assert_allclose(table[tokenizer.token_to_id(token)], expected, atol=2e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_training_lowers_both_losses_and_the_library_loads_the_result(data, tmp_path, causal):
    pytest.importorskip("torch")
    folder, _ = data
    options = ["--layers", 1, "--hidden-size", 64, "--steps", 60, "--batch-size", 8]
    run("train.py", folder, tmp_path, *options, *["--causal"] * causal)
    with open(tmp_path / "curve.csv", newline="") as file:
        curve = list(csv.DictReader(file))
    first, last = curve[0], curve[-1]
    assert float(last["val_loss"]) < float(first["val_loss"]) - 1
    assert causal or float(last["val_distance"]) < float(first["val_distance"]) - 0.2
    assert json.loads((tmp_path / "bert_config.json").read_text())["is_decoder"] == causal
    pattern = "{text}很[MASK]" if causal else "[MASK]满意。{text}"
    template = Template(pattern, {0: "不", 1: "好"}, str(tmp_path), causal=causal)
    model = build_ptuning_model(str(tmp_path), template=template)
    scores = model.predict(template.dataset(["很好"]), verbose=0)
    assert np.isfinite(keras.ops.convert_to_numpy(scores)).all()
