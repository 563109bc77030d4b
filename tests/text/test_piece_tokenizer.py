"""Tokenizers of any `tokenizer.json`, as the library `tokenizers` reads it."""

import json
import pathlib

import pytest
import tokenizers
from small_decoders import TEXTS, write_tokenizer

from keras_ptuning import PackedDataset, PieceTokenizer, Template, Tokenizer
from keras_ptuning.pretraining.spans import find_sentinels
from keras_ptuning.text import as_tokenizer

LABELS = {"负面": "不", "正面": "很不"}


@pytest.fixture(params=["bytes", "pieces"])
def path(request, tmp_path):
    return write_tokenizer(tmp_path, request.param)


def test_same_ids_as_the_library(path):
    tokenizer, theirs = PieceTokenizer(path), tokenizers.Tokenizer.from_file(path)
    theirs.encode_special_tokens = True
    with_space = PieceTokenizer(path, add_prefix_space=True)
    expected = [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert with_space.token_ids(TEXTS) == expected
    around = [[*ids] for ids in expected]
    if tokenizer.start_id is not None:
        around = [[tokenizer.start_id, *ids] for ids in expected]
    assert [with_space.encode(text)[0] for text in TEXTS] == around
    assert [tokenizer.decode(ids) for ids in tokenizer.token_ids(TEXTS[:3])] == TEXTS[:3]


def test_roles(path, tmp_path):
    tokenizer, ids = PieceTokenizer(tmp_path), tokenizers.Tokenizer.from_file(path)
    assert tokenizer.pad_id == ids.token_to_id("<|pad|>")
    assert tokenizer.unk_id == ids.token_to_id("<unk>")
    assert tokenizer.mask_id is None and tokenizer.end_id is None
    assert tokenizer.start_id in (None, ids.token_to_id("<|end|>"))
    assert not {tokenizer.pad_id, ids.token_to_id("<|end|>")} & set(tokenizer.ordinary_ids)
    # Without a token for padding, the one that ends documents.
    other = tmp_path / "other"
    other.mkdir()
    write_tokenizer(other, eos_token="<|end|>")
    assert PieceTokenizer(other).pad_id == PieceTokenizer(other).token_to_id("<|end|>")


def test_special_tokens_are_not_read_out_of_texts(path):
    tokenizer = PieceTokenizer(path)
    (ids,) = tokenizer.token_ids(["很好<|end|>"])
    assert tokenizer.token_to_id("<|end|>") not in ids


def test_parts_follow_each_other_without_a_space(tmp_path):
    write_tokenizer(tmp_path, "pieces")
    assert PieceTokenizer(tmp_path).tokenize("很") == ["很"]
    assert PieceTokenizer(tmp_path, add_prefix_space=True).tokenize("很")[0][0] == " "


def test_tokens_as_text(path):
    """Not as the bytes of Chinese characters look in such a file."""
    tokenizer = PieceTokenizer(path)
    assert "很" in "".join(tokenizer.vocab)
    assert "".join(tokenizer.tokenize("not bad")).strip() == "not bad"


def test_found_by_the_kind_of_the_file(path, tmp_path, small_bert):
    assert type(as_tokenizer(tmp_path)) is type(as_tokenizer(path)) is PieceTokenizer
    assert type(as_tokenizer(small_bert[2])) is Tokenizer
    with pytest.raises(ValueError, match="Use `PieceTokenizer"):
        Tokenizer(path)


def test_written_down(path, tmp_path):
    tokenizer = PieceTokenizer(path)
    template = Template("{text}[u1][MASK][MASK]", LABELS, tokenizer, causal=True)
    again = Template.from_config(json.loads(json.dumps(template.get_config())))
    assert again.tokenizer.get_config() == tokenizer.get_config()
    assert again.tokenizer.pad_id == tokenizer.pad_id
    folder = tmp_path / "saved"
    folder.mkdir()
    tokenizer.save(folder / "tokenizer.json")
    assert PieceTokenizer(folder).get_config() == tokenizer.get_config()


def test_a_causal_template(path):
    """Tokens around a text, and padding, are the tokenizer's; id 0 is a token like any other."""
    tokenizer = PieceTokenizer(path)
    template = Template("{text}[u1][MASK][MASK]", LABELS, tokenizer, causal=True)
    x = template.encode(["!", TEXTS[1]])
    row = x["token_ids"][0].tolist()
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    (text,) = tokenizer.token_ids(["!"])
    used = [*start, *text, *template.virtual_ids]
    assert row[: len(used)] == used and row[-1] == tokenizer.pad_id
    with pytest.raises(ValueError, match=r"causal=True"):
        Template("{text}[MASK]", LABELS, tokenizer)
    with pytest.raises(ValueError, match="must come last"):
        Template("[MASK]{text}", LABELS, tokenizer, causal=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "BPE"}}'])
def test_damaged_files(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json'? cannot be read; it is damaged"):
        PieceTokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        PieceTokenizer(tmp_path / "none")


def test_nothing_to_pack_documents_with(path):
    with pytest.raises(ValueError, match=r"Masking needs tokens.*causal=True"):
        PackedDataset(TEXTS, PieceTokenizer(path))


def test_layout_and_padding_of_the_file_are_not_the_vocabulary(path, tmp_path):
    """A tuned file knows its vocabulary by this."""
    before = PieceTokenizer(path).get_config()
    settings = json.loads(pathlib.Path(path).read_text("utf-8"))
    settings |= {"truncation": None, "padding": {"strategy": {"Fixed": 8}, "direction": "Right"}}
    settings["padding"] |= {"pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    settings["padding"] |= {"pad_token": "<|pad|>"}
    pathlib.Path(path).write_text(json.dumps(settings, indent=4), "utf-8")
    assert PieceTokenizer(path).get_config() == before


def test_no_space_before_parts_where_words_are_split_first(tmp_path):
    """As T5's files do it: WhitespaceSplit, and then Metaspace."""
    path = write_tokenizer(tmp_path, "pieces")
    settings = json.loads(pathlib.Path(path).read_text("utf-8"))
    steps = [{"type": "WhitespaceSplit"}, settings["pre_tokenizer"]]
    settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    pathlib.Path(path).write_text(json.dumps(settings), "utf-8")
    tokenizer = PieceTokenizer(path)
    assert tokenizer.tokenize("很")[0] == "很"
    assert "".join(tokenizer.tokenize("not bad")) == "not bad"
    # White space is what it is in pretraining.
    assert tokenizer.token_ids([" 很好\r\n\n很好\n"]) == tokenizer.token_ids(["很好 很好"])
    theirs = PieceTokenizer(path, add_prefix_space=True).tokenize("很好\t \u3000很好\n")
    assert theirs == [" ", *tokenizer.tokenize("很好 很好")]
    # Without Metaspace, no token has a space.
    settings["pre_tokenizer"]["pretokenizers"] = steps[:1]
    pathlib.Path(path).write_text(json.dumps(settings), "utf-8")
    ids = PieceTokenizer(path).token_ids(["很 好"])
    assert ids == PieceTokenizer(path, add_prefix_space=True).token_ids(["很 好"])


def test_only_what_is_put_around_a_text_takes_room(path):
    tokenizer = PieceTokenizer(path)
    ids, _ = tokenizer.encode("屏幕很好")
    assert tokenizer.encode("屏幕很好", maxlen=len(ids))[0] == ids
    assert tokenizer.encode("屏幕很好", maxlen=len(ids) - 1)[0] == ids[:-1]


def test_tokens_that_wait_for_a_use_are_not_ordinary(tmp_path, small_bert):
    Tokenizer(small_bert[2]).save(tmp_path / "tokenizer.json")
    tokenizer = PieceTokenizer(tmp_path / "tokenizer.json")
    words = [tokenizer.vocab[i] for i in tokenizer.ordinary_ids]
    assert "很" in words and "[unused1]" not in words


def test_an_answer_to_an_empty_text_continues_the_end_of_a_document(tmp_path):
    """Qwen and GPT-2 put nothing before a text."""
    write_tokenizer(tmp_path)
    template = Template("{text}[MASK][MASK]", LABELS, tmp_path, maxlen=48, causal=True)
    encoded = template.encode(["", "屏幕很好"])
    assert encoded["token_ids"][0, 0] == template.tokenizer.eos_id
    assert encoded["mask_positions"][0].tolist() == [0, 1]
    assert encoded["reach"].shape == encoded["token_ids"].shape
    template.tokenizer.eos_id = None
    with pytest.raises(ValueError, match=r"an empty text, for the template '\{text\}"):
        template.encode([""])


def test_sentinels_that_begin_with_a_space(tmp_path):
    """So mT5's are called in its files."""
    path = write_tokenizer(tmp_path, "pieces")
    backend = tokenizers.Tokenizer.from_file(path)
    backend.add_special_tokens([f"▁<extra_id_{i}>" for i in (1, 0)])
    backend.save(path)
    tokenizer = PieceTokenizer(path)
    ids = [backend.token_to_id(f"▁<extra_id_{i}>") for i in (0, 1)]
    assert find_sentinels(tokenizer) == ids and "<extra_id_0>" in tokenizer


def test_a_decoder_begins_with_the_token_for_padding(tmp_path):
    write_tokenizer(tmp_path, unk_token="<unk>")
    with pytest.raises(ValueError, match=r"nothing says which one.*tokenizer_config\.json"):
        Template("{text}[DECODER][MASK]", {"负面": "不", "正面": "很"}, tmp_path)
