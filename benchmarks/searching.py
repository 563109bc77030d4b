"""Templates and label words that are found, against those of a person and of P-tuning.

    python benchmarks/searching.py --data datasets --seeds 0 1 2 3 4
    python benchmarks/searching.py --table

The first experiment looks for templates: by the gradient, in the texts without labels, and as
weights of several. The second looks for label words, and asks them without training, calibrated
with the labelled texts, and after training LoRA. The labelled texts are 168 reviews, which each
seed draws, or the draw of FewCLUE with the number of the seed. All are used for searching and for
training alike. The texts to predict are drawn from the public test file, the same for all seeds.
Each finished run is a line in the file `--out`; the same command continues where it was
interrupted. Needs `jieba`.

Reference: https://arxiv.org/abs/2010.15980, https://arxiv.org/abs/1911.12543 and
https://arxiv.org/abs/2010.13641.
"""

import argparse
import json
import math
import os
import random
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tasks
from runs import add_run, read_runs

from keras_ptuning import (
    Template,
    build_ptuning_model,
    calibrate,
    datasets,
    mine_templates,
    search_label_words,
    search_template,
    weigh_templates,
)

LABELED = 168
# The pattern of a person, open places for the search and for mining, and the pattern of P-tuning.
TEMPLATES = {
    "sentiment": (
        "[MASK]满意。{text}",
        "[T][T][MASK][T]。{text}",
        "[T][MASK][T]。{text}",
        "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}",
    ),
    "tnews": (
        "[MASK][MASK]新闻：{text}",
        "[T][T][MASK][MASK][T]：{text}",
        "[T][MASK][MASK][T]：{text}",
        "[u1][u2][u3][u4][MASK][MASK][u5][u6][u7][u8]{text}",
    ),
}
# Found words have as many tokens as the pattern has masks. A few texts of each of many labels give
# one word for each.
WORDS = {
    "tnews": ("[MASK][MASK]新闻：{text}", 3),
    "iflytek": ("这是[MASK][MASK]应用：{text}", 1),
    "csldcp": ("这是[MASK][MASK]论文：{text}", 1),
}
EXPERIMENTS = {"templates": TEMPLATES, "words": WORDS}
MINED = 5
# More than usual, so that of many labels each has words of its own.
CANDIDATES = 100


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--experiments", nargs="+", choices=EXPERIMENTS, default=[*EXPERIMENTS], help="to run")
    add("--tasks", nargs="+", choices={**TEMPLATES, **WORDS}, help="if left out, all")
    add("--seeds", type=int, nargs="+", default=[*range(5)], choices=range(5), help="seeds, draws")
    add("--checkpoint", default="bert-small-zh", help="embedded name, or folder of a checkpoint")
    add("--search-steps", type=int, default=100, help="of the search by the gradient")
    add("--steps", type=int, default=270, help="of training")
    add("--batch-size", type=int, default=32, help="texts of a step of training")
    add("--test", type=int, default=1000, help="most texts to predict")
    add("--data", help="folder with sentiment/ and fewclue/; downloaded, if left out")
    add("--out", default="searching.jsonl", help="file that gets a line for each run")
    add("--table", action="store_true", help="only print the tables")
    return parser.parse_args()


def load(task, seed, args):
    """Labelled texts, texts without labels, texts to predict, and the words of a person."""
    if task == "sentiment":
        data = datasets.load_sentiment(args.data and os.path.join(args.data, "sentiment"))
        asked = set(data["test"][0])
        known = [pair for pair in zip(*data["train"], strict=True) if pair[0] not in asked]
        random.Random(seed).shuffle(known)
        labeled, words = known[:LABELED], tasks.REVIEWS
        corpus = [text for text, _ in known[LABELED:]]
    else:
        data = datasets.load_fewclue(task, seed, args.data and os.path.join(args.data, "fewclue"))
        labeled, corpus = list(zip(*data["train"], strict=True)), data["unlabeled"]
        words = tasks.TASKS[task][2]
        if words == "names":
            words = {name: tasks.OTHER.get(name, name) for name in data["labels"]}
    test = list(zip(*data["test"], strict=True))
    # The file has all texts of one label after the other.
    random.Random(0).shuffle(test)
    return columns(labeled), corpus, columns(test[: args.test]), words


def describe(experiment, task, seed, args):
    """What the line of a run begins with: all that its numbers depend on."""
    settings = ("checkpoint", "search_steps", "steps", "batch_size", "test")
    settings = {name: getattr(args, name) for name in settings}
    return {"experiment": experiment, "task": task, "seed": seed, "settings": settings}


def columns(rows):
    return [list(column) for column in zip(*rows, strict=True)]


def accuracy(template, scores, answers):
    found = template.decode(scores)
    return sum(a == b for a, b in zip(found, answers, strict=True)) / len(answers)


class Run:
    """What the methods of an experiment have in common: data, test, and the clock."""

    def __init__(self, experiment, task, seed, args):
        self.key = describe(experiment, task, seed, args)
        self.args = args
        self.labeled, self.corpus, self.test, self.words = load(task, seed, args)
        self.results = []

    def add(self, method, template, scores, seconds, **found):
        result = {
            "method": method,
            "accuracy": accuracy(template, scores, self.test[1]),
            "seconds": round(seconds, 1),
            **found,
        }
        print(json.dumps({**self.key, **result}, ensure_ascii=False), flush=True)
        self.results.append(result)

    def ask(self, method, template, seconds=0.0, **found):
        model = build_ptuning_model(self.args.checkpoint, template=template)
        scores = model.predict(template.dataset(self.test[0], batch_size=64), verbose=0)
        self.add(method, template, scores, seconds, pattern=template.pattern, **found)
        if self.key["experiment"] == "words":
            # How likely a word is in any text differs more between found words.
            reference = model.predict(template.dataset(self.labeled[0], batch_size=64), verbose=0)
            self.add(f"{method}, calibrated", template, calibrate(scores, reference), seconds)
        return model

    def train(self, method, template, tune):
        start, args = time.perf_counter(), self.args
        seed = self.key["seed"]
        keras.utils.set_random_seed(seed)
        model = build_ptuning_model(args.checkpoint, template=template, tune=tune)
        passes = math.ceil(args.steps * args.batch_size / len(self.labeled[0]))
        # In one epoch: the batches of a few texts would be alike, and the last one small.
        repeated = [column * passes for column in self.labeled]
        data = template.dataset(*repeated, args.batch_size, seed=seed)
        schedule = keras.optimizers.schedules.CosineDecay(model.default_learning_rate, len(data))
        model.compile(keras.optimizers.Adam(schedule))
        model.fit(data, verbose=0)
        seconds = time.perf_counter() - start
        scores = model.predict(template.dataset(self.test[0], batch_size=64), verbose=0)
        self.add(method, template, scores, seconds)


def run_templates(run):
    pattern, open_places, around, virtual = TEMPLATES[run.key["task"]]
    checkpoint, seed = run.args.checkpoint, run.key["seed"]
    written = Template(pattern, run.words, checkpoint)
    model = run.ask("of a person", written)

    start = time.perf_counter()
    steps = run.args.search_steps
    searched = search_template(
        checkpoint, open_places, run.words, *run.labeled, steps=steps, seed=seed, verbose=0
    )
    run.ask("searched", searched, time.perf_counter() - start)

    start = time.perf_counter()
    mined = mine_templates(model, around, run.words, *run.labeled, run.corpus, top=MINED, verbose=0)
    run.ask("mined", mined[0], time.perf_counter() - start)

    start = time.perf_counter()
    weighed = weigh_templates(model, [written, searched, *mined], *run.labeled, verbose=0)
    seconds = time.perf_counter() - start
    scores = weighed.predict(run.test[0])
    weights = [round(float(weight), 3) for weight in weighed.weights]
    run.add("all of them, weighed", written, scores, seconds, weights=weights)

    run.train("P-tuning", Template(virtual, run.words, checkpoint), "prompt")


def run_words(run):
    task, checkpoint = run.key["task"], run.args.checkpoint
    written = Template(tasks.TASKS[task][0], run.words, checkpoint)
    model = run.ask("of a person", written)
    pattern, count = WORDS[task]
    if pattern != written.pattern:
        # A template of as many masks, with any words of so many tokens.
        any_words = {"a": "体育", "b": "财经"}
        model = build_ptuning_model(checkpoint, template=Template(pattern, any_words, checkpoint))
    options = {"candidates": CANDIDATES, "verbose": 0}
    found = {}
    for method, score in (("found", "likelihood"), ("found by a classifier", "classifier")):
        start = time.perf_counter()
        words = search_label_words(model, pattern, *run.labeled, count, score=score, **options)
        words = {label: words[label] for label in run.words}
        found[score] = Template(pattern, words, checkpoint)
        run.ask(method, found[score], time.perf_counter() - start, words=words)
    run.train("of a person, LoRA", written, "lora")
    run.train("found, LoRA", found["likelihood"], "lora")


def print_tables(runs):
    results = [{**run, **result} for run in runs for result in run["results"]]
    for experiment, known in EXPERIMENTS.items():
        own = [result for result in results if result["experiment"] == experiment]
        names = [task for task in known if any(result["task"] == task for result in own)]
        if not own:
            continue
        print(f"\n| {experiment} | {' | '.join(f'{task} | seconds' for task in names)} |")
        print("|---" * (1 + 2 * len(names)) + "|")
        for method in dict.fromkeys(result["method"] for result in own):
            cells = []
            for task in names:
                there = [r for r in own if (r["task"], r["method"]) == (task, method)]
                values = [100 * result["accuracy"] for result in there]
                spread = ""
                if len(values) > 1:
                    spread = f" ± {statistics.stdev(values):.1f} ({len(values)})"
                cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
                seconds = [result["seconds"] for result in there]
                cells.append(f"{statistics.median(seconds):.0f}" if values else "")
            print(f"| {method} | {' | '.join(cells)} |")
        for result in own:
            if result["method"] in ("searched", "mined"):
                print(
                    f"{result['task']}, {result['seed']}, {result['method']}: {result['pattern']}"
                )


def main():
    args = parse_arguments()
    done = [
        {key: run[key] for key in ("experiment", "task", "seed", "settings")}
        for run in read_runs(args.out)
    ]
    for seed in [] if args.table else args.seeds:
        for experiment in args.experiments:
            for task in EXPERIMENTS[experiment]:
                if args.tasks and task not in args.tasks:
                    continue
                if describe(experiment, task, seed, args) in done:
                    continue
                run = Run(experiment, task, seed, args)
                {"templates": run_templates, "words": run_words}[experiment](run)
                done.append(run.key)
                add_run(args.out, {**run.key, "results": run.results})
    settings = describe(None, None, None, args)["settings"]
    print_tables([run for run in read_runs(args.out) if run["settings"] == settings])


if __name__ == "__main__":
    main()
