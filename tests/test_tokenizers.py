import json

import pytest
from small_bert import vocabulary

from keras_ptuning import Tokenizer


def test_encode_decode(tokenizer):
    token_ids, segment_ids = tokenizer.encode("很满意 OKAY", "good 1")
    tokens = [tokenizer.id_to_token(i) for i in token_ids]
    assert tokens == ["[CLS]", "很", "满", "意", "ok", "##ay", "[SEP]", "good", "1", "[SEP]"]
    assert segment_ids == [0] * 7 + [1] * 3
    assert tokenizer.decode(token_ids) == "很满意okay good 1"
    assert tokenizer.token_to_id("没") == tokenizer.token_to_id("[UNK]")


def test_case_is_kept_on_request():
    tokenizer = Tokenizer([*vocabulary()[:25], "OK", "é"], do_lower_case=False)
    assert tokenizer.tokenize("OK é") == ["OK", "é"]


def test_maxlen_cuts_the_longer_text_and_keeps_special_tokens(tokenizer):
    first, second = "很" * 10, "不" * 3
    token_ids, segment_ids = tokenizer.encode(first, second, maxlen=9)
    tokens = [tokenizer.id_to_token(i) for i in token_ids]
    assert tokens == ["[CLS]", *"很很很", "[SEP]", *"不不不", "[SEP]"]
    assert segment_ids == [0] * 5 + [1] * 4
    assert len(tokenizer.encode(first, maxlen=2)[0]) == 2
    with pytest.raises(ValueError, match="at least 3"):
        tokenizer.encode(first, second, maxlen=2)


def test_text_cannot_write_special_tokens(tokenizer):
    ids = tokenizer.encode("很[MASK][SEP][unused1]")[0]
    assert ids.count(tokenizer.token_to_id("[MASK]")) == 0
    assert ids.count(tokenizer.token_to_id("[SEP]")) == 1
    assert ids.count(tokenizer.token_to_id("[unused1]")) == 0


@pytest.mark.parametrize(
    "text", ["", "   ", "\x00\x07", "👍🏽", "很" * 100_000, "\ud83d", "滿意嗎", "a" * 300]
)
def test_odd_texts_encode(tokenizer, text):
    token_ids, segment_ids = tokenizer.encode(text, maxlen=50)
    assert 2 <= len(token_ids) <= 50 and len(token_ids) == len(segment_ids)


@pytest.mark.parametrize("text", [None, 3.5, float("nan"), b"bytes"])
def test_texts_must_be_strings(tokenizer, text):
    with pytest.raises(TypeError, match="text 1 is"):
        tokenizer.token_ids(["很", text])


def test_words_of_a_word_vocabulary_stay_whole():
    jieba = pytest.importorskip("jieba")
    vocab = [*vocabulary(), "满意", "服务态度", "物流"]
    tokens = Tokenizer(vocab, pre_tokenize=jieba.lcut).tokenize("物流很快，很满意OKAY")
    assert tokens == ["物流", "很", "快", "，", "很", "满意", "ok", "##ay"]
    restored = Tokenizer.from_config(
        json.loads(json.dumps(Tokenizer(vocab, pre_tokenize=jieba.lcut).get_config()))
    )
    assert restored.tokenize("物流很快，很满意OKAY") == tokens


def test_only_a_known_function_is_written_or_restored():
    with pytest.raises(ValueError, match=r"jieba\.lcut"):
        Tokenizer(vocabulary(), pre_tokenize=str.split).get_config()
    with pytest.raises(ValueError, match="Unknown `pre_tokenize`"):
        Tokenizer.from_config({"vocab": vocabulary(), "pre_tokenize": "os.system"})


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ([*vocabulary(), "很"], "'很' more than once"),
        (["[PAD]", "[CLS]", "很"], r"lacks \[UNK\], \[SEP\]"),
        (["x", *vocabulary()[:30]], r"\[PAD\] must be the first"),
        ({"[PAD]": 0, "[UNK]": 2}, "without gaps"),
    ],
)
def test_bad_vocabularies(vocab, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(vocab)


def test_bad_vocabulary_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        Tokenizer(tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        Tokenizer(tmp_path / "empty.txt")
    (tmp_path / "gbk.txt").write_bytes("[PAD]\n很\n".encode("gbk"))
    with pytest.raises(ValueError, match="not UTF-8"):
        Tokenizer(tmp_path / "gbk.txt")


def test_windows_line_ends(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(vocabulary()).encode())
    assert Tokenizer(tmp_path / "vocab.txt").vocab == vocabulary()


def test_special_tokens_are_not_words():
    tokenizer = Tokenizer(vocabulary(), do_lower_case=False, pre_tokenize=str.split)
    assert "[MASK]" not in tokenizer.tokenize("很 [MASK] 好")
