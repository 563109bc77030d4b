"""`benchmarks/searching.py` on a few reviews."""

import importlib.util
import json
import pathlib
import sys

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


def test_runs_once(tmp_path, monkeypatch, capsys):
    """Each method is a line; the same command prints the table and runs nothing."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("searching", BENCHMARKS / "searching.py")
    searching = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(searching)
    monkeypatch.setattr(searching, "LABELED", 8)
    texts = {1: "服务很满意。", 0: "服务不满意。"}
    (tmp_path / "sentiment").mkdir()
    for split, count in (("train", 16), ("valid", 2), ("test", 4)):
        lines = [f"房间{'好' * (i // 2 + 1)}，{texts[i % 2]}\t{i % 2}\n" for i in range(count)]
        path = tmp_path / "sentiment" / f"sentiment.{split}.data"
        path.write_text("".join(lines), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    command = (
        "--experiments", "templates", "--tasks", "sentiment", "--seeds", "1",
        "--checkpoint", "bert-mini-zh", "--steps", "1", "--search-steps", "1", "--batch-size", "4",
        "--data", str(tmp_path), "--out", str(out),
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["searching.py", *command])
    searching.main()
    runs = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [run["method"] for run in runs] == [
        "of a person", "searched", "mined", "all of them, weighed", "P-tuning",
    ]  # fmt: skip
    assert runs[2]["pattern"] == "服务[MASK]满意。{text}"
    assert abs(sum(runs[3]["weights"]) - 1) < 0.01
    assert "| P-tuning |" in capsys.readouterr().out
    searching.main()
    assert len(out.read_text("utf-8").splitlines()) == len(runs)
