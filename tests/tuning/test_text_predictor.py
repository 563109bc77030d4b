"""The predictor that other processes call: small to send, loaded once, equal to the file."""

import json
import os
import pickle

import keras
import numpy as np
import pytest

from keras_ptuning import TextPredictor, predict_to_file
from keras_ptuning.tuning import text_predictor


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """The paths that were loaded, in a process that has loaded nothing before."""
    text_predictor._load.cache_clear()
    paths = []
    for name in ("load_model", "load_tuned"):
        load = getattr(text_predictor, name)

        def counted(path, *args, load=load):
            paths.append(path)
            return load(path, *args)

        monkeypatch.setattr(text_predictor, name, counted)
    yield paths
    text_predictor._load.cache_clear()


@pytest.fixture
def path(tmp_path, make_model):
    path = tmp_path / "model.keras"
    make_model().save(path)
    return str(path)


@pytest.fixture
def texts(reviews):
    return [*reviews[0], "", "一"]


def written(model, texts, path):
    """The labels and the probabilities in a file."""
    predict_to_file(model, texts, path, verbose=0)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [line["label"] for line in lines], [
        max(line["probabilities"].values()) for line in lines
    ]


def check(found, expected):
    labels, probabilities = expected
    assert found["label"].tolist() == labels
    np.testing.assert_allclose(found["probability"], probabilities, atol=1e-5)


def test_a_whole_model(tmp_path, path, texts, make_model):
    expected = written(make_model(), texts, tmp_path / "out")
    numbers = np.arange(len(texts))
    found = TextPredictor(path)({"id": numbers, "text": np.array(texts)})
    assert list(found) == ["id", "text", "label", "probability"]
    assert found["id"] is numbers
    check(found, expected)


def test_a_tuned_file(tmp_path, small_bert, texts, make_model):
    model = make_model()
    # Not a sum: the norm after the embedding takes a constant away.
    model.prompt.assign(model.prompt * -3)
    model.save_tuned(tmp_path / "my.tuned")
    # With dropout, as `load_tuned` builds it: prediction has none.
    predictor = TextPredictor(tmp_path / "my.tuned", small_bert[1], "review", batch_size=7)
    check(predictor({"review": texts}), written(model, texts, tmp_path / "out"))


def test_many_texts_go_in_chunks(tmp_path, path, texts, make_model, monkeypatch):
    expected = written(make_model(), texts, tmp_path / "out")
    monkeypatch.setattr(text_predictor, "CHUNK", 10)
    check(TextPredictor(path)({"text": texts}), expected)


def test_a_data_frame(tmp_path, path, texts, make_model):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": texts}, index=range(100, 100 + len(texts)))
    found = TextPredictor(path)(frame)
    assert list(frame) == ["text"] and list(found) == ["text", "label", "probability"]
    assert (found.index == frame.index).all()
    check(found, written(make_model(), texts, tmp_path / "out"))


def test_pairs(tmp_path, make_model, make_template):
    model = make_model(make_template("[MASK]{text}[SEP]{text_b}"))
    model.save(tmp_path / "pairs.keras")
    pairs = [("很好", "很"), ("不", "书贵")]
    found = TextPredictor(tmp_path / "pairs.keras")({"text": np.array(pairs)})
    check(found, written(model, pairs, tmp_path / "out"))


def test_labels_of_two_kinds(tmp_path, make_model, make_template):
    """A column has one type, also in the blocks where all labels are numbers."""
    model = make_model(make_template("[MASK]{text}", {1: "很", "负面": "不"}))
    model.save(tmp_path / "mixed.keras")
    texts = ["很好", "书贵", "不"]
    found = TextPredictor(tmp_path / "mixed.keras")({"text": texts})["label"]
    expected = model.template.decode(model.predict(model.template.dataset(texts), verbose=0))
    assert found.tolist() == [str(label) for label in expected]


def test_no_texts(tmp_path, path, make_model, make_template):
    found = TextPredictor(path)({"text": np.array([], object)})
    assert found["label"].dtype.kind == "U" and found["label"].shape == (0,)
    assert found["probability"].dtype == "float64" and found["probability"].shape == (0,)
    make_model(make_template("[MASK]{text}", {0: "不", 1: "很"})).save(tmp_path / "numbers.keras")
    predictor = TextPredictor(tmp_path / "numbers.keras")
    assert predictor({"text": []})["label"].dtype == predictor({"text": ["好"]})["label"].dtype
    assert predictor({"text": []})["label"].dtype.kind == "i"


def test_it_is_small_to_send(path, texts, loaded):
    predictor = TextPredictor(path)
    assert loaded == []
    settings = {"path": path, "checkpoint": None, "column": "text", "batch_size": 64}
    before = pickle.dumps(predictor)
    assert vars(predictor) == settings and len(before) < 400
    predictor({"text": texts})
    assert pickle.dumps(predictor) == before


def test_a_process_loads_once(path, texts, loaded, make_model):
    predictor = TextPredictor(path)
    first = predictor({"text": texts})
    for copy in (predictor, pickle.loads(pickle.dumps(predictor)), TextPredictor(path)):
        np.testing.assert_equal(copy({"text": texts}), first)
    assert loaded == [path]
    model = make_model()
    # Not a sum: the norm after the embedding takes a constant away.
    model.prompt.assign(model.prompt * -3)
    model.save(path)
    assert not np.array_equal(predictor({"text": texts})["probability"], first["probability"])
    assert loaded == [path, path]


def test_the_same_path_in_another_folder(tmp_path, texts, make_model, monkeypatch):
    found = []
    for name, scale in (("a", 1), ("b", -3)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        model = make_model()
        model.prompt.assign(model.prompt * scale)
        model.save("model.keras")
        # As copies of one archive have it.
        os.utime("model.keras", (0, 0))
        found.append(TextPredictor("model.keras")({"text": texts})["probability"])
    assert not np.array_equal(*found)


def test_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match=r"needs the checkpoint.*Received: path='my\.tuned'"):
        TextPredictor("my.tuned")
    with pytest.raises(ValueError, match=r"leave out `checkpoint`.*'bert-mini-zh'"):
        TextPredictor("model.keras", "bert-mini-zh")
    with pytest.raises(TypeError, match="`path` must be a path"):
        TextPredictor(None)
    with pytest.raises(ValueError, match="`batch_size` must be an integer"):
        TextPredictor("model.keras", batch_size=0)
    with pytest.raises(FileNotFoundError, match=r"missing\.keras"):
        TextPredictor(tmp_path / "missing.keras")({"text": ["好"]})


def test_wrong_columns(path, loaded):
    predictor = TextPredictor(path)
    with pytest.raises(ValueError, match=r"no column 'text'.*Received the columns: \['review'\]"):
        predictor({"review": ["好"]})
    with pytest.raises(ValueError, match=r"Rename or drop.*\['text', 'label'\]"):
        predictor({"text": ["好"], "label": [1]})
    with pytest.raises(TypeError, match=r"Expected a dictionary of columns.*of type list"):
        predictor(["好"])
    with pytest.raises(TypeError, match=r"`batch\['text'\]` must be a list"):
        predictor({"text": "好"})
    assert loaded == []


def test_the_row_of_a_wrong_text(path):
    predictor = TextPredictor(path)
    with pytest.raises(
        TypeError, match=r"text 2 is None.*column 'text' of the row {'id': 12, 'text': None}"
    ):
        predictor({"id": [10, 11, 12], "text": np.array(["好", "不", None])})
    # What is no column of the same length tells nothing.
    with pytest.raises(TypeError, match=r"text 1 is None.*of the row {'text': None}"):
        predictor({"text": ["好", None], "n": 5, "names": ["a"]})


def test_models_without_labels(tmp_path, make_model, make_template):
    make_model(make_template("[MASK]{text}", None)).save(tmp_path / "candidates.keras")
    with pytest.raises(ValueError, match="a template with labels"):
        TextPredictor(tmp_path / "candidates.keras")({"text": ["好"]})
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"which has a template.*other\.keras' with a Sequential"):
        TextPredictor(tmp_path / "other.keras")({"text": ["好"]})
