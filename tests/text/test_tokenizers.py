import collections
import json
import random
import sys
import unicodedata
import warnings

import pytest
from small_bert import vocabulary

from keras_ptuning import Tokenizer
from keras_ptuning.pretraining.vocabularies import build_vocab
from keras_ptuning.text.tokenizers import load_vocab


def test_encode_decode(tokenizer):
    token_ids, segment_ids = tokenizer.encode("很满意 OKAY", "good 1")
    tokens = [tokenizer.id_to_token(i) for i in token_ids]
    assert tokens == ["[CLS]", "很", "满", "意", "ok", "##ay", "[SEP]", "good", "1", "[SEP]"]
    assert segment_ids == [0] * 7 + [1] * 3
    assert tokenizer.decode(token_ids) == "很满意okay good 1"
    assert tokenizer.token_to_id("没") == tokenizer.token_to_id("[UNK]")
    # A file may have an empty line.
    other = Tokenizer([*vocabulary()[:25], "ok", "", "1"])
    assert other.decode([25, 26, 27]) == "ok 1"


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
    # The hub's old name, without an owner.
    with pytest.raises(FileNotFoundError, match="owner in front"):
        Tokenizer("bert-base-chinese")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        Tokenizer(tmp_path / "empty.txt")
    (tmp_path / "gbk.txt").write_bytes("[PAD]\n很\n".encode("gbk"))
    with pytest.raises(ValueError, match=r"gbk\.txt, line 2: expected text in UTF-8.*iconv"):
        Tokenizer(tmp_path / "gbk.txt")


def test_windows_line_ends(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(vocabulary()).encode())
    assert Tokenizer(tmp_path / "vocab.txt").vocab == vocabulary()


def test_special_tokens_are_not_words():
    tokenizer = Tokenizer(vocabulary(), do_lower_case=False, pre_tokenize=str.split)
    assert "[MASK]" not in tokenizer.tokenize("很 [MASK] 好")


# Vocabularies of one's own.

CORPUS = [
    *["我喜欢北京，也喜欢北京的书。", "iPhone13 很好，iPhone 也好", "Café 2020年 OK"] * 3,
    *["ok", "ay", "罕见"],
    "罕",
]


def test_a_built_vocabulary_spells_its_texts():
    vocab = build_vocab(CORPUS, min_count=3)
    tokenizer = Tokenizer(vocab)
    # As in the usual Chinese vocabularies.
    assert (vocab[0], vocab[1], vocab[99], vocab[100]) == (
        "[PAD]", "[unused1]", "[unused99]", "[UNK]"
    )  # fmt: skip
    for text in CORPUS[:9]:
        tokens = tokenizer.tokenize(text)
        assert "[UNK]" not in tokens
        plain = unicodedata.normalize("NFD", text.lower().replace(" ", ""))
        assert "".join(t.removeprefix("##") for t in tokens) == plain.replace("\u0301", "")
    assert tokenizer.tokenize("iPhone13 CAFÉ") == ["iphone", "##13", "cafe"]
    # The end of a text ends a word.
    assert "okay" not in vocab
    # Any word at all of Latin letters and digits.
    assert tokenizer.tokenize("zyx98q") == ["z", "##y", "##x", "##9", "##8", "##q"]
    assert tokenizer.tokenize("罕见") == ["[UNK]"] * 2


def test_the_most_frequent_tokens_come_first():
    vocab = build_vocab(CORPUS, min_count=3, unused=2)
    special = ["[PAD]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Six times each; in the order of Unicode.
    assert vocab[:14] == [*special, "iphone", "也", "京", "北", "喜", "好", "欢"]
    characters = collections.Counter(c for text in CORPUS for c in text)
    counts = [characters[t] for t in vocab if "\u4e00" <= t <= "\u9fff"]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == sum("\u4e00" <= c <= "\u9fff" and n > 2 for c, n in characters.items())
    # Letters and digits are in every vocabulary; those that never occur are the last.
    assert vocab[-1] == "z"


def test_a_vocabulary_does_not_depend_on_the_order_of_the_texts():
    # So many that they come in several portions.
    texts = CORPUS * 100
    shuffled = random.Random(0).sample(texts, len(texts))
    assert build_vocab(iter(shuffled), max_size=190) == build_vocab(texts, max_size=190)


def test_largest_size_of_a_vocabulary():
    full = build_vocab(CORPUS, min_count=1, unused=0)
    always = {c for t in "abcdefghijklmnopqrstuvwxyz0123456789" for c in (t, f"##{t}")}
    small = build_vocab(CORPUS, min_count=1, unused=0, max_size=len(full) - 10)
    assert len(small) == len(full) - 10 and always <= set(small)
    # The rarest go, and among equals the last.
    others = [t for t in full if t not in always]
    assert [t for t in small if t not in always] == others[:-10]
    assert len(build_vocab(CORPUS, unused=0, max_size=77)) == 77
    with pytest.raises(ValueError, match=r"at least 77: .*max_size=76"):
        build_vocab(CORPUS, unused=0, max_size=76)


def test_upper_case_of_a_vocabulary_on_request():
    vocab = build_vocab(CORPUS, min_count=3, do_lower_case=False)
    tokenizer = Tokenizer(vocab, do_lower_case=False)
    assert tokenizer.tokenize("iPhone13 Café QX") == ["iPhone", "##13", "Caf", "##é", "Q", "##X"]
    assert not {"Q", "##X"} & set(build_vocab(CORPUS, min_count=3))


@pytest.mark.parametrize(
    ("text", "words", "numbers"),
    [
        ("", [], []),
        ("很满意，okay", ["很", "满意", "，", "okay"], [0, 1, 1, 2, 3, 3]),
        # Pieces of a token stay together, and spaces are no words.
        (" 很 okay ", [" ", "很", " ", "ok", "ay", " "], [0, 1, 1]),
        # Accents, dropped characters and halves of characters do not shift the words.
        ("ökay\u200b很满\ud83d意", ["ökay", "\u200b", "很", "满意"], [0, 0, 1, 2, 2]),
        ("o\u0308kay很", ["o\u0308kay", "很"], [0, 0, 1]),
        # So do unknown ones, which are tokens too.
        ("𠀀𠀀很满", ["𠀀𠀀", "很满"], [0, 0, 1, 1]),
    ],
)
def test_words_of_tokens(tokenizer, text, words, numbers):
    (found,) = tokenizer.word_numbers([text], lambda _: words)
    assert found.tolist() == numbers
    assert len(found) == len(tokenizer.token_ids([text])[0])


@pytest.mark.parametrize("words", [["很满"], ["很满", "满意"], ["很满", "意", "ok"]])
def test_words_must_be_all_of_a_text(tokenizer, words):
    """Otherwise pieces of words would be masked as if they were whole."""
    with pytest.raises(ValueError, match="`split_words` must return all characters"):
        tokenizer.word_numbers(["很满意"], lambda _: words)


def test_decoding_what_is_no_token(tokenizer):
    """Arrays of tokens to predict have -1 where there is none."""
    very = tokenizer.token_to_id("很")
    assert tokenizer.decode([very, -1, -1]) == "很"
    with pytest.raises(ValueError, match=r"must be below \d+.*Received: 99999"):
        tokenizer.decode([99999])


def test_words_of_jieba(tokenizer):
    jieba = pytest.importorskip("jieba")
    texts = ["这趟北京之旅我感觉很不错", "房间\t很好 \r\n good书"]
    first, second = tokenizer.word_numbers(texts, jieba.lcut)
    # 这趟 北京 之旅 我 感觉 很 不错
    assert first.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert second.tolist() == [0, 0, 1, 2, 3, 4]


# Files and folders of a vocabulary.

WORDS = [*vocabulary(), "满意", "服务态度", "物流"]


def write_json(path, model, added=()):
    path.write_text(json.dumps({"model": model, "added_tokens": list(added)}), "utf-8")
    return path


def test_a_folder_has_its_vocabulary(tmp_path):
    (tmp_path / "vocab_chinese.txt").write_text("\n".join(vocabulary()), "utf-8")
    assert Tokenizer(tmp_path).vocab == vocabulary()
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
    assert Tokenizer(str(tmp_path)).vocab == WORDS
    with pytest.raises(
        FileNotFoundError, match=r"no vocab\.txt, tokenizer\.json or spiece\.model in"
    ):
        (tmp_path / "empty").mkdir()
        Tokenizer(tmp_path / "empty")


def test_vocabulary_of_hugging_face(tmp_path):
    ids = {token: i for i, token in enumerate(vocabulary())}
    model = {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": ids}
    added = [{"id": len(ids), "content": "[new]"}, {"id": 0, "content": "[PAD]"}]
    path = write_json(tmp_path / "tokenizer.json", model, added)
    for vocab in (path, tmp_path):
        assert Tokenizer(vocab).vocab == [*vocabulary(), "[new]"]
    # As the file of bert-base-chinese says, of a vocabulary in lower case.
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer(tmp_path).tokenize("OKAY") == ["ok", "##ay"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model": {"type": "BPE", "vocab": {}}}', "BERT's kind.*'BPE'"),
        ('{"model": {"type": "Unigram", "vocab": []}}', "BERT's kind.*'Unigram'"),
        ('{"model": {"type": "WordPiece", "vocab": {"[PAD]": 1}}}', "cannot be read.*gaps"),
        ('{"model": {"type": "WordPiece"}}', "cannot be read.*KeyError"),
        ('{"model"', "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_other_files_of_hugging_face(content, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer(path)
    assert "tokenizer.json" in str(error.value)


# Words, or characters.


def test_a_vocabulary_of_words_is_known_by_its_words():
    jieba = pytest.importorskip("jieba")
    text = "物流很快，很满意OKAY"
    tokenizer = Tokenizer(WORDS)
    assert tokenizer.pre_tokenize == "jieba"
    assert tokenizer.tokenize(text) == ["物流", "很", "快", "，", "很", "满意", "ok", "##ay"]
    characters = Tokenizer(WORDS, pre_tokenize=False)
    assert characters.tokenize(text) == [*"物流很快，很满意", "ok", "##ay"]
    # One in a hundred; fewer can be in any vocabulary.
    fillers = [f"word{i}" for i in range(200 - len(vocabulary()))]
    assert Tokenizer([*vocabulary(), *fillers, "满意"]).pre_tokenize is False
    assert Tokenizer([*vocabulary(), *fillers, "满意", "物流", "快递"]).pre_tokenize == "jieba"
    # Pieces, and words with other characters in them, are not words of Chinese.
    assert Tokenizer([*vocabulary(), "##满意", "A股", "满a意", "，，"]).pre_tokenize is False
    # As these models were trained: no words that the dictionary lacks.
    name = "他来到了网易杭研大厦"
    assert jieba.lcut(name, HMM=False) != jieba.lcut(name)
    assert "杭研" not in Tokenizer([*WORDS, "杭研", *"杭研"]).tokenize(name)


@pytest.mark.parametrize("pre_tokenize", [None, False, "jieba"])
@pytest.mark.parametrize("vocab", [vocabulary(), WORDS], ids=["characters", "words"])
def test_how_words_are_found_is_saved(vocab, pre_tokenize):
    pytest.importorskip("jieba")
    tokenizer = Tokenizer(vocab, pre_tokenize=pre_tokenize)
    config = tokenizer.get_config()
    restored = Tokenizer.from_config(json.loads(json.dumps(config)))
    assert restored.get_config() == config
    assert restored.tokenize("物流很快") == tokenizer.tokenize("物流很快")
    if pre_tokenize is None:
        # Found or given, a setting is the same.
        found = "jieba" if vocab == WORDS else False
        assert config == Tokenizer(vocab, pre_tokenize=found).get_config()
    if tokenizer.pre_tokenize:
        with pytest.raises(ValueError, match="are words already"):
            tokenizer.word_numbers(["物流"], str.split)
    else:
        assert tokenizer.word_numbers(["物流"], lambda text: [text])[0].tolist() == [0, 0]


def test_what_older_files_say_of_words():
    config = {"vocab": WORDS, "do_lower_case": True, "pre_tokenize": None}
    assert Tokenizer.from_config(config).tokenize("物流很快") == [*"物流很快"]


def test_without_jieba(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ImportError, match=r"pip install jieba.*`pre_tokenize=False`"):
        Tokenizer(WORDS)
    assert Tokenizer(WORDS, pre_tokenize=False).tokenize("物流") == ["物", "流"]
    assert Tokenizer(vocabulary()).tokenize("物流") == ["物", "流"]


@pytest.mark.parametrize("pre_tokenize", ["thulac", True, 3])
def test_unknown_ways_to_find_words(pre_tokenize):
    with pytest.raises(ValueError, match=r"Unknown `pre_tokenize`.*Received"):
        Tokenizer(vocabulary(), pre_tokenize=pre_tokenize)


def test_a_token_that_stands_twice():
    """As in some of ERNIE's vocabularies: the last one counts, and no id changes."""
    vocab = [*vocabulary(), "很", "新"]
    tokenizer = Tokenizer(vocab)
    assert tokenizer.encode("很新")[0][1:-1] == [len(vocab) - 2, len(vocab) - 1]
    assert tokenizer.vocab_size == len(vocab) and tokenizer.decode([len(vocab) - 2]) == "很"
    assert Tokenizer.from_config(tokenizer.get_config()).encode("很") == tokenizer.encode("很")


def test_an_id_without_a_token(tmp_path):
    """As in what Hugging Face makes of such a vocabulary."""
    ids = {token: i for i, token in enumerate(vocabulary())}
    del ids["很"]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "WordPiece", "vocab": ids}}), "utf-8")
    tokenizer = Tokenizer(path)
    assert tokenizer.vocab_size == len(vocabulary())
    assert tokenizer.token_to_id("好") == vocabulary().index("好")
    assert tokenizer.tokenize("很") == ["[UNK]"]


@pytest.mark.parametrize(
    "write",
    [
        lambda tokens: "\n".join(tokens),
        lambda tokens: "\ufeff" + "\n".join(tokens),
        lambda tokens: "\r\n".join([*tokens, "", "\n"]),
        lambda tokens: "\n".join(f"{token}\t{i}" for i, token in enumerate(tokens)),
        # Numbers that are ids say the order.
        lambda tokens: "\n".join(f"{token}\t{i}" for i, token in reversed([*enumerate(tokens)])),
        lambda tokens: "\ufeff" + "".join(f"{token}\t77\r\n" for token in tokens),
    ],
    ids=["plain", "byte order mark", "blank end", "ids", "ids in another order", "counts"],
)
def test_vocabulary_files(tmp_path, write):
    # A token may be a kind of space, or nothing, in the middle.
    tokens = [*vocabulary(), "\u3000", "好"]
    (tmp_path / "vocab.txt").write_bytes(write(tokens).encode())
    assert load_vocab(tmp_path / "vocab.txt") == tokens


def test_lines_of_which_some_have_a_number_are_tokens(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*vocabulary(), "好\t5"]), "utf-8")
    assert load_vocab(tmp_path / "vocab.txt")[-1] == "好\t5"


@pytest.mark.parametrize(
    ("change", "added"),
    [
        ({"很": 0}, []),
        ({"很": -1}, []),
        ({"很": True}, []),
        ({"很": 7.0}, []),
        ({}, [{"id": 6, "content": "[new]"}]),
        ({}, [{"id": -1, "content": "[new]"}]),
    ],
)
def test_ids_that_overwrite_another_token(tmp_path, change, added):
    ids = {**{token: i for i, token in enumerate(vocabulary())}, **change}
    path = write_json(tmp_path / "tokenizer.json", {"type": "WordPiece", "vocab": ids}, added)
    with pytest.raises(ValueError, match=r"tokenizer\.json' cannot be read.*different ids"):
        Tokenizer(path)


CASED = [*vocabulary(), "Good", "OK", "##S"]


def test_a_cased_vocabulary_that_is_lower_cased():
    with pytest.warns(UserWarning, match=r"3 of the \d+ words .*'Good'.*do_lower_case=False"):
        Tokenizer(CASED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tokenizer(CASED, do_lower_case=False)
        # A few are no sign, and special tokens and virtual ones none at all.
        Tokenizer([*vocabulary(), *(f"word{i}" for i in range(40)), "A", "[unusedA]"])


@pytest.mark.parametrize(
    ("config", "do_lower_case", "message"),
    [
        # As bert-base-chinese says, of a vocabulary in lower case.
        ('{"do_lower_case": false}', True, None),
        ('{"do_lower_case": true, "strip_accents": null}', True, None),
        ('{"do_lower_case": false, "tokenize_chinese_chars": true}', False, None),
        ('{"do_lower_case": true}', False, r"\{'do_lower_case': True\}.*\{'do_lower_case': False"),
        ('{"tokenize_chinese_chars": false}', True, r"\{'tokenize_chinese_chars': False\}"),
        ('{"strip_accents": false}', True, r"\{'strip_accents': False\}"),
        ("[]", False, None),
        ("[" * 100_000, False, None),
        ('{"do_lower_case": "yes"}', False, None),
    ],
)
def test_a_configuration_that_is_not_followed(tmp_path, config, do_lower_case, message):
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary()), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(config, "utf-8")
    if message is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Tokenizer(tmp_path, do_lower_case)
    else:
        with pytest.warns(UserWarning, match=message):
            Tokenizer(tmp_path, do_lower_case)
