"""What `reproduce.py` compares: PET's regimes, tuning methods, and what needs no cloze.

Each method is a function of a task, a pattern and a seed, which returns what it predicts for the
validation and the test texts. Nothing is chosen by the validation texts, which are many more than
the labelled ones: the learning rate falls to 0, and the model of the last step counts.
"""

import functools
import glob
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tasks
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_ptuning import (
    Adapter,
    LoRA,
    PetClassifier,
    PlainText,
    Prefix,
    Prompt,
    PromptClassifier,
    Template,
    build_classifier,
    build_ptuning_model,
    build_transformer_model,
    build_vat_classifier,
    calibrate,
    datasets,
)
from keras_ptuning.checkpoints import find_checkpoint
from keras_ptuning.checks import check_integer
from keras_ptuning.files import replacing
from keras_ptuning.models import find_application, max_length

REVIEW_PATTERNS = {
    "P1": "[MASK]满意。{text}",
    "P2": "{text}[MASK]满意。",
    "P3": "[MASK]好。{text}",
    "P4": "[MASK]理想。{text}",
    "P5": "感觉如何？[MASK]满意。{text}",
}
PATTERNS = {
    "sentiment": REVIEW_PATTERNS,
    "eprstmt": REVIEW_PATTERNS,
    "tnews": {
        "P1": "[MASK][MASK]新闻：{text}",
        "P2": "下面是[MASK][MASK]新闻：{text}",
        "P3": "{text}这是[MASK][MASK]新闻。",
    },
    "ocnli": {
        "P1": "{text}？[MASK][MASK]，{text_b}",
        "P2": "“{text}”？[MASK][MASK]，“{text_b}”",
    },
}
GPT_PATTERNS = {
    "sentiment": "{text}我[MASK]",
    "eprstmt": "{text}我[MASK]",
    "tnews": "{text}这是[MASK][MASK]",
    "ocnli": "{text}？{text_b}？[MASK][MASK]",
}
TASKS = tuple(PATTERNS)
SPLITS = "train", "valid", "test"
# What the results depend on, as it is; learning rates and files come to it.
OPTIONS = (
    "steps", "prompt_steps", "unlabeled_epochs", "labeled_passes", "generations",
    "batch_size", "maxlen",
)  # fmt: skip
LABELED = 168
# Texts without content, for contextual calibration; strings as they are, not tokens.
EMPTY = "", "[MASK]", "N/A"


class Task(NamedTuple):
    name: str
    patterns: dict
    labels: dict
    data: dict
    labeled: tuple
    unlabeled: list


class Method(NamedTuple):
    run: Callable
    by_pattern: bool
    by_seed: bool


class Tuning(NamedTuple):
    """A tuning method as a row of the table.

    `template` is "virtual", words and virtual tokens as in P-tuning; "vectors", the same with a
    vector for each label in place of its word; "words", so that nothing else learns than what
    `tune` says; or "plain", for a classifier that reads the vector of [CLS]. `tune` may be a
    function of the label words.
    """

    causal: bool
    template: str
    tune: object
    learning_rate: float | dict
    normalization: str = "vocabulary"


def start_at_words(words):
    return Prompt(label_start=words)


MINI = ("bert-mini-zh", "gpt-mini-zh")
# Of whole models and of prompts; `None` is any other checkpoint.
RATES = {
    **dict.fromkeys(MINI, (5e-4, 1e-2)),
    "bert-small-zh": (1.2e-4, 2.4e-3),
    None: (2e-5, 6e-4),
}
# The learning rates are those of the mini checkpoints. Those of prefix-tuning, P-tuning v2,
# LoRA, Houlsby's adapters and gpt-combined were the best of two to four on 500 further training
# reviews, with one seed and texts of up to 64 tokens. Pfeiffer's are Houlsby's. The others are
# first choices.
TUNING = {
    "p-tuning": Tuning(False, "virtual", None, 1e-2),
    "p-tuning-lstm": Tuning(False, "virtual", Prompt(encoder="lstm"), 1e-3),
    "warp": Tuning(False, "vectors", start_at_words, 1e-2, "labels"),
    "prefix-tuning": Tuning(False, "words", Prefix(20), 1e-2),
    "p-tuning-v2": Tuning(False, "plain", Prefix(20), 1e-2),
    "lora": Tuning(False, "words", LoRA(), 3e-3),
    "adapter-houlsby": Tuning(False, "words", Adapter(kind="houlsby"), 1e-3),
    "adapter-pfeiffer": Tuning(False, "words", Adapter(kind="pfeiffer"), 1e-3),
    "combined": Tuning(False, "virtual", LoRA(), {"prompt": 1e-2, "lora": 3e-3}),
    "all-weights": Tuning(False, "virtual", "all", 5e-4),
    "gpt-p-tuning": Tuning(True, "virtual", None, 1e-2),
    "gpt-warp": Tuning(True, "vectors", start_at_words, 1e-2, "labels"),
    "gpt-prefix-tuning": Tuning(True, "words", Prefix(20), 1e-1),
    "gpt-lora": Tuning(True, "words", LoRA(), 1e-3),
    "gpt-adapter-houlsby": Tuning(True, "words", Adapter(kind="houlsby"), 1e-3),
    "gpt-adapter-pfeiffer": Tuning(True, "words", Adapter(kind="pfeiffer"), 1e-3),
    "gpt-combined": Tuning(True, "virtual", LoRA(), {"prompt": 1e-2, "lora": 1e-3}),
    "gpt-all-weights": Tuning(True, "virtual", "all", 5e-4),
}


def add_options(parser):
    parser.add_argument(
        "--checkpoint",
        default="bert-mini-zh",
        help="embedded name, folder of a checkpoint, or path of its weights",
    )
    parser.add_argument("--gpt-checkpoint", default="gpt-mini-zh", help="for the methods gpt-...")
    parser.add_argument(
        "--patterns", nargs="+", help="some of the task's, such as P1 P3, or patterns in full"
    )
    parser.add_argument("--data", help="folder with the task's files; downloaded, if left out")
    parser.add_argument(
        "--labeled",
        type=int,
        help="reviews to learn from; if left out, 168, and in FewCLUE its own",
    )
    parser.add_argument(
        "--unlabeled",
        metavar="FILE",
        help="texts without labels, one a line (pairs: text<TAB>text_b); if left out, the task's",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=160,
        help="of whole models on labelled texts alone, rounded up to whole passes",
    )
    parser.add_argument("--prompt-steps", type=int, default=270, help="of tuning methods")
    parser.add_argument(
        "--unlabeled-epochs", type=int, default=1, help="passes over the unlabelled texts"
    )
    parser.add_argument(
        "--labeled-passes",
        type=int,
        default=10,
        help="passes over the labelled texts in each over the unlabelled ones",
    )
    parser.add_argument("--generations", type=int, default=3, help="of models, in iPET")
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch")
    parser.add_argument(
        "--learning-rate",
        type=float,
        help="of whole models; if left out, 5e-4 for bert-mini-zh, 1.2e-4 for -small-, else 2e-5",
    )
    parser.add_argument(
        "--prompt-learning-rate",
        type=float,
        help="of tuning methods but all-weights; if left out, for the mini checkpoints those in "
        "the table of them, else what the methods recommend",
    )
    parser.add_argument("--maxlen", type=int, default=128, help="tokens of a text + template")


def load_task(name, seed, options):
    """The data of a task and its patterns; for FewCLUE the draw of the labels is `seed`."""
    if name == "sentiment":
        data = datasets.load_sentiment(options.data)
        texts, labels = data["train"]
        count = LABELED if options.labeled is None else options.labeled
        if not 1 <= count <= len(texts):
            raise ValueError(
                f"--labeled must be from 1 to {len(texts)}, the number of training texts. "
                f"Received: {count}."
            )
        labeled = texts[:count], labels[:count]
        unlabeled, words = texts[count:], tasks.REVIEWS
    elif options.labeled is not None:
        raise ValueError(
            f"The labelled texts of {name!r} are those of the draw, all of them: leave out "
            f"--labeled. Received: {options.labeled}."
        )
    else:
        data = datasets.load_fewclue(name, seed or 0, options.data)
        labeled, unlabeled, words = data["train"], data["unlabeled"], tasks.TASKS[name][2]
    if options.unlabeled:
        unlabeled = datasets.read_documents(options.unlabeled)
        if isinstance(labeled[0][0], tuple):
            unlabeled = [tuple(line.split("\t")) for line in unlabeled]
            if any(len(pair) != 2 for pair in unlabeled):
                wrong = next(pair for pair in unlabeled if len(pair) != 2)
                raise ValueError(
                    f"{options.unlabeled}: expected pairs, `text<TAB>text_b` in each line. "
                    f"Received: {wrong}."
                )
    patterns = {}
    chosen = options.patterns or list(PATTERNS[name])
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"--patterns must differ from each other. Received: {chosen}.")
    for pattern in chosen:
        known = pattern in PATTERNS[name]
        key = pattern if known else f"pattern {len(patterns) + 1}"
        patterns[key] = PATTERNS[name][pattern] if known else pattern
    task = Task(name, patterns, words, data, labeled, unlabeled)
    for key in patterns:
        if make_template(task, options, key).tuned_names:
            raise ValueError(
                "The patterns are of words, for PET; tuning methods have templates of their own. "
                f"Received: {patterns[key]!r}."
            )
    return task


def check(task, options, methods):
    """Refuses what could not run, before anything does."""
    for name in OPTIONS:
        check_integer("--" + name.replace("_", "-"), getattr(options, name), 1)
    for name in ("learning_rate", "prompt_learning_rate"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0. Received: {value}.")
    needy = [name for name in methods if name in NEED_UNLABELED]
    if needy and not task.unlabeled:
        raise ValueError(
            f"The methods {needy} learn from unlabelled texts, and the task {task.name!r} has "
            "none. Give a file of them, --unlabeled FILE, or leave these methods out."
        )
    if "ipet" in methods and options.generations > 1 and len(task.patterns) < 2:
        raise ValueError(
            "In iPET models of other patterns label the texts that each learns from, so it needs "
            f"at least two patterns. Received: {list(task.patterns.values())}."
        )
    for name, checkpoint in (
        ("checkpoint", options.checkpoint),
        ("gpt-checkpoint", options.gpt_checkpoint),
    ):
        causal = name == "gpt-checkpoint"
        if causal and not any(name in TUNING and TUNING[name].causal for name in methods):
            continue
        config = find_checkpoint(checkpoint)[0]
        if (find_application(config) == "lm") != causal:
            kind = "causal" if causal else "masked"
            raise ValueError(f"--{name} must be a {kind} language model. Received: {checkpoint!r}.")
        positions = max_length(config)
        if positions is not None and options.maxlen > positions:
            raise ValueError(
                f"--maxlen must be at most {positions}, the positions of {checkpoint!r}. "
                f"Received: {options.maxlen}."
            )
    for name in methods:
        if name in TUNING:
            tuning_template(task, options, TUNING[name])


def settings(options):
    """What the results depend on, besides method, pattern and seed."""
    chosen = {name: getattr(options, name) for name in OPTIONS}
    chosen["learning_rate"] = whole_rate(options)
    for name in ("checkpoint", "gpt_checkpoint"):
        checkpoint = getattr(options, name)
        chosen[f"{name} prompt_learning_rate"] = rate(options, "prompt_learning_rate", checkpoint)
        digest = hashlib.sha256()
        for start in map(pathlib.Path, find_checkpoint(checkpoint)):
            # A TensorFlow checkpoint is the beginning of several names.
            for path in sorted(start.parent.glob(f"{glob.escape(start.name)}*")):
                digest.update(path.read_bytes())
        chosen[f"{name} sha256"] = digest.hexdigest()
    task = load_task(options.task, options.seeds[0], options)
    # What all draws share.
    content = [task.data["test"], task.unlabeled]
    if options.task == "sentiment":
        content += [task.data["train"], task.data["valid"], task.labeled]
    chosen["data sha256"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return chosen


def rate(options, name, checkpoint):
    """A learning rate: the one given, or what suits the size of the checkpoint."""
    if getattr(options, name) is not None:
        return getattr(options, name)
    return RATES.get(checkpoint, RATES[None])[name == "prompt_learning_rate"]


def whole_rate(options):
    return rate(options, "learning_rate", options.checkpoint)


def make_template(task, options, pattern):
    return make_cloze(task, options, task.patterns[pattern], options.checkpoint)


def make_cloze(task, options, pattern, checkpoint):
    return Template(pattern, task.labels, find_checkpoint(checkpoint)[2], options.maxlen)


def make_plain(task, options):
    vocab = find_checkpoint(options.checkpoint)[2]
    return PlainText(list(task.labels), vocab, options.maxlen, has_pairs(task))


def has_pairs(task):
    return isinstance(task.labeled[0][0], tuple)


def build(build_model, template, checkpoint, **kwargs):
    config, weights, _ = find_checkpoint(checkpoint)
    return build_model(config, weights, template, **kwargs)


def score(model, texts):
    return model.predict(model.template.dataset(texts, batch_size=64), verbose=0)


def predict(model, task):
    """The predicted labels of the validation and the test texts."""
    return {
        split: model.template.decode(score(model, task.data[split][0]))
        for split in ("valid", "test")
    }


def train(model, dataset, epochs, learning_rate, callbacks=(), **kwargs):
    """Trains with Adam; the learning rate, or one for each tuning method by name, falls to 0."""

    def adam(rate):
        schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * len(dataset))
        return keras.optimizers.Adam(schedule)

    if isinstance(learning_rate, dict):
        optimizer = {name: adam(rate) for name, rate in learning_rate.items()}
    else:
        optimizer = adam(learning_rate)
    model.compile(optimizer, **kwargs)
    model.fit(dataset, epochs=epochs, callbacks=list(callbacks), verbose=2)


def few_labels(model, task, options, seed, steps, learning_rate, callbacks=()):
    """Trains on the labelled texts alone."""
    # In one epoch: the batches of a few texts would be alike, and the last one small.
    passes = math.ceil(steps * options.batch_size / len(task.labeled[0]))
    columns = [column * passes for column in task.labeled]
    dataset = model.template.dataset(*columns, options.batch_size, seed=seed)
    train(model, dataset, 1, learning_rate, callbacks)
    return {"": predict(model, task)}


def mixed(model, task, options, seed):
    """Trains on labelled and unlabelled texts together."""
    columns = [column * options.labeled_passes for column in task.labeled]
    dataset = model.template.dataset(
        *columns, options.batch_size, seed=seed, unlabeled=task.unlabeled
    )
    train(model, dataset, options.unlabeled_epochs, whole_rate(options))
    return {"": predict(model, task)}


def with_calibration(model, task):
    """What a model predicts as it is, and calibrated in both ways."""
    template = model.template
    scores = {split: score(model, task.data[split][0]) for split in ("valid", "test")}
    references = {"contextual": list(EMPTY), "prior": task.labeled[0] + task.unlabeled[:2000]}
    if has_pairs(task):
        references["contextual"] = [(text, text) for text in EMPTY]
    found = {"": {split: template.decode(s) for split, s in scores.items()}}
    for name, texts in references.items():
        reference = score(model, texts)
        found[name] = {
            split: template.decode(calibrate(s, reference)) for split, s in scores.items()
        }
    return found


def zero_shot(task, options, pattern, seed, folder):
    template = make_template(task, options, pattern)
    return with_calibration(build(build_ptuning_model, template, options.checkpoint), task)


def unsupervised(task, options, pattern, seed, folder):
    """Pretraining continues on the texts of the task, and then zero-shot."""
    template = make_template(task, options, pattern)
    model = build(build_ptuning_model, template, options.checkpoint, tune="all")
    # The texts come without the pattern, so that all patterns share one training.
    path = os.path.join(folder, f"unsupervised-{seed}.weights.h5")
    if not os.path.exists(path):
        keras.utils.set_random_seed(seed)
        texts = task.labeled[0] + task.unlabeled
        dataset = template.dataset(unlabeled=texts, batch_size=options.batch_size, seed=seed)
        train(model, dataset, options.unlabeled_epochs, whole_rate(options), metrics=[])
        with replacing(path) as temporary:
            model.backbone.save_weights(temporary)
    model.backbone.load_weights(path)
    return with_calibration(model, task)


def few_shot(task, options, pattern, seed, folder):
    """All weights learn from labelled texts in the pattern, where other words are masked too."""
    keras.utils.set_random_seed(seed)
    template = make_template(task, options, pattern)
    model = build(build_ptuning_model, template, options.checkpoint, tune="all")
    return few_labels(model, task, options, seed, options.steps, whole_rate(options))


def semi_supervised(task, options, pattern, seed, folder):
    """The same, with the unlabelled texts, which come without the pattern."""
    keras.utils.set_random_seed(seed)
    template = make_template(task, options, pattern)
    model = build(build_ptuning_model, template, options.checkpoint, tune="all")
    return mixed(model, task, options, seed)


def tuning_template(task, options, row):
    if row.template == "plain":
        return make_plain(task, options)
    checkpoint = options.gpt_checkpoint if row.causal else options.checkpoint
    config, _, vocab = find_checkpoint(checkpoint)
    labels, maxlen = task.labels, options.maxlen
    if row.template == "words":
        pattern = GPT_PATTERNS[task.name] if row.causal else PATTERNS[task.name]["P1"]
    elif row.causal:
        slots = "{text}？{text_b}" if has_pairs(task) else "{text}"
        masks = "[MASK]" * max(len(word) for word in labels.values())
        pattern = f"[u1][u2][u3][u4]{slots}[u5][u6][u7][u8]{masks}"
    else:
        pattern = tasks.TASKS["eprstmt" if task.name == "sentiment" else task.name][1]
    if row.template == "vectors":
        # However long the words are, a label has one vector.
        pattern = re.sub(r"(\[MASK\])+", "[MASK]", pattern)
        labels = {label: f"[v{i}]" for i, label in enumerate(labels, 1)}
    positions = max_length(config)
    if row.causal and isinstance(row.tune, Prefix) and positions is not None:
        # In a causal model the prefix takes positions of the texts.
        maxlen = min(maxlen, positions - row.tune.length)
    return Template(pattern, labels, vocab, maxlen, row.causal)


def tune(name, task, options, pattern, seed, folder):
    """Learns from the labelled texts with a tuning method, and says what that costs."""
    keras.utils.set_random_seed(seed)
    row = TUNING[name]
    template = tuning_template(task, options, row)
    checkpoint = options.gpt_checkpoint if row.causal else options.checkpoint
    method = row.tune(list(task.labels.values())) if callable(row.tune) else row.tune
    if row.template == "plain":
        model = build(build_classifier, template, checkpoint, tune=method)
    else:
        # The auxiliary task did not help the embedded checkpoints.
        options_of_cloze = {"normalization": row.normalization, "auxiliary": False}
        model = build(build_ptuning_model, template, checkpoint, tune=method, **options_of_cloze)
    given = options.learning_rate if row.tune == "all" else options.prompt_learning_rate
    default = row.learning_rate if checkpoint in MINI else model.default_learning_rate
    learning_rate = default if given is None else given
    times = StepTimes()
    found = few_labels(model, task, options, seed, options.prompt_steps, learning_rate, [times])
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, "model.tuned")
        model.save_tuned(path)
        size = os.path.getsize(path)
    found[""].update(
        learning_rate=learning_rate,
        trained_parameters=sum(math.prod(v.shape) for v in model.trainable_variables),
        tuned_bytes=size,
        seconds_per_step=round(times.median(), 4),
    )
    return found


class StepTimes(keras.callbacks.Callback):
    """How long the steps take, from the end of one to the end of the next."""

    def on_train_begin(self, logs=None):
        self.ends = [time.perf_counter()]

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())

    def median(self):
        seconds = [end - start for start, end in itertools.pairwise(self.ends)]
        # The first ones compile what they run.
        return statistics.median(seconds[5:] or seconds)


def pet(task, options, pattern, seed, folder, generations=1):
    """A model for each pattern; a plain classifier learns what they say of unlabelled texts."""
    templates = [make_template(task, options, pattern) for pattern in task.patterns]
    classifier = PetClassifier(
        templates,
        options.checkpoint,
        generations=generations,
        learning_rate=whole_rate(options),
        epochs=math.ceil(options.steps / math.ceil(len(task.labeled[0]) / options.batch_size)),
        distill_epochs=options.unlabeled_epochs,
        batch_size=options.batch_size,
        random_state=seed,
        verbose=2,
    )
    classifier.fit(*task.labeled, task.unlabeled)
    # What the first prediction takes longer is not of the method.
    classifier.predict_proba(task.labeled[0])
    found = {"": {}, "ensemble": {}}
    for split in ("valid", "test"):
        texts = task.data[split][0]
        for name, proba in (
            ("", classifier.predict_proba),
            ("ensemble", classifier.ensemble_proba),
        ):
            start = time.perf_counter()
            labels = classifier.classes_[proba(texts).argmax(axis=1)].tolist()
            found[name][split] = labels
            found[name][f"seconds_for_{split}"] = round(time.perf_counter() - start, 2)
    return found


def ipet(task, options, pattern, seed, folder):
    return pet(task, options, pattern, seed, folder, options.generations)


def prompt_classifier(task, options, pattern, seed, folder):
    """What users get without a choice."""
    template = make_template(task, options, pattern)
    classifier = PromptClassifier(template, options.checkpoint, random_state=seed, verbose=2)
    classifier.fit(*task.labeled)
    splits = ("valid", "test")
    return {"": {split: classifier.predict(task.data[split][0]).tolist() for split in splits}}


def fine_tuning(task, options, pattern, seed, folder):
    """A dense layer over [CLS], and all weights learn."""
    keras.utils.set_random_seed(seed)
    plain = make_plain(task, options)
    model = build(build_classifier, plain, options.checkpoint)
    return few_labels(model, task, options, seed, options.steps, whole_rate(options))


def vat(task, options, pattern, seed, folder):
    """The same, and for unlabelled texts too no small change of the embeddings may matter."""
    keras.utils.set_random_seed(seed)
    plain = make_plain(task, options)
    model = build(build_vat_classifier, plain, options.checkpoint)
    return mixed(model, task, options, seed)


def tf_idf(task, options, pattern, seed, folder):
    """Without any pretrained model: one to three characters, and logistic regression."""

    def flat(texts):
        return ["\t".join(text) if isinstance(text, tuple) else text for text in texts]

    texts, labels = task.data["train"]
    found = {}
    for name, count in (("", len(task.labeled[0])), ("1,000", 1000), ("all", len(texts))):
        if name and not len(task.labeled[0]) < count <= len(texts):
            continue
        vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
        model = make_pipeline(vectors, LogisticRegression(C=10, max_iter=1000))
        model.fit(flat(texts[:count]), labels[:count])
        found[name] = {
            split: model.predict(flat(task.data[split][0])).tolist() for split in ("valid", "test")
        }
    return found


def vectors(task, options, pattern, seed, folder):
    """The mean vectors of the pretrained model as they are, and logistic regression."""
    plain = make_plain(task, options)
    body = build_transformer_model(*find_checkpoint(options.checkpoint)[:2], with_mean=True)

    def read(texts):
        found = []
        for start in range(0, len(texts), 64):
            inputs = plain.encode(texts[start : start + 64])
            found.append(body.predict_on_batch([inputs["token_ids"], inputs["segment_ids"]]))
        return np.concatenate(found)

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(read(task.labeled[0]), task.labeled[1])
    splits = ("valid", "test")
    return {"": {split: model.predict(read(task.data[split][0])).tolist() for split in splits}}


METHODS = {
    "zero-shot": Method(zero_shot, by_pattern=True, by_seed=False),
    "unsupervised": Method(unsupervised, by_pattern=True, by_seed=True),
    "few-shot": Method(few_shot, by_pattern=True, by_seed=True),
    "semi-supervised": Method(semi_supervised, by_pattern=True, by_seed=True),
    "prompt-classifier": Method(prompt_classifier, by_pattern=True, by_seed=True),
    "pet": Method(pet, by_pattern=False, by_seed=True),
    "ipet": Method(ipet, by_pattern=False, by_seed=True),
    **{
        name: Method(functools.partial(tune, name), by_pattern=False, by_seed=True)
        for name in TUNING
    },
    "fine-tuning": Method(fine_tuning, by_pattern=False, by_seed=True),
    "vat": Method(vat, by_pattern=False, by_seed=True),
    "vectors": Method(vectors, by_pattern=False, by_seed=False),
    "tf-idf": Method(tf_idf, by_pattern=False, by_seed=False),
}
# Their runs are not by pattern, since each takes all that are given.
ALL_PATTERNS = "pet", "ipet"
NEED_UNLABELED = "unsupervised", "semi-supervised", "pet", "ipet", "vat"
