"""The same numbers as other libraries, recorded by `goldens/record_architectures.py`.

The live tests run that script again, with other weights, where the other library is installed: in
this environment, or in that of the Python that `$KERAS_PTUNING_TRANSFORMERS_PYTHON`,
`$KERAS_PTUNING_NEZHA_PYTHON` or `$KERAS_PTUNING_BERT4KERAS_PYTHON` names.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small_checkpoints
from small_checkpoints import ARGUMENTS, HUGGING_FACE, TENSORFLOW, WRITERS

from keras_ptuning import build_transformer_model
from keras_ptuning.models import find_model

pytestmark = pytest.mark.usefixtures("eagerly")

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
FILES = {
    "transformers": "transformers_architectures.npz",
    "nezha": "transformers_nezha_architectures.npz",
    "bert4keras": "bert4keras_architectures.npz",
}
# Recorded, but no release has it.
NOT_IMPLEMENTED = ["roformer-values"]
NAMES = [name for name in HUGGING_FACE if name not in NOT_IMPLEMENTED]
# What tells the architecture, where the names of the tensors do not.
HINTS = {
    "nezha": {"use_relative_position": True},
    "nezha-gpt": {"use_relative_position": True},
    "roformer": {"model_type": "roformer"},
}


def library_of(name, layout):
    if layout == "tensorflow":
        return "bert4keras"
    return "nezha" if name == "nezha" else "transformers"


def body_of(name):
    """What the names of the body's tensors begin with."""
    return HUGGING_FACE[name]["model_type"].removeprefix("megatron-")


def build(folder, **kwargs):
    return build_transformer_model(str(folder), **{"with_mlm": "linear", **kwargs})


def predict(model, name, layout):
    """The model's output at all positions but padding; gathered ones are read backwards."""
    token_ids, segment_ids = small_checkpoints.make_inputs(name, layout)
    backwards = np.argsort(-np.arange(token_ids.size).reshape(token_ids.shape), axis=1)
    feed = {"Input-Token": token_ids, "Input-Segment": segment_ids, "Input-Gather": backwards}
    names = [x.name for x in model.inputs]
    found = model.predict([feed[name] for name in names], verbose=0)
    return (found[:, ::-1] if "Input-Gather" in names else found)[token_ids != 0]


def check(model, name, layout, goldens=GOLDENS):
    found = predict(model, name, layout)[:, ::2]
    token_ids, _ = small_checkpoints.make_inputs(name, layout)
    with np.load(goldens / FILES[library_of(name, layout)]) as golden:
        expected = golden[name][token_ids != 0]
    difference = np.abs(found - expected).max()
    print(f"{layout} {name}: {difference:.1e}")
    assert difference < 1e-4


# All of them.


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_hugging_face(tmp_path, name, gather):
    small_checkpoints.write_hugging_face(tmp_path, name)
    check(build(tmp_path, gather_positions=gather), name, "hugging_face")


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("name", TENSORFLOW)
def test_tensorflow(tmp_path, name, gather):
    small_checkpoints.write_tensorflow(tmp_path, name)
    model = build(tmp_path, gather_positions=gather, **ARGUMENTS.get(name, {}))
    check(model, name, "tensorflow")


@pytest.mark.parametrize("name", HINTS)
def test_the_configuration_tells_the_architecture(tmp_path, name):
    config = {**TENSORFLOW[name], **HINTS[name]}
    small_checkpoints.write_tensorflow(tmp_path, name, config=config)
    arguments = {key: value for key, value in ARGUMENTS[name].items() if key != "model"}
    check(build(tmp_path, **arguments), name, "tensorflow")


@pytest.mark.parametrize("name", ["nezha", "roformer"])
def test_nothing_tells_the_architecture(tmp_path, name):
    small_checkpoints.write_tensorflow(tmp_path, name)
    with pytest.raises(ValueError, match=r"(?i)nezha.*roformer"):
        build(tmp_path)


def test_an_entry_without_a_value(tmp_path):
    """The tensors tell what `"model_type": null` does not."""
    small_checkpoints.write_hugging_face(tmp_path, "megatron")
    config = {**HUGGING_FACE["megatron"], "model_type": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(build(tmp_path), "megatron", "hugging_face")


def test_the_checkpoint_has_no_segments(tmp_path):
    small_checkpoints.write_tensorflow(tmp_path, "nezha-gpt")
    model = build(tmp_path, model="nezha", application="lm")
    assert [x.name for x in model.inputs] == ["Input-Token"]
    check(model, "nezha-gpt", "tensorflow")


@pytest.mark.parametrize("name", ["bert", "ernie", "albert", "electra", "megatron"])
def test_segments_that_are_missing(tmp_path, name):
    """The configuration says that there are some."""
    values = small_checkpoints.hugging_face_tensors(name)
    values = {key: value for key, value in values.items() if "token_type" not in key}
    small_checkpoints.write_hugging_face(tmp_path, name, values=values)
    with pytest.raises(ValueError, match=r"set `type_vocab_size` to 0.*token_type_embeddings"):
        build(tmp_path)
    config = {**HUGGING_FACE[name], "type_vocab_size": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert [x.name for x in build(tmp_path).inputs] == ["Input-Token"]


@pytest.mark.parametrize("said", [None, False, True])
def test_embeddings_of_tasks(tmp_path, said):
    """The tensors tell them where the configuration does not."""
    small_checkpoints.write_hugging_face(tmp_path, "ernie")
    config = {**HUGGING_FACE["ernie"], "use_task_id": said, "task_type_vocab_size": 3}
    if said is None:
        del config["use_task_id"], config["task_type_vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = build(tmp_path)
    if said is False:
        assert "Embedding-Task" not in model.transformer.layers
    else:
        check(model, "ernie", "hugging_face")
        config = find_model(str(tmp_path))[0]
        assert config["use_task_id"] and config["task_type_vocab_size"] == 3


@pytest.mark.parametrize("name", ["bert", "ernie", "electra", "albert", "roformer"])
@pytest.mark.parametrize(
    "extra",
    [
        "{}.embeddings.pinyin_embeddings.embedding.weight",
        "{}.encoder.layer.0.attention.self.distance_embedding.weight",
        "{}.encoder.layer.1.crossattention.self.query.weight",
    ],
)
def test_what_no_architecture_has(tmp_path, name, extra):
    """Without it the model would answer other than it was trained to."""
    extra = extra.format(body_of(name))
    values = small_checkpoints.hugging_face_tensors(name)
    values[extra] = np.ones((3, 3), "float32")
    small_checkpoints.write_hugging_face(tmp_path, name, values=values)
    with pytest.raises(ValueError, match=f"not of the architecture.*{extra}"):
        build(tmp_path)


def test_an_electra_has_no_pooler(tmp_path):
    small_checkpoints.write_hugging_face(tmp_path, "electra")
    with pytest.raises(ValueError, match="ELECTRA has no pooler"):
        build(tmp_path, with_mlm=False, with_pool=True)


@pytest.mark.parametrize("activation", ["gelu_accurate", "gelu_python_tanh", "gelu_fast"])
def test_other_names_of_an_activation(tmp_path, activation):
    small_checkpoints.write_hugging_face(tmp_path, "albert")
    config = {**HUGGING_FACE["albert"], "hidden_act": activation, "position_embedding_type": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(build(tmp_path), "albert", "hugging_face")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"hidden_act": "leaky_relu"}, "hidden_act must be one of"),
        ({"is_decoder": "false"}, "is_decoder must be true or false. Received: 'false'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights.*'gptq'"),
        ({"model_type": "xlnet"}, r"Unknown architecture. Expected one of \[(?!.*'roberta')"),
    ],
)
def test_bad_entries(tmp_path, entries, message):
    small_checkpoints.write_hugging_face(tmp_path, "bert")
    (tmp_path / "config.json").write_text(json.dumps({**HUGGING_FACE["bert"], **entries}))
    with pytest.raises(ValueError, match=message):
        build(tmp_path)


@pytest.mark.parametrize("layout, name", [("hugging_face", "albert"), ("tensorflow", "electra")])
def test_paths_of_both_files(tmp_path, layout, name):
    WRITERS[layout](tmp_path, name)
    files = {
        "hugging_face": ("config.json", "model.safetensors"),
        "tensorflow": ("bert_config.json", "bert_model.ckpt"),
    }[layout]
    paths = [str(tmp_path / file) for file in files]
    check(build_transformer_model(*paths, with_mlm="linear"), name, layout)


def test_an_albert_whose_embeddings_have_the_size_of_its_blocks(tmp_path):
    """Hugging Face puts a layer between them, other programs do not."""
    WRITERS["hugging_face"](tmp_path, "albert")
    config = {**HUGGING_FACE["albert"], "embedding_size": HUGGING_FACE["albert"]["hidden_size"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="only where they differ in size"):
        build_transformer_model(tmp_path)


@pytest.mark.parametrize("name", NOT_IMPLEMENTED)
def test_not_implemented(tmp_path, name):
    small_checkpoints.write_hugging_face(tmp_path, name)
    with pytest.raises(ValueError, match="rotary_value"):
        build(tmp_path)


# The same checkpoint in Hugging Face's other spellings.


@pytest.mark.parametrize("name", ["bert", "ernie", "electra", "nezha", "roformer-factorised"])
def test_gamma_and_beta(tmp_path, name):
    """Names from before 2020, which some releases still have."""
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    values = {}
    for key, value in small_checkpoints.hugging_face_tensors(name).items():
        for new, old in ends.items():
            key = key.replace(new, old)
        values[key] = value
    small_checkpoints.write_hugging_face(tmp_path, name, values=values)
    check(build(tmp_path), name, "hugging_face")


@pytest.mark.parametrize("name", NAMES)
def test_without_prefix_and_head(tmp_path, name):
    """So a plain `BertModel` is saved."""
    values = small_checkpoints.hugging_face_tensors(name)
    full, bare = tmp_path / "full", tmp_path / "bare"
    full.mkdir(), bare.mkdir()
    small_checkpoints.write_hugging_face(full, name)
    prefix = body_of(name) + "."
    body = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    assert 0 < len(body) < len(values)
    small_checkpoints.write_hugging_face(bare, name, values=body)
    expected = predict(build(full, with_mlm=False), name, "hugging_face")
    found = predict(build(bare, with_mlm=False), name, "hugging_face")
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="head"):
        build(bare)


@pytest.mark.parametrize("name", ["bert", "albert", "roformer"])
@pytest.mark.parametrize("both", [False, True])
def test_bias_of_the_decoder(tmp_path, name, both):
    """The same vector under its other name, or under both."""
    values = small_checkpoints.hugging_face_tensors(name)
    (bias,) = (key for key in values if key.endswith("predictions.bias"))
    other = bias.replace(".bias", ".decoder.bias")
    values[other] = values[bias] if both else values.pop(bias)
    small_checkpoints.write_hugging_face(tmp_path, name, values=values)
    check(build(tmp_path), name, "hugging_face")


@pytest.mark.parametrize("name", NAMES)
def test_what_else_there_may_be(tmp_path, name):
    """Tensors of other heads, tied ones written twice, and tables that are computed."""
    values = small_checkpoints.hugging_face_tensors(name)
    model = body_of(name)
    words = values[f"{model}.embeddings.word_embeddings.weight"]
    decoder = {
        "albert": "predictions.decoder.weight",
        "electra": "generator_lm_head.weight",
    }.get(model, "cls.predictions.decoder.weight")
    pooler = "albert.pooler" if model == "albert" else f"{model}.pooler.dense"
    rng = np.random.default_rng(2)
    values |= {
        decoder: words.copy(),
        f"{model}.embeddings.position_ids": np.arange(64)[None],
        f"{pooler}.weight": rng.normal(size=(32, 32)).astype("float32"),
        f"{pooler}.bias": rng.normal(size=32).astype("float32"),
        "cls.seq_relationship.weight": rng.normal(size=(2, 32)).astype("float32"),
        "cls.seq_relationship.bias": rng.normal(size=2).astype("float32"),
    }
    if model == "nezha":
        for i in range(2):
            key = f"nezha.encoder.layer.{i}.attention.self.relative_positions_encoding"
            values[f"{key}.positions_encoding"] = np.zeros((64, 64, 8), "float32")
    # Computed, and by older releases not written.
    values.pop("roformer.encoder.embed_positions.weight", None)
    small_checkpoints.write_hugging_face(tmp_path, name, values=values)
    check(build(tmp_path), name, "hugging_face")


@pytest.mark.parametrize("name", ["bert", "albert"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, name, dtype):
    """Numbers of 16 bits are the same numbers in 32."""
    values = small_checkpoints.hugging_face_tensors(name)
    rounded = {
        key: small_checkpoints.as_bfloat16(value)
        if dtype == "bfloat16"
        else value.astype("float16").astype("float32")
        for key, value in values.items()
    }
    half, full = tmp_path / "half", tmp_path / "full"
    half.mkdir(), full.mkdir()
    small_checkpoints.write_hugging_face(half, name, dtype=dtype)
    small_checkpoints.write_hugging_face(full, name, values=rounded)
    found, expected = (predict(build(x), name, "hugging_face") for x in (half, full))
    np.testing.assert_array_equal(found, expected)


# Live.


def run_other(library, *arguments):
    python = os.environ.get(f"KERAS_PTUNING_{library.upper()}_PYTHON", sys.executable)
    # Of this library the other Python needs nothing.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "KERAS_BACKEND")}
    return subprocess.run(
        [python, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
@pytest.mark.parametrize("library", FILES)
def test_live(tmp_path, library):
    needed = {
        "transformers": "import torch; from transformers import ErnieForMaskedLM",
        "nezha": "import torch; from transformers import NezhaForMaskedLM",
        "bert4keras": "import tensorflow, tf_keras; from importlib.util import find_spec as f; "
        "exit(not f('bert4keras'))",
    }[library]
    if run_other(library, "-c", needed).returncode:
        pytest.skip(f"no {library} here: name a Python in KERAS_PTUNING_{library.upper()}_PYTHON")
    script = str(GOLDENS / "record_architectures.py")
    done = run_other(library, script, library, "--seed", "1", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for layout, names in (("hugging_face", NAMES), ("tensorflow", TENSORFLOW)):
        for name in names:
            if library_of(name, layout) != library:
                continue
            folder = tmp_path / f"{layout}-{name}"
            folder.mkdir()
            WRITERS[layout](folder, name, seed=1)
            arguments = ARGUMENTS.get(name, {}) if layout == "tensorflow" else {}
            check(build(folder, **arguments), name, layout, goldens=tmp_path)
