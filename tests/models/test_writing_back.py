"""Checkpoints written back: the same tensors, and a tuned prompt in its rows."""

import json
import warnings

import keras
import numpy as np
import pytest
import small_bert
import small_checkpoints
import small_decoders
import small_gpt2
from small_checkpoints import ARGUMENTS, HUGGING_FACE, TENSORFLOW

from keras_ptuning import (
    PieceTokenizer,
    Template,
    Tokenizer,
    build_ptuning_model,
    build_transformer_model,
    save_transformer_model,
)
from keras_ptuning.checkpoints import SafetensorsCheckpoint, TensorFlowCheckpoint
from keras_ptuning.models import find_model

pytestmark = pytest.mark.usefixtures("eagerly")

LABELS = {"负面": "不", "正面": "很"}
TEXTS = ["书很好", "屏幕差，不喜欢。", "物流的速度"]
# Computed, or of another model in the same files.
NOT_OURS = ("embed_positions", "electra/encoder", "electra/embeddings_project", "discriminator")


def same_tensors(checkpoint, expected, pooler):
    expected = {
        name: value
        for name, value in expected.items()
        if not any(part in name for part in NOT_OURS) and (pooler or "pooler" not in name)
    }
    assert set(checkpoint.shapes) == set(expected)
    for name, value in expected.items():
        found = checkpoint.read(name)
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("name", [name for name in HUGGING_FACE if name != "roformer-values"])
def test_hugging_face_round_trip(tmp_path, name):
    small_checkpoints.write_hugging_face(tmp_path, name)
    model = build_transformer_model(tmp_path, with_mlm=True)
    save_transformer_model(model, tmp_path / "new", tmp_path, small_bert.vocabulary())
    checkpoint = SafetensorsCheckpoint(tmp_path / "new" / "model.safetensors")
    same_tensors(checkpoint, small_checkpoints.hugging_face_tensors(name), False)
    config = json.loads((tmp_path / "new" / "config.json").read_text("utf-8"))
    assert config == json.loads((tmp_path / "config.json").read_text("utf-8"))


@pytest.mark.parametrize("name", TENSORFLOW)
def test_tensorflow_round_trip(tmp_path, name):
    small_checkpoints.write_tensorflow(tmp_path, name)
    arguments = ARGUMENTS.get(name, {})
    values = small_checkpoints.tensorflow_tensors(name)
    pooler = any(key.startswith("bert/pooler") for key in values)
    model = build_transformer_model(tmp_path, with_mlm=True, with_pool=pooler, **arguments)
    # Of most, layers tell the architecture.
    config = find_model(tmp_path, model=arguments.get("model"))[0]
    if name != "electra":
        del config["model_type"]
    save_transformer_model(model, tmp_path / "new", config, small_bert.vocabulary())
    checkpoint = TensorFlowCheckpoint(tmp_path / "new" / "bert_model.ckpt")
    same_tensors(checkpoint, values, pooler)
    for file in ("bert_model.ckpt", "model.safetensors"):
        other = {k: v for k, v in arguments.items() if k != "model"}
        again = build_transformer_model(
            tmp_path / "new" / "config.json",
            tmp_path / "new" / file,
            with_mlm=True,
            with_pool=pooler,
            **other,
        )
        for found, expected in zip(again.weights, model.weights, strict=True):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (found, expected)))


# A tuned prompt.


def tuned(template, folder, **kwargs):
    model = build_ptuning_model(folder, template=template, **kwargs)
    rng = np.random.default_rng(0)
    model.prompt.assign(model.prompt + rng.normal(size=model.prompt.shape))
    return model


def scores(model):
    return model.predict(model.template.dataset(TEXTS), verbose=0)


def test_a_prompt_in_its_rows(tmp_path, small_bert):
    folder = small_bert[0].rsplit("/", 1)[0]
    template = Template("[u1][u3][MASK]{text}[u2]", LABELS, folder, maxlen=32)
    model = tuned(template, folder)
    model.save_checkpoint(tmp_path)
    # The same template without anything that learns.
    plain = Template("[unused1][unused3][MASK]{text}[unused2]", LABELS, tmp_path, maxlen=32)
    found = build_ptuning_model(tmp_path, template=plain)
    assert found.prompt is None
    np.testing.assert_allclose(scores(found), scores(model), atol=1e-5)
    untuned = build_ptuning_model(folder, template=plain)
    assert np.abs(scores(untuned) - scores(model)).max() > 0.1
    written = json.loads((tmp_path / "template.json").read_text("utf-8"))
    assert written["pattern"] == template.pattern and written["maxlen"] == 32
    ids = written["empty_text"]["token_ids"]
    tokenizer = Tokenizer(tmp_path)
    tokens = [tokenizer.id_to_token(i) for i in ids]
    assert tokens == ["[CLS]", "[unused1]", "[unused3]", "[MASK]", "[unused2]", "[SEP]"]
    assert written["empty_text"]["mask_positions"] == [3]


@pytest.mark.parametrize(
    ("pattern", "labels"), [("[u1][MASK]{text}[SEP]{text_b}", LABELS), ("[u1][MASK]{text}", None)]
)
def test_a_template_of_pairs_or_without_labels(tmp_path, small_bert, pattern, labels):
    folder = small_bert[0].rsplit("/", 1)[0]
    model = tuned(Template(pattern, labels, folder, maxlen=32), folder)
    model.save_checkpoint(tmp_path)
    written = json.loads((tmp_path / "template.json").read_text("utf-8"))
    assert written["pattern"] == pattern
    tokenizer = Tokenizer(tmp_path)
    tokens = [tokenizer.id_to_token(i) for i in written["empty_text"]["token_ids"]]
    assert tokens[:3] == ["[CLS]", "[unused1]", "[MASK]"] and set(tokens[3:]) == {"[SEP]"}
    assert written["empty_text"].keys() == {"token_ids", "segment_ids", "mask_positions"}


@pytest.mark.parametrize(("rate", "written"), [(None, 0.1), (np.float32(0.25), 0.25)])
def test_a_rate_of_dropout(tmp_path, small_bert, rate, written):
    """`None` is that of the configuration, and a number may be one of NumPy."""
    folder = small_bert[0].rsplit("/", 1)[0]
    template = Template("[u1][MASK]{text}", LABELS, folder, maxlen=32)
    tuned(template, folder, dropout_rate=rate).save_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["hidden_dropout_prob"] == written


def test_a_prompt_in_rows_of_its_own(tmp_path):
    """Where the vocabulary has no unused ones."""
    vocab = small_bert.vocabulary(unused=False)
    small_bert.write_small_bert(str(tmp_path), vocab=vocab)
    template = Template("[u1][u5][MASK]{text}", LABELS, tmp_path, maxlen=32)
    model = tuned(template, tmp_path)
    model.save_checkpoint(tmp_path / "new")
    assert Tokenizer(tmp_path / "new").vocab == [*vocab, "[unused1]", "[unused5]"]
    plain = Template("[unused1][unused5][MASK]{text}", LABELS, tmp_path / "new", maxlen=32)
    found = build_ptuning_model(tmp_path / "new", template=plain)
    # Also the new tokens are not predicted, so that the probabilities stay what they were.
    np.testing.assert_allclose(scores(found), scores(model), atol=1e-5)


def test_a_causal_prompt(tmp_path):
    template = Template("[u1]{text}[u2][MASK]", LABELS, "gpt-mini-zh", maxlen=32, causal=True)
    model = tuned(template, "gpt-mini-zh")
    model.save_checkpoint(tmp_path)
    plain = Template("[unused1]{text}[unused2][MASK]", LABELS, tmp_path, 32, causal=True)
    found = build_ptuning_model(tmp_path, template=plain)
    np.testing.assert_allclose(scores(found), scores(model), atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_transformers_serve_it(tmp_path, kind):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if kind == "bert":
        small_bert.write_small_bert(str(tmp_path))
        template = Template("[u1][MASK]{text}", LABELS, tmp_path, maxlen=32)
        kind = transformers.AutoModelForMaskedLM
    else:
        small_gpt2.write_small_gpt2(tmp_path)
        (tmp_path / "vocab.txt").write_text("\n".join(small_bert.vocabulary()) + "\n", "utf-8")
        template = Template("[u1]{text}[MASK]", LABELS, tmp_path, maxlen=32, causal=True)
        kind = transformers.AutoModelForCausalLM
    model = tuned(template, tmp_path)
    model.save_checkpoint(tmp_path / "new")
    other = kind.from_pretrained(tmp_path / "new").eval()
    x = template.encode(TEXTS[:1])
    ids = x["token_ids"][:, : x["mask_positions"][0, 0] + 1] if template.causal else x["token_ids"]
    with torch.no_grad():
        logits = other(torch.tensor(np.array(ids), dtype=torch.long)).logits
    logits = torch.log_softmax(logits[0, x["mask_positions"][0, 0]], -1)
    words = [template.tokenizer.token_to_id(word) for word in LABELS.values()]
    np.testing.assert_allclose(scores(model)[0], logits[words].numpy(), atol=1e-4)


def test_settings_that_an_argument_changed(tmp_path, small_bert):
    folder = small_bert[0].rsplit("/", 1)[0]
    template = Template("[u1][MASK]{text}", LABELS, folder, maxlen=32)
    model = tuned(template, folder, num_hidden_layers=1, hidden_act="relu")
    model.save_checkpoint(tmp_path)
    plain = Template("[unused1][MASK]{text}", LABELS, tmp_path, maxlen=32)
    found = build_ptuning_model(tmp_path, template=plain)
    np.testing.assert_allclose(scores(found), scores(model), atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [{"hidden_act": "relu"}, {"norm_epsilon": 1e-2}, {"application": "lm"}],
)
def test_the_configuration_describes_the_model(tmp_path, small_bert, arguments):
    """What arguments set otherwise is in what is written."""
    model = build_transformer_model(*small_bert[:2], with_mlm="linear", **arguments)
    save_transformer_model(model, tmp_path, small_bert[0], small_bert[2])
    found = build_transformer_model(tmp_path, with_mlm="linear")
    x = [np.array([[2, 30, 31, 32, 3]]), np.zeros((1, 5), "int32")]
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(found.predict(x, verbose=0), expected, atol=1e-5)
    plain = build_transformer_model(*small_bert[:2], with_mlm="linear")
    assert np.abs(plain.predict(x, verbose=0) - expected).max() > 1e-3


@pytest.mark.parametrize("lower", [True, False])
def test_others_read_texts_alike(tmp_path, small_bert, lower):
    tokenizer = Tokenizer(small_bert[2], do_lower_case=lower)
    model = build_transformer_model(*small_bert[:2], with_mlm=True)
    # Twice, since a folder may be written again.
    for _ in range(2):
        save_transformer_model(model, tmp_path, small_bert[0], tokenizer)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert written == {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tokenizer(tmp_path, do_lower_case=lower)


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_others_read_pieces_alike(tmp_path, kind):
    small_decoders.write_tokenizer(tmp_path, kind)
    small_decoders.write_small_decoder(tmp_path, "llama")
    tokenizer = PieceTokenizer(tmp_path)
    model = build_transformer_model(tmp_path, with_mlm=True)
    save_transformer_model(model, tmp_path / "new", tmp_path, tokenizer)
    written = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text("utf-8"))
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["pad_token"] == "<|pad|>"
    transformers = pytest.importorskip("transformers")
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    first = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert found(small_decoders.TEXTS).input_ids == first(small_decoders.TEXTS).input_ids
    assert set(found("好")) == {"input_ids", "attention_mask"}


def test_the_tokenizer_of_words(tmp_path):
    """Only the tokenizer of a RoFormer splits a text into words."""
    small_checkpoints.write_hugging_face(tmp_path, "roformer")
    tokenizer = Tokenizer(small_bert.vocabulary(), pre_tokenize="jieba")
    model = build_transformer_model(tmp_path, with_mlm=True)
    save_transformer_model(model, tmp_path / "new", tmp_path, tokenizer)
    written = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text("utf-8"))
    assert written["tokenizer_class"] == "RoFormerTokenizer"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "spiece.model"])
def test_a_vocabulary_that_was_there(tmp_path, small_bert, name):
    """Which would be read in place of the new one, or with it."""
    (tmp_path / name).write_text("{}")
    model = build_transformer_model(*small_bert[:2], with_mlm=True)
    with pytest.raises(ValueError, match=rf"other files .*{name}"):
        save_transformer_model(model, tmp_path, small_bert[0], small_bert[2])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_spare_rows(tmp_path):
    """An embedding that is filled up beyond the vocabulary, and a prompt beyond that."""
    vocab = small_bert.vocabulary(unused=False)
    small_bert.write_small_bert(str(tmp_path), vocab=vocab[:-3])
    template = Template("[u1][u5][MASK]{text}", LABELS, tmp_path, maxlen=32)
    with pytest.warns(UserWarning, match="The last 3 are taken for spare ones"):
        model = tuned(template, tmp_path)
    assert model.embedding.num_additional == 0
    model.save_checkpoint(tmp_path / "new")
    plain = Template("[unused1][unused5][MASK]{text}", LABELS, tmp_path / "new", maxlen=32)
    found = build_ptuning_model(tmp_path / "new", template=plain)
    np.testing.assert_allclose(scores(found), scores(model), atol=1e-5)
