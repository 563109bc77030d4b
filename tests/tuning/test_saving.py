import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from small_bert import CONFIG, vocabulary, write_small_bert

from keras_ptuning import LoRA, Prompt, Template, load_model, load_tuned
from keras_ptuning.models import BERT

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def trained(make_model, make_template, reviews):
    template = make_template()
    model = make_model()
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(template.dataset(*reviews), verbose=0)
    return model


@pytest.mark.graph
def test_whole_model_in_another_process(trained, reviews, tmp_path):
    """Nothing but `import keras_ptuning`: identical bits, and the template comes along.

    Before that, Keras prints the configuration where it does not know the classes of a file. The
    vocabulary is not in there.
    """
    path = str(tmp_path / "model.keras")
    trained.save(path)
    code = f"""
import sys, keras, numpy as np
try:
    keras.models.load_model({path!r})
except TypeError as error:
    print(error, file=sys.stderr)
import keras_ptuning
model = keras.models.load_model({path!r})
scores = model.predict(model.template.dataset({reviews[0]!r}), verbose=0)
np.save({str(tmp_path / "scores.npy")!r}, scores)
print(model.template.decode(scores), len(model.trainable_variables), model.optimizer.iterations)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    error = next(line for line in done.stderr.splitlines() if "Could not locate class" in line)
    assert "class 'ClozeModel'" in error and "keras_ptuning" in error
    assert len(error) < 3000 and vocabulary()[-1] not in done.stderr
    # The configuration by itself still has it.
    again = type(trained).from_config(trained.get_config())
    assert again.template.tokenizer.vocab == vocabulary()
    expected = trained.predict(trained.template.dataset(reviews[0]), verbose=0)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), expected)
    assert str(trained.template.decode(expected)) in done.stdout


@pytest.mark.graph
def test_a_loaded_model_goes_on_training(trained, reviews, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    data = trained.template.dataset(*reviews)
    assert [tuple(v.shape) for v in loaded.trainable_variables] == [(8, 32)]
    losses = []
    for model in (trained, loaded):
        data.epoch = 0
        losses.append(model.fit(data, verbose=0).history["loss"][0])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.graph
def test_what_was_frozen_by_hand_stays_frozen(make_model, make_template, reviews, tmp_path):
    model = make_model(tune="all")
    model.backbone.get_layer("Embedding-Token").trainable = False
    model.compile("adam")
    data = make_template().dataset(*reviews)
    model.fit(data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    assert loaded.optimizer.iterations == model.optimizer.iterations > 0
    before = ops.convert_to_numpy(loaded.embedding.embeddings)
    loaded.fit(data, verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.embedding.embeddings), before)


@pytest.fixture
def by_hand(make_model):
    """Makes a model with weights that were frozen or unfrozen by hand, as a list of names says."""

    def make(options, frozen, unfrozen):
        model = make_model(**options)
        for name in frozen:
            model._own_weights()[name].trainable = False
        for name in unfrozen:
            model.backbone.get_layer(name).trainable = True
        return model

    return make


HEAD = {"tune": "prompt", "normalization": "labels", "classifier": True}


@pytest.mark.parametrize(
    ("options", "frozen", "unfrozen"),
    [
        (HEAD, ["Classifier/Classifier/kernel", "Classifier/Classifier/bias"], []),
        ({"tune": ["prompt", "lora"]}, ["Embedding-Token/prompt"], []),
        ({}, [], ["Embedding-Norm", "MLM-Norm"]),
    ],
)
def test_what_trains_is_saved(by_hand, reviews, tmp_path, options, frozen, unfrozen):
    """With the state of its optimizer, which has the variables of what trains alone."""
    model = by_hand(options, frozen, unfrozen)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(model.template.dataset(*reviews), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    for one in (loaded, type(model).from_config(model.get_config())):
        assert [v.path for v in one.trainable_variables] == [
            v.path for v in model.trainable_variables
        ]
    for found, expected in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (found, expected)))


@pytest.mark.parametrize(
    ("options", "frozen", "trained"),
    [
        (HEAD, ["Classifier/Classifier/kernel", "Classifier/Classifier/bias"], 1),
        ({"tune": ["prompt", "lora"]}, ["Embedding-Token/prompt"], 8),
        # What the encoder made is saved, and the encoder is not.
        ({"tune": Prompt(encoder="mlp")}, [], 1),
    ],
)
def test_what_was_frozen_stays_so_in_a_tuned_file(
    by_hand, small_bert, tmp_path, options, frozen, trained
):
    model = by_hand(options, frozen, [])
    model.save_tuned(tmp_path / "a.tuned")
    loaded = load_tuned(tmp_path / "a.tuned", *small_bert)
    assert len(loaded.trainable_variables) == trained
    assert [k for k, v in loaded._own_weights().items() if not v.trainable] == frozen


@pytest.mark.parametrize("entry", ["frozen", "unfrozen"])
def test_weights_that_are_not_there_are_not_frozen(make_model, entry):
    model = make_model()
    with pytest.raises(ValueError, match=r"file is damaged: it freezes or unfreezes 'Nowhere/w'"):
        type(model).from_config({**model.get_config(), entry: ["Nowhere/w"]})


@pytest.mark.parametrize("given", [None, False, "auto"])
def test_each_backend_compiles_as_it_does_by_default(make_model, tmp_path, given):
    """Unless somebody said otherwise: XLA compiles each length of batch on TensorFlow."""
    model = make_model()
    model.compile() if given is None else model.compile(jit_compile=given)
    config = model.get_compile_config()
    assert "jit_compile" not in config
    # What the default was on another backend, as files of earlier versions have it.
    for theirs in ({}, {"jit_compile": True}, {"jit_compile": False}):
        loaded = make_model()
        loaded.compile_from_config({**config, **theirs})
        assert loaded.jit_compile == model.jit_compile
        assert loaded.get_compile_config() == config


@pytest.mark.parametrize(
    "options",
    [
        {"tune": "all"},
        {"normalization": "labels", "auxiliary": False},
        {"dtype": "mixed_bfloat16"},
        {"dtype": keras.DTypePolicy("mixed_bfloat16")},
        {"keep_tokens": np.arange(CONFIG["vocab_size"])},
    ],
)
def test_options_survive(make_model, make_template, reviews, tmp_path, options):
    model = make_model(**options)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    data = make_template().dataset(reviews[0])
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), model.predict(data, verbose=0))
    for name in ("normalization", "auxiliary"):
        assert getattr(loaded, name) == getattr(model, name)
    assert repr(loaded.methods) == repr(model.methods)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


def test_an_option_of_numpy_is_saved_alone(make_model, small_bert, tmp_path):
    make_model(auxiliary=np.bool_(False)).save_tuned(tmp_path / "a.tuned")
    assert load_tuned(tmp_path / "a.tuned", *small_bert).auxiliary is False


def test_a_global_policy_is_saved(make_model, make_template, reviews, tmp_path):
    data = make_template().dataset(reviews[0])
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), model.predict(data, verbose=0))


def test_weights_alone(trained, make_model, reviews, tmp_path):
    trained.save_weights(tmp_path / "model.weights.h5")
    other = make_model()
    other.load_weights(tmp_path / "model.weights.h5")
    data = trained.template.dataset(reviews[0])
    np.testing.assert_array_equal(other.predict(data, verbose=0), trained.predict(data, verbose=0))


def test_weights_loaded_while_it_trains(make_model, reviews, tmp_path):
    """As `BackupAndRestore` does where a training goes on that was cut off."""

    def lost(epoch, logs):
        if epoch == 1:
            raise OSError("the connection is lost")

    def train(model, *callbacks):
        model.compile(keras.optimizers.Adam(0.01))
        data = model.template.dataset(*reviews, batch_size=8)
        model.fit(data, epochs=3, callbacks=[*callbacks], verbose=0)
        return model.get_weights()

    backup = tmp_path / "backup"
    with pytest.raises(OSError, match="lost"):
        lose = keras.callbacks.LambdaCallback(on_epoch_begin=lost)
        train(make_model(), keras.callbacks.BackupAndRestore(backup), lose)
    found = train(make_model(), keras.callbacks.BackupAndRestore(backup))
    for weights, expected in zip(found, train(make_model()), strict=True):
        np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_merged_for_a_moment_while_it_trains(make_model, reviews):
    model = make_model(tune="lora")
    data, found = model.template.dataset(*reviews, batch_size=8), []

    def predict(epoch, logs):
        model.merge()
        found.append(model.predict(data, verbose=0))
        model.unmerge()

    watch = keras.callbacks.LambdaCallback(on_epoch_end=predict)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(data, epochs=2, callbacks=[watch], verbose=0)
    assert np.abs(found[1] - found[0]).max() > 1e-4
    np.testing.assert_allclose(model.predict(data, verbose=0), found[1], atol=1e-5)


@pytest.mark.parametrize("ending", ["weights.h5", "keras"])
def test_weights_of_another_template(trained, make_model, make_template, reviews, tmp_path, ending):
    """They would fit, and mean something else."""
    path = tmp_path / f"model.{ending}"
    (trained.save_weights if ending == "weights.h5" else trained.save)(path)
    labels = {"负面": "不", "正面": "很"}
    for template, message in (
        (make_template("[u1][u2][u3][u4]书[MASK][u5][u6][u7][u8]{text}"), r"pattern .* instead of"),
        (make_template(labels={"负面": "差", "正面": "好"}), r"labels .*'不'.* instead of .*'差'"),
        (make_template(labels=dict(reversed(labels.items()))), r"labels .* instead of"),
    ):
        other = make_model(template)
        before = [w.copy() for w in other.get_weights()]
        with pytest.raises(ValueError, match=rf"(?s)another template than .*Received: {message}"):
            other.load_weights(path)
        if ending == "weights.h5":
            for now, was in zip(other.get_weights(), before, strict=True):
                np.testing.assert_array_equal(now, was)
    # Where texts are cut makes no difference to weights.
    other = make_model(make_template(maxlen=32))
    other.load_weights(path)
    data = trained.template.dataset(reviews[0])
    shorter = other.template.dataset(reviews[0])
    np.testing.assert_array_equal(
        other.predict(shorter, verbose=0), trained.predict(data, verbose=0)
    )


@pytest.mark.parametrize("merged", [False, True])
def test_weights_that_do_not_fit_are_not_loaded_half(make_model, tmp_path, reviews, merged):
    def make(rank):
        model = make_model(tune=["prompt", LoRA(rank)])
        model.compile(keras.optimizers.Adam(0.01))
        model.fit(model.template.dataset(*reviews), verbose=0)
        return model

    one, other = make(4), make(8)
    one.prompt.assign(ops.convert_to_numpy(one.prompt) + 1)
    one.save_weights(tmp_path / "model.weights.h5")
    before = [*other.get_weights(), *map(ops.convert_to_numpy, other.optimizer.variables)]
    before = [np.array(value) for value in before]
    if merged:
        other.merge()
    with pytest.raises(ValueError, match="shape"):
        other.load_weights(tmp_path / "model.weights.h5")
    assert other.is_merged == merged
    other.unmerge()
    after = [*other.get_weights(), *map(ops.convert_to_numpy, other.optimizer.variables)]
    for now, was in zip(after, before, strict=True):
        np.testing.assert_array_equal(now, was)


def test_weights_that_do_not_say_their_template(trained, make_model, monkeypatch, tmp_path):
    """Files of version 0.1.0 still load."""
    with monkeypatch.context() as patch:
        patch.setattr(type(trained), "save_own_variables", lambda self, store: None)
        trained.save_weights(tmp_path / "old.weights.h5")
    other = make_model()
    other.load_weights(tmp_path / "old.weights.h5")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(m.prompt) for m in (trained, other)))


def test_interrupted_weights_keep_the_old_file(trained, tmp_path, monkeypatch):
    path = tmp_path / "a.weights.h5"
    trained.save_weights(path)
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full_disk)
    with pytest.raises(OSError, match="No space"):
        trained.save_weights(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.weights.h5"]
    with pytest.raises(FileExistsError, match="overwrite"):
        trained.save_weights(path, overwrite=False)


def test_custom_objects_and_no_compilation(make_model, reviews, tmp_path):
    """What is only known while Keras loads."""

    class Own(keras.optimizers.SGD):
        pass

    model = make_model()
    model.compile(Own(0.5))
    model.fit(model.template.dataset(*reviews), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras", custom_objects={"Own": Own})
    assert type(loaded.optimizer) is Own and loaded.compiled
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) > 0
    plain = load_model(tmp_path / "model.keras", compile=False)
    assert not plain.compiled
    data = model.template.dataset(reviews[0])
    np.testing.assert_array_equal(plain.predict(data, verbose=0), model.predict(data, verbose=0))


def test_an_architecture_of_the_users_own_is_not_saved_half(make_model, tmp_path):
    class OtherBERT(BERT):
        pass

    with pytest.raises(ValueError, match="architecture of your own"):
        make_model(model=OtherBERT).save(tmp_path / "model.keras")
    assert not os.listdir(tmp_path)


def test_links_and_folders(trained, tmp_path):
    trained.save_tuned(tmp_path / "a.tuned")
    (tmp_path / "link.tuned").symlink_to("a.tuned")
    trained.save_tuned(tmp_path / "link.tuned")
    assert (tmp_path / "link.tuned").is_symlink()
    with pytest.raises(IsADirectoryError, match="Expected the path of a file"):
        trained.save_tuned(tmp_path)


def test_an_interrupted_save_keeps_the_old_file(trained, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    trained.save(path)
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        trained.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.keras"]
    with pytest.raises(FileExistsError, match="overwrite"):
        trained.save(path, overwrite=False)
    with pytest.raises(ValueError, match=r"ends in \.keras"):
        trained.save(tmp_path / "model.h5")
    with pytest.raises(ValueError, match=r"leave out `zipped`"):
        trained.save(tmp_path / "model.keras", zipped=False)
    with pytest.raises(FileNotFoundError, match="no folder"):
        trained.save(tmp_path / "nowhere" / "model.keras")


def test_prompt_by_itself(trained, small_bert, reviews, tmp_path):
    path = tmp_path / "sentiment.tuned"
    trained.save_tuned(path)
    assert path.stat().st_size < 2 * 8 * 32 * 4 + 1500
    loaded = load_tuned(path, *small_bert, dropout_rate=0.0, attention_dropout_rate=0.0)
    assert loaded.template.pattern == trained.template.pattern
    data = trained.template.dataset(reviews[0])
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), trained.predict(data, verbose=0))
    loaded.compile()
    loaded.fit(loaded.template.dataset(*reviews), verbose=0)


def test_prompt_of_another_checkpoint_is_refused(trained, small_bert, tmp_path):
    path = tmp_path / "sentiment.tuned"
    trained.save_tuned(path)
    (tmp_path / "other").mkdir()
    other = write_small_bert(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"belongs to another checkpoint than .*other"):
        load_tuned(path, *other)
    swapped = vocabulary()
    swapped[30], swapped[31] = swapped[31], swapped[30]
    with pytest.raises(ValueError, match="belongs to another vocabulary"):
        load_tuned(path, *small_bert[:2], swapped)


def test_damaged_prompts(trained, small_bert, tmp_path):
    path = tmp_path / "sentiment.tuned"
    trained.save_tuned(path)
    whole = path.read_bytes()
    flipped = [bytearray(whole), bytearray(whole)]
    flipped[0][-9] ^= 1  # in the vectors
    flipped[1][whole.index("正面".encode())] ^= 1  # in a label
    cut = [b"", whole[:5], whole[: len(whole) // 2], whole[:-1], b"x" * len(whole)]
    for content in (*cut, *flipped):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"sentiment\.tuned' is damaged"):
            load_tuned(path, *small_bert)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tuned"):
        load_tuned(tmp_path / "nowhere.tuned", *small_bert)


def test_a_prompt_of_a_thawed_model_is_not_saved_alone(trained, tmp_path):
    trained.backbone.get_layer("MLM-Norm").trainable = True
    with pytest.raises(ValueError, match="Other weights train"):
        trained.save_tuned(tmp_path / "x.tuned")


def test_nothing_is_not_saved(make_model, make_template, tmp_path):
    with pytest.raises(ValueError, match=r"nothing to save.*has no virtual tokens"):
        make_model(make_template("[MASK]好{text}")).save_tuned(tmp_path / "x.tuned")
    assert not os.listdir(tmp_path)


def test_fingerprint_ignores_the_prompt_only(make_model, small_bert):
    model = make_model()
    fingerprint = model.fingerprint()
    model.prompt.assign(ops.convert_to_numpy(model.prompt) + 1)
    assert model.fingerprint() == fingerprint == make_model().fingerprint()
    bias = model.backbone.get_layer("MLM-Bias").bias
    bias.assign(np.arange(CONFIG["vocab_size"], dtype="float32"))
    assert model.fingerprint() != fingerprint


def test_word_level_template_survives(make_model, small_bert, reviews, tmp_path):
    jieba = pytest.importorskip("jieba")
    from keras_ptuning import Tokenizer

    template = Template(
        "[u1][MASK]{text}",
        {0: "不", 1: "很"},
        Tokenizer(small_bert[2], pre_tokenize=jieba.lcut),
        64,
    )
    model = make_model(template)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.template.tokenizer.pre_tokenize == jieba.lcut


def test_a_checkpoint_says_how_its_texts_are_read(make_model, tmp_path):
    """Other libraries would take the tokenizer of the architecture."""
    model = make_model()
    model.save_checkpoint(tmp_path)
    with open(tmp_path / "tokenizer_config.json", encoding="utf-8") as file:
        assert json.load(file) == {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    # Again, into the same folder.
    model.save_checkpoint(tmp_path)
