"""What `PromptClassifier` does by default, against TF-IDF with logistic regression.

    python benchmarks/defaults.py --data datasets --seeds 0 1 2
    python benchmarks/defaults.py --table

Tasks by numbers of labelled texts, which each seed draws from those of the task: the training
reviews, or the training and validation texts of all five draws of FewCLUE. The texts to predict
are drawn from the public test file, the same for all seeds, and are used for nothing else. Each
finished run is a line in the file `--out`; the same command continues where it was interrupted.
"""

import argparse
import collections
import os
import random
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tasks
from runs import add_run, read_runs
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from keras_ptuning import PromptClassifier, Template, datasets

TASKS = ("sentiment", "eprstmt", "tnews", "iflytek", "csldcp")
COUNTS = (8, 32, 168, 1000)
SENTIMENT = "[MASK]满意。{text}", tasks.REVIEWS


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="tasks to run")
    parser.add_argument(
        "--labeled", type=int, nargs="+", default=COUNTS, help="numbers of labelled texts"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the draws"
    )
    parser.add_argument("--test", type=int, default=1000, help="most texts to predict")
    parser.add_argument(
        "--data", help="folder with sentiment/ and fewclue/; downloaded, if left out"
    )
    parser.add_argument(
        "--out", default="defaults.jsonl", help="file that gets a line for each run"
    )
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if min(options.test, *options.labeled) < 1:
        parser.error("--test and --labeled must be at least 1")
    return options


def load(task, data):
    """Labelled texts, texts to predict, and the pattern and label words of a task."""
    if task == "sentiment":
        found = datasets.load_sentiment(data and os.path.join(data, "sentiment"))
        pool, test = (list(zip(*found[split], strict=True)) for split in ("train", "test"))
        pattern, words = SENTIMENT
    else:
        folder = data and os.path.join(data, "fewclue")
        draws = [datasets.load_fewclue(task, draw, folder) for draw in range(5)]
        splits = [draw[split] for draw in draws for split in ("train", "valid")]
        pool = [example for split in splits for example in zip(*split, strict=True)]
        test = list(zip(*draws[0]["test"], strict=True))
        pattern, _, words = tasks.TASKS[task]
        if words == "names":
            words = {name: tasks.OTHER.get(name, name) for name in draws[0]["labels"]}
    # FewCLUE's file has all texts of one label after the other.
    random.Random(0).shuffle(test)
    seen = {text for text, _ in test}
    # Each text once, and none of those to predict.
    pool = [(text, label) for text, label in pool if not (text in seen or seen.add(text))]
    return pool, test, pattern, words


def tf_idf(texts, labels, new_texts):
    if len(set(labels)) < 2:
        return [labels[0]] * len(new_texts)
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    model = make_pipeline(vectors, LogisticRegression(C=10, max_iter=1000))
    return model.fit(texts, labels).predict(new_texts).tolist()


def run(task, count, seed, options):
    pool, test, pattern, words = load(task, options.data)
    if count > len(pool):
        return None
    texts, labels = map(list, zip(*random.Random(seed).sample(pool, count), strict=True))
    new_texts, answers = map(list, zip(*test[: options.test], strict=True))

    def accuracy(found):
        return sum(a == b for a, b in zip(found, answers, strict=True)) / len(answers)

    template = Template(pattern, words, "bert-small-zh")
    classifier = PromptClassifier(template, random_state=seed, verbose=0)
    start = time.perf_counter()
    classifier.fit(texts, labels)
    seconds = time.perf_counter() - start
    return {
        "task": task,
        "labeled": count,
        "seed": seed,
        "at most": options.test,
        "test": len(answers),
        "default": accuracy(classifier.predict(new_texts).tolist()),
        "tf-idf": accuracy(tf_idf(texts, labels, new_texts)),
        "seconds": round(seconds),
    }


def print_table(runs):
    cells = collections.defaultdict(list)
    for found in runs:
        cells[found["task"], found["labeled"]].append(found)
    print("| task | labels | seeds | default | TF-IDF | ahead by | training, s |")
    print("|---|---|---|---|---|---|---|")
    ahead = []
    for (task, count), found in sorted(
        cells.items(), key=lambda c: (TASKS.index(c[0][0]), c[0][1])
    ):
        default, baseline = ([100 * run[name] for run in found] for name in ("default", "tf-idf"))
        spread = f" ± {statistics.stdev(default):.1f}" if len(found) > 1 else ""
        ahead.append(statistics.mean(default) - statistics.mean(baseline))
        print(
            f"| {task} | {count:,} | {len(found)} | {statistics.mean(default):.1f}{spread} | "
            f"{statistics.mean(baseline):.1f} | {ahead[-1]:.1f} | "
            f"{statistics.median(run['seconds'] for run in found):.0f} |"
        )
    if ahead:
        print(f"| mean | | | | | {statistics.mean(ahead):.1f} | |")


def main():
    options = parse_arguments()
    runs = read_runs(options.out)
    keys = ("task", "labeled", "seed", "at most")
    done = {tuple(found[key] for key in keys) for found in runs}
    for seed in [] if options.table else options.seeds:
        for task in options.tasks:
            for count in options.labeled:
                key = task, count, seed, options.test
                if key in done:
                    continue
                found = run(task, count, seed, options)
                if found is None:
                    continue
                done.add(key)
                add_run(options.out, found)
                print(found, flush=True)
    print_table([found for found in read_runs(options.out) if found["at most"] == options.test])


if __name__ == "__main__":
    main()
