import gc
import json
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import small_checkpoints
from conftest import LABELS
from small_bert import CONFIG, tensors, write_small_bert, write_tensors

from keras_ptuning import (
    PtuningEmbedding,
    Template,
    build_ptuning_model,
    build_transformer_model,
)
from keras_ptuning.checkpoints import TensorFlowCheckpoint
from keras_ptuning.models import BERT, max_length

pytestmark = pytest.mark.usefixtures("eagerly")

TOKENS = np.array([[2, 30, 31, 32, 3, 0], [2, 40, 3, 0, 0, 0]])
SEGMENTS = np.zeros_like(TOKENS)


def predict(model, tokens=TOKENS):
    return model.predict([tokens, np.zeros_like(tokens)], verbose=0)


def test_activation_of_the_pooler(small_bert):
    linear, pooled = (
        predict(build_transformer_model(*small_bert[:2], with_pool=pool))
        for pool in ("linear", True)
    )
    np.testing.assert_allclose(np.tanh(linear), pooled, atol=1e-6)
    assert np.abs(linear - pooled).max() > 1e-3


def test_names_and_outputs(small_bert):
    config, checkpoint, _ = small_bert
    model = build_transformer_model(config, checkpoint, with_mlm=True, with_pool=True)
    names = {layer.name for layer in model.layers}
    assert names >= {
        "Input-Token", "Input-Segment", "Embedding-Token", "Embedding-Segment",
        "Embedding-Position", "Embedding-Norm", "Embedding-Dropout",
        "Transformer-0-MultiHeadSelfAttention", "Transformer-0-MultiHeadSelfAttention-Norm",
        "Transformer-1-FeedForward", "Transformer-1-FeedForward-Norm", "Pooler-Dense", "MLM-Dense",
        "MLM-Norm", "MLM-Bias", "MLM-Activation",
    }  # fmt: skip
    pooled, probabilities = predict(model)
    assert pooled.shape == (2, 32) and probabilities.shape == (2, 6, 120)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    assert predict(build_transformer_model(config, checkpoint)).shape == (2, 6, 32)


def test_padding_changes_nothing(small_bert):
    model = build_transformer_model(*small_bert[:2])
    longer = np.pad(TOKENS, [(0, 0), (0, 7)])
    short, long = predict(model), predict(model, longer)
    np.testing.assert_allclose(short[0, :5], long[0, :5], atol=1e-5)
    np.testing.assert_allclose(short[1, :3], long[1, :3], atol=1e-5)


def test_gathered_head_equals_the_full_one(small_bert):
    full = build_transformer_model(*small_bert[:2], with_mlm="linear")
    gathered = build_transformer_model(*small_bert[:2], with_mlm="linear", gather_positions=True)
    positions = np.array([[4, 1], [2, 0]])
    found = gathered.predict([TOKENS, SEGMENTS, positions], verbose=0)
    expected = np.take_along_axis(predict(full), positions[..., None], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_keep_tokens(small_bert):
    keep = [0, 2, 3, 30, 31, 32, 40]
    full = predict(build_transformer_model(*small_bert[:2], with_mlm="linear"))
    model = build_transformer_model(*small_bert[:2], with_mlm="linear", keep_tokens=keep)
    found = predict(model, np.vectorize(keep.index)(TOKENS))
    np.testing.assert_allclose(found[0, :5], full[0, :5][:, keep], atol=1e-5)
    with pytest.raises(ValueError, match=r"`keep_tokens` names tokens .* \[120\]"):
        build_transformer_model(*small_bert[:2], keep_tokens=[0, 120])


def test_dropout_comes_from_the_configuration(small_bert):
    names = [layer.name for layer in build_transformer_model(small_bert[0]).layers]
    assert "Embedding-Dropout" in names
    model = build_transformer_model(small_bert[0], dropout_rate=0.0)
    assert not [layer.name for layer in model.layers if layer.name.endswith("Dropout")]
    attention = model.get_layer("Transformer-0-MultiHeadSelfAttention")
    assert attention.dropout == CONFIG["attention_probs_dropout_prob"]
    # `null` is none, and an argument of `None` leaves it to the configuration.
    config = {**CONFIG, "attention_probs_dropout_prob": None}
    for source, rate in (config, 0.0), (CONFIG, CONFIG["attention_probs_dropout_prob"]):
        model = build_transformer_model(source, attention_dropout_rate=None)
        assert model.get_layer("Transformer-0-MultiHeadSelfAttention").dropout == rate


def test_one_segment(tokenizer):
    """As a RoBERTa has it: pairs of texts are in it too."""
    model = build_transformer_model({**CONFIG, "type_vocab_size": 1})
    token_ids = np.array([tokenizer.encode("很好", "不好")[0]])
    one, two = (model([token_ids, np.full_like(token_ids, n)]) for n in (0, 1))
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, two)))


def test_sequence_length_and_dtype(small_bert):
    model = build_transformer_model(*small_bert[:2], sequence_length=6, dtype="mixed_bfloat16")
    assert model.output_shape == (None, 6, 32)
    assert model.get_layer("Transformer-0-FeedForward").compute_dtype == "bfloat16"
    exact = predict(build_transformer_model(*small_bert[:2]))
    np.testing.assert_allclose(predict(model).astype("float32")[0, :5], exact[0, :5], atol=0.2)


@pytest.mark.graph
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's graphs")
def test_a_model_that_is_gone_leaves_no_graph(small_bert):
    from tensorflow.python.framework.func_graph import FuncGraph

    counts = []
    for _ in range(2):
        predict(build_transformer_model(*small_bert[:2]))
        keras.backend.clear_session()
        gc.collect()
        counts.append(sum(isinstance(thing, FuncGraph) for thing in gc.get_objects()))
    # Those of the activations are made once.
    assert counts[0] == counts[1]


def test_layers_from_outside(small_bert):
    """The seam: a layer given by name takes part, and starts from the checkpoint."""
    name = "Embedding-Token"
    layer = PtuningEmbedding(CONFIG["vocab_size"], CONFIG["hidden_size"], [1, 2, 30], name=name)
    model = build_transformer_model(*small_bert[:2], with_mlm="linear", layers={name: layer})
    assert model.get_layer(name) is layer
    plain = build_transformer_model(*small_bert[:2], with_mlm="linear")
    np.testing.assert_allclose(predict(model), predict(plain), atol=1e-5)


def test_checkpoint_may_be_named_by_any_of_its_files(small_bert):
    for suffix in (".index", ".data-00000-of-00001"):
        checkpoint = TensorFlowCheckpoint(small_bert[1] + suffix)
        assert checkpoint.path == small_bert[1]
        value = checkpoint.read("cls/predictions/output_bias")
        np.testing.assert_array_equal(value, tensors()["cls/predictions/output_bias"])


# Who sees whom.

DOCUMENTS = np.array([[2, 30, 31, 32, 3, 2, 40, 41, 3, 2, 50, 3, 0, 0]])


def seen_by(model, source, tokens=DOCUMENTS):
    """The places whose outputs depend on the token at `source`."""
    other = tokens.copy()
    other[0, source] = 60
    change = np.abs(predict(model, tokens) - predict(model, other))[0].max(axis=-1)
    # Nothing at all, not merely little.
    assert all(c == 0 or c > 1e-4 for c in change)
    return np.flatnonzero(change).tolist()


@pytest.mark.parametrize("by_configuration", [False, True])
def test_a_causal_model_looks_back_only(small_bert, by_configuration):
    if by_configuration:
        config, application = {**CONFIG, "is_decoder": True}, None
    else:
        config, application = small_bert[0], "lm"
    model = build_transformer_model(
        config, small_bert[1], application=application, with_mlm="linear"
    )
    for source in (0, 3, 11):
        assert seen_by(model, source) == list(range(source, 14))
    # What is asked for goes before what the configuration says.
    model = build_transformer_model(
        {**CONFIG, "is_decoder": True}, small_bert[1], application="encoder"
    )
    assert seen_by(model, 3) == list(range(14))


@pytest.mark.parametrize("application", ["encoder", "lm"])
def test_packed_documents_do_not_see_each_other(small_bert, application):
    model = build_transformer_model(*small_bert[:2], application=application, document_start_id=2)
    causal = application == "lm"
    # Padding sees the last document, as far as that matters.
    for first, end in ((0, 5), (5, 9), (9, 14)):
        for source in range(first + 1, min(end, 12)):
            assert seen_by(model, source) == list(range(source if causal else first, end))
    # The first one is where it would be alone, and so must be the same.
    alone = build_transformer_model(*small_bert[:2], application=application)
    np.testing.assert_allclose(
        predict(model, DOCUMENTS)[0, :5], predict(alone, DOCUMENTS[:, :5])[0], atol=1e-5
    )
    longer = np.pad(DOCUMENTS, [(0, 0), (0, 7)])
    np.testing.assert_allclose(
        predict(model, longer)[0, :12], predict(model, DOCUMENTS)[0, :12], atol=1e-5
    )


@pytest.fixture
def broken(tmp_path):
    """A copy of the small BERT, to be broken."""
    return write_small_bert(tmp_path)


def test_missing_checkpoint(small_bert, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no TensorFlow checkpoint .*nowhere\.ckpt"):
        build_transformer_model(small_bert[0], tmp_path / "nowhere.ckpt")
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*bert_model\.ckpt"):
        TensorFlowCheckpoint(os.path.dirname(small_bert[1]))
    # Where it is not asked for by its prefix, the folder will do.
    folder = os.path.dirname(small_bert[1])
    expected = predict(build_transformer_model(*small_bert[:2]))
    for paths in ([small_bert[0], folder], [folder], [small_bert[1]], [folder, small_bert[1]]):
        np.testing.assert_array_equal(predict(build_transformer_model(*paths)), expected)
    with pytest.warns(UserWarning, match="weights are random"):
        build_transformer_model(small_bert[0])


def test_a_model_of_another_architecture(small_bert):
    """Which would read the same tensors, and mean something else."""
    with pytest.raises(ValueError, match=r"not of the architecture 'nezha': .*position_embeddings"):
        build_transformer_model(*small_bert[:2], model="nezha")


def test_numbers_of_an_optimizer(broken):
    """As Google's checkpoints in the middle of a training have them, of embeddings too."""
    values = tensors()
    slots = {f"{k}/{end}": v for k, v in values.items() for end in ("adam_m", "adam_v", "Adam")}
    write_tensors(broken[1], {**values, **slots})
    build_transformer_model(*broken[:2], with_mlm=True)


def test_a_head_with_a_table_of_its_own(tmp_path):
    small_checkpoints.write_hugging_face(tmp_path, "bert")
    values = small_checkpoints.hugging_face_tensors("bert")
    name = "cls.predictions.decoder.weight"
    values[name] = values["bert.embeddings.word_embeddings.weight"] + 1
    small_checkpoints.write_hugging_face(tmp_path, "bert", values=values)
    with pytest.raises(ValueError, match=f"table of its own, '{name}'"):
        build_transformer_model(tmp_path, with_mlm=True)
    build_transformer_model(tmp_path)


@pytest.mark.parametrize("prefix", ["module.bert.", "bert."])
def test_names_of_before(tmp_path, prefix):
    """A NEZHA that a class for BERTs has written, and a model in a wrapper."""
    name = "nezha" if prefix == "bert." else "bert"
    small_checkpoints.write_hugging_face(tmp_path, name)
    expected = build_transformer_model(tmp_path, with_mlm=True).get_weights()
    values = {
        key.replace(f"{name}.", prefix, 1): value
        for key, value in small_checkpoints.hugging_face_tensors(name).items()
    }
    small_checkpoints.write_hugging_face(tmp_path, name, values=values)
    found = build_transformer_model(tmp_path, with_mlm=True).get_weights()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_roberta_of_hugging_face(tmp_path):
    small_checkpoints.write_hugging_face(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))
    with pytest.raises(ValueError, match=r"RoBERTa of Hugging Face.*model='bert'"):
        build_transformer_model(tmp_path)
    assert len(build_transformer_model(tmp_path, model="bert").inputs) == 2


def test_a_pointer_in_place_of_the_weights(small_bert, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        build_transformer_model(small_bert[0], path)


def test_no_gradient_is_a_list_of_rows():
    """Which Adam would take too seriously, of a causal cloze too."""
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has such gradients")
    template = Template("[u1]{text}[MASK]", LABELS, "gpt-mini-zh", 32, causal=True)
    model = build_ptuning_model("gpt-mini-zh", template=template, tune="all")
    x, y = template.dataset(["书书书", "书"], ["正面", "负面"])[0]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    assert not any(isinstance(g, tf.IndexedSlices) for g in gradients)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_half_copied_checkpoint(broken, suffix):
    path = broken[1] + suffix
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"bert_model\.ckpt.* Copy it again"):
        build_transformer_model(*broken[:2])
    os.remove(path)
    with pytest.raises(FileNotFoundError, match=f"incomplete: .*{suffix} is missing"):
        build_transformer_model(*broken[:2])


def test_a_flipped_byte_is_noticed(broken):
    path = broken[1] + ".data-00000-of-00001"
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read from .*damaged"):
        build_transformer_model(*broken[:2], with_mlm=True, with_pool=True)


def test_missing_shard(broken):
    shutil.move(broken[1] + ".data-00000-of-00001", broken[1] + ".data-00000-of-00002")
    with pytest.raises(FileNotFoundError, match=r"data-00001-of-00002 is missing"):
        build_transformer_model(*broken[:2])
    # An unfinished download.
    path = broken[1] + ".data-00000-of-00001"
    shutil.move(broken[1] + ".data-00000-of-00002", path + ".part")
    with pytest.raises(FileNotFoundError, match=r"data-00000-of-00001 is missing"):
        build_transformer_model(*broken[:2])


def test_configuration_of_another_model(small_bert, tmp_path):
    for change, tensor, shapes in (
        ({"vocab_size": 121}, "word_embeddings", r"\(120, 32\).*\(121, 32\)"),
        ({"intermediate_size": 65}, "layer_0/intermediate/dense/kernel", r"\(32, 64\).*\(32, 65\)"),
    ):
        path = tmp_path / "other.json"
        path.write_text(json.dumps({**CONFIG, **change}))
        with pytest.raises(ValueError, match=f"{tensor}.*{shapes}"):
            build_transformer_model(path, small_bert[1])
    path.write_text(json.dumps({**CONFIG, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"num_hidden_layers=1, and the checkpoint has more"):
        build_transformer_model(path, small_bert[1])
    assert build_transformer_model(path, small_bert[1], num_hidden_layers=2).count_params()
    path.write_text(json.dumps({**CONFIG, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"does not have all the tensors.*layer_2"):
        build_transformer_model(path, small_bert[1])


def test_checkpoint_without_heads(broken):
    values = {k: v for k, v in tensors().items() if "cls/" not in k and "pooler" not in k}
    write_tensors(broken[1], values)
    build_transformer_model(*broken[:2])
    with pytest.raises(ValueError, match=r"has no MLM head.*cls/predictions.*build_classifier"):
        build_transformer_model(*broken[:2], with_mlm=True)
    with pytest.raises(ValueError, match="has no pooler"):
        build_transformer_model(*broken[:2], with_pool=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"vocab_size": 9}', "lacks hidden_size"),
        (json.dumps({**CONFIG, "hidden_size": 33}).encode(), "multiple of num_attention_heads"),
        (json.dumps({**CONFIG, "num_hidden_layers": "2"}).encode(), "positive integer.*'2'"),
        (json.dumps({**CONFIG, "max_position_embeddings": None}).encode(), "positive integer"),
        (json.dumps({**CONFIG, "hidden_dropout_prob": "0.1"}).encode(), "below 1.*'0.1'"),
        (json.dumps({**CONFIG, "initializer_range": True}).encode(), "positive number"),
        (
            json.dumps({**CONFIG, "hidden_act": None}).encode(),
            "hidden_act must be one of elu, gelu",
        ),
        (json.dumps({**CONFIG, "hidden_act": "gelo"}).encode(), "must be one of elu.*'gelo'"),
    ],
)
def test_bad_configurations(tmp_path, content, message):
    path = tmp_path / "bert_config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bert_config.json.*{message}"):
        build_transformer_model(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        build_transformer_model(tmp_path / "nowhere.json")


def test_bad_arguments(small_bert):
    for kwargs, message in (
        ({"model": "bart"}, "Unknown architecture.*'bart'"),
        ({"application": "seq"}, "`application` must be 'encoder' or 'lm' or 'unilm'.*'seq'"),
        ({"model": "gpt2", "application": "encoder"}, "`application` must be 'lm' for a GPT2"),
        ({"application": "unilm", "segment_vocab_size": 0}, r"by their segments.*has none"),
        ({"with_mlp": True}, r"Unknown arguments \['with_mlp'\]"),
        ({"model": "nezha", "hierarchical_position": True}, "NEZHA has no table of positions"),
    ):
        with pytest.raises(ValueError, match=message):
            build_transformer_model(small_bert[0], **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "longest"),
    [
        ({}, 64),
        ({"hierarchical_position": True}, 64**2),
        ({"model": "nezha"}, None),
        ({"model": "roformer"}, None),
    ],
)
def test_the_longest_text(small_bert, tokenizer, tmp_path, kwargs, longest):
    if "model" in kwargs:
        values = tensors()
        del values["bert/embeddings/position_embeddings"]
        small_bert = write_small_bert(tmp_path, values=values)
    assert max_length(small_bert[0], **kwargs) == longest
    template = Template("[MASK]{text}", LABELS, tokenizer, maxlen=100)
    if longest == 64:
        with pytest.raises(ValueError, match="has 64 positions"):
            build_ptuning_model(*small_bert[:2], template, **kwargs)
    else:
        model = build_ptuning_model(*small_bert[:2], template, **kwargs)
        scores = model.predict(template.dataset(["书" * 90, "书" * 91]), verbose=0)
        # Words far away count, too.
        assert np.abs(scores[0] - scores[1]).max() > 1e-6


def test_a_number_of_positions_as_an_argument(small_bert, tokenizer):
    template = Template("[MASK]{text}", LABELS, tokenizer, maxlen=65)
    with pytest.raises(ValueError, match="has 32 positions"):
        build_ptuning_model(small_bert[0], template=template, max_position=32)
    build_ptuning_model(small_bert[0], template=template, max_position=65)


@pytest.mark.parametrize("alpha", [0, 1, -0.4, 1.5])
def test_no_hierarchy_of_positions(small_bert, alpha):
    if alpha:
        with pytest.raises(ValueError, match="between 0 and 1"):
            build_transformer_model(small_bert[0], hierarchical_position=alpha)
    else:
        assert max_length(small_bert[0], hierarchical_position=alpha) == 64


def test_only_loaded_layers_start_at_zero(small_bert):
    """Layers that a subclass adds get random weights, also where a checkpoint is loaded."""

    class Added(keras.layers.Dense):
        @property
        def added_weights(self):
            return self.weights

    class WithMore(BERT):
        def apply_heads(self, x, inputs):
            layer = self.layer("My-Dense", Added, units=4, kernel_initializer=self.initializer())
            return layer(super().apply_heads(x, inputs))

    model = build_transformer_model(*small_bert[:2], model=WithMore)
    assert np.asarray(model.get_layer("My-Dense").get_weights()[0]).std() > 0.01
    random = build_transformer_model(small_bert[0])
    assert random.get_layer("Transformer-0-FeedForward").get_weights()[0].std() > 0.01


@pytest.mark.parametrize("name", ["bert", "albert"])
@pytest.mark.parametrize(
    "wrapper", ["model.", "_orig_mod.", "module.", "base_model.model.", "module._orig_mod.model."]
)
def test_names_in_wrappers(tmp_path, name, wrapper):
    """As `torch.compile`, data parallelism, PEFT, and models of one's own leave them."""
    small_checkpoints.write_hugging_face(tmp_path, name)
    expected = build_transformer_model(tmp_path, with_mlm=True).get_weights()
    values = {f"{wrapper}{k}": v for k, v in small_checkpoints.hugging_face_tensors(name).items()}
    small_checkpoints.write_hugging_face(tmp_path, name, values=values)
    found = build_transformer_model(tmp_path, with_mlm=True)
    for a, b in zip(found.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    # A head of its own is still seen.
    table = next(key for key in values if re.search(r"word_embeddings\.weight", key))
    values[wrapper + type(found.transformer).tied] = values[table] + 1
    small_checkpoints.write_hugging_face(tmp_path, name, values=values)
    with pytest.raises(ValueError, match="table of its own"):
        build_transformer_model(tmp_path, with_mlm=True)
