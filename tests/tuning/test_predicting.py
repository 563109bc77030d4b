"""Predictions that are written as they go."""

import gc
import gzip
import itertools
import json
import resource

import numpy as np
import pytest
from keras import ops

from keras_ptuning import PromptClassifier, predict_to_file
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
    assert [line["index"] for line in found] == list(range(len(texts)))
    assert [line["label"] for line in found] == model.template.decode(scores)
    expected = ops.convert_to_numpy(ops.softmax(scores))
    for column, name in enumerate(model.template.label_names):
        probabilities = [line["probabilities"][str(name)] for line in found]
        np.testing.assert_allclose(probabilities, expected[:, column], atol=1e-5)


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


def test_no_more_is_read_than_is_written(tmp_path, model):
    """An endless stream: each chunk is on disk before the next is read."""
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


def test_other_texts_or_another_model(tmp_path, model, make_model, texts, monkeypatch):
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
    # The same weights, read otherwise.
    with monkeypatch.context() as patch:
        patch.setattr(model, "_options", lambda: {"vote": "majority"})
        with pytest.raises(ValueError, match="of another model"):
            predict_to_file(model, texts, out, verbose=0)
    assert (tmp_path / "out.jsonl.part").read_bytes() == before
    predict_to_file(model, texts, out, verbose=0)
    check(model, texts, out)


def test_bad_input(tmp_path, model, texts):
    out = tmp_path / "out.jsonl"
    with pytest.raises(FileNotFoundError, match=r"no text file .*missing"):
        predict_to_file(model, tmp_path / "missing", out)
    classifier = PromptClassifier(model.template)
    with pytest.raises(TypeError, match=r"give `classifier\.model_`.*PromptClassifier"):
        predict_to_file(classifier, texts, out, verbose=0)
    with pytest.raises(TypeError, match="`texts` must be a list"):
        predict_to_file(model, 3, out)
    with pytest.raises(FileNotFoundError, match="no folder"):
        predict_to_file(model, texts, tmp_path / "no" / "out.jsonl")
    for name in ("out.jsonl.gz", "out.CSV", "out.parquet"):
        with pytest.raises(ValueError, match="are lines of JSON"):
            predict_to_file(model, texts, tmp_path / name)
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="line 1: expected text in UTF-8"):
        predict_to_file(model, tmp_path / "latin", out)
    with pytest.raises(TypeError, match="3"):
        predict_to_file(model, [*texts[:12], 3], out, verbose=0)
    assert len(read(tmp_path / "out.jsonl.part")) == 10
    (tmp_path / "out.jsonl.part").unlink()
    with pytest.raises(ValueError, match=r"out\.jsonl\.part' are not those that"):
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


# Other files, and other processes.


def test_another_process_writes_the_same_file(tmp_path, model, texts):
    out = tmp_path / "out.jsonl"

    def stream():
        for number, text in enumerate(texts):
            if number == 12:
                with pytest.raises(BlockingIOError, match=r"Another process writes .*out\.jsonl"):
                    predict_to_file(model, texts, out, verbose=0)
            yield text

    predict_to_file(model, stream(), out, verbose=0)
    check(model, texts, out)
    with pytest.raises(FileExistsError, match="Delete it to predict the texts again"):
        predict_to_file(model, texts, out, verbose=0)
    assert files(out) == ["out.jsonl"]


def test_the_other_process_ends_in_between(tmp_path, model, texts, monkeypatch):
    """After the look at the output, and before the lock."""
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    predict_to_file(model, texts, whole, verbose=0)

    def ends(file):
        whole.rename(out)
        return True

    with monkeypatch.context() as other:
        other.setattr(predicting, "lock", ends)
        with pytest.raises(FileExistsError, match=r"out\.jsonl"):
            predict_to_file(model, texts, out, verbose=0)
    out.unlink()

    def fails(file):
        (tmp_path / "out.jsonl.part").unlink()
        return True

    monkeypatch.setattr(predicting, "lock", fails)
    with pytest.raises(BlockingIOError, match="Another process"):
        predict_to_file(model, texts, out, verbose=0)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.part", "out.jsonl.progress"])
def test_the_texts_are_not_overwritten(tmp_path, model, name):
    source = tmp_path / name
    source.write_text("很好\n不好\n", "utf-8")
    with pytest.raises(ValueError, match=f"The texts would be overwritten.*{name}'.$"):
        predict_to_file(model, source, tmp_path / "out.jsonl", verbose=0)
    (tmp_path / "link").symlink_to(name)
    with pytest.raises(ValueError, match="The texts would be overwritten"):
        predict_to_file(model, tmp_path / "link", tmp_path / "out.jsonl", verbose=0)
    assert source.read_text("utf-8") == "很好\n不好\n"


def test_files_of_others_stay(tmp_path, model, texts):
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    part.write_text("half of a download")
    with pytest.raises(FileExistsError, match=r"out\.jsonl\.part' is not of interrupted"):
        predict_to_file(model, texts, out, verbose=0)
    assert part.read_text() == "half of a download" and files(out) == ["out.jsonl.part"]
    part.unlink()
    interrupt(model, texts, out, 13)
    part.write_text("half of a download, longer than the predictions " * 100)
    with pytest.raises(ValueError, match="are not those that"):
        predict_to_file(model, texts, out, verbose=0)
    assert part.read_text().startswith("half of a download")
    (tmp_path / "out.jsonl.progress").write_text("mine")
    with pytest.raises(ValueError, match="was not left by interrupted"):
        predict_to_file(model, texts, out, verbose=0)
    assert (tmp_path / "out.jsonl.progress").read_text() == "mine"


def test_a_link_stays_a_link(tmp_path, model, texts):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/out")
    predict_to_file(model, texts, tmp_path / "link", verbose=0)
    assert (tmp_path / "link").is_symlink() and files(tmp_path / "there" / "out") == ["out"]
    with pytest.raises(OSError, match="a device or a pipe"):
        predict_to_file(model, texts, "/dev/null", verbose=0)


# What is no list of texts.


def test_tables_and_files_with_more_than_texts(tmp_path, model):
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "out.jsonl"
    table = pandas.DataFrame({"text": ["很好"], "label": ["正面"]})
    for texts in (table, {"text": ["很好"]}, {"很好", "不好"}, b"abc"):
        with pytest.raises(
            TypeError, match=r"`texts` must be a list, e\.g\. one column of a table"
        ):
            predict_to_file(model, texts, out, verbose=0)
    for name, content in (
        ("reviews.csv", "text,label\n很好,1\n"),
        ("reviews.TSV", "很好\n"),
        ("reviews.json", "[\n"),
        ("reviews.jsonl.gz", "很好\n"),
        ("reviews.txt", "很好\t1\n不好\t0\n"),
        ("reviews", '{"text": "很好"}\n'),
    ):
        content = content.encode()
        content = gzip.compress(content) if name.endswith("gz") else content
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"one text a line.*{name}'.*Of a table or of JSON"):
            predict_to_file(model, tmp_path / name, out, verbose=0)
    (tmp_path / "archive").write_bytes(b"PK\x03\x04\x00\n")
    with pytest.raises(ValueError, match=r"archive: .* a binary file"):
        predict_to_file(model, tmp_path / "archive", out, verbose=0)
    assert not list(tmp_path.glob("out*"))
    assert predict_to_file(model, table["text"], out, verbose=0) == 1


def test_the_number_of_a_wrong_text(tmp_path, model, make_template, make_model, texts):
    out = tmp_path / "out.jsonl"
    with pytest.raises(TypeError, match=r"must be strings.*text 25 is None"):
        predict_to_file(model, [*texts[:25], None], out, verbose=0)
    assert len(read(tmp_path / "out.jsonl.part")) == 20
    pairs = make_model(make_template("[MASK]{text}[SEP]{text_b}"))
    for wrong in ("很好", ("很好", 5), ("很好",)):
        with pytest.raises(TypeError, match=r"must be pairs of strings.*text 1 is"):
            predict_to_file(pairs, [("很好", "很"), wrong], tmp_path / "pairs", verbose=0)
    assert predict_to_file(pairs, [("很好", "很")] * 3, tmp_path / "pairs", verbose=0) == 3
    with pytest.raises(TypeError, match="text 0 is"):
        predict_to_file(model, [("很好", "很")], tmp_path / "other", verbose=0)
    assert "other.part" not in files(out)


def test_labels_that_are_numbers(tmp_path, make_model, make_template, texts):
    model = make_model(make_template("[MASK]{text}", {0: "不", 1: "很"}))
    predict_to_file(model, texts, tmp_path / "out", verbose=0)
    check(model, texts, tmp_path / "out")
    model = make_model(make_template("[MASK]{text}", {1: "不", "1": "很"}))
    with pytest.raises(ValueError, match=r"must differ as strings. Received: \[1, '1'\]"):
        predict_to_file(model, texts, tmp_path / "new", verbose=0)


def test_the_first_texts_come_early(tmp_path, model, monkeypatch):
    monkeypatch.setattr(predicting, "CHUNK", 64)
    sizes, predict = [], model.predict

    def counted(data, **kwargs):
        sizes.append(len(data.examples))
        return predict(data, **kwargs)

    monkeypatch.setattr(model, "predict", counted)
    predict_to_file(model, ["好"] * 200, tmp_path / "out", batch_size=8, verbose=0)
    assert sizes == [8, 16, 32, 64, 64, 16]


def test_a_full_disk(tmp_path, model, texts):
    """What was written before stays, and the next call continues."""
    out = tmp_path / "out.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: .*out\.jsonl\.part"):
            predict_to_file(model, texts, out, verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert predict_to_file(model, texts, out, verbose=0) == len(texts)
    check(model, texts, out)
