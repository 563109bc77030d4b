import pytest

from keras_ptuning.datasets import load_sentiment, read_labeled


def test_reading(tmp_path):
    path = tmp_path / "x.data"
    path.write_bytes("很满意\t1\r\n\t0\n不好 \t0".encode())
    assert read_labeled(path) == (["很满意", "", "不好 "], [1, 0, 0])


@pytest.mark.parametrize(
    "line", ["很满意".encode(), "很\t1\t2".encode(), "很\tone".encode(), b"\xff\xfe\t1", b""]
)
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "x.data"
    path.write_bytes("很满意\t1\n".encode() * 3 + line + b"\n" + "很\t1\n".encode())
    with pytest.raises(ValueError, match=r"x\.data, line 4: expected `text<TAB>label`"):
        read_labeled(path)


def test_sentiment_folder(tmp_path):
    for split, n in (("train", 3), ("valid", 2), ("test", 1)):
        (tmp_path / f"sentiment.{split}.data").write_text("书好\t1\n" * n, encoding="utf-8")
    data = load_sentiment(tmp_path)
    assert [len(data[split][0]) for split in ("train", "valid", "test")] == [3, 2, 1]
    with pytest.raises(FileNotFoundError, match=r"sentiment\.train\.data"):
        load_sentiment(tmp_path / "nowhere")
