import collections

import keras
import numpy as np
import pytest
from small_bert import CHARACTERS

from keras_ptuning.data import PackedDataset, mask_tokens, pack


def batches(dataset):
    return [dataset[i] for i in range(len(dataset))]


def rows(dataset):
    """The texts of an epoch in order, without padding."""
    return [tuple(row[row > 0].tolist()) for x, *_ in batches(dataset) for row in x["token_ids"]]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data")
def test_nothing_is_tuned_in_the_background(make_template):
    # Stopping the thread that tunes took up to half a second, at the end of each epoch.
    dataset = make_template().dataset(["书"] * 3, batch_size=2).to_tf_data()
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
            assert not x[name][:, array.shape[1] :].any()


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
    assert (filled_y[5:] == (0 if soft else -1)).all() and not filled["auxiliary_ids"][5:].any()
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
    assert ((targets > 0).sum(axis=1) == 12).all()  # 15% of the 80 that may be masked
    assert (masked[~maskable] == ids[~maskable]).all()
    chosen = targets > 0
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
    assert (x["auxiliary_ids"] == 0).all()
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


# Packed texts, for pretraining.


def test_pack():
    lengths = np.random.default_rng(0).integers(1, 129, 5000)
    bins = pack(lengths, 128)
    assert sorted(i for members in bins for i in members) == list(range(5000))
    assert max(lengths[members].sum() for members in bins) <= 128
    # Filling up in the order given takes 3% more than the least possible, or worse.
    assert len(bins) <= 1.01 * lengths.sum() / 128


def test_masking_whole_words():
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 1000, (300, 60)).astype("int32")
    maskable = np.zeros(ids.shape, "bool")
    maskable[:, 3:43] = True
    words = np.cumsum(rng.random(ids.shape) < 0.4, axis=1)
    _, positions, targets = mask_tokens(
        ids, maskable, 0.3, 4, np.arange(10, 1000), rng, words=words
    )
    chosen = targets > 0
    assert (chosen.sum(axis=1) == 12).all()  # 30% of 40, as without words
    cut = []
    for row in range(len(ids)):
        places = positions[row][chosen[row]]
        found = collections.Counter(words[row, places].tolist())
        whole = collections.Counter(words[row, maskable[row]].tolist())
        cut.append(sum(found[word] < whole[word] for word in found))
        assert len(set(places)) == 12
    # The last one of a row.
    assert max(cut) == 1


@pytest.fixture
def documents():
    """Empty ones, such that fit exactly into 16 tokens or just not, and one of many sequences."""
    rng = np.random.default_rng(0)
    lengths = [0, 14, 15, 13, 1, 100, 0, 28, 29, *rng.integers(1, 40, 40)]
    return ["".join(rng.choice(list(CHARACTERS), n)) for n in lengths]


def originals(batch):
    """The token ids of a batch without masks."""
    (token_ids, _, positions), targets = batch
    token_ids, rows = token_ids.copy(), np.arange(len(token_ids))[:, None]
    rows = np.broadcast_to(rows, positions.shape)
    token_ids[rows[targets > 0], positions[targets > 0]] = targets[targets > 0]
    return token_ids


def test_packing_keeps_every_token(tokenizer, documents):
    dataset = PackedDataset(documents, tokenizer, length=16, batch_size=3)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    found = []
    for row in np.concatenate([originals(batch) for batch in batches(dataset)]).tolist():
        tokens = row[: row.index(0)] if 0 in row else row
        assert not any(row[len(tokens) :]) and tokens[0] == cls and tokens[-1] == sep
        for piece in "".join(map(chr, tokens[1:-1])).split(chr(sep) + chr(cls)):
            found.append(list(map(ord, piece)))
    expected = [
        ids[i : i + 14] for ids in tokenizer.token_ids(documents) for i in range(0, len(ids), 14)
    ]
    assert sorted(found) == sorted(expected)
    assert [] not in found


def test_short_texts_stand_at_all_positions(tokenizer):
    """Packing begins with the longest; positions would otherwise tell lengths."""
    dataset = PackedDataset(["书" * 9, "好"] * 50, tokenizer, length=14)
    second = dataset.sequences[:, 1]
    assert 10 < (second == tokenizer.token_to_id("好")).sum() < 40


@pytest.mark.parametrize("causal", [False, True])
def test_batches_of_one_shape(tokenizer, documents, causal):
    """Compiled backends compile once."""
    dataset = PackedDataset(
        documents, tokenizer, causal, length=16, batch_size=7, steps=9, predict_rate=0.3
    )
    shapes = set()
    for _ in range(3):
        for inputs, targets in batches(dataset):
            shapes.add(tuple((x.shape, x.dtype.name) for x in (*inputs, targets)))
            assert not inputs[1].any()  # segment ids
        dataset.on_epoch_end()
    sequences, predicted = ((7, 16), "int32"), ((7, 5), "int32")
    assert shapes == {(sequences, sequences, predicted, predicted)}


def epochs_of(dataset, number):
    """The batches of some epochs, as Keras takes them."""
    found = []
    for _ in range(number):
        found += batches(dataset)
        dataset.on_epoch_end()
    return found


@pytest.mark.parametrize("batch_size", [4, 7, 500])
def test_an_epoch_goes_on_where_the_last_stopped(tokenizer, documents, batch_size):
    dataset = PackedDataset(documents, tokenizer, length=16, batch_size=batch_size, steps=5)
    n = len(dataset.sequences)
    epochs = -(-3 * n // (5 * batch_size))
    rows = np.concatenate([originals(batch) for batch in epochs_of(dataset, epochs)]).tolist()
    passes = [rows[i : i + n] for i in range(0, 3 * n, n)]
    assert [sorted(p) for p in passes] == [sorted(dataset.sequences.tolist())] * 3
    assert passes[0] != passes[1] != passes[2]


def test_a_batch_depends_on_its_number_alone(tokenizer, documents):
    """What makes an interrupted training go on as if nothing had been."""

    def make(seed=1):
        return PackedDataset(documents, tokenizer, length=16, batch_size=8, steps=4, seed=seed)

    found = epochs_of(make(), 5)
    resumed = make()
    resumed.epoch = 3
    for index in (2, 0):
        np.testing.assert_equal(resumed[index], found[3 * 4 + index])
    assert (originals(make(seed=2)[0]) != originals(found[0])).any()


def test_masks_change_with_each_pass(tokenizer, documents):
    dataset = PackedDataset(documents, tokenizer, length=16, batch_size=8, steps=5)
    masks = collections.defaultdict(list)
    for batch in epochs_of(dataset, 5):
        for original, positions in zip(originals(batch), batch[0][2], strict=True):
            masks[tuple(original)].append(tuple(positions))
    repeated = [found for found in masks.values() if len(found) > 2]
    assert len(repeated) > 20 and np.mean([len(set(found)) for found in repeated]) > 2


def test_places_to_predict_change_with_each_epoch(tokenizer, documents):
    dataset = PackedDataset(
        documents, tokenizer, causal=True, length=16, batch_size=8, steps=1, predict_rate=0.3
    )
    first, second = (x[2] for x, _ in epochs_of(dataset, 2))
    assert (first != second).any()


def test_evaluation_repeats_exactly(tokenizer, documents):
    dataset = PackedDataset(documents, tokenizer, length=16, batch_size=8)
    first, second = epochs_of(dataset, 1), epochs_of(dataset, 1)
    np.testing.assert_equal(first, second)
    other = PackedDataset(documents, tokenizer, length=16, batch_size=8, seed=1)
    assert (other[0][0][2] != first[0][0][2]).any()
    # In order, and the last batch takes what is left.
    np.testing.assert_array_equal(np.concatenate([*map(originals, first)]), dataset.sequences)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_causal_targets_are_the_next_tokens(tokenizer, documents, rate):
    dataset = PackedDataset(
        documents, tokenizer, causal=True, length=16, batch_size=8, predict_rate=rate
    )
    cls = tokenizer.token_to_id("[CLS]")
    seen, starts = set(), 0
    for (token_ids, _, positions), targets in batches(dataset):
        assert all((np.diff(row) > 0).all() for row in positions)
        seen |= set(positions.ravel().tolist())
        following = np.take_along_axis(token_ids, positions + 1, axis=1)
        np.testing.assert_array_equal(targets, np.where(following == cls, 0, following))
        starts += (following == cls).sum()
    assert starts and seen == set(range(15)) and positions.shape[1] == (15 if rate == 1 else 5)
    # Nothing is masked.
    np.testing.assert_array_equal(
        np.concatenate([x[0] for x, _ in batches(dataset)]), dataset.sequences
    )


def test_whole_words_of_jieba(tokenizer):
    jieba = pytest.importorskip("jieba")
    sentence = "这趟北京之旅我感觉很不错"
    # Two documents a sequence: [CLS] 12 characters [SEP], twice.
    dataset = PackedDataset(
        [sentence] * 200, tokenizer, length=28, predict_rate=0.3, split_words=jieba.lcut
    )
    words = jieba.lcut(sentence)
    assert {"北京", "之旅", "感觉", "不错"} <= set(words)
    ends = np.cumsum([len(word) for word in words])
    spans = [
        set(range(start + end - len(word), start + end))
        for start in (1, 15)
        for word, end in zip(words, ends, strict=True)
    ]
    one_alone = 0
    for (_, _, positions), targets in batches(dataset):
        for row, wanted in zip(positions, targets, strict=True):
            chosen = set(row[wanted > 0].tolist())
            assert len(chosen) == 7  # 30% of 24
            assert sum(0 < len(span & chosen) < len(span) for span in spans) <= 1
            one_alone += (spans[2] <= chosen) != (spans[2 + len(words)] <= chosen)
    # The two documents have words of their own: 42 of 100 are expected, otherwise a few cut ones.
    assert one_alone > 30


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ([], {}, ValueError, "nothing to learn from in the 0 texts"),
        (["", " "], {}, ValueError, "nothing to learn from in the 2 texts"),
        (["书", None], {}, TypeError, "text 1 is None"),
        (["书"], {"length": 2}, ValueError, "`length` must be an integer, at least 3.*: 2"),
        (["书"], {"batch_size": 0}, ValueError, "`batch_size` must be an integer, at least 1"),
        (["书"], {"steps": 0}, ValueError, "`steps` must be an integer, at least 1"),
        (["书"], {"seed": -1}, ValueError, "`seed` must be an integer, at least 0"),
        (["书"], {"predict_rate": 0}, ValueError, "greater than 0 .*predict_rate=0"),
        (["书"], {"predict_rate": 1.1}, ValueError, "at most 1.*predict_rate=1.1"),
    ],
)
def test_bad_texts_and_options(tokenizer, texts, options, error, message):
    with pytest.raises(error, match=message):
        PackedDataset(texts, tokenizer, **options)


def test_another_seed_is_another_order(tokenizer):
    """Where each text fills a sequence, the seed can change nothing but their order."""
    texts, orders = [c * 6 for c in "很不满意好差理想"], []
    for seed in (0, 0, 1):
        dataset = PackedDataset(texts, tokenizer, True, 8, batch_size=1, steps=8, seed=seed)
        orders.append([int(dataset[i][0][0][0, 1]) for i in range(8)])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
