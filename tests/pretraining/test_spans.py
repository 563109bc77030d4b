"""Pretraining of a T5: what is left out is written, nothing is lost, and the loss falls."""

import pathlib

import keras
import numpy as np
import pytest
import small_bert
import small_t5

from keras_ptuning import (
    Template,
    TextToTextDataset,
    Tokenizer,
    build_ptuning_model,
    build_transformer_model,
    pretrain,
)

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "pretrain.py"
TEXTS = ["这趟北京之旅我感觉很不错", "屏幕太小电池不好很差", "房间很好服务态度也好"] * 4
SENTINELS = [f"extra{i}" for i in range(8)]
VOCAB = [*small_bert.vocabulary()[: -len(SENTINELS)], *SENTINELS]
TOKENIZER = Tokenizer(VOCAB)


def make(**kwargs):
    return TextToTextDataset(TEXTS, TOKENIZER, **{"length": 20, "batch_size": 2, **kwargs})


def words(ids):
    return [VOCAB[i] for i in ids if i > 0]


def put_back(read, target):
    """The text, with what is written in the place of the sentinels."""
    assert read[0] == "[CLS]" and read[-1] == target[-1] == "[SEP]"
    parts, name = {}, None
    for token in target[:-1]:
        if token in SENTINELS:
            name = token
            parts[name] = []
        else:
            parts[name].append(token)
    assert list(parts) == SENTINELS[: len(parts)] == [t for t in read if t in SENTINELS]
    return [token for t in read[1:-1] for token in parts.get(t, [t])]


@pytest.mark.parametrize("rate, mean_span", [(0.15, 3.0), (0.5, 2.0)])
def test_spans(rate, mean_span):
    dataset = make(predict_rate=rate, mean_span=mean_span)
    everything = []
    for (read, written), targets in (dataset[i] for i in range(len(dataset))):
        for source, begun, target in zip(read, written, targets, strict=True):
            everything += put_back(words(source), words(target))
            # The decoder reads what it has written before.
            n = (target >= 0).sum()
            assert begun[0] == TOKENIZER.start_id
            assert begun[1:n].tolist() == target[: n - 1].tolist() and not begun[n:].any()
    assert everything == [t for ids in TOKENIZER.token_ids(TEXTS) for t in words(ids)]
    first = dataset.sequences[0]
    expected = round(rate * len(first))
    left_out = [t for t in words(dataset[0][1][0])[:-1] if t not in SENTINELS]
    assert len(left_out) == expected


def test_continuation():
    dataset = make(objective="continuation")
    (read, _), targets = dataset[0]
    ids = [
        words(source)[1:-1] + words(target)[:-1]
        for source, target in zip(read, targets, strict=True)
    ]
    assert ids == [words(row) for row in dataset.sequences[:2]]


def test_batches_differ_and_repeat():
    settings = {"steps": 3, "predict_rate": 0.3, "mean_span": 2.0}
    first, same, other = make(**settings), make(**settings), make(**settings, seed=1)
    assert all(np.array_equal(*pair) for pair in zip(first[1][0], same[1][0], strict=True))
    assert not np.array_equal(first[1][0][0], other[1][0][0])
    shapes = {(x[0].shape, x[1].shape, y.shape) for x, y in (first[i] for i in range(3))}
    assert len(shapes) == 1
    first.epoch = 1
    assert not np.array_equal(first[1][0][0], same[1][0][0])


@pytest.mark.parametrize("objective", ["spans", "continuation"])
def test_pretraining(tmp_path, objective):
    """From scratch, and on from where it stopped."""
    keras.utils.set_random_seed(0)
    config = {**small_t5.CONFIG, "vocab_size": len(VOCAB), "num_layers": 1, "num_decoder_layers": 1}
    dataset = make(objective=objective, steps=10)

    def train(epochs):
        model = build_transformer_model(config, with_mlm="linear")
        return pretrain(model, dataset, epochs, str(tmp_path), learning_rate=1e-2)

    curve = train(3)
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.3
    assert train(3) == curve
    dataset = make(objective=objective, steps=10, mean_span=2.0)
    with pytest.raises(ValueError, match="Different: mean_span"):
        train(3)
    # The same tokens, cut in half.
    dataset = make(objective=objective, steps=10)
    dataset.sequences = dataset.sequences.reshape(2 * len(dataset.sequences), -1)
    with pytest.raises(ValueError, match=r"Different: length\."):
        train(3)


def test_bad_input():
    for arguments, error in (
        ({"objective": "masks"}, "`objective` must be one of"),
        ({"predict_rate": 1.0}, "nothing is left to read"),
        ({"mean_span": 0}, "`mean_span`"),
        ({"predict_rate": 0.5, "mean_span": 1.0}, "Up to 10 spans.*has 8 sentinels"),
    ):
        with pytest.raises(ValueError, match=error):
            make(**arguments)
    with pytest.raises(ValueError, match="has 0 sentinels"):
        TextToTextDataset(TEXTS, Tokenizer(small_bert.vocabulary()))


def test_the_script(run_script, eagerly, tmp_path):
    """Its T5 has sentinels, and a template runs on it."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS), encoding="utf-8")
    folder = str(tmp_path / "t5")
    options = ["--application=encoder-decoder", "--steps=1", "--layers=1", "--hidden-size=64"]
    options += ["--min-count=2", "--length=20", "--batch-size=2", "--dtype=float32"]
    run_script(SCRIPT, texts, folder, *options)
    pattern = "{text}很<extra_id_0>[DECODER]<extra_id_0>[MASK]"
    template = Template(pattern, {"a": "好", "b": "差"}, folder)
    model = build_ptuning_model(folder, template=template)
    assert np.isfinite(np.array(model(template.encode(["屏幕太小"])))).all()
