import collections

import numpy as np
import pytest
import small_decoders
from small_bert import CHARACTERS

from keras_ptuning import PieceTokenizer, build_transformer_model
from keras_ptuning.pretraining.packing import PackedDataset, pack
from keras_ptuning.text.masking import mask_tokens


def batches(dataset):
    return [dataset[i] for i in range(len(dataset))]


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
    chosen = targets >= 0
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


def parts(batch):
    """Token ids, segment ids, and positions; and the targets."""
    inputs, targets = batch
    return [inputs[f"Input-{name}"] for name in ("Token", "Segment", "Gather")], targets


def originals(batch):
    """The token ids of a batch without masks."""
    (token_ids, _, positions), targets = parts(batch)
    token_ids, rows = token_ids.copy(), np.arange(len(token_ids))[:, None]
    rows = np.broadcast_to(rows, positions.shape)
    token_ids[rows[targets >= 0], positions[targets >= 0]] = targets[targets >= 0]
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
        for inputs, targets in map(parts, batches(dataset)):
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
    """By this an interrupted training continues as if nothing had been."""

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
        for original, positions in zip(originals(batch), parts(batch)[0][2], strict=True):
            masks[tuple(original)].append(tuple(positions))
    repeated = [found for found in masks.values() if len(found) > 2]
    assert len(repeated) > 20 and np.mean([len(set(found)) for found in repeated]) > 2


def test_places_to_predict_change_with_each_epoch(tokenizer, documents):
    dataset = PackedDataset(
        documents, tokenizer, causal=True, length=16, batch_size=8, steps=1, predict_rate=0.3
    )
    first, second = (x["Input-Gather"] for x, _ in epochs_of(dataset, 2))
    assert (first != second).any()


def test_evaluation_repeats_exactly(tokenizer, documents):
    dataset = PackedDataset(documents, tokenizer, length=16, batch_size=8)
    first, second = epochs_of(dataset, 1), epochs_of(dataset, 1)
    np.testing.assert_equal(first, second)
    other = PackedDataset(documents, tokenizer, length=16, batch_size=8, seed=1)
    assert (parts(other[0])[0][2] != parts(first[0])[0][2]).any()
    # In order, and the last batch takes what is left.
    np.testing.assert_array_equal(np.concatenate([*map(originals, first)]), dataset.sequences)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_causal_targets_are_the_next_tokens(tokenizer, documents, rate):
    dataset = PackedDataset(
        documents, tokenizer, causal=True, length=16, batch_size=8, predict_rate=rate
    )
    cls = tokenizer.token_to_id("[CLS]")
    seen, starts = set(), 0
    for (token_ids, _, positions), targets in map(parts, batches(dataset)):
        assert all((np.diff(row) > 0).all() for row in positions)
        seen |= set(positions.ravel().tolist())
        following = np.take_along_axis(token_ids, positions + 1, axis=1)
        np.testing.assert_array_equal(
            targets, np.where(np.isin(following, [0, cls]), -1, following)
        )
        starts += (following == cls).sum()
    assert starts and seen == set(range(15)) and positions.shape[1] == (15 if rate == 1 else 5)
    # Nothing is masked.
    np.testing.assert_array_equal(
        np.concatenate([x["Input-Token"] for x, _ in batches(dataset)]), dataset.sequences
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
    for (_, _, positions), targets in map(parts, batches(dataset)):
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
        (["书"], {"predict_rate": 0}, ValueError, "greater than 0.*predict_rate=0"),
        (["书"], {"predict_rate": 1.1}, ValueError, "from 0 to 1. Received: 1.1"),
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
        orders.append([int(dataset[i][0]["Input-Token"][0, 1]) for i in range(8)])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


@pytest.mark.parametrize(
    ("kind", "names", "end"),
    [
        # As Qwen: a text has nothing around it, and its end is the token for padding.
        ("bytes", {"pad_token": "<|end|>"}, "<|end|>"),
        # As LLaMA: a text has a beginning, and no token is padding.
        ("pieces", {"eos_token": "<|end|>"}, "<|end|>"),
        ("pieces", {"eos_token": "<unk>", "pad_token": "<|pad|>"}, "<unk>"),
    ],
)
def test_documents_of_decoders(tmp_path, eagerly, kind, names, end):
    """Id 0 is a token, also where it begins or ends a text; packed ones have no others' logits."""
    tokenizer = PieceTokenizer(small_decoders.write_tokenizer(tmp_path, kind, **names))
    texts = [*small_decoders.TEXTS, "好", "很好"] * 3
    dataset = PackedDataset(texts, tokenizer, causal=True, length=40, batch_size=100)
    inputs, targets = dataset[0]
    config, options = small_decoders.CONFIGS["qwen2"], {"with_mlm": "linear"}
    packed = build_transformer_model(config, **dataset.model_options, **options)
    alone = build_transformer_model(config, pad_id=None, **options)
    alone.set_weights(packed.get_weights())
    logits = packed.predict(inputs, verbose=0)
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    end = tokenizer.token_to_id(end)
    found = []
    for tokens, row, own in zip(inputs["Input-Token"], targets, logits, strict=True):
        places = np.flatnonzero(row >= 0)
        assert (row[places] == tokens[places + 1]).all()
        # What is predicted without a gap is a text and its end.
        for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            assert row[run[-1]] == end
            text = tokens[run]
            found.append(tuple(text[1:].tolist()))
            assert text[0] == (start or [end])[0]
            expected = alone.predict(text[None], verbose=0)[0]
            np.testing.assert_allclose(own[run], expected, atol=1e-5)
    assert sorted(found) == sorted(map(tuple, tokenizer.token_ids(texts)))
