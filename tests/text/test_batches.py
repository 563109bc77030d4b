import itertools

import keras
import numpy as np
import pytest

from keras_ptuning.backend import as_batches
from keras_ptuning.text.masking import mask_tokens


def batches(dataset):
    return [dataset[i] for i in range(len(dataset))]


def rows(dataset):
    """The texts of an epoch in order, without padding."""
    return [tuple(row[row > 0].tolist()) for x, *_ in batches(dataset) for row in x["token_ids"]]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data")
def test_nothing_is_tuned_in_the_background(make_template):
    # Stopping the thread that tunes took up to half a second, at the end of each epoch.
    dataset = as_batches(make_template().dataset(["书"] * 3, batch_size=2))
    assert dataset.options().autotune.enabled is False


@pytest.fixture
def long_and_short(make_template):
    rng = np.random.default_rng(0)
    texts = ["书" * n for n in rng.permutation(np.repeat(np.arange(1, 51), 8))]
    return make_template(), texts, ["正面"] * len(texts)


def test_order_is_kept_without_labels(make_template):
    template = make_template()
    texts = ["书" * n for n in (9, 1, 5, 30, 2)]
    dataset = template.dataset(texts, batch_size=2)
    assert rows(dataset) == [tuple(template.encode([t])["token_ids"][0].tolist()) for t in texts]
    assert all(len(batch) == 1 for batch in batches(dataset))


def test_shuffling_is_reproducible_and_changes_with_epoch_and_seed(long_and_short):
    template, texts, labels = long_and_short
    dataset = template.dataset(texts, labels, seed=3)
    again = template.dataset(texts, labels, seed=3)
    other = template.dataset(texts, labels, seed=4)
    first = rows(dataset)
    masks = dataset[0][0]["masked_token_ids"]
    assert first == rows(again) and first != rows(other)
    np.testing.assert_array_equal(masks, again[0][0]["masked_token_ids"])
    dataset.on_epoch_end()
    assert rows(dataset) != first and sorted(rows(dataset)) == sorted(first)
    dataset.epoch = 0
    assert rows(dataset) == first
    np.testing.assert_array_equal(masks, dataset[0][0]["masked_token_ids"])


def test_masks_change_each_epoch(make_template):
    dataset = make_template().dataset(["书贵便宜" * 5] * 4, ["正面"] * 4, shuffle=False)
    before = dataset[0][0]["masked_token_ids"]
    dataset.on_epoch_end()
    assert (before != dataset[0][0]["masked_token_ids"]).any()


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="pads further, to few lengths")
def test_buckets_save_padding(long_and_short):
    template, texts, labels = long_and_short

    def padding(dataset):
        ids = [x["token_ids"] for x, *_ in batches(dataset)]
        return 1 - sum((i > 0).sum() for i in ids) / sum(i.size for i in ids)

    in_order = padding(template.dataset(texts, labels, shuffle=False))
    bucketed = padding(template.dataset(texts, labels))
    assert in_order > 0.4 and bucketed < 0.15
    # Not the same batches every time, which sorting alone would give.
    dataset = template.dataset(texts, labels)
    first = {frozenset(b.tolist()) for b in dataset.batches}
    dataset.on_epoch_end()
    second = {frozenset(b.tolist()) for b in dataset.batches}
    assert not first & second


def test_few_shapes_where_each_is_compiled(long_and_short, monkeypatch):
    """On JAX there are few lengths, and otherwise the same batches."""
    template, texts, labels = long_and_short
    found = {}
    for backend in ("jax", "tensorflow"):
        monkeypatch.setattr(keras.backend, "backend", lambda name=backend: name)
        found[backend] = batches(template.dataset(texts, labels, batch_size=8))
    lengths = {batch[0]["token_ids"].shape[1] for batch in found["jax"]}
    assert lengths == {32, template.maxlen}
    for (x, y), (expected, labels) in zip(found["jax"], found["tensorflow"], strict=True):
        np.testing.assert_array_equal(y, labels)
        assert x.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(x[name][:, : array.shape[1]], array)
            nothing = -1 if name == "auxiliary_ids" else 0
            assert (x[name][:, array.shape[1] :] == nothing).all()


@pytest.mark.parametrize("soft", [False, True])
def test_filled_batches_and_their_parts(make_template, soft):
    """Rows without a label make a batch divisible; each process gets its part of it."""
    template = make_template()
    labels = np.array([[0.3, 0.7]] * 5) if soft else ["正面"] * 5
    dataset = template.dataset(["书贵便宜"] * 5, labels, batch_size=5, shuffle=False)
    x, y = dataset[0]
    dataset.fill = 4
    filled, filled_y = dataset[0]
    assert {len(array) for array in [*filled.values(), filled_y]} == {8}
    for name, array in x.items():
        np.testing.assert_array_equal(filled[name][:5], array)
    assert filled["is_text"].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(filled_y[:5], y)
    assert (filled_y[5:] == (0 if soft else -1)).all()
    assert (filled["auxiliary_ids"][5:] == -1).all()
    parts = []
    for i in range(2):
        dataset.part = (i, 2)
        parts.append(dataset[0])
    for name, array in filled.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part, _ in parts]), array)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), filled_y)


def test_padding_never_exceeds_maxlen(make_template):
    dataset = make_template(maxlen=21).dataset(["书" * 50])
    assert dataset[0][0]["token_ids"].shape == (1, 21)


def test_texts_are_tokenized_once(make_template, tokenizer, monkeypatch):
    dataset = make_template().dataset(["书贵"] * 8, ["正面"] * 8, batch_size=2)
    monkeypatch.setattr(tokenizer, "token_ids", None)
    for _ in range(3):
        assert len(rows(dataset)) == 8
        dataset.on_epoch_end()


def test_labels_follow_their_texts(make_template):
    texts = ["书" * (i % 7) + "好" * (i % 2) for i in range(50)]
    dataset = make_template().dataset(texts, ["正面" if i % 2 else "负面" for i in range(50)])
    good = make_template().tokenizer.token_to_id("好")
    for x, y in batches(dataset):
        np.testing.assert_array_equal((x["token_ids"] == good).any(axis=1), y == 1)


def test_masking_statistics():
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 1000, (400, 100)).astype("int32")
    maskable = np.zeros((400, 100), "bool")
    maskable[:, 5:85] = True
    masked, positions, targets = mask_tokens(ids, maskable, 0.15, 4, np.arange(10, 1000), rng)
    assert positions.shape == targets.shape == (400, 15)
    assert ((targets >= 0).sum(axis=1) == 12).all()  # 15% of the 80 that may be masked
    assert (masked[~maskable] == ids[~maskable]).all()
    chosen = targets >= 0
    at = np.take_along_axis(masked, positions, axis=1)[chosen]
    assert abs((at == 4).mean() - 0.8) < 0.02
    assert abs((at == targets[chosen]).mean() - 0.1) < 0.02
    np.testing.assert_array_equal(
        np.take_along_axis(ids, positions, axis=1)[chosen], targets[chosen]
    )
    # No position twice in a row, or it would count twice.
    assert all(len(set(p[c])) == c.sum() for p, c in zip(positions, chosen, strict=True))
    changed = (masked != ids).sum(axis=1)
    assert (changed <= 12).all() and changed.mean() > 10


def test_only_ordinary_words_are_masked(make_template):
    template = make_template("[u1][MASK]满意[u2]{text}")
    dataset = template.dataset(["书贵" * 10, ""] * 20, ["正面"] * 40, mask_rate=0.9)
    special = {
        *template.virtual_ids,
        *(template.tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]")),
    }
    for x, _ in batches(dataset):
        fixed = np.isin(x["token_ids"], [0, template.mask_id, *special])
        np.testing.assert_array_equal(x["masked_token_ids"][fixed], x["token_ids"][fixed])
        replaced = x["masked_token_ids"] != x["token_ids"]
        assert set(x["masked_token_ids"][replaced]) <= {template.mask_id, *template.ordinary_ids}


def test_nothing_to_mask(make_template):
    x, _ = make_template().dataset(["", ""], ["正面", "负面"])[0]
    assert (x["auxiliary_ids"] == -1).all()
    np.testing.assert_array_equal(x["masked_token_ids"], x["token_ids"])


def test_mask_rate_zero_adds_nothing(make_template):
    x, _ = make_template().dataset(["书"], ["正面"], mask_rate=0)[0]
    assert set(x) == {"token_ids", "segment_ids", "mask_positions"}


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"batch_size": 1.5}, {"mask_rate": 1.5}, {"seed": None}, {"seed": -1}],
)
def test_bad_options(make_template, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make_template().dataset(["书"], ["正面"], **options)


def test_batches_come_in_random_order(long_and_short):
    """Not pool by pool from the shortest to the longest, which training would learn from."""
    template, texts, labels = long_and_short
    dataset = template.dataset(texts, labels, batch_size=4)
    longest = [x["token_ids"].shape[1] for x, _ in batches(dataset)]
    shorter = sum(after < before for before, after in itertools.pairwise(longest))
    # Each pool would start again from the shortest once.
    assert len(longest) == 100 and shorter > 20
