"""A bank of prompts: one frozen model that answers many tasks, in mixed batches."""

import math
import os
from collections.abc import Collection
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ptuning.backend import (
    as_batches,
    compiles_each_shape,
    predict_one_batch,
    predict_with_one_graph,
)
from keras_ptuning.checkpoints import find_vocab
from keras_ptuning.checks import (
    Config,
    Path,
    Vocabulary,
    as_list,
    check_finite,
    check_integer,
    check_text,
)
from keras_ptuning.layers import Verbalizer
from keras_ptuning.layers.heads import word_array
from keras_ptuning.methods import Prefix, Prompt
from keras_ptuning.models import find_model, fingerprint
from keras_ptuning.models.architectures import find_architecture
from keras_ptuning.models.build import load, make_transformer
from keras_ptuning.text.batches import COMPILED_LENGTH_STEP, LENGTH_STEP, model_inputs, padding_of
from keras_ptuning.text.masking import NONE
from keras_ptuning.text.piece_tokenizer import as_tokenizer
from keras_ptuning.text.templates import Template
from keras_ptuning.text.tokenizers import Tokenizer
from keras_ptuning.tuning.filling import learned_ids, likeliest_tokens, token_names
from keras_ptuning.tuning.loading import check_backbone, read_content
from keras_ptuning.tuning.own_tokens import (
    NEVER,
    OwnTokens,
    find_own_tokens,
    token_bias,
    with_own_logits,
)
from keras_ptuning.tuning.tuned_file import damaged, read_tuned

# In place of the candidates of a text that is not scored.
NO_WORDS = np.zeros((0, 1), "int32")


class Task(NamedTuple):
    """What the bank keeps of a template and its tuned file."""

    template: Template
    tokens: OwnTokens
    # Of the tokens that learned.
    vectors: np.ndarray
    # Keys and values, `(length, blocks, 2, heads, head_size)`.
    prefix: np.ndarray
    # Label words and where to read them, `(labels, words, tokens)`; `None` with candidates.
    word_ids: np.ndarray | None
    word_slots: np.ndarray | None
    # The number of tokens that words are compared at.
    length: int


# A task, a text, and its candidates if the task has no labels of its own.
Text = str | tuple[str, str]
Requests = Collection[tuple[str, Text] | tuple[str, Text, Collection[str]]]


class PromptBank:
    """One pretrained model, and the prompts of any number of tasks.

    A batch may hold texts of different tasks. Each text has the template, the vectors, the prefix
    and the label words of its own task. It gets the scores that the task's own model would give.
    A prompt takes a few kilobytes. You add and remove prompts without building the model again.

    A bank can mix prompts, prefixes and label words that learn. It refuses what changes the weights
    of the model itself: LoRA, adapters, and `tune="all"`. The model is a masked or a causal one; a
    T5 has no bank.

    Args:
        config_path, checkpoint_path: The pretrained model, as `build_ptuning_model` takes them.
        vocab: What `Tokenizer` or `PieceTokenizer` takes as its vocabulary. Defaults to the one in
            the same folder.
        **kwargs: Other arguments of `build_transformer_model`, such as `model`, `application`,
            `keep_tokens` and `dtype`.

    Attributes:
        tasks: List of the names of the tasks.
        causal: Whether the model is a causal one, which needs causal templates.

    Raises:
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if it has no head that predicts tokens, or is a T5.

    Example:

    ```python
    bank = PromptBank("bert-mini-zh")
    bank.add("sentiment", "sentiment.tuned")
    bank.add("topic", Template("[MASK][MASK]新闻：{text}", topics, "bert-mini-zh"))  # zero-shot
    bank.predict([("sentiment", "物流很快，包装也好。"), ("topic", "国足迎战韩国队")])
    # ['正面', '体育']
    bank.predict_proba([("sentiment", "物流很快，包装也好。")])  # [{'负面': 0.08, '正面': 0.92}]
    ```

    Reference:
        - [Lester et al., 2021](https://arxiv.org/abs/2104.08691), section 1 and figure 2.
    """

    def __init__(
        self,
        config_path: Config,
        checkpoint_path: Path | None = None,
        vocab: Tokenizer | Vocabulary | None = None,
        **kwargs: Any,
    ) -> None:
        fixed = {"branching", "gather_positions", "layers", "own_prefix", "own_vectors", "with_mlm"}
        fixed |= {"document_start_id", "first_is_text", "pad_id", "with_mean", "with_pool"}
        fixed = sorted(fixed & set(kwargs))
        if fixed:
            raise ValueError(f"A PromptBank sets {fixed} itself; leave them out.")
        if vocab is None and isinstance(config_path, dict):
            raise ValueError("A dictionary does not say where the vocabulary is: give `vocab`.")
        self._tokenizer = as_tokenizer(find_vocab(config_path) if vocab is None else vocab)
        self._checkpoint = checkpoint_path or config_path
        config, checkpoint = find_model(config_path, checkpoint_path, kwargs.get("model"))
        arguments = {
            "with_mlm": "linear",
            "gather_positions": True,
            "own_vectors": True,
            "own_prefix": True,
            "pad_id": self._tokenizer.pad_id,
            "first_is_text": self._tokenizer.pad_id == self._tokenizer.start_id,
            **kwargs,
        }
        if find_architecture(config, kwargs.get("model")).writes:
            raise ValueError(
                "A bank needs a masked or causal language model, and this is a "
                f"{config['model_type']!r}: use one model for each task, `build_ptuning_model`."
            )
        transformer = make_transformer(config, checkpoint, **arguments)
        self.causal = transformer.branching = transformer.application == "lm"
        self._model = _BankModel(load(transformer, checkpoint))
        self._fingerprint = fingerprint(self._model.backbone)
        self._vocab_size = transformer.vocab_size
        self._tasks = {}

    @property
    def tasks(self) -> list[str]:
        return list(self._tasks)

    def template(self, name: str) -> Template:
        """The template of a task.

        Raises:
            ValueError: if there is no such task.
        """
        if not isinstance(name, str) or name not in self._tasks:
            raise ValueError(f"There is no task {name!r}. The bank has: {self.tasks}.")
        return self._tasks[name].template

    def add(self, name: str, prompt: Path | Template) -> None:
        """Adds a task.

        Args:
            name: String, what to call it.
            prompt: Path of a file that `save_tuned` wrote; or a `Template` of words, which answers
                without training.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if there is a task of this name; if the file is damaged, or belongs to
                another checkpoint; if the file or the template cannot be in a bank. Then the bank
                does not change.
        """
        check_text("The name of a task", name)
        if name in self._tasks:
            raise ValueError(
                f"There is a task {name!r} already. Remove it, or `replace` it. The bank has: "
                f"{self.tasks}."
            )
        self._tasks[name] = self._read(prompt)

    def replace(self, name: str, prompt: Path | Template) -> None:
        """Replaces the prompt of a task, at once.

        Args:
            name: String, the name of the task.
            prompt: As `add` takes it.

        Raises:
            FileNotFoundError, ValueError: as `add` raises them, or if there is no such task. Then
                the bank does not change.
        """
        self.template(name)
        self._tasks[name] = self._read(prompt)

    def remove(self, name: str) -> None:
        """Removes a task.

        Raises:
            ValueError: if there is no such task.
        """
        self.template(name)
        del self._tasks[name]

    def scores(
        self, requests: Requests, batch_size: int = 64, verbose: int | str = 0
    ) -> list[np.ndarray]:
        """The scores of the labels, as the task's own `ClozeModel.predict` returns them.

        Args:
            requests: List of tuples `(task, text)`. A text is a string, or a pair of strings if the
                template has `{text_b}`. For a template without labels, `(task, text, candidates)`.
            batch_size: Integer. Defaults to `64`.
            verbose: As in `keras.Model.predict`. Defaults to `0`.

        Returns:
            A list of arrays, one for each request, with a number for each label or candidate.

        Raises:
            TypeError: if a request is not such a tuple, or its text is of the wrong kind for the
                task.
            ValueError: if there is no such task, or there are no requests.
        """
        check_integer("batch_size", batch_size, 1)
        found, counts = self._answer(requests, batch_size, verbose)
        return [row[:count] for row, count in zip(found, counts, strict=True)]

    def predict_proba(
        self, requests: Requests, batch_size: int = 64, verbose: int | str = 0
    ) -> list[dict[Any, float]]:
        """The probability of each label, among the labels.

        Args:
            requests, batch_size, verbose: As `scores` takes them.

        Returns:
            A list of dictionaries, from labels, or candidates, to probabilities.
        """
        requests = as_list("requests", requests)
        scores = self.scores(requests, batch_size, verbose)
        found = []
        for request, row in zip(requests, scores, strict=True):
            names = self._tasks[request[0]].template.label_names or list(request[2])
            p = np.exp(row - row.max())
            found.append(dict(zip(names, (p / p.sum()).tolist(), strict=True)))
        return found

    def predict(
        self, requests: Requests, batch_size: int = 64, verbose: int | str = 0
    ) -> list[Any]:
        """The most probable label of each text.

        Args:
            requests, batch_size, verbose: As `scores` takes them.

        Returns:
            A list of labels, or candidates.
        """
        return [
            max(p, key=p.__getitem__) for p in self.predict_proba(requests, batch_size, verbose)
        ]

    def fill(
        self, requests: Requests, top: int = 10, batch_size: int = 64
    ) -> list[list[list[tuple[str, float]]]]:
        """The likeliest tokens at each mask, as `ClozeModel.fill` returns them.

        Args:
            requests, batch_size: As `scores` takes them. No text needs candidates.
            top: Integer, how many tokens. Defaults to `10`.

        Returns:
            For each request a list with an entry for each mask. The entry is a list of pairs
            `(token, probability)`. With a causal model there is one entry, for the first mask.

        Raises:
            TypeError, ValueError: as `scores` raises them, or if `top` is not from 1 to the size of
                the vocabulary.

        Example: try another template on a model that is already loaded.

        ```python
        bank = PromptBank("bert-small-zh")
        bank.add("first", Template("[MASK]满意。{text}", None, "bert-small-zh"))
        bank.add("second", Template("{text}总之很[MASK]。", None, "bert-small-zh"))
        bank.fill([("first", "物流很快，包装也好。"), ("second", "物流很快，包装也好。")], top=3)
        ```
        """
        check_integer("batch_size", batch_size, 1)
        check_integer("top", top, 1, self._tokenizer.vocab_size)
        rows = self._rows(requests, to_score=False)
        names = {}
        for task, _ in rows:
            if id(task) not in names:
                columns = task.tokens.move(learned_ids(task.template))
                names[id(task)] = token_names(task.template, columns, self._vocab_size)
        dataset, order = self._batches(rows, batch_size)
        found: list[Any] = [None] * len(rows)
        places = iter(order)
        for i in range(len(dataset)):
            (inputs,) = dataset[i]
            inputs = {name: ops.convert_to_tensor(array) for name, array in inputs.items()}
            p = ops.softmax(self._model.logits(inputs))
            tasks = [task for task, _ in dataset.at(i)]
            filled = likeliest_tokens(
                p, [task.template for task in tasks], [names[id(task)] for task in tasks], top
            )
            # The last rows of the last batch fill it up.
            for own, place in zip(filled, places, strict=False):
                found[place] = own
        return found

    def _read(self, prompt):
        """A `Task` of a template, or of a tuned file."""
        if isinstance(prompt, Template):
            template, tensors, where = prompt, {}, f"The template {prompt.pattern!r}"
            if prompt.tuned_names:
                raise ValueError(
                    f"{where} has tokens that learn, {prompt.tuned_names}. Give the file that "
                    "`model.save_tuned(...)` wrote."
                )
            if prompt.tokenizer.vocab != self._tokenizer.vocab:
                raise ValueError(f"{where} has another vocabulary than the bank's checkpoint.")
        else:
            template, tensors = self._read_file(prompt)
            where = f"The tuned file {str(prompt)!r}"
        if not template.is_cloze:
            raise ValueError(
                f"{where} has no cloze, and a bank answers by the head that predicts tokens."
            )
        if template.text_to_text:
            raise ValueError(f"{where} has a [DECODER], and the bank's model has none.")
        if template.causal != self.causal:
            need, has = ("causal", "masked") if template.causal else ("masked", "causal")
            raise ValueError(
                f"{where} needs a {need} language model, and the bank has a {has} one."
            )
        transformer = self._model.backbone.transformer
        positions = transformer.count_positions(
            transformer.max_position, transformer.hierarchical_position
        )
        if positions is not None and template.maxlen > positions:
            raise ValueError(
                f"{where} makes texts of up to {template.maxlen} tokens, and the model has "
                f"{positions} positions. Use `maxlen={positions}` or less in the template."
            )
        try:
            return self._task(template, tensors, transformer)
        except (KeyError, ValueError) as error:
            raise damaged(prompt, error) from None

    def _read_file(self, path):
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"A prompt is the path of a tuned file, or a `Template`. Received: {path!r}."
            )
        tensors, content = read_tuned(path)
        template, methods = read_content(path, content, self._tokenizer)
        others = [method for method in methods if not isinstance(method, Prompt | Prefix)]
        if others:
            raise ValueError(
                f"The tuned file {str(path)!r} has {others[0]!r}, which changes the model itself, "
                "and a bank's tasks share one. Use `load_tuned`, or train with `tune='prompt'` or "
                "`tune='prefix'`."
            )
        if content["options"].get("classifier") or content["model"] != "ClozeModel":
            raise ValueError(
                f"The tuned file {str(path)!r} has a dense classifier, and a bank answers by label "
                "words alone. Use `load_tuned`, or train without one."
            )
        check_backbone(path, content, self._fingerprint, self._checkpoint)
        # Whether there are enough positions.
        for method in methods:
            method.added_layers(self._model.backbone.transformer, template)
        return template, tensors

    def _task(self, template, tensors, transformer):
        num_words = len(template.label_token_ids)
        count = len(template.virtual_ids) + num_words
        shape = (count, transformer.embedding_size)
        vectors = tensors.get("prompt/Embedding-Token/prompt", np.zeros((0, shape[1]), "float32"))
        _check_shape("prompt", vectors, shape)
        label_bias = tensors.get("prompt/Embedding-Token/label_bias")
        if label_bias is not None:
            _check_shape("label_bias", label_bias, (num_words,))
        tokens = find_own_tokens(template, self._vocab_size, label_bias, transformer.tie_embeddings)
        prefix = tensors.get("prefix/Prefix/prefix")
        blocks = transformer.num_hidden_layers
        hidden = transformer.num_key_value_heads * transformer.head_size
        if prefix is None:
            prefix = np.zeros((blocks, 2, 0, hidden), "float32")
        _check_shape("prefix", prefix, (blocks, 2, *prefix.shape[2:3], hidden))
        shape = (-1, blocks, 2, transformer.num_key_value_heads, transformer.head_size)
        prefix = prefix.transpose(2, 0, 1, 3).reshape(shape)
        word_ids = word_slots = None
        length = template.num_masks
        if template.word_ids is not None:
            word_ids = word_array(template.word_ids, NONE)
            word_slots = word_array(template.word_slots)
            length = word_ids.shape[-1]
            word_ids = tokens.move(word_ids)
        return Task(template, tokens, vectors, prefix, word_ids, word_slots, length)

    def _rows(self, requests, to_score=True):
        """For each request its task and its `Example`."""
        requests = as_list("requests", requests)
        by_task = {}
        for i, request in enumerate(requests):
            if not isinstance(request, tuple | list) or not 2 <= len(request) <= 3:
                raise TypeError(
                    "Expected a list of tuples (task, text), or (task, text, candidates). "
                    f"Received: request {i} is {request!r:.200}."
                )
            self.template(request[0])
            by_task.setdefault(request[0], []).append(i)
        rows = [None] * len(requests)
        for name, places in by_task.items():
            task = self._tasks[name]
            texts = [requests[i][1] for i in places]
            given = [requests[i][2] for i in places if len(requests[i]) == 3]
            if given and len(given) < len(places):
                raise ValueError(f"Some of the texts of {name!r} have candidates, and some none.")
            try:
                examples = task.template._examples(texts, given or None, to_score=to_score)
            except (TypeError, ValueError) as error:
                raise type(error)(f"In the texts of the task {name!r}: {error}") from None
            for i, example in zip(places, examples, strict=True):
                if task.word_ids is None and example.candidate_ids is None:
                    example = example._replace(candidate_ids=NO_WORDS, candidate_slots=NO_WORDS)
                rows[i] = (task, example)
        return rows

    def _batches(self, rows, batch_size):
        """The rows in order of length, and the place of each."""
        order = np.argsort([len(example.token_ids) for _, example in rows], kind="stable")
        return _Requests([rows[i] for i in order], batch_size, self._vocab_size), order

    def _answer(self, requests, batch_size, verbose):
        """Scores of shape `(requests, most labels)`, and how many of each row count."""
        rows = self._rows(requests)
        counts = [count_labels(*row) for row in rows]
        dataset, order = self._batches(rows, batch_size)
        if len(dataset) == 1:
            found = predict_one_batch(self._model, dataset[0])
        else:
            batches = as_batches(dataset)
            predict_with_one_graph(self._model, batches)
            found = self._model.predict(batches, verbose=verbose)
        # Further rows fill up the last batch.
        found = found[: len(rows)]
        check_finite([("What the model predicts", found)], "A prompt or the checkpoint is damaged.")
        scores = np.empty_like(found)
        scores[order] = found
        return scores, counts


def count_labels(task, example):
    return len(example.candidate_ids if task.word_ids is None else task.word_ids)


def _check_shape(name, array, shape):
    if array.shape != shape:
        raise ValueError(f"its {name} has the shape {array.shape}, and the model needs {shape}")


class _BankModel(keras.Model):
    """Reads what `_Requests` makes; returns scores, `(batch, labels)`."""

    def __init__(self, backbone):
        super().__init__(name="bank")
        self.backbone = backbone
        self.verbalizer = Verbalizer(dtype="float32", name="Verbalizer")
        self.trainable = False
        self.built = True
        self.compile(jit_compile=False if keras.backend.backend() == "tensorflow" else "auto")

    def call(self, inputs):
        logits = self.logits(inputs)
        return self.verbalizer(
            logits, inputs["word_ids"], inputs["word_slots"], inputs["word_length"]
        )

    def logits(self, inputs):
        """Of the vocabulary, and then of the text's own tokens."""
        named = {
            "Input-Token": inputs["token_ids"],
            "Input-Segment": inputs["segment_ids"],
            "Input-Reach": inputs.get("reach"),
            "Input-Gather": inputs["mask_positions"],
            "Input-Vectors": inputs["vectors"],
            "Input-Prefix": inputs["prefix"],
            "Input-Prefix-Length": inputs["prefix_length"],
        }
        logits, own = self.backbone([named[x.name] for x in self.backbone.inputs], training=False)
        bias = token_bias(self.backbone)
        return with_own_logits(logits, own, inputs["rows"], inputs["offset"], bias)


class _Requests(keras.utils.PyDataset):
    """Batches of `(task, example)`. The last batch is filled up with copies of its last row."""

    def __init__(self, rows, batch_size, vocab_size):
        super().__init__()
        self.rows = rows
        count = len(rows)
        if compiles_each_shape():
            # Requests come in any number, and to compile for each would take longer than answers.
            count = 2 ** math.ceil(math.log2(count))
        self.batch_size = min(batch_size, count)
        self.vocab_size = vocab_size
        # The scores of all batches have as many columns.
        self.most_labels = max(count_labels(*row) for row in rows)

    def __len__(self):
        return math.ceil(len(self.rows) / self.batch_size)

    def at(self, index):
        """The rows of a batch."""
        rows = self.rows[index * self.batch_size : (index + 1) * self.batch_size]
        return rows + rows[-1:] * (self.batch_size - len(rows))

    def __getitem__(self, index):
        rows = self.at(index)
        tasks = [task for task, _ in rows]
        examples = [
            example._replace(token_ids=task.tokens.move(example.token_ids))
            for task, example in rows
        ]
        longest = max(len(example.token_ids) for example in examples)
        step = COMPILED_LENGTH_STEP if compiles_each_shape() else LENGTH_STEP
        limit = max(task.template.maxlen for task in tasks)
        length = max(longest, min(math.ceil(longest / step) * step, limit))
        shared = [e._replace(candidate_ids=None, candidate_slots=None) for e in examples]
        words, slots = [], []
        for task, example in zip(tasks, examples, strict=True):
            if task.word_ids is None:
                words.append(task.tokens.move(example.candidate_ids)[:, None])
                slots.append(example.candidate_slots[:, None])
            else:
                words.append(task.word_ids)
                slots.append(task.word_slots)
        inputs = {
            **model_inputs(shared, length, padding_of(tasks[0].template)),
            "vectors": _stack([task.vectors for task in tasks]),
            "offset": _stack([task.tokens.offset for task in tasks], NEVER),
            "rows": _stack([task.tokens.rows for task in tasks], self.vocab_size),
            "prefix": _stack([task.prefix for task in tasks]).transpose(0, 2, 3, 4, 1, 5),
            "prefix_length": np.array([len(task.prefix) for task in tasks], "int32"),
            "word_ids": _stack(words, NONE, self.most_labels),
            "word_slots": _stack(slots, least=self.most_labels),
            "word_length": np.array([task.length for task in tasks], "int32"),
        }
        return (inputs,)


def _stack(arrays, value=0, least=0):
    """Stacks arrays of different shapes, filled up at the ends, the first axis to `least`."""
    shape = np.max([array.shape for array in arrays], axis=0)
    shape[0] = max(shape[0], least)
    out = np.full((len(arrays), *shape), value, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[tuple(map(slice, array.shape))] = array
    return out
