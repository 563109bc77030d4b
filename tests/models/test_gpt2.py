"""GPT-2, with the numbers that `goldens/record_transformers.py` recorded of Hugging Face's."""

import json
import pathlib

import keras
import numpy as np
import pytest
from small_bert import vocabulary
from small_gpt2 import CONFIG, tensors, write_small_gpt2

from keras_ptuning import PtuningEmbedding, build_transformer_model, save_transformer_model
from keras_ptuning.checkpoints import SafetensorsCheckpoint
from keras_ptuning.layers import FeedForward
from keras_ptuning.models import GPT2, find_application, override, read_config

pytestmark = pytest.mark.usefixtures("eagerly")

GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "goldens" / "transformers_gpt2.npz"))
TOKENS = GOLDEN["token_ids"]
LINEAR = {"with_mlm": "linear"}


def predict(model, *inputs):
    return model.predict([np.array(x) for x in inputs or [TOKENS]], verbose=0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Paths of the configuration and the checkpoint."""
    return write_small_gpt2(tmp_path_factory.mktemp("small_gpt2"))


# The same numbers as Hugging Face.


@pytest.mark.graph
@pytest.mark.parametrize(("output", "kwargs"), [("hidden", {}), ("logits", LINEAR)])
def test_same_numbers_as_hugging_face(small, output, kwargs):
    found = predict(build_transformer_model(*small, **kwargs))
    assert np.abs(found - GOLDEN[output])[TOKENS != 0].max() < 1e-5


def test_same_numbers_at_some_positions(small):
    model = build_transformer_model(*small, gather_positions=True, **LINEAR)
    assert [x.name for x in model.inputs] == ["Input-Token", "Input-Gather"]
    positions = np.array([[31, 0, 9], [16, 3, 3], [0, 0, 0], [9, 8, 1]])
    expected = np.take_along_axis(GOLDEN["logits"], positions[..., None], axis=1)
    assert np.abs(predict(model, TOKENS, positions) - expected).max() < 1e-5


def test_probabilities(small):
    expected = np.exp(GOLDEN["logits"])
    expected /= expected.sum(axis=-1, keepdims=True)
    found = predict(build_transformer_model(*small, with_mlm=True))
    np.testing.assert_allclose(found[TOKENS != 0], expected[TOKENS != 0], atol=1e-5)


def test_names_without_the_prefix(small, tmp_path):
    """So older releases have them, with masks, and with the tied embedding a second time."""
    values = {name.removeprefix("transformer."): value for name, value in tensors().items()}
    values["h.0.attn.bias"] = np.ones((1, 1, 32, 32), "float32")
    values["lm_head.weight"] = values["wte.weight"].copy()
    model = build_transformer_model(*write_small_gpt2(tmp_path, values=values))
    np.testing.assert_array_equal(predict(model), predict(build_transformer_model(*small)))


# What GPT-2 has of BERT, and what not.


def test_names_and_inputs(small):
    model = build_transformer_model(*small, with_mlm=True)
    half = "Transformer-{}-MultiHeadSelfAttention", "Transformer-{}-FeedForward"
    halves = [name.format(i) for i in range(2) for name in half]
    expected = [
        "Embedding-Token", "Embedding-Position",
        *(f"{name}{end}" for name in halves for end in ("", "-Norm")), "Output-Norm",
    ]  # fmt: skip
    assert sorted(layer.name for layer in model.layers if layer.weights) == sorted(expected)
    assert [x.name for x in model.inputs] == ["Input-Token"]
    assert model.get_layer("Output-Norm").epsilon == CONFIG["layer_norm_epsilon"]
    # bert4keras's names of what has no weights.
    names = {layer.name for layer in model.layers}
    assert names >= {f"{name}-{end}" for name in halves for end in ("Dropout", "Add")}
    rates = {layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    assert rates == {0.1} and "Embedding-Dropout" in names
    model = build_transformer_model(small[0], dropout_rate=0.0, attention_dropout_rate=0.0)
    assert not [layer.name for layer in model.layers if layer.name.endswith("Dropout")]


def test_each_sees_only_what_came_before(small):
    model = build_transformer_model(*small, **LINEAR)
    tokens = TOKENS[:1]
    for place in (0, 7, 31):
        other = tokens.copy()
        other[0, place] = tokens[0, place] % 100 + 1
        change = np.abs(predict(model, tokens) - predict(model, other))[0].max(axis=-1)
        assert np.flatnonzero(change).tolist() == list(range(place, 32))


def test_documents_do_not_see_each_other(small):
    model = build_transformer_model(*small, document_start_id=2, **LINEAR)
    tokens = np.array([[2, 30, 31, 2, 40, 41, 42, 0]])
    other = tokens.copy()
    other[0, 1] = 50
    change = np.abs(predict(model, tokens) - predict(model, other))[0].max(axis=-1)
    assert np.flatnonzero(change).tolist() == [1, 2]


CONTEXT, A, B = [2, 30, 31, 32, 33], [40, 41, 42], [50, 51, 52, 53]


@pytest.mark.parametrize("padding", [0, 3])
def test_two_continuations_in_one_sequence(small, padding):
    model = build_transformer_model(*small, branching=True, **LINEAR)
    assert [x.name for x in model.inputs] == ["Input-Token", "Input-Reach"]
    end = len(CONTEXT + A + B) + padding - 1
    reach = [end] * len(CONTEXT) + [len(CONTEXT + A) - 1] * len(A) + [end] * (len(B) + padding)
    both = predict(model, [CONTEXT + A + B + [0] * padding], [reach])[0]
    plain = build_transformer_model(*small, **LINEAR)
    first = predict(plain, [CONTEXT + A])[0]
    second = predict(plain, [CONTEXT + B])[0]
    np.testing.assert_allclose(both[: len(first)], first, atol=1e-5)
    np.testing.assert_allclose(
        both[len(first) : len(first) + len(B)], second[len(CONTEXT) :], atol=1e-5
    )
    # What each does see makes a difference.
    assert np.abs(predict(plain, [CONTEXT + A + B])[0, -4:] - second[-4:]).max() > 0.1


def test_two_continuations_at_some_positions(small):
    model = build_transformer_model(*small, branching=True, gather_positions=True, **LINEAR)
    assert [x.name for x in model.inputs] == ["Input-Token", "Input-Reach", "Input-Gather"]
    reach = [11] * len(CONTEXT) + [7] * len(A) + [11] * len(B)
    found = predict(model, [CONTEXT + A + B], [reach], [[4, 7, 11]])[0]
    plain = build_transformer_model(*small, **LINEAR)
    expected = [predict(plain, [ids])[0, -1] for ids in (CONTEXT, CONTEXT + A, CONTEXT + B)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_keep_tokens(small):
    keep = [0, *range(20, 90)]
    tokens = np.array([[30, 31, 89, 20, 0]])
    full = predict(build_transformer_model(*small, **LINEAR), tokens)
    model = build_transformer_model(*small, keep_tokens=keep, **LINEAR)
    found = predict(model, np.vectorize(keep.index)(tokens))
    np.testing.assert_allclose(found[0, :4], full[0, :4][:, keep], atol=1e-5)
    with pytest.raises(ValueError, match=r"`keep_tokens` names tokens .* \[120\]"):
        build_transformer_model(*small, keep_tokens=[0, 120])


def test_layers_from_outside(small):
    name = "Embedding-Token"
    layer = PtuningEmbedding(CONFIG["vocab_size"], CONFIG["n_embd"], [1, 2, 30], name=name)
    model = build_transformer_model(*small, layers={name: layer}, **LINEAR)
    assert model.get_layer(name) is layer
    assert np.abs(predict(model) - GOLDEN["logits"])[TOKENS != 0].max() < 1e-5


def test_low_precision(small):
    model = build_transformer_model(*small, dtype="mixed_bfloat16", sequence_length=32)
    assert model.get_layer("Transformer-0-FeedForward").compute_dtype == "bfloat16"
    difference = np.abs(predict(model).astype("float32") - GOLDEN["hidden"])[TOKENS != 0]
    assert difference.mean() < 0.05


# Saving.


def test_the_keras_model_can_be_saved(small, tmp_path):
    model = build_transformer_model(*small, **LINEAR)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(loaded), predict(model))


def test_gelu_new():
    layer = FeedForward(8, "gelu_new")
    x = np.linspace(-4, 4, 100, dtype="float32")
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    for function in (layer.activation, FeedForward.from_config(layer.get_config()).activation):
        found = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x)))
        np.testing.assert_allclose(found, tanh, atol=1e-6)


def test_written_as_it_was_read(small, tmp_path):
    model = build_transformer_model(*small, **LINEAR)
    save_transformer_model(model, tmp_path, small[0], vocabulary())
    names = sorted(path.name for path in tmp_path.iterdir())
    tensorflow = [f"bert_model.ckpt.{end}" for end in ("data-00000-of-00001", "index")]
    assert names == [*tensorflow, "config.json", "model.safetensors", "vocab.txt"]
    assert json.loads((tmp_path / "config.json").read_text("utf-8")) == CONFIG
    checkpoint = SafetensorsCheckpoint(tmp_path / "model.safetensors")
    expected = tensors()
    assert checkpoint.shapes == {name: value.shape for name, value in expected.items()}
    for name, value in expected.items():
        np.testing.assert_array_equal(checkpoint.read(name), value)


def test_hugging_face_reads_what_was_written(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = build_transformer_model(CONFIG, **LINEAR)
    save_transformer_model(model, tmp_path, CONFIG, vocabulary())
    other = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    tokens = TOKENS[:1]
    with torch.no_grad():
        expected = other(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(predict(model, tokens), expected, atol=1e-5)


def test_written_with_the_configuration_of_another_model(small, small_bert, tmp_path):
    model = build_transformer_model(*small)
    bert = {**json.loads(pathlib.Path(small_bert[0]).read_text("utf-8")), "model_type": "bert"}
    with pytest.raises(ValueError, match=r"architecture 'bert', .*configuration of this model"):
        save_transformer_model(model, tmp_path, bert, vocabulary())


# Configurations, and what does not fit.


def test_configuration():
    settings = read_config(CONFIG)
    assert settings["hidden_size"] == 32 and settings["intermediate_size"] == 128
    assert settings["max_position"] == 32 and settings["norm_epsilon"] == 1e-3
    assert settings["dropout_rate"] == settings["attention_dropout_rate"] == 0.1
    assert read_config({**CONFIG, "n_inner": 50})["intermediate_size"] == 50
    # What older releases leave out.
    short = {key: CONFIG[key] for key in ("vocab_size", "n_embd", "n_layer", "n_head")}
    model = build_transformer_model(short, model="gpt2", **LINEAR)
    assert model.get_layer("Output-Norm").epsilon == 1e-5
    assert model.get_layer("Embedding-Position").input_dim == 1024
    feed_forward = model.get_layer("Transformer-1-FeedForward")
    assert feed_forward.activation.__name__ == "gelu_new" and feed_forward.units == 128


def test_the_configuration_names_the_architecture(small, small_bert):
    bert = {**json.loads(pathlib.Path(small_bert[0]).read_text("utf-8")), "model_type": "bert"}
    assert len(build_transformer_model(bert).inputs) == 2
    assert len(build_transformer_model(small[0]).inputs) == 1
    assert len(build_transformer_model(small[0], model=GPT2).inputs) == 1
    found = [find_application(*arguments) for arguments in ([small[0]], [bert, "gpt2"], [bert])]
    assert found == ["lm", "lm", "encoder"]
    # BERT's entries will do too; what only GPT-2 does otherwise stays so.
    model = build_transformer_model(small_bert[0], model="gpt2")
    assert len(model.inputs) == 1 and model.get_layer("Output-Norm").epsilon == 1e-5
    with pytest.raises(ValueError, match=r"Unknown architecture.*model_type.*'bloom'"):
        build_transformer_model({**bert, "model_type": "bloom"})


def test_what_a_gpt2_does_not_have(small):
    with pytest.raises(ValueError, match=r"must be 'lm' for a GPT2.*'encoder'"):
        build_transformer_model(*small, application="encoder")
    with pytest.raises(ValueError, match=r"no pooler.*with_pool=True"):
        build_transformer_model(*small, with_pool=True)
    build_transformer_model(*small, application="lm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": None}, "n_embd must be a positive integer.*None"),
        ({"n_embd": "32"}, "n_embd must be a positive integer.*'32'"),
        ({"n_embd": 33}, "n_embd must be a multiple of n_head.*33 and 4"),
        ({"n_layer": 0}, "n_layer must be a positive integer"),
        ({"n_inner": -1}, "n_inner must be a positive integer"),
        ({"activation_function": "gelu_old"}, "activation_function must be .*'gelu_old'"),
        ({"resid_pdrop": 1.5}, "resid_pdrop must be at least 0"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon must be a positive number"),
        ({"scale_attn_by_inverse_layer_idx": True}, "must be False, all that is implemented"),
        ({"tie_word_embeddings": False}, "must be True, all that is implemented"),
    ],
)
def test_bad_configurations(tmp_path, change, message):
    path, _ = write_small_gpt2(tmp_path, values={})
    pathlib.Path(path).write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(ValueError, match=f"config.json.*{message}"):
        build_transformer_model(path)


def test_rates_of_dropout():
    """`null` is none, and the one rate of embeddings and blocks changes at both places."""
    rates = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    assert read_config({**CONFIG, **dict.fromkeys(rates)})["dropout_rate"] == 0
    changed = override(CONFIG, {"dropout_rate": 0.2})
    assert read_config(changed)["dropout_rate"] == changed["embd_pdrop"] == 0.2
    # That of the blocks, where they differ: it changes no prediction.
    assert read_config({**CONFIG, "embd_pdrop": 0.0})["dropout_rate"] == 0.1


def test_missing_entries():
    with pytest.raises(ValueError, match=r"lacks vocab_size, n_embd, n_layer, n_head\."):
        read_config({"model_type": "gpt2"})


def test_checkpoint_of_another_model(small, small_bert, tmp_path):
    for change, message in (
        ({"vocab_size": 121}, r"wte\.weight.*\(120, 32\).*\(121, 32\)"),
        ({"n_inner": 65}, r"h\.0\.mlp\.c_fc\.weight.*\(32, 128\).*\(32, 65\)"),
        ({"n_layer": 1}, r"num_hidden_layers=1, and the checkpoint has more"),
        ({"n_layer": 3}, r"not have all the tensors .*'gpt2'\. Missing: transformer\.h\.2\.ln_1"),
    ):
        with pytest.raises(ValueError, match=message):
            build_transformer_model({**CONFIG, **change}, small[1], **LINEAR)
    values = {name: value for name, value in tensors().items() if "c_attn" not in name}
    path = write_small_gpt2(tmp_path, values=values)[1]
    # Once, though it is three weights.
    with pytest.raises(ValueError, match=r"h\.0\.attn\.c_attn\.bias, .*h\.1\.[^,]* and 1 more\. "):
        build_transformer_model(small[0], path)
    values = tensors() | {"transformer.h.0.attn.c_attn.weight": np.ones((32, 99), "float32")}
    path = write_small_gpt2(tmp_path, values=values)[1]
    with pytest.raises(ValueError, match=r"c_attn\.weight.*\(32, 99\).*\(32, 96\)"):
        build_transformer_model(small[0], path)
    with pytest.raises(ValueError, match=r"'gpt2'.*Missing: gpt/.*such as 'bert/"):
        build_transformer_model(*[small[0], small_bert[1]], **LINEAR)
    with pytest.raises(ValueError, match=r"'bert'.*Missing: bert\..*such as 'transformer\."):
        build_transformer_model(small_bert[0], small[1], model="bert", **LINEAR)
