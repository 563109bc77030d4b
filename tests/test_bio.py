"""BIO files."""

import codecs

import pytest

from keras_ptuning.datasets import read_bio

# A byte order mark, documents, tabs and spaces, columns in between, spaces at the end, empty lines,
# U+2028 as a word, and no end of line.
LINES = "-DOCSTART- O\n\n王\tB-PER\r\n明\tI-PER \n\n \t\n在 NN B-X O  \n\u2028\tO\n京 B-LOC"


def test_bio(tmp_path):
    path = tmp_path / "x.bio"
    path.write_bytes(codecs.BOM_UTF8 + LINES.encode())
    sentences, tags = read_bio(path)
    assert sentences == [["王", "明"], ["在", "\u2028", "京"]]
    assert tags == [["B-PER", "I-PER"], ["O", "O", "B-LOC"]]


@pytest.mark.parametrize("line", ["京", "京\t", "\tO", "京\tM-LOC", "京\tB-", "京 O \t", "O"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "x.bio"
    path.write_text(f"王\tO\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.bio, line 3: expected a word and its tag of BIO"):
        read_bio(path)


def test_no_sentences(tmp_path):
    (tmp_path / "x.bio").write_text("\n-DOCSTART- O\n")
    with pytest.raises(ValueError, match=r"no sentences in .*x\.bio"):
        read_bio(tmp_path / "x.bio")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_bio(tmp_path / "nowhere")
