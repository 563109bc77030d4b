"""FewCLUE: nine tasks, each with five draws of a few labelled examples.

    python benchmarks/fewclue.py --task eprstmt
    python benchmarks/fewclue.py --task all --method zero-shot p-tuning lora tf-idf --data datasets
    python benchmarks/fewclue.py --table

Reviews (eprstmt), abstracts of articles (csldcp, 67 disciplines), titles of news (tnews),
descriptions of apps (iflytek, 119 classes), inference (ocnli), questions with the same meaning
(bustm), keywords of abstracts (csl), idioms to fill in (chid), and pronouns (cluewsc). The files of
https://github.com/CLUEbenchmark/FewCLUE are downloaded once, or read from `--data`.

`calibrated` is zero-shot with prior correction: on the mean over the texts to predict, all labels
are equally likely. Few-shot training is that of the whole model, in the template of a person, with
other words masked too. PET trains one such model for each of three templates, and with their labels
of further texts an ordinary classifier; so it runs on eprstmt, tnews and bustm alone.

The numbers are those on `test_public`. The draws differ in the labelled examples. What learns, but
for PET and TF-IDF, is taken from the epoch which is best on the draw's validation examples. The
published methods chose by the validation examples of all draws together, which are five times as
many; `--validate-on all` does the same. For csl there is a second number, without the 584 test
texts whose abstract is in one of the draws. Each finished run is a line in the file `--out`; the
same command continues where it was interrupted. With `--submission`, the labels of the texts in
`test.json`, which `--data` has then, are written as the benchmark wants them. Finished runs are
done again for this.
"""

import argparse
import functools
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from runs import add_run, read_runs
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tasks import OTHER, PET, PUBLISHED, PUBLISHED_METHODS, TASKS

from keras_ptuning import PetClassifier, Template, build_ptuning_model, calibrate, datasets
from keras_ptuning.checkpoints import find_checkpoint
from keras_ptuning.files import replacing

# An epoch goes over few examples several times, or validation would take most of the time.
STEPS = 25
DRAWS = 5
SPLITS = ("valid", "test")
# So many further texts PET labels, at most.
UNLABELED = 2000
# On these options the numbers depend.
SETTINGS = (
    "checkpoint", "epochs", "batch_size", "learning_rate", "auxiliary", "rdrop", "dropout",
    "validate_on",
)  # fmt: skip


class Task(NamedTuple):
    name: str
    data: dict
    words: dict | None


class Method(NamedTuple):
    """`run` returns labels for the validation and the test texts, or `None` where it cannot."""

    run: Callable
    by_draw: bool = True


def load(name, draw, args):
    data, words = datasets.load_fewclue(name, draw, args.data), TASKS[name][2]
    if words == "names":
        words = {label: OTHER.get(label, label) for label in data["labels"]}
    if args.validate_on == "all":
        draws = [datasets.load_fewclue(name, other, args.data)["valid"] for other in range(DRAWS)]
        columns = zip(*draws, strict=True)
        data["valid"] = [[*itertools.chain.from_iterable(column)] for column in columns]
    ids, texts, *candidates = data.pop("submission", [None, None])
    if args.submission:
        if ids is None:
            raise SystemExit(f"--submission needs test.json of the task {name!r} in --data.")
        # With the ids in place of labels.
        data["submission"] = texts, ids, *candidates
    return Task(name, data, words)


def splits(task):
    """Those to predict."""
    return [*SPLITS, "submission"] if "submission" in task.data else SPLITS


def batches(split, template, args, repeat=1, labeled=True, **kwargs):
    texts, labels, *candidates = (column * repeat for column in split)
    labels = labels if labeled else None
    candidates = candidates[0] if candidates else None
    return template.dataset(texts, labels, args.batch_size, candidates=candidates, **kwargs)


def build(task, pattern, args, tune=None, auxiliary=False):
    config, weights, vocab = find_checkpoint(args.checkpoint)
    template = Template(pattern, task.words, vocab)
    auxiliary = auxiliary or args.auxiliary
    dropout = {}
    if args.dropout is not None:
        dropout = dict.fromkeys(("dropout_rate", "attention_dropout_rate"), args.dropout)
    return build_ptuning_model(config, weights, template, tune, auxiliary=auxiliary, **dropout)


def predict(model, task, args, calibrated=False):
    found = {}
    for split in splits(task):
        data = batches(task.data[split], model.template, args, labeled=False)
        scores = model.predict(data, verbose=0)
        if calibrated:
            scores = calibrate(scores, scores)
        found[split] = model.template.decode(scores, *task.data[split][2:])
    return found


def zero_shot(task, draw, args, calibrated=False):
    """The pretrained model, asked with the template of a person."""
    if calibrated and task.words is None:
        # The candidates of a text are its own, and no label comes again.
        return None
    return predict(build(task, TASKS[task.name][0], args), task, args, calibrated)


def tune(what, virtual, task, draw, args, auxiliary=False):
    """Learns from the draw, in the template of a person or that of P-tuning."""
    keras.utils.set_random_seed(draw)
    model = build(task, TASKS[task.name][virtual], args, what, auxiliary)
    repeat = max(1, STEPS * args.batch_size // len(task.data["train"][0]))
    train = batches(task.data["train"], model.template, args, repeat, seed=draw)
    learning_rate = args.learning_rate or model.default_learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, args.epochs * len(train))
    model.compile(keras.optimizers.Adam(schedule), rdrop=args.rdrop)
    keep_best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=args.epochs, restore_best_weights=True
    )
    model.fit(
        train,
        validation_data=batches(task.data["valid"], model.template, args),
        epochs=args.epochs,
        callbacks=[keep_best],
        verbose=2,
    )
    return predict(model, task, args)


def pet(task, draw, args):
    """A classifier out of several templates, by way of texts without labels."""
    if task.name not in PET:
        return None
    vocab = find_checkpoint(args.checkpoint)[2]
    patterns = [TASKS[task.name][0], *PET[task.name]]
    texts, labels = task.data["train"]
    classifier = PetClassifier(
        [Template(pattern, task.words, vocab) for pattern in patterns],
        args.checkpoint,
        learning_rate=args.learning_rate,
        # As many steps as the other methods take, for each template.
        epochs=args.epochs * max(1, STEPS * args.batch_size // len(texts)),
        batch_size=args.batch_size,
        random_state=draw,
        verbose=0,
    )
    classifier.fit(texts, labels, task.data["unlabeled"][:UNLABELED])
    return {split: classifier.predict(task.data[split][0]).tolist() for split in splits(task)}


def tf_idf(task, draw, args):
    """Without a pretrained model: one to three characters, and logistic regression."""
    if task.words is None:
        # It learns about labels, and knows nothing of candidates.
        return None

    def flat(texts):
        return ["\t".join(text) if isinstance(text, tuple) else text for text in texts]

    texts, labels = task.data["train"]
    # The 119 labels of iflytek times all that its long texts have would take gigabytes.
    vectors = TfidfVectorizer(
        analyzer="char", ngram_range=(1, 3), sublinear_tf=True, max_features=50_000
    )
    model = make_pipeline(vectors, LogisticRegression(C=10, max_iter=1000))
    model.fit(flat(texts), labels)
    return {split: model.predict(flat(task.data[split][0])).tolist() for split in splits(task)}


METHODS = {
    "zero-shot": Method(zero_shot, by_draw=False),
    "calibrated": Method(functools.partial(zero_shot, calibrated=True), by_draw=False),
    "p-tuning": Method(functools.partial(tune, "prompt", True)),
    "lora": Method(functools.partial(tune, "lora", False)),
    "few-shot": Method(functools.partial(tune, "all", False, auxiliary=True)),
    "pet": Method(pet),
    "all-weights": Method(functools.partial(tune, "all", False)),
    "tf-idf": Method(tf_idf),
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--task", nargs="+", choices=[*TASKS, "all"], default=["all"], help="tasks")
    usual = ["zero-shot", "p-tuning", "lora", "tf-idf"]
    parser.add_argument("--method", nargs="+", choices=METHODS, default=usual, help="methods")
    parser.add_argument(
        "--draw", type=int, nargs="+", default=[*range(DRAWS)], choices=range(DRAWS), help="draws"
    )
    parser.add_argument("--data", help="folder with the tasks' folders; if left out, downloaded")
    parser.add_argument(
        "--checkpoint",
        default="bert-mini-zh",
        help="embedded name, folder of a checkpoint, or path of its weights",
    )
    parser.add_argument("--epochs", type=int, default=12, help=f"of {STEPS} steps or more")
    parser.add_argument("--batch-size", type=int, default=32, help="texts")
    parser.add_argument(
        "--learning-rate", type=float, help="if left out, the method's, for a model of this size"
    )
    parser.add_argument("--auxiliary", action="store_true", help="also predict masked words")
    parser.add_argument(
        "--rdrop", type=float, default=0.0, help="weight of R-Drop; PET and TF-IDF have none"
    )
    parser.add_argument(
        "--dropout",
        type=float,
        help="in place of the checkpoint's, which is 0 in the embedded ones; R-Drop needs some",
    )
    parser.add_argument(
        "--validate-on",
        choices=("draw", "all"),
        default="draw",
        help="the draw's validation examples, or those of all draws, as the published methods do",
    )
    parser.add_argument("--out", metavar="FILE", default="fewclue.jsonl", help="results")
    parser.add_argument("--table", action="store_true", help="only print the table of --out")
    parser.add_argument(
        "--submission", metavar="FOLDER", help="where to write labels of test.json, of one method"
    )
    args = parser.parse_args()
    if args.submission and len(args.method) != 1:
        parser.error("A submission is of one method: give one --method.")
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {args.epochs}")
    if args.learning_rate is not None and not 0 < args.learning_rate < math.inf:
        parser.error(f"--learning-rate must be above 0. Received: {args.learning_rate}")
    if "all" in args.task:
        args.task = list(TASKS)
    return args


def run(name, method, draw, args):
    keras.utils.clear_session()
    # What needs no draw is asked about the test texts, which are the same for all.
    task = load(name, args.draw[0] if draw is None else draw, args)
    start = time.perf_counter()
    found = METHODS[method].run(task, draw, args)
    if found is None:
        return None

    if args.submission:
        write_submission(task, draw, found["submission"], args)

    def accuracy(split, without=()):
        pairs = zip(found[split], task.data[split][1], strict=True)
        return statistics.mean(float(a == b) for i, (a, b) in enumerate(pairs) if i not in without)

    result = {"task": name, "method": method, "draw": draw}
    result |= {f"{split}_acc": accuracy(split) for split in SPLITS}
    if "leaked" in task.data:
        result["test_acc_without_leaked"] = accuracy("test", set(task.data["leaked"]))
    result["seconds"] = round(time.perf_counter() - start, 1)
    return result | {"settings": {option: getattr(args, option) for option in SETTINGS}}


def submission_path(name, draw, args):
    end = "" if draw is None else f"_{draw}"
    return os.path.join(args.submission, f"{name}_predict{end}.json")


def write_submission(task, draw, labels, args):
    """A line for each text, with its label, or with the number that the data have for it."""
    os.makedirs(args.submission, exist_ok=True)
    ids = task.data["submission"][1]
    lines = []
    for i, (number, label) in enumerate(zip(ids, labels, strict=True)):
        if task.words is None:
            answer = {"answer": task.data["submission"][2][i].index(label)}
        else:
            answer = {"label": str(task.data.get("numbers", {}).get(label, label))}
        lines.append(json.dumps({"id": number, **answer}, ensure_ascii=False) + "\n")
    path = submission_path(task.name, draw, args)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(lines)


def read_results(args):
    """The runs in `--out` that had the same settings."""
    settings = {option: getattr(args, option) for option in SETTINGS}
    # Results of before there were these options do not have them.
    older = {"rdrop": 0.0, "dropout": None, "validate_on": "draw"}
    return [result for result in read_runs(args.out) if older | result["settings"] == settings]


def table(results):
    """Accuracy in percent, mean ± deviation of the draws, next to published numbers."""
    methods = [m for m in METHODS if any(result["method"] == m for result in results)]

    def cells(task, key="test_acc"):
        for method in methods:
            own = [r for r in results if (r["task"], r["method"]) == (task, method)]
            found = [100 * result[key] for result in own]
            spread = f" ± {statistics.stdev(found):.1f} ({len(found)})" if found[1:] else ""
            yield f"{statistics.mean(found):.1f}{spread}" if found else ""

    def mean(column):
        return f"{statistics.mean(map(float, column)):.1f}" if all(column) else ""

    rows = {task: [*map(str, PUBLISHED[task]), *cells(task)] for task in TASKS}
    numbers = [[cell.split(" ")[0] for cell in row] for row in rows.values()]
    rows["mean of nine"] = [mean(column) for column in zip(*numbers, strict=True)]
    unseen = cells("csl", "test_acc_without_leaked")
    rows["csl, without leaked"] = [*[""] * len(PUBLISHED_METHODS), *unseen]
    head = ["task", *PUBLISHED_METHODS, *methods]
    lines = [head, ["---"] * len(head), *([name, *row] for name, row in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    args = parse_arguments()
    runs = [
        (task, method, draw)
        for task in args.task
        for method in args.method
        for draw in (args.draw if METHODS[method].by_draw else [None])
    ]
    done = {(r["task"], r["method"], r["draw"]) for r in read_results(args)}
    for key in [] if args.table else runs:
        # A file of the benchmark's name does not say which method or settings wrote it.
        result = run(*key, args) if key not in done or args.submission else None
        if result is not None and key not in done:
            add_run(args.out, result)
            print(json.dumps(result), flush=True)
            done.add(key)
    print(table(read_results(args)))


if __name__ == "__main__":
    main()
