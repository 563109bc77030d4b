"""Small checkpoints of many architectures, with random weights, as others write them.

Hugging Face's are folders with `config.json` and `model.safetensors`, TensorFlow's with
`bert_config.json` and `bert_model.ckpt.*`. Imports neither Keras nor this package, so that the
script that records goldens with other libraries can use it too.
"""

import json
import os
import re

import numpy as np
from small_bert import CONFIG as BASE
from small_bert import vocabulary, write_tensors


def _hugging_face(name, **changes):
    rest = {"model_type": name.lower(), "architectures": [f"{name}ForMaskedLM"]}
    return {**BASE, "layer_norm_eps": 1e-12, "pad_token_id": 0, **rest, **changes}


# An epsilon of 1e-3 is not usual, but it shows.
HUGGING_FACE = {
    "bert": _hugging_face("Bert"),
    "ernie": _hugging_face(
        "Ernie",
        hidden_act="relu",
        layer_norm_eps=1e-5,
        type_vocab_size=4,
        use_task_id=True,
        task_type_vocab_size=3,
    ),
    "albert": _hugging_face(
        "Albert",
        num_hidden_layers=3,
        num_hidden_groups=1,
        inner_group_num=1,
        embedding_size=16,
        hidden_act="gelu_new",
        layer_norm_eps=1e-3,
    ),
    # The head's activation is GELU whatever that of the body.
    "electra": _hugging_face("Electra", embedding_size=16, hidden_act="relu", layer_norm_eps=1e-3),
    "roformer": _hugging_face("RoFormer", embedding_size=32, rotary_value=False),
    "roformer-factorised": _hugging_face(
        "RoFormer", embedding_size=16, rotary_value=False, layer_norm_eps=1e-3
    ),
    "roformer-values": _hugging_face("RoFormer", embedding_size=32, rotary_value=True),
    "nezha": _hugging_face("Nezha", max_relative_position=8, layer_norm_eps=1e-3),
    "megatron": _hugging_face("MegatronBert", model_type="megatron-bert", layer_norm_eps=1e-3),
}

TENSORFLOW = {
    "albert": {
        **BASE,
        "num_hidden_layers": 3,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "embedding_size": 16,
    },
    "nezha": BASE,
    "nezha-gpt": BASE,
    "roformer": BASE,
    "gpt2": BASE,
    "bert-unilm": BASE,
    "bert-hierarchical": BASE,
    "electra": {**BASE, "embedding_size": 16},
}
# What must be said when building them; `model` only where nothing in the folder says it.
ARGUMENTS = {
    "nezha": {"model": "nezha"},
    "nezha-gpt": {"model": "nezha", "application": "lm", "segment_vocab_size": 0},
    "roformer": {"model": "roformer"},
    "bert-unilm": {"application": "unilm"},
    "bert-hierarchical": {"hierarchical_position": True},
}
# Sequences longer than the distances, or the positions, that there are.
LONG = ("nezha", "bert-hierarchical")


def make_inputs(name, layout):
    """`(token_ids, segment_ids)` of sequences of different lengths, padded with 0."""
    rng = np.random.default_rng(1)
    lengths = (100, 17, 3, 10) if layout == "tensorflow" and name in LONG else (24, 17, 3, 10)
    token_ids, segment_ids = np.zeros((2, 4, lengths[0]), "int32")
    for row, length in zip(token_ids, lengths, strict=True):
        row[:length] = rng.integers(1, BASE["vocab_size"], length)
    segment_ids[0, 14 : lengths[0]] = 1
    segment_ids[3, 4:10] = 1
    return token_ids, segment_ids


# Names and shapes.


def _dense(name, inputs, outputs):
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def _norm(name, size):
    return {f"{name}/gamma": (size,), f"{name}/beta": (size,)}


def _embeddings(config, prefix, kinds):
    size = config.get("embedding_size", config["hidden_size"])
    rows = {
        "word": config["vocab_size"],
        "position": config["max_position_embeddings"],
        "token_type": config["type_vocab_size"],
        "task_type": config.get("task_type_vocab_size"),
    }
    return {f"{prefix}/{kind}_embeddings": (rows[kind], size) for kind in kinds}


def _attention(config, prefix):
    size = config["hidden_size"]
    shapes = _dense(f"{prefix}/output/dense", size, size)
    for name in ("query", "key", "value"):
        shapes |= _dense(f"{prefix}/self/{name}", size, size)
    return shapes


def _blocks(config, prefix, norm="output/LayerNorm"):
    """`norm` is the place of a norm under a block, and under its attention."""
    size, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {}
    for i in range(config["num_hidden_layers"]):
        block = f"{prefix}/layer_{i}"
        shapes |= _attention(config, f"{block}/attention")
        shapes |= _norm(f"{block}/attention/{norm}", size)
        shapes |= _dense(f"{block}/intermediate/dense", size, inner)
        shapes |= _dense(f"{block}/output/dense", inner, size)
        shapes |= _norm(f"{block}/{norm}", size)
    return shapes


def _token_head(config, dense, bias):
    size = config.get("embedding_size", config["hidden_size"])
    return {
        **_dense(f"{dense}/dense", config["hidden_size"], size),
        **_norm(f"{dense}/LayerNorm", size),
        bias: (config["vocab_size"],),
    }


def google_shapes(name, config):
    """Names and shapes in a TensorFlow checkpoint of the architecture that `name` begins with."""
    size, inner = config["hidden_size"], config["intermediate_size"]
    embedding_size = config.get("embedding_size", size)
    architecture = name.split("-")[0]
    if architecture == "gpt2":
        return {
            **_embeddings(config, "gpt/embeddings", ["word", "position"]),
            **_blocks(config, "gpt/transformer", "input/LayerNorm"),
            **_norm("gpt/output/LayerNorm", size),
        }
    kinds = ["word", "token_type"]
    if architecture not in ("nezha", "roformer"):
        kinds.append("position")
    if config.get("use_task_id"):
        kinds.append("task_type")
    if name == "nezha-gpt":
        kinds.remove("token_type")
    prefix = "electra" if architecture == "electra" else "bert"
    shapes = {
        **_embeddings(config, f"{prefix}/embeddings", kinds),
        **_norm(f"{prefix}/embeddings/LayerNorm", embedding_size),
    }
    if architecture == "electra":
        discriminator = {**config, "num_hidden_layers": config["num_hidden_layers"] + 1}
        return {
            **shapes,
            **_dense("generator/embeddings_project", embedding_size, size),
            **_blocks(config, "generator/encoder"),
            **_token_head(config, "generator_predictions", "generator_predictions/output_bias"),
            # The other half of what was pretrained.
            **_dense("electra/embeddings_project", embedding_size, size),
            **_blocks(discriminator, "electra/encoder"),
            **_dense("discriminator_predictions/dense", size, size),
            **_dense("discriminator_predictions/dense_1", size, 1),
        }
    shapes |= _token_head(config, "cls/predictions/transform", "cls/predictions/output_bias")
    shapes |= _dense("bert/pooler/dense", size, size)
    if embedding_size != size:
        shapes |= _dense("bert/encoder/embedding_hidden_mapping_in", embedding_size, size)
    if architecture != "albert":
        return shapes | _blocks(config, "bert/encoder")
    group = "bert/encoder/transformer/group_0/inner_group_0"
    return {
        **shapes,
        **_attention(config, f"{group}/attention_1"),
        **_norm(f"{group}/LayerNorm", size),
        **_dense(f"{group}/ffn_1/intermediate/dense", size, inner),
        **_dense(f"{group}/ffn_1/intermediate/output/dense", inner, size),
        **_norm(f"{group}/LayerNorm_1", size),
    }


# Google's names, and Hugging Face's: everywhere, and then in an architecture.
TRANSLATION = [
    ("/", "."),
    (r"layer_(\d)", r"layer.\1"),
    ("kernel$|gamma$", "weight"),
    ("beta$", "bias"),
    ("_embeddings$", "_embeddings.weight"),
    ("output_bias$", "bias"),
]
TRANSLATIONS = {
    "ernie": [(r"^bert\.", "ernie.")],
    "nezha": [(r"^bert\.", "nezha.")],
    "roformer": [
        (r"^bert\.encoder\.embedding_hidden_mapping_in", "roformer.embeddings_project"),
        (r"^bert\.", "roformer."),
    ],
    "electra": [
        # The generator is a model of its own.
        (r"^generator\.", "electra."),
        (r"^generator_predictions\.bias", "generator_lm_head.bias"),
    ],
    "megatron": [
        (r"attention\.output\.LayerNorm", "attention.ln"),
        (r"(layer\.\d)\.output\.LayerNorm", r"\1.ln"),
        # After the last block, in place of the one of the embeddings.
        (r"^bert\.embeddings\.LayerNorm", "bert.encoder.ln"),
    ],
    "albert": [
        (r"transformer\.group_0\.inner_group_0", "albert_layer_groups.0.albert_layers.0"),
        (r"attention_1\.(self|output)", "attention"),
        (r"ffn_1\.intermediate\.output\.dense", "ffn_output"),
        (r"ffn_1\.intermediate\.dense", "ffn"),
        (r"(albert_layers\.0\.)LayerNorm_1", r"\1full_layer_layer_norm"),
        (r"(albert_layers\.0\.)LayerNorm", r"\1attention.LayerNorm"),
        (r"^cls\.predictions\.(transform\.)?", "predictions."),
        (r"^bert\.", "albert."),
    ],
}


def hugging_face_shapes(name, config):
    """Names and shapes as Hugging Face's `...ForMaskedLM.save_pretrained` writes them."""
    shapes = {}
    for old, shape in google_shapes(name, config).items():
        # A masked language model has no pooler, and a generator no discriminator.
        if old.startswith(("bert/pooler", "electra/enc", "electra/embeddings_p", "discriminator")):
            continue
        new = old
        for pattern, text in TRANSLATION + TRANSLATIONS.get(name.split("-")[0], []):
            new = re.sub(pattern, text, new)
        shapes[new] = shape[::-1] if old.endswith("kernel") else shape
    return shapes


# Values.


def random_tensors(shapes, seed=0, scale=0.25):
    """The scale is larger than that of an untrained model, so that everything leaves its mark."""
    rng = np.random.default_rng(seed)
    values = {
        name: rng.normal(scale=scale, size=shape).astype("float32")
        for name, shape in sorted(shapes.items())
    }
    norm = re.compile(r"gamma$|(LayerNorm|layer_norm|ln)\.weight$")
    return {name: v + 1 if norm.search(name) else v for name, v in values.items()}


def hugging_face_tensors(name, seed=0):
    config = HUGGING_FACE[name]
    values = random_tensors(hugging_face_shapes(name, config), seed)
    if config["model_type"] == "roformer":
        size = config["hidden_size"] // config["num_attention_heads"]
        angles = np.arange(config["max_position_embeddings"])[:, None]
        angles = angles / 10000 ** (np.arange(0, size, 2) / size)
        table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        values["roformer.encoder.embed_positions.weight"] = table.astype("float32")
    return values


def tensorflow_tensors(name, seed=0):
    return random_tensors(google_shapes(name, TENSORFLOW[name]), seed)


# Files.


def write_safetensors(path, values, dtype=None):
    """Writes arrays; the floats among them as `dtype`, which may be `"bfloat16"`, if given."""
    # Without the format Hugging Face refuses the file.
    header, parts, start = {"__metadata__": {"format": "pt"}}, [], 0
    for name, value in values.items():
        kind = dtype if dtype and value.dtype.kind == "f" else value.dtype.name
        if kind == "bfloat16":
            data = (value.view("uint32") >> 16).astype("uint16").tobytes()
        else:
            data = value.astype(kind).tobytes()
        header[name] = {
            "dtype": re.sub("[a-z]+", lambda m: {"bfloat": "BF"}.get(m[0], m[0][0].upper()), kind),
            "shape": value.shape,
            "data_offsets": [start, start + len(data)],
        }
        parts.append(data)
        start += len(data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head + b"".join(parts))


def as_bfloat16(value):
    """float32, cut to the numbers that bfloat16 has."""
    return (value.view("uint32") & np.uint32(0xFFFF0000)).view("float32")


def write_hugging_face(folder, name, seed=0, values=None, dtype=None):
    """Writes `config.json`, `model.safetensors` and `vocab.txt` into a folder."""
    values = hugging_face_tensors(name, seed) if values is None else values
    _write_texts(folder, "config.json", HUGGING_FACE[name])
    write_safetensors(os.path.join(folder, "model.safetensors"), values, dtype)


def write_tensorflow(folder, name, seed=0, config=None):
    """Writes `bert_config.json`, `bert_model.ckpt.*` and `vocab.txt` into a folder."""
    _write_texts(folder, "bert_config.json", config or TENSORFLOW[name])
    write_tensors(os.path.join(folder, "bert_model.ckpt"), tensorflow_tensors(name, seed))


WRITERS = {"hugging_face": write_hugging_face, "tensorflow": write_tensorflow}


def _write_texts(folder, config_name, config):
    with open(os.path.join(folder, config_name), "w", encoding="utf-8") as file:
        json.dump(config, file)
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(vocabulary(config["vocab_size"])) + "\n")
