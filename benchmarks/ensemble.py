"""Prompt ensembling: five prompts on one model, against their mean, the best, and separate ones.

    python benchmarks/ensemble.py --data datasets --seeds 0 1 2 3 4
    python benchmarks/ensemble.py --table

Each seed trains one ensemble on the labelled texts: the 168 reviews of the articles, or the draw of
that number of tnews. Its prompts are also asked one by one, and the best of them is the one with
the best accuracy on the validation texts. `--time` trains the prompts separately as well. Each
finished run is a line in the file `--out`. The table has those with the same options.

Reference: https://arxiv.org/abs/2104.08691, section 6.
"""

import argparse
import math
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tasks
from methods import StepTimes
from runs import add_run, read_runs

from keras_ptuning import Prompt, Template, build_prompt_ensemble, build_ptuning_model, datasets

LABELED = 168
TASKS = ("sentiment", "tnews")
# On these options the numbers depend.
SETTINGS = ("members", "steps", "batch_size", "learning_rate", "checkpoint", "time")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="tasks to run")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5), help="seeds to run")
    parser.add_argument("--members", type=int, default=5, help="prompts that train together")
    parser.add_argument("--steps", type=int, default=270, help="steps of training")
    parser.add_argument("--batch-size", type=int, default=16, help="texts in a batch")
    parser.add_argument("--learning-rate", type=float, default=1e-2, help="the highest rate")
    parser.add_argument(
        "--checkpoint", default="bert-mini-zh", help="embedded name, or folder of a checkpoint"
    )
    parser.add_argument(
        "--data", help="folder with sentiment/ and fewclue/; downloaded, if left out"
    )
    parser.add_argument("--time", action="store_true", help="train the prompts one by one too")
    parser.add_argument(
        "--out", default="ensemble.jsonl", help="file that gets a line for each run"
    )
    parser.add_argument("--table", action="store_true", help="only print the table")
    return parser.parse_args()


def load(task, seed, data):
    if task == "sentiment":
        found = datasets.load_sentiment(data and os.path.join(data, "sentiment"))
        labeled = [column[:LABELED] for column in found["train"]]
        pattern, words = "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}", tasks.REVIEWS
    else:
        found = datasets.load_fewclue(task, seed % 5, data and os.path.join(data, "fewclue"))
        labeled, (_, pattern, words) = found["train"], tasks.TASKS[task]
    return labeled, found["valid"], found["test"], pattern, words


def train(model, labeled, options, seed):
    """Returns the seconds of training, with what it compiles, and those of a step."""
    passes = math.ceil(options.steps * options.batch_size / len(labeled[0]))
    columns = [list(column) * passes for column in labeled]
    data = model.template.dataset(*columns, options.batch_size, seed=seed, mask_rate=0)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, len(data))
    model.compile(keras.optimizers.Adam(schedule))
    start, times = time.perf_counter(), StepTimes()
    model.fit(data, callbacks=[times], verbose=0)
    return time.perf_counter() - start, times.median()


def accuracies(model, split):
    """Of the mean, of the majority, and of each prompt."""
    texts, labels = split
    answers = np.array([model.template.label_names.index(label) for label in labels])
    data = model.template.dataset(texts, batch_size=64)
    p = np.exp(model.predict_members(data, verbose=0))
    p /= p.sum(axis=-1, keepdims=True)
    votes = np.eye(p.shape[-1])[p.argmax(-1)].sum(axis=0) + p.mean(axis=0)

    def accuracy(scores):
        return float((scores.argmax(-1) == answers).mean())

    return accuracy(p.mean(axis=0)), accuracy(votes), [accuracy(own) for own in p]


def run(task, seed, options):
    labeled, valid, test, pattern, words = load(task, seed, options.data)
    template = Template(pattern, words, options.checkpoint)
    keras.utils.set_random_seed(seed)
    model = build_prompt_ensemble(
        options.checkpoint, template=template, members=options.members, auxiliary=False
    )
    seconds, step = train(model, labeled, options, seed)
    _, _, on_valid = accuracies(model, valid)
    mean, majority, singles = accuracies(model, test)
    found = {
        "task": task,
        "seed": seed,
        "mean of probabilities": mean,
        "majority vote": majority,
        "average prompt": statistics.mean(singles),
        "best prompt on valid": singles[int(np.argmax(on_valid))],
        "best prompt on test": max(singles),
        "seconds": seconds,
        "milliseconds of a step": 1000 * step,
    }
    if options.time:
        found |= {"seconds one by one": 0, "milliseconds of a step, one by one": 0}
        for member in range(options.members):
            keras.utils.set_random_seed(1000 * seed + member)
            single = build_ptuning_model(
                options.checkpoint, None, template, Prompt("vocabulary"), auxiliary=False
            )
            seconds, step = train(single, labeled, options, seed)
            found["seconds one by one"] += seconds
            found["milliseconds of a step, one by one"] += 1000 * step
    return found | {"settings": {option: getattr(options, option) for option in SETTINGS}}


def read_results(options):
    """The runs in `--out` that had the same settings."""
    settings = {option: getattr(options, option) for option in SETTINGS}
    return [found for found in read_runs(options.out) if found.get("settings") == settings]


def print_table(runs):
    names = [name for name in runs[0] if name not in ("task", "seed", "settings")]
    print(f"| task | seeds | {' | '.join(names)} |\n|{'---|' * (len(names) + 2)}")
    for task in TASKS:
        own = [found for found in runs if found["task"] == task]
        cells = []
        for name in names:
            values = [found[name] for found in own if name in found]
            if "seconds" in name:
                cells.append(f"{statistics.median(values):.0f}" if values else "")
                continue
            values = [100 * value for value in values]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        if own:
            print(f"| {task} | {len(own)} | {' | '.join(cells)} |")


def main():
    options = parse_arguments()
    done = {(found["task"], found["seed"]) for found in read_results(options)}
    for seed in [] if options.table else options.seeds:
        for task in options.tasks:
            if (task, seed) in done:
                continue
            found = run(task, seed, options)
            done.add((task, seed))
            add_run(options.out, found)
            print(found, flush=True)
    runs = read_results(options)
    if runs:
        print_table(runs)


if __name__ == "__main__":
    main()
