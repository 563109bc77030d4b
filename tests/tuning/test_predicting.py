"""Predictions that are written as they go."""

import gc
import gzip
import itertools
import json

import numpy as np
import pytest
from keras import ops

from keras_ptuning import predict_to_file
from keras_ptuning.__main__ import main
from keras_ptuning.text.batches import ClozeDataset
from keras_ptuning.tuning import predicting


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(predicting, "CHUNK", 10)


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def texts(reviews):
    return [*reviews[0], "", "一", "书贵\u2028又贵"]


def read(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file.read().split("\n")[:-1]]


def files(path):
    return sorted(found.name for found in path.parent.iterdir())


def check(model, texts, path):
    found = read(path)
    scores = model.predict(model.template.dataset(texts), verbose=0)
    assert [line["label"] for line in found] == model.template.decode(scores)
    expected = ops.convert_to_numpy(ops.softmax(scores))
    np.testing.assert_allclose([line["probabilities"] for line in found], expected, atol=1e-5)


def test_texts_are_not_kept(tmp_path, model, texts):
    def count():
        gc.collect()
        return sum(isinstance(thing, ClozeDataset) for thing in gc.get_objects())

    before = count()
    predict_to_file(model, texts, tmp_path / "out", verbose=False)
    assert count() == before


@pytest.mark.parametrize("compress", [False, True])
def test_a_file(tmp_path, model, texts, compress):
    source, out = tmp_path / "texts", tmp_path / "out.jsonl"
    content = "".join(text + "\n" for text in texts).encode()
    source.write_bytes(gzip.compress(content) if compress else content)
    assert predict_to_file(model, source, out, verbose=0) == len(texts)
    check(model, texts, out)
    assert files(out) == ["out.jsonl", "texts"]


def test_the_command(tmp_path, model, texts, capsys):
    model.save(tmp_path / "model.keras")
    (tmp_path / "texts").write_text("\n".join(texts), "utf-8")
    arguments = ["predict", *(str(tmp_path / n) for n in ("model.keras", "texts", "out.jsonl"))]
    main(arguments)
    check(model, texts, tmp_path / "out.jsonl")
    assert "27/27" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"out.jsonl' exists"):
        main(arguments)


def test_no_more_is_read_than_is_written(tmp_path, model):
    """An endless stream: each chunk is on disk before the next is begun."""
    out = tmp_path / "out.jsonl"

    def stream():
        for number in itertools.count():
            if number == 50:
                raise KeyboardInterrupt
            if number >= 10:
                assert len(read(tmp_path / "out.jsonl.part")) == number // 10 * 10
            yield "书贵" * (1 + number % 5)

    with pytest.raises(KeyboardInterrupt):
        predict_to_file(model, stream(), out, verbose=0)
    assert len(read(tmp_path / "out.jsonl.part")) == 50


def interrupt(model, texts, out, after):
    def stream():
        yield from texts[:after]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_file(model, stream(), out, verbose=0)


def test_going_on(tmp_path, model, texts, monkeypatch):
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    predict_to_file(model, texts, whole, verbose=0)
    interrupt(model, texts, out, 13)
    # Half a line, as a kill may leave it.
    with open(tmp_path / "out.jsonl.part", "ab") as file:
        file.write(b'{"label": "')
    interrupt(model, texts, out, 24)
    predicted, predict = [], model.predict

    def counted(data, **kwargs):
        predicted.append(len(data.examples))
        return predict(data, **kwargs)

    monkeypatch.setattr(model, "predict", counted)
    assert predict_to_file(model, iter(texts), out, verbose=0) == len(texts)
    assert predicted == [7]
    assert out.read_bytes() == whole.read_bytes()
    assert files(out) == ["out.jsonl", "whole.jsonl"]


def test_other_texts_or_another_model(tmp_path, model, make_model, texts):
    out = tmp_path / "out.jsonl"
    interrupt(model, texts, out, 20)
    before = (tmp_path / "out.jsonl.part").read_bytes()
    with pytest.raises(ValueError, match="of other texts"):
        predict_to_file(model, ["好", *texts[1:]], out, verbose=0)
    with pytest.raises(ValueError, match="of other texts"):
        predict_to_file(model, texts[:15], out, verbose=0)
    other = make_model()
    other.prompt.assign(other.prompt + 1)
    with pytest.raises(ValueError, match="of another model"):
        predict_to_file(other, texts, out, verbose=0)
    assert (tmp_path / "out.jsonl.part").read_bytes() == before
    predict_to_file(model, texts, out, verbose=0)
    check(model, texts, out)


def test_bad_input(tmp_path, model, texts):
    out = tmp_path / "out.jsonl"
    with pytest.raises(FileNotFoundError, match=r"no text file .*missing"):
        predict_to_file(model, tmp_path / "missing", out)
    with pytest.raises(TypeError, match="Expected a path or an iterable"):
        predict_to_file(model, 3, out)
    with pytest.raises(FileNotFoundError, match="no folder"):
        predict_to_file(model, texts, tmp_path / "no" / "out.jsonl")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="line 1: expected text in UTF-8"):
        predict_to_file(model, tmp_path / "latin", out)
    with pytest.raises(TypeError, match="3"):
        predict_to_file(model, [*texts[:12], 3], out, verbose=0)
    assert len(read(tmp_path / "out.jsonl.part")) == 10
    (tmp_path / "out.jsonl.part").unlink()
    with pytest.raises(ValueError, match="shorter than"):
        predict_to_file(model, texts, out)
    (tmp_path / "out.jsonl.progress").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        predict_to_file(model, texts, out)


def test_one_graph_for_all_lengths(model, texts):
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow traces")
    for batch_size in (4, 7):
        model.predict(model.template.dataset(texts, batch_size=batch_size), verbose=0)
    assert model.predict_function.experimental_get_tracing_count() == 1
