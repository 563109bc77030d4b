"""`benchmarks/searching.py` on a few texts."""

import json
import pathlib
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def searching(load_script):
    return load_script(BENCHMARKS / "searching.py")


@pytest.fixture
def call(searching, monkeypatch, tmp_path, eagerly):
    """Runs the script; returns the results of all runs so far."""
    out = tmp_path / "out.jsonl"

    def call(*options):
        usual = "--checkpoint", "bert-mini-zh", "--steps", "1", "--search-steps", "1"
        usual += "--batch-size", "4", "--seeds", "1", "--data", str(tmp_path), "--out", str(out)
        monkeypatch.setattr(sys, "argv", ["searching.py", *usual, *options])
        searching.main()
        lines = out.read_text("utf-8").splitlines()
        return [result for line in lines for result in json.loads(line)["results"]]

    return call


@pytest.mark.slow
def test_templates(searching, call, tmp_path, monkeypatch, capsys):
    """Each method is a row; the same command prints the table and runs nothing."""
    monkeypatch.setattr(searching, "LABELED", 8)
    texts = {1: "服务很满意。", 0: "服务不满意。"}
    (tmp_path / "sentiment").mkdir()
    for split, count in (("train", 16), ("valid", 2), ("test", 4)):
        lines = [f"房间{'好' * (20 - i)}，{texts[i % 2]}\t{i % 2}\n" for i in range(count)]
        path = tmp_path / "sentiment" / f"sentiment.{split}.data"
        path.write_text("".join(lines), encoding="utf-8")
    runs = call("--experiments", "templates", "--tasks", "sentiment")
    methods = ["of a person", "searched", "mined", "all of them, weighed", "P-tuning"]
    assert [run["method"] for run in runs] == methods
    assert runs[2]["pattern"] == "服务[MASK]满意。{text}"
    assert abs(sum(runs[3]["weights"]) - 1) < 0.01
    assert "| P-tuning |" in capsys.readouterr().out
    assert call("--experiments", "templates", "--tasks", "sentiment") == runs
    capsys.readouterr()
    # What other settings gave is not in the table.
    assert call("--table", "--steps", "2") == runs and "P-tuning" not in capsys.readouterr().out


def test_nothing_is_learnt_from_the_test(searching, tmp_path, monkeypatch):
    (tmp_path / "sentiment").mkdir()
    for split, count in (("train", 16), ("valid", 2), ("test", 4)):
        lines = [f"书{'好' * (i + 1)}\t{i % 2}\n" for i in range(count)]
        path = tmp_path / "sentiment" / f"sentiment.{split}.data"
        path.write_text("".join(lines), encoding="utf-8")
    monkeypatch.setattr(searching, "LABELED", 8)
    monkeypatch.setattr(sys, "argv", ["searching.py", "--data", str(tmp_path)])
    labeled, corpus, test, _ = searching.load("sentiment", 0, searching.parse_arguments())
    assert len(labeled[0]) == 8 and len(corpus) == 4 and len(test[0]) == 4
    assert not {*labeled[0], *corpus} & {*test[0]}


def test_words(searching, call, monkeypatch):
    texts = ["股市上涨，财经新闻。", "球队赢了，体育新闻。"] * 4
    labels = ["news_finance", "news_sports"] * 4
    words = {"news_finance": "财经", "news_sports": "体育"}
    found = [texts, labels], [], [texts[:2], labels[:2]], words
    monkeypatch.setattr(searching, "load", lambda *args: found)
    monkeypatch.setattr(searching, "WORDS", {"tnews": ("[MASK][MASK]新闻：{text}", 1)})
    monkeypatch.setitem(searching.EXPERIMENTS, "words", searching.WORDS)
    runs = call("--experiments", "words", "--tasks", "tnews")
    asked = ["of a person", "found", "found by a classifier"]
    methods = [name for word in asked for name in (word, f"{word}, calibrated")]
    assert [run["method"] for run in runs] == [*methods, "of a person, LoRA", "found, LoRA"]
    assert [len(own) for own in runs[2]["words"].values()] == [1, 1]
