import csv
import gzip
import importlib.util
import json
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from small_bert import CONFIG
from small_decoders import write_small_decoder, write_tokenizer

from keras_ptuning import Template, Tokenizer, build_ptuning_model, build_transformer_model
from keras_ptuning.models import save_transformer_model
from keras_ptuning.pretraining import loop
from keras_ptuning.pretraining.loop import pretrain
from keras_ptuning.pretraining.packing import PackedDataset

pytestmark = pytest.mark.usefixtures("eagerly")

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "pretrain.py"
TINY = {
    **CONFIG,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
# Each character but the first tells the next.
TEXTS = ["北京房间很好", "我喜欢书和电影", "屏幕便宜物流快", "态度糟糕服务差"] * 20


def characters(text):
    """Words of two characters."""
    return [text[i : i + 2] for i in range(0, len(text), 2)]


@pytest.fixture
def make_dataset(tokenizer):
    def make(texts=TEXTS, **options):
        options = {"length": 16, "batch_size": 8, "steps": 3, "predict_rate": 0.3, **options}
        return PackedDataset(texts, tokenizer, **options)

    return make


@pytest.fixture
def make_held_out(make_dataset):
    def make(texts=TEXTS[:8], **options):
        return make_dataset(texts, **{"steps": None, **options})

    return make


def make_model(application="encoder", checkpoint=None, dropout=0.0, seed=0, **options):
    keras.utils.set_random_seed(seed)
    return build_transformer_model(
        TINY,
        checkpoint,
        application=application,
        with_mlm="linear",
        gather_positions=True,
        document_start_id=22,
        sequence_length=16,
        dropout_rate=dropout,
        attention_dropout_rate=dropout,
        **options,
    )


class Interruption(Exception):
    pass


def interrupt(event, at):
    """A callback that raises: before the state is written, or earlier."""

    def stop(number, logs=None):
        if number == at:
            raise Interruption

    return keras.callbacks.LambdaCallback(**{event: stop})


def without_seconds(curve):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in curve]


def assert_same_curve(found, expected):
    assert len(found) == len(expected)
    for row, other in zip(without_seconds(found), without_seconds(expected), strict=True):
        assert row == pytest.approx(other, rel=1e-6, abs=1e-6)


def assert_same_weights(found, expected):
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.graph
@pytest.mark.parametrize("application", ["encoder", "lm"])
def test_learning_and_going_on(make_dataset, make_held_out, tmp_path, application):
    options = {"causal": application == "lm", "predict_rate": 1.0 if application == "lm" else 0.3}
    dataset, held_out = make_dataset(steps=20, **options), make_held_out(**options)
    model = make_model(application)
    curve = pretrain(model, dataset, 8, tmp_path / "new", held_out, 0.02)
    # There are 120 tokens to guess from at first, and hardly any doubt later. Where nothing has
    # been read yet, one beginning of four remains to be guessed.
    assert curve[0]["loss"] > 2.5 and curve[0]["val_loss"] > 1
    assert curve[-1]["loss"] < 0.6 and curve[-1]["val_loss"] < 0.6
    assert [row["step"] for row in curve] == list(range(20, 161, 20))
    assert curve[-1]["tokens"] == 160 * 8 * 16
    rates = [row["learning_rate"] for row in curve]
    assert rates[0] > 0.018 and rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.01 * 0.02, rel=0.1)

    save_transformer_model(model, tmp_path, TINY, dataset.tokenizer.vocab)
    model = make_model(application, tmp_path / "model.safetensors", seed=1)
    again = pretrain(model, dataset, 1, tmp_path / "again", learning_rate=1e-4)
    assert again[0]["loss"] < 0.7 and "val_loss" not in again[0]
    assert again[0]["step"] == 20


@pytest.mark.parametrize(
    ("application", "optimizer", "words"),
    [
        ("encoder", "muon", characters),
        pytest.param("lm", "adamw", None, marks=[pytest.mark.graph, pytest.mark.slow]),
    ],
)
def test_interrupted_training_is_the_same(
    make_dataset, make_held_out, tmp_path, application, optimizer, words
):
    causal = application == "lm"

    def train(folder, callbacks=(), seed=0):
        # Of what a new process draws at random, nothing may matter.
        model = make_model(application, dropout=0.1, seed=seed)
        dataset = make_dataset(causal=causal, split_words=words)
        curve = pretrain(
            model,
            dataset,
            5,
            tmp_path / folder,
            make_held_out(causal=causal),
            learning_rate=0.01,
            optimizer=optimizer,
            callbacks=callbacks,
        )
        return model, curve

    expected_model, expected = train("whole")
    # After an epoch, but before it is written down; and between two.
    for event, at in (("on_epoch_end", 1), ("on_epoch_begin", 3)):
        with pytest.raises(Interruption):
            train("parts", [interrupt(event, at)], seed=at - 1)
    model, curve = train("parts", seed=5)
    assert_same_curve(curve, expected)
    assert_same_weights(model, expected_model)
    assert len({row["loss"] for row in curve}) == 5


def test_an_interruption_before_there_is_a_state(make_dataset, tmp_path):
    """The same model goes on from where it began."""
    expected = pretrain(make_model(), make_dataset(), 2, tmp_path / "whole")
    model = make_model()
    with pytest.raises(Interruption):
        stop = interrupt("on_train_batch_end", 1)
        pretrain(model, make_dataset(), 2, tmp_path / "parts", callbacks=[stop])
    assert_same_weights(model, make_model())
    assert_same_curve(pretrain(model, make_dataset(), 2, tmp_path / "parts"), expected)


def test_half_precision(make_dataset, tmp_path):
    dataset = make_dataset()
    model = build_transformer_model(
        TINY, with_mlm="linear", dtype="bfloat16", **dataset.model_options
    )
    with pytest.raises(ValueError, match=r"type bfloat16 cannot.*dtype='mixed_bfloat16'"):
        pretrain(model, dataset, 1, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_an_interruption_between_curve_and_state(make_dataset, tmp_path, monkeypatch):
    expected = pretrain(make_model(), make_dataset(), 3, tmp_path / "whole")
    model = make_model()
    save = model.save_weights
    calls = []

    def save_once(path):
        calls.append(path)
        if len(calls) == 2:
            pathlib.Path(path).write_bytes(b"half of it")
            raise Interruption
        save(path)

    monkeypatch.setattr(model, "save_weights", save_once)
    folder = tmp_path / "parts"
    with pytest.raises(Interruption):
        pretrain(model, make_dataset(), 3, folder)
    assert len((folder / "curve.csv").read_text().splitlines()) == 3
    curve = pretrain(make_model(seed=1), make_dataset(), 3, folder)
    assert_same_curve(curve, expected)
    assert {"curve.csv", "training.json", "training.weights.h5"} == {
        path.name for path in folder.iterdir() if path.name != "curve.png"
    }


def test_a_finished_training_is_not_repeated(make_dataset, make_held_out, tmp_path):
    model = make_model()
    expected = pretrain(model, make_dataset(), 2, tmp_path, make_held_out())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = make_model(seed=1)
    stop = interrupt("on_epoch_begin", 0), interrupt("on_train_batch_begin", 0)
    curve = pretrain(again, make_dataset(), 2, tmp_path, make_held_out(), callbacks=stop)
    assert curve == expected
    assert [type(v) for v in curve[0].values()] == [type(v) for v in expected[0].values()]
    assert_same_weights(again, model)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_training_at_a_time_in_a_folder(make_dataset, tmp_path):
    refused = []

    def second(epoch, logs):
        with pytest.raises(BlockingIOError, match="Another training uses the folder"):
            pretrain(make_model(), make_dataset(), 1, tmp_path)
        refused.append(epoch)

    first = keras.callbacks.LambdaCallback(on_epoch_begin=second)
    pretrain(make_model(), make_dataset(), 1, tmp_path, callbacks=[first])
    assert refused == [0]


def test_other_settings_are_refused(make_dataset, tmp_path):
    pretrain(make_model(), make_dataset(), 1, tmp_path)
    with open(tmp_path / "curve.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["step"] == "3"

    def again(message, model=None, data=None, epochs=1, **options):
        with pytest.raises(ValueError, match=rf"another folder.*{message}"):
            pretrain(model or make_model(), make_dataset(**data or {}), epochs, tmp_path, **options)

    again(r"Different: learning_rate\. .*learning_rate=0\.5, .* was 0\.001", learning_rate=0.5)
    again(r"Different: optimizer\. .*'muon', .* 'adamw'", optimizer="muon")
    again(r"Different: epochs, warmup\. .*epochs=2, .* was 1", epochs=2, warmup=0.1)
    again(r"Different: weight_decay\.", weight_decay=0.1)
    again(r"Different: data\.", data={"texts": TEXTS[:-1]})
    again(r"Different: words\.", data={"split_words": characters})
    again(r"Different: data_seed\.", data={"seed": 1})
    again(r"Different: batch_size\.", data={"batch_size": 9})
    again(r"Different: predict_rate, causal\.", data={"causal": True, "predict_rate": 1.0})
    again(
        r"Different: weights\.",
        build_transformer_model(TINY, num_hidden_layers=2, with_mlm=True, gather_positions=True),
    )


@pytest.mark.parametrize("weights_first", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_loss_that_is_not_a_number(make_dataset, tmp_path, weights_first):
    """Weights that became infinite in the last step of an epoch have not spoilt its loss yet."""

    def spoil(epoch, logs=None):
        if epoch == 2:
            bias = model.get_layer("MLM-Bias")
            bias.set_weights([np.full(TINY["vocab_size"], np.nan)])

    expected = pretrain(make_model(), make_dataset(), 4, tmp_path / "whole")
    event = "on_epoch_end" if weights_first else "on_epoch_begin"
    model = make_model()
    message = (
        r"after step 9, .* weights are not finite\. Build the model again, and use a smaller "
        r"learning rate.*these 3 steps.*another folder"
    )
    with pytest.raises(FloatingPointError, match=message):
        pretrain(
            model,
            make_dataset(),
            4,
            tmp_path / "parts",
            callbacks=[keras.callbacks.LambdaCallback(**{event: spoil})],
        )
    curve = pretrain(make_model(seed=1), make_dataset(), 4, tmp_path / "parts")
    assert_same_curve(curve, expected)


def test_steps_that_overflow_are_done(make_dataset, tmp_path):
    """In float16 the optimizer skips them, and does not count them."""

    def overflow(epoch, logs=None):
        model.optimizer.dynamic_scale.assign(2.0**60)

    # The last block computes in float32.
    options = {"dtype": "mixed_float16", "num_hidden_layers": 2}
    model = make_model(**options)
    stop = keras.callbacks.LambdaCallback(on_epoch_begin=overflow), interrupt("on_epoch_begin", 1)
    with pytest.raises(Interruption):
        pretrain(model, make_dataset(), 2, tmp_path / "parts", callbacks=stop)
    assert int(model.optimizer.inner_optimizer.iterations) < 3
    curve = pretrain(make_model(**options), make_dataset(), 2, tmp_path / "parts")
    assert [row["step"] for row in curve] == [3, 6]


def test_the_plot_is_that_of_the_curve(make_dataset, tmp_path):
    pytest.importorskip("matplotlib")

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    pretrain(make_model(), make_dataset(), 3, tmp_path, callbacks=Stop())
    first = (tmp_path / "curve.png").read_bytes()
    pretrain(make_model(), make_dataset(), 3, tmp_path)
    assert (tmp_path / "curve.png").read_bytes() != first
    # Only the state is needed.
    for name in ("curve.png", "curve.csv"):
        (tmp_path / name).unlink()
    assert pretrain(make_model(), make_dataset(), 3, tmp_path) == []


def test_an_absurd_learning_rate(make_dataset, tmp_path):
    message = r"with a learning rate of .*e\+3.* is as it was before\. Use a smaller"
    with pytest.raises(FloatingPointError, match=message):
        pretrain(make_model(), make_dataset(), 2, tmp_path, learning_rate=1e38, warmup=0.0)
    # So the folder is free for another one.
    assert os.listdir(tmp_path) == ["training.json"]
    assert len(pretrain(make_model(), make_dataset(), 1, tmp_path)) == 1


def test_perplexity(make_dataset, make_held_out, tmp_path):
    held_out = make_held_out(causal=True, predict_rate=1.0)
    assert len(held_out) == 1
    model = make_model("lm")
    curve = pretrain(model, make_dataset(causal=True), 3, tmp_path, held_out, learning_rate=0.02)
    # The model's own probabilities of each next token, at all places at once.
    token_ids = held_out.sequences
    places = np.tile(np.arange(16, dtype="int32"), (len(token_ids), 1))
    logits = model.predict([token_ids, 0 * token_ids, places], verbose=0).astype("float64")
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    surprise = [
        -logits[row, place, token_ids[row, place + 1]]
        for row, place in np.ndindex(len(token_ids), 15)
        if token_ids[row, place + 1] not in (0, 22)
    ]
    assert len(surprise) == sum(map(len, TEXTS[:8])) + 8  # characters, and [SEP] of each
    assert curve[-1]["val_loss"] == pytest.approx(np.mean(surprise), abs=1e-5)
    assert curve[-1]["perplexity"] == math.exp(curve[-1]["val_loss"])


def test_evaluations_on_the_way(make_dataset, make_held_out, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "EVALUATIONS", 3)
    curve = pretrain(make_model(), make_dataset(steps=1), 8, tmp_path, make_held_out())
    assert [row["step"] for row in curve if "val_loss" in row] == [3, 5, 8]


def test_bad_arguments(make_dataset, make_held_out, tmp_path):
    for dataset, options, message in (
        (make_held_out(), {}, r"needs `steps`.*steps=100"),
        (make_dataset(), {"epochs": 0}, "`epochs` must be an integer, at least 1"),
        (make_dataset(), {"optimizer": "sgd"}, "'adamw' or 'muon'.*'sgd'"),
        (make_dataset(), {"warmup": 1.5}, "`warmup` must be a finite number from 0 to 1"),
        (make_dataset(), {"warmup": "0.1"}, "`warmup` must be a finite number"),
        (make_dataset(), {"weight_decay": -0.1}, "`weight_decay` must be a finite number from 0"),
        (make_dataset(), {"weight_decay": np.inf}, "`weight_decay` must be a finite number"),
        (make_dataset(), {"held_out": make_dataset()}, "held-out.*without `steps`.*steps=3"),
        (make_dataset(), {"held_out": make_held_out(length=12)}, "length=12.*length=16"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain(make_model(), dataset, **{"epochs": 1, "folder": tmp_path, **options})
    for wrong in ({"dataset": TEXTS}, {"held_out": TEXTS}):
        with pytest.raises(TypeError, match="must be a `PackedDataset`"):
            arguments = {"dataset": make_dataset(), "epochs": 1, "folder": tmp_path, **wrong}
            pretrain(make_model(), **arguments)
    assert not os.listdir(tmp_path)


# The script.

OPTIONS = "--layers 1 --hidden-size 64 --length 16 --batch-size 8 --held-out 8 --min-count 1"


def run(corpus, folder, options):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(corpus), str(folder), *options.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt.gz"
    path.write_bytes(gzip.compress("\n".join(TEXTS).encode()))
    return path


def read_curve(folder):
    with open(folder / "curve.csv", encoding="utf-8", newline="") as file:
        return without_seconds(csv.DictReader(file))


def test_script_for_an_encoder_and_going_on_from_it(run_script, corpus, tmp_path):
    pytest.importorskip("jieba")

    def run(folder, options):
        options = f"{OPTIONS} --steps 6 --save-every 3 --learning-rate 0.01 {options}"
        return run_script(SCRIPT, corpus, folder, *options.split())

    output = run(tmp_path / "new", "--whole-words")
    assert "72 documents" in output
    paths = tmp_path / "new" / "config.json", tmp_path / "new" / "model.safetensors"
    model = build_transformer_model(*paths, with_mlm="linear")
    plot = tmp_path / "new" / "curve.png"
    assert plot.exists() == bool(importlib.util.find_spec("matplotlib"))
    tokenizer = Tokenizer(tmp_path / "new" / "vocab.txt")
    token_ids = np.array([tokenizer.encode(TEXTS[0])[0]])
    assert tokenizer.token_to_id("[UNK]") not in token_ids
    assert model.predict([token_ids, 0 * token_ids], verbose=0).shape == (
        1,
        8,
        len(tokenizer.vocab),
    )
    first = read_curve(tmp_path / "new")

    # Sizes and vocabulary are those of the checkpoint, and so is what it has learnt.
    options = f"--layers 7 --min-count 3 --optimizer muon --checkpoint {tmp_path / 'new'}"
    run(tmp_path / "more", options)
    more = read_curve(tmp_path / "more")
    assert float(more[0]["loss"]) < float(first[0]["loss"]) - 0.3
    for name in ("config.json", "vocab.txt"):
        before, after = ((tmp_path / f / name).read_text("utf-8") for f in ("new", "more"))
        assert before == after


def test_script_for_a_language_model(run_script, corpus, tmp_path):
    folder = tmp_path / "new"
    options = f"{OPTIONS} --application lm --steps 4 --save-every 2 --dtype float32"
    output = run_script(SCRIPT, corpus, folder, *options.split())
    last = json.loads(output.splitlines()[-1].split("Last: ")[1])
    assert last["step"] == 4 and last["perplexity"] == float(read_curve(folder)[-1]["perplexity"])
    # The configuration says that it is causal.
    paths = folder / "config.json", folder / "model.safetensors"
    model = build_transformer_model(*paths, with_mlm="linear")
    tokens = np.array([Tokenizer(folder / "vocab.txt").encode(TEXTS[0])[0]])
    other = np.where(np.arange(8) == 5, tokens[0, 1], tokens)
    a, b = (model.predict([x, 0 * x], verbose=0)[0] for x in (tokens, other))
    np.testing.assert_array_equal(a[:5], b[:5])
    assert (a[5:] != b[5:]).any(axis=-1).all()


def test_script_adds_positions(run_script, corpus, tmp_path):
    """The new ones start as copies and learn. All else stays, bit for bit."""
    pytest.importorskip("jieba")

    def run(folder, options):
        options = f"--batch-size 8 --dtype float32 --steps 4 --save-every 2 {options}"
        run_script(SCRIPT, corpus, tmp_path / folder, *options.split())
        paths = tmp_path / folder / "config.json", tmp_path / folder / "model.safetensors"
        model = build_transformer_model(*paths, with_mlm="linear")
        return {layer.name: layer.get_weights() for layer in model.layers}

    old = run("old", OPTIONS)
    more = f"--checkpoint {tmp_path / 'old'} --positions 20 --learning-rate"
    same, trained = run("same", f"{more} 1e-9"), run("trained", f"{more} 0.1")
    tables = [weights.pop("Embedding-Position")[0] for weights in (old, same, trained)]
    assert [len(table) for table in tables] == [16, 20, 20]
    for weights, table in zip((same, trained), tables[1:], strict=True):
        np.testing.assert_array_equal(table[:16], tables[0])
        for name, arrays in old.items():
            for a, b in zip(arrays, weights[name], strict=True):
                np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(tables[1][16:], tables[0][:4], atol=1e-6)
    # Two documents of eight tokens fill a sequence but for the last positions.
    assert np.abs(tables[2] - tables[1])[16:18].max(axis=-1).min() > 0.01

    with pytest.raises(SystemExit, match=r"more than the 16 .* Received: 16"):
        run("refused", f"{more} 0.1".replace(" 20 ", " 16 "))


def test_script_for_a_decoder(run_script, corpus, tmp_path):
    """A Qwen reads on, in texts that have only an end, and no segments."""
    qwen = tmp_path / "qwen"
    qwen.mkdir()
    write_small_decoder(qwen, "qwen2")
    write_tokenizer(qwen, pad_token="<|end|>")
    options = "--application lm --steps 8 --save-every 4 --dtype float32 --learning-rate 0.01"
    options += f" --length 16 --batch-size 8 --checkpoint {qwen}"
    run_script(SCRIPT, corpus, tmp_path / "more", *options.split())
    curve = read_curve(tmp_path / "more")
    assert float(curve[1]["loss"]) < float(curve[0]["loss"]) - 0.3
    labels = {0: "不", 1: "很"}
    template = Template("{text}[MASK]", labels, tmp_path / "more", 40, causal=True)
    model = build_ptuning_model(tmp_path / "more", template=template)
    assert np.isfinite(model.predict(template.dataset(TEXTS[:4]), verbose=0)).all()


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """Six times kill -9, some while files are written; then the result must be the same bits."""
    rng = random.Random(0)
    documents = ["".join(rng.sample("北京房间很好我喜欢书和电影", 10)) for _ in range(400)]
    corpus = tmp_path / "corpus.txt.gz"
    corpus.write_bytes(gzip.compress("\n".join(documents).encode()))
    epochs = 40
    options = (
        f"{OPTIONS} --dtype float32 --dropout 0.1 --steps {epochs * 20} --save-every 20 "
        "--held-out 40"
    )
    run(corpus, tmp_path / "whole", options)

    folder, log = tmp_path / "parts", tmp_path / "log"
    command = [sys.executable, str(SCRIPT), str(corpus), str(folder), *options.split()]
    kills = []
    with open(log, "wb") as output:
        while True:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            kind = ["training", "writing"][len(kills) % 2]
            if len(kills) < 6:
                start = time.monotonic()
                done = rows(folder)
                # The start takes longest; afterwards come some random moments of training.
                while process.poll() is None and rows(folder) == done:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 1.2))
                while kind == "writing" and process.poll() is None and not writes(folder):
                    pass
                time.sleep(rng.uniform(0, 0.02))
                process.send_signal(signal.SIGKILL)
            if process.wait() == 0:
                break
            assert process.returncode == -signal.SIGKILL, log.read_text("utf-8")
            kills.append((kind, bool(writes(folder)), rows(folder), time.monotonic() - start))
    started = len(re.findall(r"Epoch \d+/", log.read_text("utf-8")))
    print(f"killed (waiting for, files left half written, epochs, seconds): {kills}")
    print(f"{started - epochs} of {epochs} epochs were done again")
    assert len(kills) == 6 and any(left for _, left, *_ in kills)
    assert not writes(folder)
    assert read_curve(folder) == read_curve(tmp_path / "whole")
    name = "model.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def rows(folder):
    """How many epochs the curve has."""
    try:
        return len((folder / "curve.csv").read_bytes().splitlines()) - 1
    except FileNotFoundError:
        return 0


def writes(folder):
    """Unfinished files."""
    try:
        return list(folder.glob(".writing-*"))
    except FileNotFoundError:
        # One of them has just taken its place.
        return []
