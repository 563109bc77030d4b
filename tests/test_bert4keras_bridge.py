"""The bridge to bert4keras, and the page that ports a script of it.

What runs on bert4keras does so in one process of its own, with the variables it needs.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import small_bert

import keras_ptuning

PAGE = pathlib.Path(__file__).absolute().parents[1] / "docs" / "porting.md"
SCRIPT = r'''
import json, runpy, sys
import keras
import numpy as np
import keras_ptuning
from keras_ptuning import Template, bert4keras as bridge
import bert4keras.models
import tf_keras

CONFIG, CHECKPOINT, VOCAB, FOLDER, PLAIN_VOCAB = sys.argv[1:]
LABELS = {"负面": "不", "正面": "很"}
MASKED = "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}"
CAUSAL = "[u1][u2][u3][u4]{text}[u5][u6][u7][u8][MASK]"
TEXTS = [("书贵" if i % 2 else "屏幕房间") * (1 + i % 5) for i in range(24)]
NAMES = ["正面" if i % 2 else "负面" for i in range(24)]
NO_DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
results, messages = {}, {}


def build_both(template, config=CONFIG, checkpoint=CHECKPOINT, **kwargs):
    models = []
    for build in (bridge.build_ptuning_model, keras_ptuning.build_ptuning_model):
        if build is keras_ptuning.build_ptuning_model:
            kwargs.pop("model", None)
        # Additional tokens start from NumPy's seed.
        np.random.seed(0)
        models.append(build(config, checkpoint, template, **NO_DROPOUT, **kwargs))
    return models


def compile_both(models, name, rate):
    for model, library in zip(models, (tf_keras, keras)):
        # Eagerly, which needs no tracing; the page's scripts run as graphs.
        model.compile(getattr(library.optimizers, name)(rate), run_eagerly=True)


def frozen_weights(model):
    layers = model.backbone.layers
    return [w.numpy() for l in layers for w in l.weights if w is not model.prompt]


def predict_both(name, template, models):
    data = template.dataset(TEXTS, batch_size=10)
    results[f"{name}-scores"] = [m.predict(data, verbose=0) for m in models]


def steps(name, template, mask_rate=None, **kwargs):
    """Twenty steps of Adam on the same batches."""
    models = theirs, ours = build_both(template, **kwargs)
    compile_both(models, "Adam", 6e-4)
    before = frozen_weights(theirs)
    dataset = template.dataset(TEXTS, NAMES, batch_size=6, mask_rate=mask_rate)
    prompts = [[np.array(m.prompt) for m in models]]
    losses = []
    for epoch in range(5):
        for x, y in (dataset[i] for i in range(len(dataset))):
            ours.reset_metrics()
            losses.append([m.train_on_batch(x, y, return_dict=True)["loss"] for m in models])
            prompts.append([np.array(m.prompt) for m in models])
        dataset.on_epoch_end()
    results[f"{name}-losses"], results[f"{name}-prompts"] = losses, prompts
    predict_both(name, template, models)
    after = frozen_weights(theirs)
    results[f"{name}-changed"] = sum((a != b).any() for a, b in zip(before, after, strict=True))
    results[f"{name}-frozen"] = sum(a.size for a in after)
    results[f"{name}-slots"] = sorted(v.shape.num_elements() for v in theirs.optimizer.variables)
    return models


def fits(name, template, optimizer="SGD", **kwargs):
    """Two epochs of `fit`; with SGD, since each Keras has its own Adam for sparse gradients."""
    models = build_both(template, **kwargs)
    compile_both(models, optimizer, 0.05)
    histories = []
    for model in models:
        dataset = template.dataset(TEXTS, NAMES, batch_size=10)
        history = model.fit(dataset, validation_data=dataset, epochs=2, verbose=0).history
        assert dataset.epoch == 2
        histories.append([history[k] for k in ("loss", "accuracy", "val_loss", "val_accuracy")])
    results[f"{name}-histories"] = histories
    predict_both(name, template, models)
    return models


masked = Template(MASKED, LABELS, VOCAB, maxlen=40)
causal = Template(CAUSAL, LABELS, VOCAB, maxlen=40, causal=True)
theirs, ours = steps("masked", masked)
steps("plain", masked, mask_rate=0.0)
lm_theirs, lm_ours = steps("causal", causal, application="lm")
fits("all", masked, tune="all")
# No [unused] tokens, words of several tokens.
long_words = {"负面": "不好", "正面": ["很", "满意"]}
fits("beyond", Template("[u1][u30]{text}[MASK][MASK]", long_words, PLAIN_VOCAB, 40))
learned_words = {"负面": "[v1]", "正面": ["很", "[v2]"]}
fits("learned", Template("[u1]{text}[MASK]", learned_words, VOCAB, 40))
# The arrays of `encode` are in the order of the texts.
results["order"] = [theirs.predict(masked.encode(TEXTS), verbose=0), results["masked-scores"][0]]
theirs.save_tuned(f"{FOLDER}/masked.tuned")
lm_theirs.save_tuned(f"{FOLDER}/causal.tuned")

# Weights, copied both ways; a prompt into a prompt, or into the rows of the table.
ids = np.array([[22, *range(1, 9), 30, 31, 24, 32, 23, 0, 0]])
inputs = [ids, np.zeros_like(ids)]


def logits(model):
    return np.array(model(inputs, training=False))[ids != 0]


def plain(library, checkpoint=None):
    return library.build_transformer_model(CONFIG, checkpoint, with_mlm="linear")


origin, back = plain(bert4keras.models, CHECKPOINT), plain(bert4keras.models)
ours_plain = plain(keras_ptuning)
bridge.copy_weights(origin, ours_plain)
bridge.copy_weights(ours_plain, back)
results["copied"] = [logits(m) for m in (origin, ours_plain, back)]
into_rows, rows_back = plain(keras_ptuning), plain(bert4keras.models)
bridge.copy_weights(theirs, into_rows)
bridge.copy_weights(ours, rows_back)
results["copied-prompt"] = [logits(m) for m in (into_rows, rows_back)]
fresh_theirs, fresh_ours = build_both(masked, checkpoint=None)
bridge.copy_weights(ours, fresh_theirs)
bridge.copy_weights(theirs, fresh_ours)
arrays = masked.encode(TEXTS)
results["copied-tuned"] = [m.predict(arrays, verbose=0) for m in (fresh_theirs, fresh_ours)]
results["copied-start"] = [fresh_theirs.embedding.start, theirs.embedding.start]
from_rows = build_both(masked, checkpoint=None)
bridge.copy_weights(into_rows, from_rows[0])
bridge.copy_weights(rows_back, from_rows[1])
results["copied-from-rows"] = [m.predict(arrays, verbose=0) for m in from_rows]
prints = [m.fingerprint() for m in (theirs, ours, fresh_theirs, fresh_ours)]
messages["fingerprints"] = prints + [m.fingerprint() for m in (lm_theirs, lm_ours)]


def error_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (ValueError, TypeError) as error:
        return str(error)
    return "no error"


smaller = json.load(open(CONFIG))
smaller["intermediate_size"] = 32
small = keras_ptuning.build_transformer_model(smaller)
weights = [np.array(w) for w in small.weights]
messages["shape"] = error_of(bridge.copy_weights, origin, small)
shallow = bert4keras.models.build_transformer_model(CONFIG, num_hidden_layers=1)
messages["missing"] = error_of(bridge.copy_weights, shallow, small)
unlike = Template("[u30]{text}[MASK]", LABELS, VOCAB, 40)
unlike = bridge.build_ptuning_model(CONFIG, CHECKPOINT, unlike)
messages["beyond"] = error_of(bridge.copy_weights, unlike, plain(keras_ptuning))
tune = keras_ptuning.Prompt(encoder="mlp")
encoded = keras_ptuning.build_ptuning_model(CONFIG, CHECKPOINT, masked, tune=tune)
messages["encoder"] = error_of(bridge.copy_weights, theirs, encoded)
now = zip(small.weights, weights, strict=True)
results["untouched"] = all((np.array(w) == v).all() for w, v in now)

# What the bridge refuses.
def refused(*args, **kwargs):
    kwargs = {"config_path": CONFIG, "checkpoint_path": CHECKPOINT, "template": masked, **kwargs}
    return error_of(bridge.build_ptuning_model, **kwargs)


messages["candidates"] = refused(template=Template("{text}[MASK]", None, VOCAB, 40))
several = Template("[u1]{text}[MASK][MASK]", long_words, VOCAB, 40, causal=True)
messages["several"] = refused(template=several, application="lm")
messages["application"] = refused(template=causal)
messages["template"] = refused(template="[MASK]")
messages["tune"] = refused(tune="some")
messages["reserved"] = refused(with_mlm=True)
messages["vocabulary"] = refused(template=Template(MASKED, LABELS, "bert-mini-zh", 40))
messages["positions"] = refused(template=Template(MASKED, LABELS, VOCAB, 65))
messages["tuned_ids"] = error_of(bridge.PtuningEmbedding, 9, 4, [1, 1])
messages["other template"] = error_of(theirs.predict, causal.dataset(TEXTS))
messages["no labels"] = error_of(theirs.fit, masked.dataset(TEXTS))
messages["unlabeled"] = error_of(theirs.fit, masked.dataset(TEXTS, NAMES, unlabeled=TEXTS))
messages["loss"] = error_of(theirs.compile, loss="mse")
words = bridge.build_ptuning_model(CONFIG, CHECKPOINT, Template("{text}[MASK]", LABELS, VOCAB, 40))
words.compile()
messages["nothing"] = error_of(words.fit, words.template.dataset(TEXTS, NAMES))
messages["no prompt"] = error_of(words.save_tuned, f"{FOLDER}/no.tuned")

# The embedded checkpoints; another architecture.
mini = Template(MASKED, LABELS, "bert-mini-zh", 40)
x = mini.encode(TEXTS[:4])
results["mini"] = [m.predict(x, verbose=0) for m in build_both(mini, "bert-mini-zh", None)]
nezha = bridge.build_ptuning_model(CONFIG, None, causal, model="nezha", application="lm")
nezha.compile(run_eagerly=True)
nezha.fit(causal.dataset(TEXTS, NAMES), verbose=0)
results["nezha"] = nezha.predict(causal.dataset(TEXTS), verbose=0)

# The page, with the layer in a model of bert4keras's own.
layer = runpy.run_path(f"{FOLDER}/layer.py")
results["layer"] = [logits(layer["model"]), logits(plain(bert4keras.models, CHECKPOINT))]
results["layer"][1] = np.exp(results["layer"][1])
results["layer"][1] /= results["layer"][1].sum(axis=-1, keepdims=True)
results["layer-trainable"] = [w.shape for w in layer["model"].trainable_weights]
# The layer alone, since bert4keras's activations cannot be loaded from a file.
tokens = tf_keras.Input((None,))
embedding = bridge.PtuningEmbedding(120, 32, [5, 6, 130], mask_zero=True)
x = embedding(embedding(tokens), mode="dense")
embedding.start_from(np.random.normal(size=(3, 32)))
embedding.table_trainable = False
to_save = tf_keras.Model(tokens, x)
some = np.array([[4, 5, 6, 130, 0]])
for name in ("saved.h5", "saved.keras"):
    to_save.save(f"{FOLDER}/{name}")
    objects = {"PtuningEmbedding": bridge.PtuningEmbedding}
    loaded = tf_keras.models.load_model(f"{FOLDER}/{name}", objects, compile=False)
    results[name] = [np.array(to_save(some)), np.array(loaded(some))]
    results[f"{name}-trainable"] = [w.shape for w in loaded.trainable_weights]
page = runpy.run_path(f"{FOLDER}/bridge.py")
results["page-scores"], results["page-accuracy"] = page["scores"], page["accuracy"]

# Keras 3 is still itself.
import keras.layers, keras.backend
has_layer = str("ReversibleEmbedding" in dir(keras.layers))
messages["keras"] = [keras.__version__, has_layer, tf_keras.__version__]
ours.save(f"{FOLDER}/native.keras")
loaded = keras.models.load_model(f"{FOLDER}/native.keras")
results["native"] = [m.predict(arrays, verbose=0) for m in (ours, loaded)]
np.savez(f"{FOLDER}/results.npz", **results)
json.dump(messages, open(f"{FOLDER}/messages.json", "w"))
'''


def page_script(name, values):
    """The script of that name on the page, with other values of its constants."""
    code = re.search(
        rf"<!-- script: {name} -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.S
    )
    code = code[1]
    for constant, value in values.items():
        code = re.sub(
            rf"^{constant} = .*$", lambda _, line=f"{constant} = {value!r}": line, code, flags=re.M
        )
    return code


@pytest.fixture(scope="module")
def folder(small_bert, tmp_path_factory):
    """A folder with the page's scripts, on tiny data."""
    folder = tmp_path_factory.mktemp("bridge")
    texts = [("书贵" if i % 2 else "屏幕") * (1 + i % 5) for i in range(24)]
    lines = "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts))
    for split in ("train", "valid", "test"):
        (folder / f"sentiment.{split}.data").write_text(lines, "utf-8")
    values = dict(zip(("CONFIG", "CHECKPOINT", "VOCAB"), map(str, small_bert), strict=True))
    values |= {"DATA": str(folder), "LABELED": 16, "MAXLEN": 40, "EPOCHS": 2, "HIDDEN": 32}
    for name in ("bridge", "native", "layer"):
        values["PROMPT"] = str(folder / f"{name}-page.tuned")
        (folder / f"{name}.py").write_text(page_script(name, values), "utf-8")
    return folder


@pytest.fixture(scope="module")
def done(small_bert, folder):
    """What the script above computed, and the messages of the errors it made."""
    if not all(importlib.util.find_spec(name) for name in ("bert4keras", "tf_keras")):
        pytest.skip("bert4keras and tf_keras are not installed")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the bridge runs on TensorFlow")
    plain_vocab = folder / "plain_vocab.txt"
    plain_vocab.write_text("\n".join(vocabulary_without_unused()) + "\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, small_bert), str(folder), str(plain_vocab)],
        env={**os.environ, "TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    messages = json.loads((folder / "messages.json").read_text("utf-8"))
    return dict(np.load(folder / "results.npz")), messages


def vocabulary_without_unused():
    return small_bert.vocabulary(unused=False)


@pytest.fixture
def results(done):
    return done[0]


@pytest.fixture
def messages(done):
    return done[1]


@pytest.mark.parametrize("name", ["masked", "plain", "causal"])
def test_the_same_prompt(results, name):
    """Twenty steps of Adam, with the auxiliary task and without, masked and causal."""
    theirs, ours = results[f"{name}-losses"].T
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    theirs, ours = np.moveaxis(results[f"{name}-prompts"], 1, 0)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    moved = np.abs(theirs[-1] - theirs[0])
    assert moved.max() > 5e-3
    assert np.median(moved) > 1e-3


@pytest.mark.parametrize("name", ["all", "beyond", "learned"])
def test_fit(results, name):
    """All weights train; tokens beyond the vocabulary; long words; label words that learn."""
    theirs, ours = results[f"{name}-histories"]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    # Of the validation, which masks nothing.
    assert ours[2, 1] < ours[2, 0] - 1e-3


@pytest.mark.parametrize("name", ["masked", "plain", "causal", "all", "beyond", "learned"])
def test_the_same_predictions(results, name):
    theirs, ours = results[f"{name}-scores"]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    assert ours.std() > 1e-2


@pytest.mark.parametrize("name", ["masked", "plain", "causal"])
def test_only_the_prompt_trains(results, name):
    assert results[f"{name}-frozen"] > 20_000
    assert results[f"{name}-changed"] == 0
    # The step, and two moments of eight rows.
    assert results[f"{name}-slots"].tolist() == [1, 8 * 32, 8 * 32]


def test_predictions_are_in_order(results):
    np.testing.assert_allclose(*results["order"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["masked", "causal"])
def test_native_load_tuned(results, small_bert, folder, name):
    config, checkpoint, vocab = small_bert
    kwargs = {"application": "lm"} if name == "causal" else {}
    model = keras_ptuning.load_tuned(folder / f"{name}.tuned", config, checkpoint, vocab, **kwargs)
    texts = [("书贵" if i % 2 else "屏幕房间") * (1 + i % 5) for i in range(24)]
    scores = model.predict(model.template.dataset(texts), verbose=0)
    np.testing.assert_allclose(scores, results[f"{name}-scores"][0], rtol=0, atol=1e-5)
    assert np.abs(model.embedding.start - results[f"{name}-prompts"][0, 0]).max() == 0


def test_copy_weights(results, messages):
    origin, native, back = results["copied"]
    np.testing.assert_allclose(native, origin, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(back, origin)
    assert origin.std() > 0.1
    prints = messages["fingerprints"]
    assert len(set(prints[:4])) == 1
    assert prints[4] == prints[5]


def test_copy_weights_takes_the_prompt_along(results):
    tuned = results["copied-prompt"]
    np.testing.assert_allclose(*tuned, rtol=0, atol=1e-4)
    assert np.abs(tuned[0] - results["copied"][0]).max() > 1e-2
    order = results["order"][0]
    for scores in (*results["copied-tuned"], *results["copied-from-rows"]):
        np.testing.assert_allclose(scores, order, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(*results["copied-start"])


def test_copy_weights_all_or_nothing(results, messages):
    assert results["untouched"]
    assert "(32, 64), (64,), (64, 32), (32,)" in messages["shape"]
    assert "'Transformer-0-FeedForward' has weights of the shapes" in messages["shape"]
    assert "no layers ['Transformer-1-MultiHeadSelfAttention'" in messages["missing"]
    assert "[120] in only one of them" in messages["beyond"]
    assert "without an encoder" in messages["encoder"]


@pytest.mark.parametrize(
    "name, words",
    [
        ("candidates", "no place for candidates"),
        ("several", "no place for label words of several tokens in a causal template"),
        ("application", "needs application='lm'. Received: application='encoder'"),
        ("template", "must be a `keras_ptuning.Template`. Received: template='[MASK]'"),
        ("tune", "Received: tune='some'"),
        ("reserved", "sets ['with_mlm'] itself"),
        ("vocabulary", "and the model 120 embeddings"),
        ("positions", "Use `maxlen=64` or less"),
        ("tuned_ids", "Received: tuned_ids=[1, 1]"),
        ("other template", "another template than the model's"),
        ("no labels", "one label for each text"),
        ("unlabeled", "`keras_ptuning.build_ptuning_model` can train"),
        ("loss", "Received: loss='mse'"),
        ("nothing", 'with `tune="all"`'),
        ("no prompt", "it has no virtual tokens"),
    ],
)
def test_errors(messages, name, words):
    assert words in messages[name]


def test_other_checkpoints(results):
    theirs, ours = results["mini"]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    assert results["nezha"].shape == (24, 2)
    assert np.isfinite(results["nezha"]).all()


def test_only_the_layer(results):
    """The forward pass of bert4keras's own layer; and saved with tf_keras, in both formats."""
    np.testing.assert_allclose(*results["layer"], rtol=0, atol=1e-6)
    for name in ("saved.h5", "saved.keras"):
        np.testing.assert_allclose(*results[name], rtol=0, atol=1e-6)
        assert results[f"{name}-trainable"].tolist() == [[3, 32]]
    assert results["layer-trainable"].tolist() == [[8, 32]]


def test_keras_is_still_itself(results, messages):
    version, has_layer, tf_keras_version = messages["keras"]
    assert (version, has_layer) == (keras.__version__, "True")
    assert tf_keras_version.startswith("2.")
    np.testing.assert_allclose(*results["native"], rtol=0, atol=1e-6)


def test_page(results, folder, capsys):
    """Both scripts of the page run; dropout is on, so they learn alike, and not the same."""
    native = {}
    exec(compile((folder / "native.py").read_text("utf-8"), "native.py", "exec"), native)
    assert "test accuracy: " in capsys.readouterr().out
    np.testing.assert_allclose(native["scores"], results["page-scores"], rtol=0, atol=0.1)
    assert 0 <= results["page-accuracy"] <= 1
    for name in ("bridge", "native"):
        assert (folder / f"{name}-page.tuned").exists()


def test_steps_of_the_page():
    """What the page shows step by step is in one of the complete scripts, or in both."""
    scripts = {name: page_script(name, {}) for name in ("bridge", "native")}
    steps = PAGE.read_text("utf-8").split("## Step by step")[1].split("## Moving weights")[0]
    blocks = re.findall(r"```python\n(.*?)```", steps, re.DOTALL)
    assert len(blocks) > 10
    for block in blocks:
        assert any(block in script for script in scripts.values()), block


@pytest.mark.parametrize("names", [("TF_KERAS",), ("TF_KERAS", "TF_USE_LEGACY_KERAS")])
def test_the_variables_are_asked_for(monkeypatch, names):
    for name in ("TF_KERAS", "TF_USE_LEGACY_KERAS"):
        monkeypatch.setenv(name, "1")
    for name in names:
        monkeypatch.delenv(name)
    with pytest.raises(ImportError) as error:
        importlib.import_module("keras_ptuning.bert4keras")
    if keras.backend.backend() == "tensorflow":
        assert f"Not set: {' and '.join(names)}." in str(error.value)
    assert "pip install --no-deps bert4keras==0.11.5 tf-keras" in str(error.value)
    assert "TF_KERAS=1 TF_USE_LEGACY_KERAS=1" in str(error.value)


def test_a_missing_package_is_asked_for(monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the bridge runs on TensorFlow")
    for name in ("TF_KERAS", "TF_USE_LEGACY_KERAS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setitem(sys.modules, "bert4keras", None)
    with pytest.raises(ImportError, match=r"pip install --no-deps bert4keras==0\.11\.5 tf-keras"):
        importlib.import_module("keras_ptuning.bert4keras")
    assert sys.modules["keras"] is keras


FOLDERS = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import small_checkpoints
import keras_ptuning
from keras_ptuning import bert4keras as bridge
import bert4keras.models
for name in ("bert", "albert", "nezha", "roformer"):
    folder = pathlib.Path(sys.argv[2]) / name
    folder.mkdir()
    small_checkpoints.write_hugging_face(folder, name)
    # bert4keras has one epsilon, and one distance.
    config = json.loads((folder / "config.json").read_text())
    config |= {"layer_norm_eps": 1e-12, "max_relative_position": 64}
    (folder / "config.json").write_text(json.dumps(config))
    labels = {"a": "不", "b": "很"}
    template = keras_ptuning.Template("[u1][MASK]{text}", labels, folder, maxlen=32)
    x = template.encode(["书很好", "屏幕"])
    models = [m.build_ptuning_model(folder, template=template) for m in (bridge, keras_ptuning)]
    theirs, ours = (np.asarray(model.predict(x, verbose=0)) for model in models)
    assert np.abs(theirs - ours).max() < 1e-5, name

values = small_checkpoints.hugging_face_tensors("bert")
words = "bert.embeddings.word_embeddings.weight"
key = "bert.encoder.layer.1.attention.self.key.bias"
head, tasks = "cls.predictions.decoder.weight", "bert.embeddings.task_type_embeddings.weight"
without = {n: v for n, v in values.items() if n != key}
broken = {
    "table of its own": {**values, head: values[words] + 1},
    "not of the architecture 'bert'": {**values, tasks: values[words][:3]},
    f"Missing: {key}": without,
    "has the shape (8,)": {**values, key: values[key][:8]},
    "not finite": {**values, key: values[key] * np.nan},
}
there = pathlib.Path(sys.argv[2]) / "broken"
there.mkdir()
def error_of(**kwargs):
    try:
        bridge.build_ptuning_model(there, template=template, **kwargs)
    except ValueError as error:
        return str(error)
    return "no error"
for message, changed in broken.items():
    small_checkpoints.write_hugging_face(there, "bert", values=changed)
    assert message in error_of(), message
small_checkpoints.write_hugging_face(there, "bert")
arguments = {
    "has no arguments ['dropuot_rate']": {"dropuot_rate": 0.2},
    "has no arguments ['layer_norm_eps', 'norm_epsilon']": {"norm_epsilon": 1, "layer_norm_eps": 1},
    "not of the architecture 'nezha'": {"model": "nezha"},
    "no error": {"hidden_act": "gelu_python", "dropout_rate": 0.1, "num_hidden_layers": 1},
}
for message, kwargs in arguments.items():
    assert message.replace("has no", "bert4keras has no") in error_of(**kwargs), message
written = json.loads((there / "config.json").read_text())
(there / "config.json").write_text(json.dumps({**written, "num_hidden_layers": 1}))
assert "num_hidden_layers=1, and the checkpoint has more" in error_of()
(there / "config.json").write_text(json.dumps(written))
models = [
    m.build_ptuning_model(there, template=template, hidden_act="gelu_new")
    for m in (bridge, keras_ptuning)
]
theirs, ours = (np.asarray(model.predict(x, verbose=0)) for model in models)
assert np.abs(theirs - ours).max() < 1e-5

bad = {"brt": "Unknown architecture", "electra": "On the bridge a model is one of"}
for name, message in bad.items():
    try:
        bridge.build_ptuning_model(folder, template=template, model=name)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(name)
# A class of bert4keras, whose weights it finds itself.
for path, message in ((None, "give the path"), ("here", "no TensorFlow checkpoint")):
    try:
        bridge.build_ptuning_model(folder, path, template, model=bert4keras.models.BERT)
    except (ValueError, FileNotFoundError) as error:
        assert message in str(error), error
    else:
        raise AssertionError(path)
for change in ({"layer_norm_eps": 1e-3}, {"model_type": "nezha", "max_relative_position": 8}):
    try:
        bridge.build_ptuning_model({**config, **change}, None, template)
    except ValueError as error:
        assert "other numbers" in str(error), error
    else:
        raise AssertionError(change)
"""


def test_folders_of_hugging_face(done, tmp_path):
    """What bert4keras does not read by itself; and what it would read wrongly."""
    here = str(pathlib.Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", FOLDERS, here, str(tmp_path)],
        env={**os.environ, "TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
