"""The grid of `benchmarks/reproduce.py`, over methods that take no time."""

import importlib.util
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"

# Takes the place of benchmarks/methods.py. Whatever runs is a line in the file of `--log`.
METHODS = '''
import time
from typing import Callable, NamedTuple


class Method(NamedTuple):
    run: Callable
    by_pattern: bool
    by_seed: bool


class Task(NamedTuple):
    name: str
    patterns: dict
    labels: dict
    data: dict
    labeled: tuple
    unlabeled: list


def make(name, wrong, **variants):
    """The first of the ten test texts are wrong: `wrong`, one more with P2, more with the seed."""

    def run(task, options, pattern, seed, folder):
        if [name, pattern, str(seed)] == options.fail:
            raise FloatingPointError("The loss is nan.")
        time.sleep(options.sleep)
        with open(options.log, "a") as file:
            file.write(f"{name} {pattern} {seed}\\n")
        results = {}
        for variant, more in {"": 0, **variants}.items():
            n = wrong + more + (pattern == "P2") + (seed or 0)
            results[variant] = {"valid": [0, 1, 1, 1], "test": [0] * n + [1] * (10 - n)}
        results[""]["seconds_for_test"] = 0.5
        return results

    return run


METHODS = {
    "zero-shot": Method(make("zero-shot", 4, prior=1), True, False),
    "few-shot": Method(make("few-shot", 1), True, True),
    "fine-tuning": Method(make("fine-tuning", 3), False, True),
    "tf-idf": Method(make("tf-idf", 3), False, False),
}
ALL_PATTERNS = ("fine-tuning",)
NEED_UNLABELED = ()
TASKS = ("sentiment", "eprstmt")
PATTERNS = {"P1": "[MASK]满意。{text}", "P2": "[MASK]好。{text}"}


def load_task(name, seed, options):
    if seed > 4:
        raise ValueError(f"`draw` must be an integer from 0 to 4. Received: {seed}.")
    patterns = PATTERNS
    if options.patterns:
        patterns = {f"pattern {i}": text for i, text in enumerate(options.patterns, 1)}
    data = {
        "train": ([f"text {i}" for i in range(2)] + ["another"] * 3, [1] * 5),
        "valid": (["a", "b", "c", "d"], [1] * 4),
        "test": ([f"text {i}" for i in range(10)], [1] * 10),
        "source": "/somewhere/else/reviews",
    }
    return Task(name, patterns, {0: "不", 1: "很"}, data, (["another"] * 3, [1] * 3), [])


def add_options(parser):
    parser.add_argument("--checkpoint", default="bert-mini-zh")
    parser.add_argument("--gpt-checkpoint", default="gpt-mini-zh")
    parser.add_argument("--patterns", nargs="+")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--log", required=True)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--fail", nargs=3)


def settings(options):
    return {"learning_rate": options.learning_rate, "shape": (1, 2)}


def check(task, options, methods):
    if options.learning_rate <= 0:
        raise ValueError(f"--learning-rate must be positive. Received: {options.learning_rate}.")
'''
SEEDS = "--seeds", 0, 1, 2
RUNS = 2 + 3 * (2 + 1) + 1


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    (folder / "methods.py").write_text(METHODS, encoding="utf-8")
    # The grid itself needs no backend, whose import takes longer than all runs: only modules of
    # the package without Keras, and one function of Keras.
    (folder / "keras.py").write_text("class utils:\n    clear_session = staticmethod(dict)\n")
    (folder / "keras_ptuning").mkdir()
    path = f"__path__ = [{str(ROOT / 'keras_ptuning')!r}]\n"
    (folder / "keras_ptuning" / "__init__.py").write_text(path, encoding="utf-8")
    return pathlib.Path(shutil.copy(BENCHMARKS / "reproduce.py", folder))


def start(script, folder, *arguments):
    command = [sys.executable, script, "--out", folder / "results", "--log", folder / "log"]
    return subprocess.Popen(
        [*map(str, command), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def reference(script, tmp_path_factory):
    """A grid without interruptions: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("reference")
    process = start(script, folder, *SEEDS)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return folder, out


@pytest.fixture
def reproduce(script, monkeypatch):
    for name in ("methods", "reproduce"):
        spec = importlib.util.spec_from_file_location(name, script.with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(reproduce, monkeypatch, tmp_path):
    """Runs the script in this process. Returns what ran."""

    def call(*arguments, out="results"):
        log = tmp_path / "log"
        log.write_text("")
        options = ["reproduce.py", "--out", tmp_path / out, "--log", log, *arguments]
        monkeypatch.setattr(sys, "argv", [*map(str, options)])
        reproduce.main()
        return lines(tmp_path)

    return call


def lines(folder):
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []


def read_all(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_runs(folder):
    paths = (folder / "results/runs").glob("*.json")
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def without_seconds(runs):
    return {name: {**run, "seconds": None} for name, run in runs.items()}


def test_grid(reference):
    folder, out = reference
    assert len(lines(folder)) == RUNS
    # Unseeded ones first, then all methods before the next seed.
    assert lines(folder)[:6] == [
        "zero-shot P1 None",
        "zero-shot P2 None",
        "tf-idf None None",
        "few-shot P1 0",
        "few-shot P2 0",
        "fine-tuning None 0",
    ]
    runs = read_runs(folder)
    assert len(runs) == RUNS and {"zero-shot-P1.json", "tf-idf.json", "fine-tuning-2.json"} < {
        *runs
    }
    # Two of the ten test texts are also in the training file, the first of which is wrong.
    assert runs["few-shot-P1-0.json"].pop("seconds") >= 0
    assert runs["few-shot-P1-0.json"] == {
        "method": "few-shot",
        "pattern": "P1",
        "pattern_text": "[MASK]满意。{text}",
        "seed": 0,
        "results": {
            "": {
                "valid_acc": 0.75,
                "test_acc": 0.9,
                "test_acc_deduplicated": 1.0,
                "seconds_for_test": 0.5,
            }
        },
    }
    results = json.loads((folder / "results/results.json").read_text(encoding="utf-8"))
    assert len(results) == RUNS and results[0]["method"] == "zero-shot"
    assert (folder / "results/plot.png").read_bytes()[1:4] == b"PNG"
    assert f"[1/{RUNS}] zero-shot P1 (time left not known yet)" in out
    assert f"[{RUNS}/{RUNS}] fine-tuning, seed 2 (0 s left)" in out
    assert "few-shot: valid 75.00, test 90.00, without duplicates 100.00" in out
    assert out.endswith((folder / "results/table.md").read_text(encoding="utf-8") + "\n")


def test_table(reference):
    table = (reference[0] / "results/table.md").read_text(encoding="utf-8")
    table = table.replace(" 0 s |", "")
    assert table.startswith("# sentiment: bert-mini-zh, 3 labelled texts\n")
    assert "data: else/reviews." in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows == [
        "| method | P1 | P2 | seeds | time per run |",
        "|---|---|---|---|---|",
        "| zero-shot | 75.00 / 60.00 | 75.00 / 50.00 | - |",
        "| *zero-shot, published* | 85.17 / 84.27 | 70.63 / 68.69 | - | - |",
        "| zero-shot, prior | 75.00 / 50.00 | 75.00 / 40.00 | - |",
        # 90, 80 and 70, then 80, 70 and 60.
        "| few-shot | 75.0 ± 0.0 / 80.0 ± 10.0 | 75.0 ± 0.0 / 70.0 ± 10.0 | 3 |",
        "| *few-shot, published* | 89.29 / 89.18 | 84.71 / 82.76 | - | - |",
        "| method | valid / test | test without duplicates | *published* | seeds | time per run |",
        "|---|---|---|---|---|---|",
        # 7, 6 and 5 of 8.
        "| fine-tuning | 75.0 ± 0.0 / 60.0 ± 10.0 | 75.0 ± 12.5 | 88.93 / 89.34 | 3 |",
        "| tf-idf | 75.00 / 70.00 | 87.50 | - | - |",
        "| method | P1 | P2 | seeds |",
        "|---|---|---|---|",
        "| zero-shot | 75.00 | 62.50 | - |",
        "| zero-shot, prior | 62.50 | 50.00 | - |",
        # 8, 8 and 7 of 8, then 8, 7 and 6.
        "| few-shot | 95.8 ± 7.2 | 87.5 ± 12.5 | 3 |",
    ]
    assert (
        "\nNot above tf-idf with the same labels (70.00 on test), even with their best pattern: "
        "zero-shot (60.00), zero-shot, prior (50.00), fine-tuning (60.00).\n"
    ) in table
    assert "\n- P2: `[MASK]好。{text}`\n" in table


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_twice(script, reference, tmp_path):
    finished, logged = {}, 0
    for wanted in (3, 7):
        process = start(script, tmp_path, *SEEDS, "--sleep", 0.2)
        while len(lines(tmp_path)) < wanted:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before, finished = finished, read_runs(tmp_path)
        assert {**finished, **before} == finished
        # What ran is new, and has its file, except for what was killed just before writing it.
        ran, logged = len(lines(tmp_path)) - logged, len(lines(tmp_path))
        assert ran - 1 <= len(finished) - len(before) <= ran
    process = start(script, tmp_path, *SEEDS)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert len(lines(tmp_path)) - logged == RUNS - len(finished) > 0
    assert out.startswith(f"[{len(finished) + 1}/{RUNS}] ")
    after = read_runs(tmp_path)
    assert {**after, **finished} == after
    assert without_seconds(read_runs(tmp_path)) == without_seconds(read_runs(reference[0]))


@pytest.mark.slow
def test_a_grid_grows(call, reference, tmp_path):
    options = "--methods", "few-shot", "--seeds"
    assert call(*options, 0) == ["few-shot P1 0", "few-shot P2 0"]
    table = (tmp_path / "results/table.md").read_text(encoding="utf-8")
    # One seed has no deviation; without tf-idf there is nothing to compare with.
    assert "| few-shot | 75.00 / 90.00 | 75.00 / 80.00 | 1 |" in table
    assert "above tf-idf" not in table and "Without patterns" not in table
    assert call(*options, 2, 0) == ["few-shot P1 2", "few-shot P2 2"]
    assert call(*options, 0, 1, 2) == ["few-shot P1 1", "few-shot P2 1"]
    assert len(call("--seeds", 0, 1, 2)) == RUNS - 6
    assert call("--seeds", 0, 1, 2) == []
    assert without_seconds(read_runs(tmp_path)) == without_seconds(read_runs(reference[0]))


def test_table_alone(call, reference, tmp_path):
    shutil.copytree(reference[0] / "results", tmp_path / "results")
    table = tmp_path / "results/table.md"
    before = table.read_text(encoding="utf-8")
    for name in ("table.md", "plot.png", "results.json", "runs/zero-shot-P2.json"):
        (tmp_path / "results" / name).unlink()
    # A folder that a killed process left behind.
    (tmp_path / "results/runs/.writing-abc").mkdir()
    (tmp_path / "results/runs/.writing-abc/zero-shot-P2.json").write_text("{")
    assert call("--table") == []
    after = table.read_text(encoding="utf-8")
    assert after == before.replace(" 75.00 / 50.00 | - | 0 s", " - | - | 0 s").replace(
        " 75.00 / 40.00 |", " - |"
    ).replace("75.00 | 62.50 |", "75.00 | - |").replace("62.50 | 50.00 |", "62.50 | - |")
    assert (tmp_path / "results/plot.png").exists()
    with pytest.raises(SystemExit, match=r"Received: no file '.*nothing.*grid\.json'"):
        call("--table", out="nothing")
    assert not (tmp_path / "nothing").exists()


def test_results_in_one_file(call, reference, tmp_path):
    """The repository has no folder of runs: the file of all of them is enough."""
    folder = shutil.copytree(reference[0] / "results", tmp_path / "results")
    before = read_all(folder)
    shutil.rmtree(folder / "runs")
    assert call(*SEEDS) == []
    after = read_all(folder)
    assert {k: v for k, v in after.items() if k != "plot.png"} == {
        k: v for k, v in before.items() if k != "plot.png"
    }


def test_an_interruption_while_unpacking(reproduce, tmp_path, reference, monkeypatch):
    """A half of the runs would be taken for all, and the table would lose the others."""
    folder, found = tmp_path / "results", read_runs(reference[0])
    shutil.copytree(reference[0] / "results", folder)
    shutil.rmtree(folder / "runs")
    write = reproduce.write

    def interrupted(path, text):
        if path.name == "few-shot-P1-0.json":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(reproduce, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce.unpack(folder)
    monkeypatch.setattr(reproduce, "write", write)
    reproduce.unpack(folder)
    assert read_runs(tmp_path) == found
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_another_grid(call, reference, tmp_path):
    folder = shutil.copytree(reference[0] / "results", tmp_path / "results")
    before = read_all(folder)
    with pytest.raises(SystemExit, match=r"Received: learning_rate 0\.1, and there it was 0\.01\."):
        call("--learning-rate", 0.1)
    with pytest.raises(SystemExit, match="Received: task 'eprstmt', and there it was 'sentiment'"):
        call("--task", "eprstmt")
    assert read_all(folder) == before


def test_the_folder_of_something_else(call, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    # What a process leaves that is killed in its first moment is in nobody's way.
    (other / ".writing-abc").mkdir()
    assert len(call("--methods", "tf-idf", out="other")) == 1
    (other / "grid.json").unlink()
    before = read_all(other)
    with pytest.raises(SystemExit, match=r"Expected --out to be a new folder.*'runs'"):
        call("--methods", "tf-idf", out="other")
    assert read_all(other) == before


def test_nothing_is_written_for_wrong_options(call, tmp_path, capsys):
    with pytest.raises(SystemExit, match="--learning-rate must be positive"):
        call("--learning-rate", -1)
    # The fifth draw does not exist, which is known before the others are done.
    with pytest.raises(SystemExit, match=r"`draw` must be .* Received: 5\."):
        call("--task", "eprstmt", "--seeds", 0, 5)
    for seeds, message in (((1, 1), "must differ"), ((0, -1), "must not be negative")):
        with pytest.raises(SystemExit) as error:
            call("--seeds", *seeds)
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:50],
        lambda text: text.replace('"test_acc": 0.7', '"test_acc": 7.0'),
        lambda text: text.replace('"test_acc": 0.7', '"test_acc": null'),
        lambda text: text.replace('"seed": null', '"seed": 1'),
    ],
)
def test_a_damaged_run(call, reproduce, monkeypatch, tmp_path, damage):
    # Plots would take nearly all of the time.
    monkeypatch.setattr(reproduce, "plot", lambda folder: None)
    call("--methods", "tf-idf", "zero-shot")
    path = tmp_path / "results/runs/tf-idf.json"
    text = path.read_text(encoding="utf-8")
    assert damage(text) != text
    path.write_text(damage(text), encoding="utf-8")
    for arguments in (["--methods", "fine-tuning"], ["--table"]):
        with pytest.raises(SystemExit, match=r"tf-idf\.json' is not as a run left it\. Delete it"):
            call(*arguments)
    assert lines(tmp_path) == []
    path.unlink()
    assert call("--methods", "tf-idf", "zero-shot") == ["tf-idf None None"]


def test_a_run_that_fails(call, tmp_path, capsys):
    arguments = "--methods", "few-shot", "fine-tuning", "--seeds", 0, 1
    with pytest.raises(SystemExit, match="tried again with the next call: few-shot P1, seed 0"):
        call(*arguments, "--fail", "few-shot", "P1", "0")
    assert len(lines(tmp_path)) == 5
    captured = capsys.readouterr()
    assert "Failed: few-shot P1, seed 0. The loss is nan." in captured.err
    # One seed of two.
    assert "| few-shot | 75.00 / 80.00 | 75.0 ± 0.0 / 75.0 ± 7.1 | 1-2 |" in captured.out
    assert call(*arguments) == ["few-shot P1 0"]


def test_patterns_of_the_user(call, reproduce, tmp_path):
    """They are told apart by their text: the name is the same in the next call."""
    arguments = "--methods", "zero-shot", "--patterns"
    assert call(*arguments, "真[MASK]。{text}") == ["zero-shot pattern 1 None"]
    assert call(*arguments, "真[MASK]。{text}") == []
    assert call(*arguments, "很[MASK]。{text}", "真[MASK]。{text}")[0] == "zero-shot pattern 1 None"
    table = (tmp_path / "results/table.md").read_text(encoding="utf-8")
    first, second = (reproduce.digest(text) for text in ("真[MASK]。{text}", "很[MASK]。{text}"))
    assert f"- pattern 1 ({first}): `真[MASK]。{{text}}`\n" in table
    assert f"- pattern 1 ({second}): `很[MASK]。{{text}}`\n" in table
    assert (tmp_path / f"results/runs/zero-shot-pattern_1_{first}.json").exists()


def test_another_pattern_of_the_same_name(call, reproduce, monkeypatch):
    call("--methods", "zero-shot")
    monkeypatch.setitem(reproduce.methods.PATTERNS, "P2", "[MASK]。{text}")
    with pytest.raises(SystemExit, match=r"Received: '\[MASK\]。\{text\}', and there it was"):
        call("--methods", "zero-shot")


def test_other_patterns_of_what_takes_all(call):
    """The runs of such a method are one row, so they must have the same patterns."""
    arguments = "--methods", "fine-tuning", "--patterns", "真[MASK]。{text}"
    assert call(*arguments, "--seeds", 0) == ["fine-tuning None 0"]
    assert call(*arguments, *SEEDS) == ["fine-tuning None 1", "fine-tuning None 2"]
    for seed in (0, 3):
        with pytest.raises(SystemExit, match=r"Received: '\[MASK\]满意.*, and there it was '真"):
            call("--methods", "fine-tuning", "zero-shot", "--seeds", seed)


@pytest.mark.slow
def test_draws(call, reproduce, monkeypatch):
    """Those of FewCLUE are loaded once each; there are no published numbers to compare with."""
    loaded = []
    load = reproduce.methods.load_task
    monkeypatch.setattr(
        reproduce.methods, "load_task", lambda *args: loaded.append(args[:2]) or load(*args)
    )
    call("--task", "eprstmt", "--seeds", 0, 3, out="eprstmt")
    call("--seeds", 0, 3)
    assert loaded == [("eprstmt", 0), ("eprstmt", 3), ("sentiment", 0)]


def test_tuning_methods_have_their_costs(reproduce, reference):
    """In a section of their own, unless a seed was done before there were costs."""
    scores = dict.fromkeys(reproduce.SCORES, 0.5)
    costs = {"trained_parameters": 23040, "tuned_bytes": 92160}
    records = [
        {
            **reproduce.Run("lora", None, None, seed)._asdict(),
            "seconds": 60,
            "results": {"": {**scores, **costs, "seconds_per_step": 0.04 + 0.02 * seed}},
        }
        for seed in range(2)
    ]
    grid = reproduce.read_grid(reference[0] / "results")
    section = reproduce.render(grid, records).split("## ")[-1]
    assert section.startswith("Tuning methods\n\n| method | valid / test |")
    assert "| - | 23,040 | 90.0 KiB | 50 ms | 2 | 1 min |\n" in section
    del records[0]["results"][""]["tuned_bytes"]
    section = reproduce.render(grid, records).split("## ")[-1]
    assert section.startswith("Without patterns\n") and "KiB" not in section


def test_no_text_is_left_without_duplicates(reproduce):
    """Pairs of texts, one of them among those without a label."""
    test = ([("a", "b"), ("c", "d")], [0, 0])
    data = {"train": ([("a", "b")], [0]), "valid": ([("e", "f")], [0]), "test": test}
    task = reproduce.methods.Task("", {}, {}, data, ([], []), [("c", "d")])
    result = reproduce.score({"valid": [1], "test": [0, 0]}, task)
    assert result == {"valid_acc": 0.0, "test_acc": 1.0, "test_acc_deduplicated": None}
    assert reproduce.cell([result], *reproduce.SCORES) == "0.00 / 100.00 / -"


def test_time_left(reproduce):
    records = [
        {"method": "few-shot", "seconds": 3000},
        {"method": "few-shot", "seconds": 4000},
        {"method": "tf-idf", "seconds": 2},
    ]
    runs = [reproduce.Run(method, None, None, 0) for method in ("few-shot", "few-shot", "vat")]
    assert reproduce.time_left(runs[:2], records) == "1 h 57 min left"
    # The mean of all three.
    assert reproduce.time_left(runs[2:], records) == "39 min left"
    assert reproduce.time_left(runs, []) == "time left not known yet"
    durations = [0.2, 59.4, 59.6, 3569, 3571, 3900, 90000]
    assert [reproduce.duration(seconds) for seconds in durations] == [
        "0 s", "59 s", "1 min", "59 min", "1 h 00 min", "1 h 05 min", "25 h 00 min"
    ]  # fmt: skip
