"""Open answers: what a decoder writes, token by token, greedily or by a beam search."""

import numpy as np
from keras import ops

from keras_ptuning.backend import without_gradients
from keras_ptuning.checks import check_finite

# A logarithm that leaves no probability.
NEVER = -1e9


def search_beams(next_log_probs, batch, end_id, beams, max_tokens):
    """The best continuations that a beam search finds.

    In each step every text keeps its `beams` best continuations, by the sum of the
    log-probabilities of their tokens. One that has ended stays as it is. In the end the best one by
    the mean counts.

    Args:
        next_log_probs: Function `(last_ids, rows) -> log_probs`. `rows` says which of the rows of
            the last call each row continues, and `last_ids`, of shape `(rows,)`, by which token;
            both are `None` in the first call, which has a row for each text. It returns an array of
            shape `(rows, vocabulary)`.
        batch: Integer. The number of texts.
        end_id: The id of the token that ends a text.
        beams: Integer. `1` is greedy.
        max_tokens: Integer. The greatest number of tokens, the end included.

    Returns:
        A list of lists of token ids, without the end.

    Example:

    >>> table = np.log([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    >>> search_beams(lambda last, rows: table[:1] if last is None else table[1:], 1, 2, 1, 5)
    [[1]]

    Reference:
        - [Sutskever et al., 2014](https://arxiv.org/abs/1409.3215), section 3.2.
    """
    log_probs = next_log_probs(None, None)
    vocab_size = log_probs.shape[-1]
    # All beams of a text begin alike: only the first counts at first.
    log_probs = np.repeat(log_probs, beams, axis=0).reshape(batch, beams, vocab_size)
    scores = np.where(np.arange(beams) == 0, 0.0, NEVER) * np.ones((batch, 1))
    written = np.zeros((batch, beams, 0), "int32")
    lengths, ended = np.zeros((batch, beams), "int32"), np.zeros((batch, beams), bool)
    first = np.arange(batch)[:, None]
    for step in range(max_tokens):
        stay = np.where(np.arange(vocab_size) == end_id, 0.0, NEVER)
        log_probs = np.where(ended[:, :, None], stay, log_probs)
        totals = (scores[:, :, None] + log_probs).reshape(batch, -1)
        # Sorting a whole vocabulary takes longer than a small model does.
        best = np.argpartition(-totals, beams - 1, axis=1)[:, :beams]
        order = np.argsort(-np.take_along_axis(totals, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        scores = np.take_along_axis(totals, best, axis=1)
        beam, token = np.divmod(best, vocab_size)
        written = np.concatenate([written[first, beam], token[:, :, None]], axis=2)
        lengths = lengths[first, beam] + ~ended[first, beam]
        ended = ended[first, beam] | (token == end_id)
        if ended.all() or step == max_tokens - 1:
            break
        # In the first call there was one row for each text.
        rows = np.broadcast_to(first, beam.shape) if step == 0 else first * beams + beam
        log_probs = next_log_probs(token.reshape(-1), rows.reshape(-1))
        log_probs = log_probs.reshape(batch, beams, vocab_size)
    chosen = (scores / lengths).argmax(axis=1)
    best = written[np.arange(batch), chosen].tolist()
    return [ids[: ids.index(end_id)] if end_id in ids else ids for ids in best]


def write_answers(transformer, token_ids, decoder_ids, tokenizer, beams, max_tokens):
    """What a decoder writes after reading texts.

    Args:
        transformer: The builder of a built model, as `model.transformer`, whose class `writes`.
        token_ids: Integer array of shape `(batch, length)`, what the encoder reads.
        decoder_ids: Integer array of shape `(batch, n)`, how the decoder's texts begin.
        tokenizer: The `Tokenizer`. Rows of the embedding beyond its vocabulary are never written.
        beams, max_tokens: As `search_beams` has them.

    Returns:
        A list of lists of token ids.
    """
    with without_gradients():
        prefixes, _ = transformer.prefixes({"Input-Token": token_ids})
        memory = transformer.encode(token_ids, prefixes)
    cache, state = {}, {"begun": 0}

    def next_log_probs(last_ids, rows):
        ids = decoder_ids if last_ids is None else last_ids[:, None].astype("int32")
        if rows is not None:
            for name in cache:
                cache[name] = ops.take(cache[name], rows, axis=1)
            count = ops.shape(memory["attention_mask"])[0]
            if count != len(rows):
                memory["attention_mask"] = ops.take(memory["attention_mask"], rows, axis=0)
        with without_gradients():
            logits = transformer.next_logits(ids, state["begun"], memory, cache)
        logits = logits[:, : tokenizer.vocab_size]
        state["begun"] += ids.shape[1]
        found = ops.convert_to_numpy(ops.log_softmax(ops.cast(logits, "float32")))
        check_finite([("what the model predicts", found)], "The weights are damaged, or too large.")
        return found

    return search_beams(next_log_probs, len(token_ids), tokenizer.end_id, beams, max_tokens)
