"""What all methods share: `tune=`, what trains, the summary, and the files."""

import json
import math
import pathlib
import re
import types

import keras
import numpy as np
import pytest
import safetensors.numpy
from small_bert import vocabulary, write_small_bert

from keras_ptuning import (
    Adapter,
    LoRA,
    PlainText,
    Prefix,
    Prompt,
    Template,
    build_classifier,
    build_ptuning_model,
    build_vat_classifier,
    load_tuned,
)
from keras_ptuning.methods.method import named_weights, to_numpy
from keras_ptuning.tuning import tuned_file

SAVED = pathlib.Path(__file__).parents[1] / "goldens" / "saved"
PATTERN = "[u1][u2][MASK]{text}"
PLAIN = "[MASK]满意。{text}"
LABELS = {"负面": "不", "正面": "很"}
NO_DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
TEXTS = ["书贵", "屏幕很好，喜欢", "服务态度"]
COMBINED = [Prompt("labels"), Prefix(3), LoRA(2), Adapter(4)]
METHODS = {
    "prompt": Prompt(encoder="mlp"),
    "prefix": Prefix(4),
    "lora": LoRA(4),
    "adapter": Adapter(8),
    "all": "all",
    "combined": COMBINED,
}


@pytest.fixture
def make_tuned(make_model, make_template):
    def make(tune=None, pattern=PATTERN, **kwargs):
        return make_model(make_template(pattern, maxlen=24), tune=tune, **kwargs)

    return make


@pytest.fixture
def plain(tokenizer):
    return PlainText(["负面", "正面"], tokenizer, maxlen=24)


def scores(model, texts=TEXTS):
    return to_numpy(model(model.template.encode(list(texts)), training=False))


def all_weights(model):
    layers = [*model.backbone.layers, *filter(None, [getattr(model, "classifier", None)])]
    return {name: v for layer in layers for name, v in named_weights(layer).items()}


def values(variables):
    return {name: to_numpy(v) for name, v in variables.items()}


def moved(model, before):
    return {name for name, v in all_weights(model).items() if (to_numpy(v) != before[name]).any()}


def train(model, reviews, epochs=1, **kwargs):
    data = model.template.dataset(*reviews, shuffle=False, **kwargs)
    return model.fit(data, epochs=epochs, verbose=0).history["loss"]


# What `tune` may be.


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        (None, ["prompt"]),
        ("prompt", ["prompt"]),
        ("lora", ["lora", "prompt"]),
        (Prefix(4), ["prefix", "prompt"]),
        (["prefix", LoRA(2)], ["prefix", "lora", "prompt"]),
        ((Prompt("labels"), "all"), ["prompt", "all"]),
        ([], ["prompt"]),
    ],
)
def test_names_objects_and_lists(make_tuned, tune, expected):
    """The template's tokens that learn do so with each."""
    model = make_tuned(tune)
    assert [method.name for method in model.methods] == expected
    assert list(model.tuned_weights()) == expected


@pytest.mark.parametrize(
    "tune",
    [
        [Prefix(2), Prefix(3)],
        [LoRA(2), LoRA(3, layers="query")],
        [Adapter(8), Adapter(8, "pfeiffer")],
        ["all", "lora"],
        ["all", "all"],
        [Prompt(), Prompt("labels")],
    ],
)
def test_two_methods_on_one_place(make_tuned, tune):
    with pytest.raises(ValueError, match="Two methods cannot share one place"):
        make_tuned(tune)


def test_two_of_a_kind_on_different_places(make_tuned, small_bert, tmp_path):
    model = make_tuned([LoRA(2, layers="query"), LoRA(3, layers=["value"])], PLAIN)
    ranks = {v.path.split("/")[1]: v.shape[-1] for v in model.trainable_variables if "_a" in v.path}
    assert ranks == {"query": 2, "value": 3}
    for i, variable in enumerate(model.trainable_variables):
        variable.assign(np.full(variable.shape, 0.05 * (i + 1), "float32"))
    model.save_tuned(tmp_path / "two.tuned")
    loaded = load_tuned(tmp_path / "two.tuned", *small_bert)
    np.testing.assert_array_equal(scores(loaded), scores(model))


@pytest.mark.parametrize("tune", ["nothing", ["lora", "nothing"], LoRA, 5, [[LoRA()]]])
def test_unknown_methods(make_tuned, tune):
    with pytest.raises(ValueError, match=r"one of \('adapter', 'all', .*'prompt'"):
        make_tuned(tune)


def test_a_prompt_without_tokens_that_learn(make_tuned, small_bert, plain):
    with pytest.raises(ValueError, match=r"no virtual tokens .* no prompt to train"):
        make_tuned("prompt", PLAIN)
    with pytest.raises(ValueError, match="no prompt to train"):
        build_classifier(*small_bert[:2], plain, tune="prompt")


@pytest.mark.parametrize("argument", ["trainable", "prompt_encoder", "prompt_start"])
def test_old_arguments(make_tuned, argument):
    with pytest.raises(ValueError, match=rf"Unknown arguments \['{argument}'\]"):
        make_tuned(**{argument: "all"})


# What trains.


@pytest.mark.parametrize("name", METHODS)
def test_each_method(make_tuned, small_bert, reviews, tmp_path, name):
    """It learns, the rest does not move, the summary has it, and both kinds of files keep it."""
    model = make_tuned(METHODS[name], auxiliary=False)
    before = values(all_weights(model))
    fingerprint = model.fingerprint()
    rate = {"prompt": 0.1, "prefix": 0.1, "all": 1e-3}.get(name, 0.01)
    # All at once also as it is compiled, which takes longer.
    model.compile(keras.optimizers.Adam(rate), run_eagerly=name != "combined")
    losses = train(model, reviews, epochs=3)
    assert losses[-1] < 0.95 * losses[0]

    tuned = {n: v for weights in model.tuned_weights().values() for n, v in weights.items()}
    assert moved(model, before) == set(tuned)
    # Of what is frozen.
    assert model.fingerprint() == fingerprint
    assert {id(v) for v in model.trainable_variables} == {id(v) for v in tuned.values()}

    model.save(tmp_path / "whole.keras")
    model.save_tuned(tmp_path / "a.tuned")
    whole = keras.models.load_model(tmp_path / "whole.keras")
    loaded = load_tuned(tmp_path / "a.tuned", *small_bert, **NO_DROPOUT)
    np.testing.assert_array_equal(scores(whole), scores(model))
    # What a network made is not computed again.
    np.testing.assert_allclose(scores(loaded), scores(model), rtol=1e-6, atol=1e-6)
    # Both continue: the one as if it had never been saved.
    whole.run_eagerly = True
    loaded.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    assert train(loaded, reviews)[-1] < losses[0]
    assert [v.path for v in whole.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    found = [train(m, reviews) for m in (whole, model)]
    np.testing.assert_allclose(*found, rtol=1e-5)
    np.testing.assert_allclose(scores(whole), scores(model), rtol=1e-4, atol=1e-5)


def test_all_of_an_encoder_trains(make_tuned):
    """The cells of its LSTMs, which have one name, too."""
    model = make_tuned(Prompt(encoder="lstm"))
    encoder = model.embedding.encoder
    assert len(encoder.weights) == len(encoder.trainable_variables) == 16
    assert len(model.tuned_weights()["prompt"]) == 17


def test_the_summary(make_tuned, tmp_path):
    model = make_tuned(COMBINED)
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    tuned = model.tuned_weights()
    total = sum(math.prod(v.shape) for weights in tuned.values() for v in weights.values())
    assert f"Trained: {total:,} of " in text
    expected = {"prompt": 2 * 32, "prefix": 2 * 2 * 3 * 32, "lora": 4 * 2 * 32 * 2}
    expected["adapter"] = 4 * (32 * 4 + 4 + 4 * 32 + 32)
    for name, count in expected.items():
        line = next(line for line in lines if line.startswith(f"  {name}: "))
        found = re.search(r"([\d,]+) parameters, ([\d,.]+) KiB", line)
        assert found[1] == f"{count:,}"
        # A prompt has also where it started.
        size = 4 * count * (2 if name == "prompt" else 1)
        assert found[2] == f"{size / 1024:,.1f}"


def test_an_optimizer_for_each_method(make_tuned, reviews, tmp_path):
    """Each trains at its own rate, also after loading."""
    model = make_tuned(["all", "prompt", Prefix(3)], auxiliary=False)
    rates = {"all": 1e-4, "prefix": 1e-2, "prompt": 1e-3}
    # The first step of Adam moves each number by the rate, if its gradient is not tiny.
    model.compile(
        {name: keras.optimizers.Adam(rate) for name, rate in rates.items()}, run_eagerly=True
    )
    tuned = model.tuned_weights()
    before = {name: values(weights) for name, weights in tuned.items()}
    train(model, reviews)
    for name, weights in tuned.items():
        far = max(np.abs(to_numpy(v) - before[name][key]).max() for key, v in weights.items())
        np.testing.assert_allclose(far, rates[name], rtol=0.02)
    model.save(tmp_path / "three.keras")
    loaded = keras.models.load_model(tmp_path / "three.keras")
    loaded.run_eagerly = True
    for one in (model, loaded):
        train(one, reviews)
    for ours, theirs in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        np.testing.assert_allclose(to_numpy(theirs), to_numpy(ours), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "optimizers", [{"prompt": "adam"}, {"prompt": "adam", "lora": "adam", "head": "adam"}, {}]
)
def test_optimizers_by_wrong_names(make_tuned, optimizers):
    with pytest.raises(ValueError, match=r"an optimizer for each of \['lora', 'prompt'\]"):
        make_tuned("lora").compile(optimizers)


def test_default_rates(make_tuned):
    """The smallest of those that the methods recommend, for a model as small as this."""
    for tune, rate in ((Prefix(2), 9.6e-3), ("lora", 1e-3), ("all", 4.8e-4)):
        model = make_tuned(tune)
        model.compile()
        np.testing.assert_allclose(float(model.optimizer.learning_rate), rate, rtol=1e-6)
    model = make_tuned(Prefix(2), PLAIN)
    model.compile()
    np.testing.assert_allclose(float(model.optimizer.learning_rate), 1e-2, rtol=1e-6)
    for size, rate in ((1024, 3.375e-4), (768, 6e-4), (384, 2.4e-3), (192, 9.6e-3)):
        transformer = types.SimpleNamespace(hidden_size=size)
        found = Prompt().default_learning_rate(types.SimpleNamespace(transformer=transformer))
        np.testing.assert_allclose(found, rate, rtol=1e-6)


# Classifiers without a cloze.


@pytest.mark.parametrize("tune", [Prefix(4), LoRA(4)], ids=["prefix", "lora"])
def test_a_classifier(small_bert, plain, reviews, tmp_path, tune):
    """The method and the head train; with a prefix this is P-tuning v2."""
    model = build_classifier(*small_bert[:2], plain, tune=tune, **NO_DROPOUT)
    before = values(all_weights(model))
    model.compile(
        {tune.name: keras.optimizers.Adam(1e-2), "head": keras.optimizers.Adam(1e-2)},
        run_eagerly=True,
    )
    losses = train(model, reviews, epochs=4)
    assert losses[-1] < losses[0]
    tuned = model.tuned_weights()[tune.name]
    assert moved(model, before) == {*tuned, "Classifier/kernel", "Classifier/bias"}
    model.save_tuned(tmp_path / "a.tuned")
    loaded = load_tuned(tmp_path / "a.tuned", *small_bert)
    assert type(loaded) is type(model) and loaded.template.label_names == ["负面", "正面"]
    np.testing.assert_array_equal(scores(loaded), scores(model))
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


def test_a_head_alone(small_bert, plain, tmp_path):
    model = build_classifier(*small_bert[:2], plain, tune=None)
    assert {v.path for v in model.trainable_variables} == {"Classifier/kernel", "Classifier/bias"}
    model.save_tuned(tmp_path / "head.tuned")
    loaded = load_tuned(tmp_path / "head.tuned", *small_bert)
    np.testing.assert_array_equal(scores(loaded), scores(model))


@pytest.mark.parametrize("tune", ["lora", Prefix(3, start="很不")], ids=["lora", "prefix"])
def test_a_classifier_that_learns_from_texts_without_labels(
    small_bert, plain, reviews, tmp_path, tune
):
    model = build_vat_classifier(*small_bert[:2], plain, tune=tune, epsilon=0.3, **NO_DROPOUT)
    before = values(all_weights(model))
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    losses = train(model, reviews, epochs=3, unlabeled=TEXTS)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    trained = {name for name in before if name.startswith(("Classifier/", "Prefix/"))}
    trained |= {name for name in before if "lora_" in name}
    assert moved(model, before) == trained
    model.save_tuned(tmp_path / "vat.tuned")
    loaded = load_tuned(tmp_path / "vat.tuned", *small_bert)
    assert loaded.epsilon == 0.3
    np.testing.assert_array_equal(scores(loaded), scores(model))


# Tuned files.


@pytest.fixture(scope="module")
def trained(small_bert):
    """A model of two methods, with numbers that are not those of its start."""
    template = Template(PATTERN, LABELS, small_bert[2], maxlen=24)
    model = build_ptuning_model(*small_bert[:2], template, tune=[Prompt(), Prefix(3)], **NO_DROPOUT)
    for i, variable in enumerate(model.trainable_variables):
        rng = np.random.default_rng(i)
        variable.assign(rng.normal(size=variable.shape, scale=0.3))
    return model


def rewrite(path, change):
    """Writes a tuned file again, with other contents and the right checksum."""
    tensors, content = tuned_file.read_tuned(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        text = file.metadata()["content"]
    tensors, content = change(tensors, json.loads(text))
    text = json.dumps(content, ensure_ascii=False)
    header = {"format": tuned_file.FORMAT, "content": text}
    header["sha256"] = tuned_file._checksum(tensors, text)
    path.write_bytes(safetensors.numpy.save(tensors, metadata=header))


def test_half_precision(trained, small_bert, tmp_path):
    trained.save_tuned(tmp_path / "a.tuned")
    trained.save_tuned(tmp_path / "half.tuned", dtype="float16")
    sizes = [(tmp_path / name).stat().st_size for name in ("a.tuned", "half.tuned")]
    assert sizes[0] - sizes[1] > 0.45 * 4 * (2 * 2 * 32 + 2 * 2 * 3 * 32)
    loaded = load_tuned(tmp_path / "half.tuned", *small_bert)
    assert {keras.backend.standardize_dtype(v.dtype) for v in loaded.trainable_variables} == {
        "float32"
    }
    np.testing.assert_allclose(scores(loaded), scores(trained), atol=0.02)
    with pytest.raises(ValueError, match="'float32' or 'float16'"):
        trained.save_tuned(tmp_path / "int8.tuned", dtype="int8")


@pytest.mark.parametrize("problem", ["nan", "too large"])
def test_a_save_that_fails_overwrites_nothing(trained, tmp_path, problem):
    path = tmp_path / "a.tuned"
    trained.save_tuned(path)
    before = path.read_bytes()
    prefix = trained.backbone.get_layer("Prefix").prefix
    good = to_numpy(prefix)
    prefix.assign(np.full(prefix.shape, np.nan if problem == "nan" else 1e5, "float32"))
    try:
        with pytest.raises(ValueError, match=r"'prefix/Prefix/prefix' has numbers .* not finite"):
            trained.save_tuned(path, dtype="float32" if problem == "nan" else "float16")
    finally:
        prefix.assign(good)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_another_backbone_or_vocabulary(trained, small_bert, tmp_path):
    path = tmp_path / "a.tuned"
    trained.save_tuned(path)
    (tmp_path / "other").mkdir()
    other = write_small_bert(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="belongs to another checkpoint"):
        load_tuned(path, *other)
    with pytest.raises(ValueError, match="belongs to another vocabulary"):
        load_tuned(path, *small_bert[:2], vocabulary(unused=False))
    with pytest.raises(ValueError, match="leave out `tune`"):
        load_tuned(path, *small_bert, tune="lora")
    with pytest.raises(FileNotFoundError, match="no tuned file"):
        load_tuned(tmp_path / "nothing.tuned", *small_bert)


@pytest.mark.parametrize("damage", ["cut", "cut header", "flipped", "empty", "text"])
def test_damaged_files(trained, small_bert, tmp_path, damage):
    path = tmp_path / "a.tuned"
    trained.save_tuned(path)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-100] ^= 1
    cut = {"cut": len(data) - 300, "cut header": 50, "empty": 0}.get(damage, len(data))
    path.write_bytes(b"not a tuned file" if damage == "text" else data[:cut])
    with pytest.raises(ValueError, match=r"a\.tuned' is damaged or not a tuned file.*`load_model`"):
        load_tuned(path, *small_bert)


def _nan(tensors, content):
    tensors["prefix/Prefix/prefix"][0, 0, 0, 0] = np.nan
    return tensors, content


def _shape_of(name, shape):
    return lambda tensors, content: ({**tensors, name: np.zeros(shape, "float32")}, content)


def _without(name):
    return lambda tensors, content: (
        {key: value for key, value in tensors.items() if key != name},
        content,
    )


def _method(i, **changes):
    def change(tensors, content):
        content["methods"][i] |= changes
        return tensors, content

    return change


def _content(**changes):
    return lambda tensors, content: (tensors, {**content, **changes})


@pytest.mark.parametrize(
    "change",
    [
        _nan,
        _shape_of("prefix/Prefix/prefix", (2, 2, 4, 32)),
        _shape_of("prefix/Prefix/prefix", (0,)),
        _shape_of("prompt/Embedding-Token/prompt", (2, 31)),
        _shape_of("prompt/Embedding-Token/start", (5, 1)),
        _without("prefix/Prefix/prefix"),
        _without("prompt/Embedding-Token/prompt"),
        _method(1, config={"length": 7}),
        _method(1, config={"length": -1}),
        _method(1, config={"length": 10**9}),
        _method(1, config={"size": 3}),
        _method(1, **{"class": "stranger>Method"}),
        _method(1, **{"class": "keras_ptuning>LoRA", "config": {"rank": 10**6}}),
        _method(1, **{"class": "keras_ptuning>Dense"}),
        _content(methods=[]),
        _content(methods="lora"),
        _content(model="Model"),
        _content(options={"normalization": "none"}),
        _content(backbone="0" * 64),
    ],
    ids=[
        "nan",
        "long prefix",
        "no prefix",
        "narrow prompt",
        "start",
        "prefix is missing",
        "prompt is missing",
        "another length",
        "negative length",
        "absurd length",
        "unknown setting",
        "unknown method",
        "absurd rank",
        "no method",
        "no methods",
        "methods are a word",
        "unknown model",
        "unknown option",
        "another backbone",
    ],
)
def test_absurd_files(trained, small_bert, tmp_path, change):
    """Their checksums are right, and yet they load nothing."""
    path = tmp_path / "a.tuned"
    trained.save_tuned(path)
    rewrite(path, change)
    with pytest.raises(
        ValueError, match=r"damaged|not a tuned file|Received|tuning method|belongs"
    ):
        load_tuned(path, *small_bert)


# Files of version 0.1.0.


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The checkpoint of `goldens/record_saved_files.py`, and what it recorded."""
    paths = write_small_bert(tmp_path_factory.mktemp("recorded"))
    return paths, dict(np.load(SAVED / "scores.npz"))


RECORDED = ["书贵", "屏幕很好，喜欢", "服务态度糟糕"]
EXACT = 1e-6 if keras.backend.backend() == "tensorflow" else 1e-5


@pytest.mark.parametrize("name", ["prompt", "all", "classifier"])
def test_old_models(recorded, name):
    model = keras.models.load_model(SAVED / f"{name}.keras")
    np.testing.assert_allclose(scores(model, RECORDED), recorded[1][name], rtol=EXACT, atol=EXACT)
    names = {"prompt": ["prompt"], "all": ["all", "prompt"], "classifier": ["all"]}
    assert [method.name for method in model.methods] == names[name]
    if name == "prompt":
        assert [tuple(v.shape) for v in model.trainable_variables] == [(4, 32)]
    model.compile(run_eagerly=True)
    train(model, (RECORDED, ["负面", "正面", "负面"]))


@pytest.mark.parametrize("name", ["prompt", "lstm"])
def test_old_prompt_files(recorded, name, tmp_path):
    paths, expected = recorded
    model = load_tuned(SAVED / f"{name}.prompt", *paths)
    np.testing.assert_allclose(scores(model, RECORDED), expected[name], rtol=EXACT, atol=EXACT)
    # They become tuned files.
    model.save_tuned(tmp_path / "new.tuned")
    again = load_tuned(tmp_path / "new.tuned", *paths)
    np.testing.assert_array_equal(scores(again), scores(model))


def test_other_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(3, "float32")}))
    with pytest.raises(ValueError, match="its format is None"):
        load_tuned(path, "bert-mini-zh")
