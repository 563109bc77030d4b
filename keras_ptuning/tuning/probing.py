"""Probing: which facts a pretrained model knows, by the ranks of their objects."""

import collections
from collections.abc import Collection
from typing import Any

import numpy as np
from keras import ops

from keras_ptuning.checks import check_finite, check_list
from keras_ptuning.text.batches import ClozeDataset
from keras_ptuning.tuning.cloze import ClozeModel

BATCH = 64


def probe(
    model: ClozeModel,
    facts: Collection[tuple[str, str]],
    open_vocabulary: bool = False,
    candidates: Collection[str] | None = None,
    train: Collection[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Asks a model for the objects of the facts of one relation, and ranks what it says.

    The template of the model says the relation, and `{text}` is the subject. Objects may have one
    or several tokens. A learned prompt can answer with the most frequent object, and know nothing
    else. So the result has the numbers of this answer too. Compare with a model of random weights
    as well, which is built from the configuration alone.

    Args:
        model: A `ClozeModel`. Its template has one `[MASK]` for each token of the longest object.
            It has `labels=None`, but for an open vocabulary, where its labels do not matter.
        facts: List of pairs of strings `(subject, object)`, all of one relation.
        open_vocabulary: Whether an object competes with all tokens of the vocabulary, without
            special, unused and virtual ones. Each object must be a single token then. Defaults to
            `False`: it competes with the `candidates`.
        candidates: Optional list of strings, the objects to choose from. Defaults to all objects
            of the facts.
        train: Optional list of pairs like `facts`. The majority baseline answers with their most
            frequent object. Defaults to the facts themselves, which is the best it could do.

    Returns:
        A dictionary:

        - `"p@1"` and `"p@10"`, the share of the facts whose object is the first, or among the
          first ten; and `"mrr"`, the mean of `1 / rank`;
        - `"majority_p@1"`, the share of the facts that the most frequent object answers,
          `"majority_object"`, and `"majority_of"`, `"train"` or `"facts"`;
        - `"ranks"`, a list with the rank of each fact's object, where 1 is the best. What is as
          likely as the object counts as better;
        - `"facts"` and `"candidates"`, the numbers of both.

    Raises:
        TypeError: if the facts are not pairs of strings.
        ValueError: if there are no facts or training facts; if an object is empty, or not among the
            candidates (the fact is named); if there are fewer than two candidates; if the template
            has labels and the vocabulary is not open; if an object is not a single token, where
            it is; or if a probability is not finite.

    Example:

    ```python
    template = Template("{text}的首都是[MASK][MASK]。", None, "bert-small-zh")
    model = build_ptuning_model("bert-small-zh", template=template)
    facts = [("法国", "巴黎"), ("日本", "东京"), ("英国", "伦敦")]
    probe(model, facts)["p@1"]
    ```

    Reference:
        - [LAMA](https://arxiv.org/abs/1909.01066), section 4.
        - The majority baseline, and models of random weights:
          [Zhong et al., 2021](https://arxiv.org/abs/2104.05240), section 4.
    """
    facts = _read_facts("facts", facts)
    frequent = facts if train is None else _read_facts("train", train)
    ((majority, _),) = collections.Counter(o for _, o in frequent).most_common(1)
    subjects, objects = (list(column) for column in zip(*facts, strict=True))
    if open_vocabulary:
        if candidates is not None:
            raise ValueError(
                "In an open vocabulary all tokens are candidates: leave out `candidates`. "
                f"Received: {candidates!r:.60}."
            )
        rows, right = _scores_of_tokens(model, subjects, objects)
    else:
        rows, right = _scores_of_candidates(model, subjects, objects, candidates)
    check_finite([("The scores of the objects", rows)], "Load good weights.")
    # The object itself is the one that is always counted.
    ranks = (rows >= np.take_along_axis(rows, right[:, None], axis=1)).sum(axis=1)
    return {
        "p@1": float(np.mean(ranks <= 1)),
        "p@10": float(np.mean(ranks <= 10)),
        "mrr": float(np.mean(1 / ranks)),
        "majority_p@1": objects.count(majority) / len(objects),
        "majority_object": majority,
        "majority_of": "facts" if train is None else "train",
        "ranks": ranks.tolist(),
        "facts": len(facts),
        "candidates": rows.shape[1],
    }


def _read_facts(name, facts):
    facts = list(check_list(name, facts))
    if not facts:
        raise ValueError(f"`{name}` must have at least one (subject, object). Received: none.")
    for i, fact in enumerate(facts):
        is_pair = isinstance(fact, tuple | list) and len(fact) == 2
        if is_pair and fact[1] in (None, ""):
            raise ValueError(
                f"The object of fact {i} of `{name}` is missing: leave out the fact. Received: "
                f"{fact!r}."
            )
        if not is_pair or not all(isinstance(part, str) for part in fact):
            raise TypeError(
                f"`{name}` must be pairs of strings (subject, object). Received: fact {i} is "
                f"{fact!r}."
            )
    return [tuple(fact) for fact in facts]


def _scores_of_candidates(model, subjects, objects, candidates):
    """The scores of all candidates, `(facts, candidates)`, and which of them are right."""
    if model.template.labels is not None:
        raise ValueError(
            "The objects are the candidates, so the template must have no labels: "
            f"Template(pattern, None, ...). Received: the labels {model.template.label_names}."
        )
    names = objects if candidates is None else check_list("candidates", candidates)
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise ValueError(
            "A relation with one object asks nothing. Expected facts with at least two different "
            f"objects, or more `candidates`. Received: {names}."
        )
    places = {name: place for place, name in enumerate(names)}
    for i, name in enumerate(objects):
        if name not in places:
            raise ValueError(
                f"The object {name!r} of fact {i} is not among the candidates. Add it, or leave "
                f"out the fact. Received: {len(names)} candidates, beginning with {names[:5]}."
            )
    data = model.template.dataset(subjects, batch_size=BATCH, candidates=[names] * len(subjects))
    right = np.array([places[name] for name in objects])
    return np.asarray(model.predict(data, verbose=0)), right


def _scores_of_tokens(model, subjects, objects):
    """The same with the ordinary tokens of the vocabulary."""
    template = model.template
    if template.num_masks != 1:
        raise ValueError(
            "In an open vocabulary an object is a single token, so the template needs one [MASK]. "
            f"Received: {template.pattern!r}."
        )
    places = {token_id: place for place, token_id in enumerate(template.ordinary_ids.tolist())}
    right = []
    ids = template.tokenizer.token_ids(objects)
    for i, (name, own) in enumerate(zip(objects, ids, strict=True)):
        if len(own) != 1 or own[0] not in places:
            raise ValueError(
                f"In an open vocabulary an object is a single token. Received: {name!r} of fact "
                f"{i}, which becomes {template.tokenizer.tokenize(name)}. Leave out the fact, or "
                "probe with candidates."
            )
        right.append(places[own[0]])
    rows = []
    for start in range(0, len(subjects), BATCH):
        examples = template._examples(subjects[start : start + BATCH], to_score=False)
        data = ClozeDataset(examples, template, batch_size=BATCH, shuffle=False)
        (inputs,) = data[0]
        inputs = {name: ops.convert_to_tensor(array) for name, array in inputs.items()}
        p = ops.convert_to_numpy(model._token_probabilities(inputs))
        rows.append(p[:, 0, template.ordinary_ids])
    return np.concatenate(rows), np.array(right)
