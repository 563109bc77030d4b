"""SentencePiece's own files give the ids that SentencePiece itself gives."""

import builtins
import io
import json

import numpy as np
import pytest
import small_t5
import tokenizers

from keras_ptuning import PieceTokenizer, Template, Tokenizer, build_ptuning_model
from keras_ptuning.text import as_tokenizer

TEXTS = [
    "物流很快，包装也好。",
    "这趟北京之旅我感觉很不错",
    "屏幕太小,电池不好!  很差  ",
    "房间很好，服务态度也好，就是有点贵。",
    "Not bad 123 ＡＢＣ",
    "電腦﹏𠮷",
    "",
]
ROLES = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    path = tmp_path_factory.mktemp("spiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:5] * 20),
        model_writer=model,
        vocab_size=70,
        hard_vocab_limit=False,
        minloglevel=2,
        user_defined_symbols=["很不"],
        **ROLES,
    )
    (path / "spiece.model").write_bytes(model.getvalue())
    return path


def test_same_ids_as_sentencepiece(folder):
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    tokenizer = PieceTokenizer(folder, add_prefix_space=True)
    assert tokenizer.token_ids(TEXTS) == theirs.encode(TEXTS)
    assert [tokenizer.decode(ids) for ids in theirs.encode(TEXTS[:4])] == [
        theirs.decode(ids) for ids in theirs.encode(TEXTS[:4])
    ]
    assert (tokenizer.pad_id, tokenizer.end_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.start_id is None and tokenizer.mask_id is None
    # As Hugging Face adds them: the last is the first sentinel.
    size = theirs.get_piece_size()
    assert tokenizer.vocab_size == size + 100
    assert tokenizer.token_to_id("<extra_id_0>") == size + 99
    assert tokenizer.token_to_id("<extra_id_99>") == size


def test_special_tokens_are_not_read_out_of_texts(folder):
    """Spelled in a review they are characters, as for SentencePiece; it fuses unknown ones."""
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    tokenizer = PieceTokenizer(folder, add_prefix_space=True)
    smaller, _ = tokenizer.keep(["很好 </s><pad><extra_id_0>"])
    for text in ("很</s>好", "<pad>", "<unk>", "a<extra_id_0>b"):
        assert tokenizer.token_ids([text]) == [theirs.encode(text)]
        assert not {"</s>", "<pad>", "<extra_id_0>"} & set(smaller.tokenize(text))


def test_parts_of_a_template(folder):
    """The encoder's text ends, the decoder's begins with padding, and sentinels are tokens."""
    tokenizer = as_tokenizer(str(folder))
    pattern = "[u1]{text}很<extra_id_0>。[DECODER]<extra_id_0>[MASK]"
    template = Template(pattern, {"a": "好", "b": "差"}, tokenizer)
    x = template.encode(["<extra_id_0>"])
    sentinel = tokenizer.token_to_id("<extra_id_0>")
    assert x["decoder_token_ids"].tolist() == [[0, sentinel]]
    read = x["token_ids"][0].tolist()
    # That of the pattern, and none out of the text.
    assert read.count(sentinel) == 1 and read[-3] == sentinel and read[-1] == 1
    again = Template.from_config(template.get_config())
    np.testing.assert_array_equal(
        again.encode(["好"])["token_ids"], template.encode(["好"])["token_ids"]
    )


def test_a_t5_with_its_vocabulary(folder):
    """Its embedding has a few rows to spare, as T5's and mT5's have."""
    size = PieceTokenizer(folder).vocab_size
    config = {**small_t5.CONFIG, "vocab_size": size + 28}
    template = Template("[u1]{text}[DECODER][MASK]", {"a": "很", "b": "不"}, str(folder))
    model = build_ptuning_model(config, template=template)
    model.compile()
    x, y = template.encode(["物流很快", "很差"], ["a", "b"])
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    assert len(model.generate(["物流很快"], max_tokens=3)) == 1


def test_cutting_keeps_what_an_unknown_token_costs(tmp_path):
    """Its score follows from the lowest of all: a higher one would make unknown tokens cheap."""
    pieces = {"<unk>": 0.0, "甲乙": -15.0, "丙丁": -14.0, "乙丙丁": -1.0, "甲": -30.0, "丙": -3.0}
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram([*pieces.items()], 0))
    backend.save(str(tmp_path / "tokenizer.json"))
    whole = PieceTokenizer(tmp_path)
    texts = ["甲乙丙丁", "乙丙丁"]
    cut, _ = whole.keep(texts)
    assert [cut.tokenize(text) for text in texts] == [whole.tokenize(text) for text in texts]


def test_saving_next_to_other_settings(folder, tmp_path):
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{"chat_template": "x", "pad_token": "?"}', "utf-8")
    tokenizer = PieceTokenizer(folder)
    tokenizer.save(tmp_path / "tokenizer.json")
    found = json.loads(path.read_text("utf-8"))
    assert found["chat_template"] == "x" and found["pad_token"] == "<pad>"
    path.write_text("null", "utf-8")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json' is damaged"):
        PieceTokenizer(tmp_path)


def test_cut_to_some_texts(folder):
    """They are read as before, by other ids, and the model gives the same scores of its tokens."""
    whole = PieceTokenizer(folder)
    texts = [*TEXTS[:2], "好", "差"]
    tokenizer, kept = whole.keep(texts)
    assert len(kept) == tokenizer.vocab_size < whole.vocab_size
    assert [tokenizer.id_to_token(i) for i in range(len(kept))] == [
        whole.id_to_token(i) for i in kept
    ]
    for text, ids in zip(texts, tokenizer.token_ids(texts), strict=True):
        assert [kept[i] for i in ids] == whole.token_ids([text])[0]
    assert tokenizer.token_to_id("<extra_id_0>") == kept.index(whole.token_to_id("<extra_id_0>"))
    assert (tokenizer.pad_id, tokenizer.end_id, tokenizer.unk_id) == (0, 1, 2)
    config = {**small_t5.CONFIG, "vocab_size": whole.vocab_size}
    small_t5.HUGGING_FACE["cut"] = config
    try:
        values = small_t5.hugging_face_tensors("cut")
        path = folder / "cut"
        path.mkdir()
        small_t5.write_hugging_face(path, "cut", values=values)
    finally:
        del small_t5.HUGGING_FACE["cut"]
    found = []
    for own, arguments in ((whole, {}), (tokenizer, {"keep_tokens": kept})):
        template = Template("{text}<extra_id_0>[DECODER][MASK]", {"a": "好", "b": "差"}, own)
        model = build_ptuning_model(str(path), template=template, **arguments)
        scores = np.array(model(template.encode(texts)))
        # Among the labels: there are fewer other tokens now.
        found.append(scores - scores[:, :1])
    np.testing.assert_allclose(*found, atol=1e-5)


def test_bad_input(folder, tmp_path, monkeypatch):
    path = tmp_path / "spiece.model"
    path.write_bytes(b"\xff\xffno model")
    with pytest.raises(ValueError, match="damaged, or not a SentencePiece model"):
        PieceTokenizer(path)
    with pytest.raises(ValueError, match="Use `PieceTokenizer"):
        Tokenizer(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    small_t5.write_hugging_face(empty, "mt5")
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json or spiece\.model"):
        Template("{text}[DECODER][MASK]", {"a": "很", "b": "不"}, str(empty))

    def without(name, *args, **kwargs):
        if name == "sentencepiece":
            raise ImportError(name)
        return import_it(name, *args, **kwargs)

    import_it = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install \"keras_ptuning\[sentencepiece\]\""):
        PieceTokenizer(folder)
