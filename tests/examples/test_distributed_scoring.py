"""Ray and Spark predict a folder of files: interrupted, with a killed worker, all rows once."""

import importlib.util
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from keras_ptuning import Template, TextPredictor, build_ptuning_model, predict_to_file

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
# 6,250 for 100,000 texts, which take minutes.
ROWS, FILES = int(os.environ.get("KERAS_PTUNING_ROWS", 200)), 16
CLAUSES = (
    "房间很小，",
    "物流很快，",
    "屏幕不好。",
    "书的内容很有意思，",
    "服务员态度很差！",
    "下次再来。",
)


def has(*packages):
    return all(importlib.util.find_spec(package) for package in packages)


java = shutil.which("java") or os.environ.get("JAVA_HOME")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc to find the workers in"),
]
ENGINES = [
    pytest.param("ray", marks=pytest.mark.skipif(not has("ray", "pyarrow"), reason="no Ray")),
    pytest.param(
        "spark",
        marks=pytest.mark.skipif(
            not (java and has("pyspark", "pandas", "pyarrow")), reason="no Spark, or no Java"
        ),
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a folder of Parquet files and JSON lines, and what is to come out."""
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    folder = tmp_path_factory.mktemp("scoring")
    template = Template("[MASK]满意。{text}", {"负面": "不", "正面": "很"}, "bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template)
    model.save(folder / "model.keras")
    clauses = itertools.islice(itertools.product(CLAUSES, repeat=7), ROWS * FILES)
    texts = ["".join(some[-1 - i % 5 :]) * (1 + i % 3) for i, some in enumerate(clauses)]
    (folder / "reviews").mkdir()
    for number in range(FILES):
        part = range(number * ROWS, (number + 1) * ROWS)
        # A number that is missing is no NaN afterwards.
        rows = [{"row": i, "text": texts[i], "stars": i % 5 or None} for i in part]
        path = folder / "reviews" / f"part-{number:02}"
        if number % 2:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.with_suffix(".jsonl").write_text("".join(lines), "utf-8")
        else:
            pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    predict_to_file(model, texts, folder / "expected.jsonl", verbose=0)
    return folder


def start(engine, folder, out, log):
    command = [sys.executable, EXAMPLES / f"predict_{engine}.py", "model.keras", "reviews", out]
    with open(log, "wb") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)


def complete(out):
    """The predicted files, and what tells whether one was written again."""
    paths = (path for path in out.glob("part-*"))
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def wait_for(process, out, count, log):
    while len(complete(out)) < count:
        assert process.poll() is None, log.read_text("utf-8", "replace")[-5000:]
        time.sleep(0.02)


def workers(engine, parent):
    """The processes that predict, below a process."""
    found, parents = {}, {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text("utf-8", "replace")
            words = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            )
        except OSError:  # it has just ended
            continue
        found[int(folder.name)] = words
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])

    def below(process):
        while process in parents and process != parent:
            process = parents[process]
        return process == parent

    if engine == "ray":
        mine = [p for p, words in found.items() if words.startswith("ray::") and "Part" in words]
    else:
        # A daemon forks them.
        daemons = {p for p, words in found.items() if "pyspark.daemon" in words}
        mine = [p for p in daemons if parents[p] in daemons]
    return [process for process in mine if below(process)]


@pytest.mark.parametrize("engine", ENGINES)
def test_interrupted_and_killed(engine, folder):
    import pyarrow.parquet as pq

    out, log = folder / engine, folder / f"{engine}.log"
    process = start(engine, folder, out, log)
    wait_for(process, out, 1, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(600) != 0
    before = complete(out)
    assert 1 <= len(before) < FILES - 4

    process = start(engine, folder, out, log)
    wait_for(process, out, len(before) + 1, log)
    victim, *others = workers(engine, process.pid)
    assert others, "expected two workers"
    os.kill(victim, signal.SIGKILL)
    assert len(complete(out)) < FILES
    assert process.wait(3000) == 0, log.read_text("utf-8", "replace")[-5000:]
    words = log.read_text("utf-8", "replace")
    assert f"{FILES} partitions" in words and f"{FILES - len(before)} of them without" in words
    after = complete(out)
    assert len(after) == FILES and before.items() <= after.items()
    assert sorted(after) == sorted(path.name for path in (folder / "reviews").iterdir())
    assert not list(out.glob(".writing-*"))

    rows = []
    for path in sorted(out.iterdir()):
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        else:
            rows += [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    lines = (folder / "expected.jsonl").read_text("utf-8").splitlines()
    expected = [json.loads(line) for line in lines]
    assert [row["row"] for row in rows] == [line["index"] for line in expected]
    assert [row.get("stars") for row in rows] == [i % 5 or None for i in range(len(rows))]
    assert [row["label"] for row in rows] == [line["label"] for line in expected]
    probabilities = [max(line["probabilities"].values()) for line in expected]
    assert [row["probability"] for row in rows] == pytest.approx(probabilities, abs=1e-5)

    # All is done: nothing starts.
    process = start(engine, folder, out, log)
    assert process.wait(600) == 0 and "0 of them without" in log.read_text("utf-8", "replace")
    assert complete(out) == after


@pytest.mark.parametrize("engine", ENGINES[:1])
def test_long_and_empty_files_in_ray(engine, folder, tmp_path, monkeypatch):
    """Of a file, a worker has some rows in memory at once; no row is lost between them."""
    import pyarrow.parquet as pq

    spec = importlib.util.spec_from_file_location("predict_ray", EXAMPLES / "predict_ray.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "ROWS", 30)
    texts = tmp_path / "reviews"
    shutil.copytree(folder / "reviews", texts)
    pq.write_table(pq.read_table(texts / "part-00.parquet")[:0], texts / "empty.parquet")
    (texts / "empty.jsonl").write_text("")
    names = ["part-00.parquet", "part-01.jsonl", "empty.parquet", "empty.jsonl"]
    predictor = TextPredictor(folder / "model.keras")
    example.PartitionPredictor(str(texts), str(tmp_path), predictor)({"name": names})
    table = pq.read_table(tmp_path / names[0])
    rows = [json.loads(line) for line in (tmp_path / names[1]).read_text("utf-8").splitlines()]
    assert [row["row"] for row in table.to_pylist() + rows] == list(range(2 * ROWS))
    assert all(row["label"] in ("负面", "正面") for row in table.to_pylist() + rows)
    empty = pq.read_table(tmp_path / names[2])
    assert empty.num_rows == 0 and empty.schema == table.schema
    assert (tmp_path / names[3]).read_text() == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_run_is_refused(engine, folder):
    def run(*arguments):
        command = [sys.executable, EXAMPLES / f"predict_{engine}.py", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    assert "(default: text)" in run("--help").stdout
    assert "a folder of their own" in run("model.keras", "reviews", "reviews").stderr
    assert "needs the checkpoint" in run("my.tuned", "reviews", "out").stderr


@pytest.mark.parametrize("engine", ENGINES[:1])
def test_the_predictor_itself_in_ray(engine, folder):
    """Without files of its own: what the documentation of `TextPredictor` shows."""
    script = """
import ray
from keras_ptuning import TextPredictor

ray.init(num_cpus=2)
workers = ray.data.ActorPoolStrategy(size=1)
reviews = ray.data.read_parquet("reviews/part-00.parquet")
found = reviews.map_batches(TextPredictor, fn_constructor_args=("model.keras",), compute=workers)
found.to_pandas()[["row", "label"]].sort_values("row").to_json("found.json", orient="records")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads((folder / "found.json").read_text("utf-8"))
    lines = (folder / "expected.jsonl").read_text("utf-8").splitlines()[:ROWS]
    assert [row["row"] for row in found] == list(range(ROWS))
    assert [row["label"] for row in found] == [json.loads(line)["label"] for line in lines]
