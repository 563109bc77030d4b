"""LoRA: low-rank updates that start at nothing, and merge."""

import json

import keras
import numpy as np
import pytest

from keras_ptuning import LoRA, build_ptuning_model, build_transformer_model, load_tuned
from keras_ptuning.methods.method import named_weights, to_numpy
from keras_ptuning.tuning.tuned_file import read_tuned

pytestmark = pytest.mark.usefixtures("eagerly")

PLAIN = "[MASK]满意。{text}"


@pytest.fixture
def make_lora(make_model, make_template):
    def make(tune="lora", pattern=PLAIN, **kwargs):
        return make_model(make_template(pattern, maxlen=24), tune=tune, **kwargs)

    return make


def scores(model, texts=("书贵", "屏幕很好，喜欢")):
    return to_numpy(model(model.template.encode(list(texts)), training=False))


def train(model, reviews, epochs=1, optimizer=None):
    if optimizer is not None:
        model.compile(optimizer, run_eagerly=True)
    model.fit(model.template.dataset(*reviews), epochs=epochs, verbose=0)


def all_weights(model):
    return {
        name: to_numpy(v)
        for layer in model.backbone.layers
        for name, v in named_weights(layer).items()
    }


def test_untrained_is_the_pretrained_model(make_lora, make_model, make_template):
    model = make_lora(LoRA(4, layers=["query", "key", "value", "output", "inner", "outer"]))
    base = make_model(make_template(PLAIN, maxlen=24))
    np.testing.assert_array_equal(scores(model), scores(base))
    assert model.fingerprint() == base.fingerprint()
    assert len(model.trainable_variables) == 2 * 6 * 2


def test_merging(make_lora, reviews):
    """The same scores with one kernel; unmerged, the same bits as before; no training between."""
    model = make_lora(LoRA(4, layers=["query", "value", "outer", "MLM-Dense"]))
    untrained = scores(model)
    train(model, reviews, optimizer=keras.optimizers.Adam(1e-2))
    before, weights = scores(model), all_weights(model)
    assert np.abs(before - untrained).max() > 0.01
    model.merge()
    merged = scores(model)
    np.testing.assert_allclose(merged, before, rtol=1e-5, atol=1e-5)
    assert (merged != before).any()
    np.testing.assert_allclose(
        model.predict(model.template.encode(["书贵", "屏幕很好，喜欢"]), verbose=0),
        before,
        atol=1e-5,
    )
    for training in (
        lambda: train(model, reviews),
        lambda: model.train_on_batch(*model.template.dataset(*reviews)[0]),
    ):
        with pytest.raises(ValueError, match="unmerge"):
            training()
    model.unmerge()
    np.testing.assert_array_equal(scores(model), before)
    for name, value in all_weights(model).items():
        np.testing.assert_array_equal(value, weights[name])
    train(model, reviews)
    assert np.abs(scores(model) - before).max() > 1e-3


def test_nothing_else_moves(make_lora, reviews):
    model = make_lora(LoRA(4))
    before = all_weights(model)
    # The first step moves the second matrix alone: the gradient of the first one is 0.
    train(model, reviews, 2, optimizer=keras.optimizers.Adam(1e-2))
    moved = {name for name, v in all_weights(model).items() if (v != before[name]).any()}
    assert moved == {
        f"Transformer-{i}-MultiHeadSelfAttention/{name}/lora_kernel_{x}"
        for i in range(2)
        for name in ("query", "value")
        for x in "ab"
    }


def test_layers_that_do_not_exist(make_lora):
    """The message has those that do."""
    with pytest.raises(ValueError, match=r"no dense layers \['queries'\].*MLM-Dense.*inner.*query"):
        make_lora(LoRA(layers=["query", "queries"]))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rank": 0}, "`rank` must be"),
        ({"rank": 1.5}, "`rank` must be"),
        ({"alpha": 0}, "`alpha` must be a number above 0"),
        ({"alpha": True}, "`alpha` must be a number above 0"),
        ({"alpha": float("inf")}, "`alpha` must be a number above 0"),
        ({"layers": 5}, "`layers` must be names"),
        ({"layers": []}, "`layers` must be names"),
        ({"layers": [3]}, "`layers` must be names"),
    ],
)
def test_bad_settings(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        LoRA(**kwargs)


def test_numbers_of_numpy():
    found = json.loads(json.dumps(LoRA(np.int64(4), np.float32(8)).get_config()))
    assert (found["rank"], found["alpha"]) == (4, 8)


def test_a_rank_that_is_too_large(make_lora):
    with pytest.raises(ValueError, match=r"`rank` must be at most 32.*'query'.*rank=33"):
        make_lora(LoRA(33))


def test_a_whole_model_goes_on_as_it_would_have(make_lora, reviews, tmp_path):
    """What trains, its scale, and the optimizer's state come back, unmerged."""
    model = make_lora(LoRA(3, alpha=7))
    train(model, reviews, optimizer=keras.optimizers.Adam(1e-2))
    # Also of a model that is merged at the moment.
    model.merge()
    model.save(tmp_path / "lora.keras")
    model.unmerge()
    loaded = keras.models.load_model(tmp_path / "lora.keras")
    assert [v.path for v in loaded.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    np.testing.assert_array_equal(scores(loaded), scores(model))
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(theirs), to_numpy(ours))
    # Loading forgets this.
    loaded.run_eagerly = True
    for one in (model, loaded):
        train(one, reviews)
    for ours, theirs in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        np.testing.assert_allclose(to_numpy(theirs), to_numpy(ours), rtol=1e-5, atol=1e-7)


def test_a_tuned_file_keeps_the_scale(make_lora, small_bert, reviews, tmp_path):
    model = make_lora(LoRA(3, alpha=7, layers=["value", "outer"]))
    train(model, reviews, optimizer=keras.optimizers.Adam(1e-2))
    model.save_tuned(tmp_path / "lora.tuned")
    loaded = load_tuned(tmp_path / "lora.tuned", *small_bert)
    np.testing.assert_array_equal(scores(loaded), scores(model))
    assert repr(loaded.methods) == "[LoRA(rank=3, alpha=7, layers=['value', 'outer'])]"
    part = loaded.backbone.get_layer("Transformer-1-MultiHeadSelfAttention").value
    assert (part.lora_rank, part.lora_alpha) == (3, 7)


def test_merged_again_after_loading(make_lora, reviews, tmp_path):
    """Weights that are loaded into a merged model, or set, count."""
    model = make_lora(LoRA(4))
    untrained = scores(model)
    train(model, reviews, optimizer=keras.optimizers.Adam(1e-2))
    trained = scores(model)
    weights = model.get_weights()
    model.save_weights(tmp_path / "a.weights.h5")
    model.save_tuned(tmp_path / "a.tuned")
    tensors, _ = read_tuned(tmp_path / "a.tuned")
    for load in (
        lambda model: model.load_weights(tmp_path / "a.weights.h5"),
        lambda model: model.load_tensors(tensors),
        lambda model: model.set_weights(weights),
    ):
        other = make_lora(LoRA(4))
        other.merge()
        np.testing.assert_allclose(scores(other), untrained, atol=1e-5)
        load(other)
        np.testing.assert_allclose(scores(other), trained, atol=1e-5)
        assert other.is_merged


def test_a_checkpoint_has_it_merged(make_lora, reviews, tmp_path):
    model = make_lora(LoRA(4, layers=["query", "inner", "MLM-Dense"]))
    untrained = scores(model)
    train(model, reviews, optimizer=keras.optimizers.Adam(1e-2))
    model.save_checkpoint(tmp_path / "merged")
    plain = build_ptuning_model(tmp_path / "merged", template=model.template)
    np.testing.assert_allclose(scores(plain), scores(model), rtol=1e-5, atol=1e-5)
    assert np.abs(scores(plain) - untrained).max() > 0.01
    # The whole head, not only the label words.
    ids = np.array([[2, 30, 31, 4, 3]], "int32")
    found = [
        to_numpy(build_transformer_model(tmp_path / "merged", with_mlm="linear")([ids, ids * 0])),
        to_numpy(model.backbone([ids, ids * 0, np.arange(5, dtype="int32")[None]])),
    ]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_a_mixed_model_is_not_rounded(make_lora, small_bert, tmp_path):
    model = make_lora(LoRA(4), dtype="mixed_bfloat16")
    model.save_checkpoint(tmp_path / "merged")
    paths = small_bert[:2], [tmp_path / "merged"]
    base, merged = (build_transformer_model(*path) for path in paths)
    layer = "Transformer-0-MultiHeadSelfAttention"
    for ours, theirs in zip(*(m.get_layer(layer).weights for m in (merged, base)), strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


def test_keras_own_lora(make_lora, reviews, tmp_path):
    """What `enable_lora` of Keras adds is neither pretrained nor a method's, and is merged."""
    model = make_lora(None, "[u1][MASK]满意。{text}")
    before = model.fingerprint()
    layer = model.backbone.get_layer("MLM-Dense")
    layer.enable_lora(2)
    assert model.fingerprint() == before
    layer.lora_kernel_b.assign(np.full((2, 32), 0.1, "float32"))
    assert model.fingerprint() == before
    model.save_checkpoint(tmp_path / "merged")
    plain = build_ptuning_model(tmp_path / "merged", template=model.template)
    np.testing.assert_allclose(scores(plain), scores(model), rtol=1e-5, atol=1e-5)
    # What trains there would be lost.
    layer.trainable = True
    with pytest.raises(ValueError, match=r"Other weights train .*MLM-Dense"):
        model.save_tuned(tmp_path / "a.tuned")
    assert not (tmp_path / "a.tuned").exists()
    layer.trainable = False
    model.save_tuned(tmp_path / "a.tuned")


@pytest.mark.parametrize("pattern", [PLAIN, "[u1][MASK]满意。{text}"])
def test_keras_own_lora_of_the_table(make_lora, pattern, tmp_path):
    model = make_lora(None, pattern)
    layer = model.backbone.get_layer("Embedding-Token")
    layer.enable_lora(2)
    layer.lora_embeddings_b.assign(np.full((2, 32), 0.1, "float32"))
    model.save_checkpoint(tmp_path / "merged")
    plain = build_ptuning_model(tmp_path / "merged", template=model.template)
    np.testing.assert_allclose(scores(plain), scores(model), rtol=1e-5, atol=1e-5)


def test_keras_own_lora_in_a_whole_model(make_lora, tmp_path):
    """A file could not be loaded, so none is written."""
    model = make_lora(None, "[u1][MASK]满意。{text}")
    layer = model.backbone.get_layer("MLM-Dense")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.full((2, 32), 0.1, "float32"))
    with pytest.raises(ValueError, match=r"No method .*lora_kernel_a.*tune=LoRA"):
        model.save(tmp_path / "own.keras")
    assert not list(tmp_path.iterdir())
