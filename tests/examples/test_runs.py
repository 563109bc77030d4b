"""The files of finished runs, which the benchmarks continue."""

import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def runs(load_script):
    return load_script(BENCHMARKS / "runs.py")


def test_half_a_line_is_cut_off(runs, tmp_path):
    path = tmp_path / "runs.jsonl"
    assert runs.read_runs(path) == []
    for rest in (b"", b"{", b'{"task": "tne'):
        path.write_bytes(b'{"seed": 0}\n{"seed": 1}\n' + rest)
        assert runs.read_runs(path) == [{"seed": 0}, {"seed": 1}]
        assert path.read_bytes() == b'{"seed": 0}\n{"seed": 1}\n'


@pytest.mark.parametrize("content", [b"text", b"one\ntwo", b'{"seed": 0}\n\ntwo'])
def test_another_file_stays_as_it_is(runs, tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="one of finished runs"):
        runs.read_runs(path)
    assert path.read_bytes() == content


def test_a_seed_given_twice_counts_once(run_script, tmp_path):
    """Otherwise the spread would be that of more seeds than there are."""
    found = {"test": 1, "default": 0.5, "tf-idf": 0.5, "seconds": 1, "at most": 1000}
    printed = run_script(
        BENCHMARKS / "defaults.py",
        "--tasks", "tnews", "--labeled", 8, "--seeds", 0, 0, "--out", tmp_path / "out",
        run=lambda task, count, seed, _: {"task": task, "labeled": count, "seed": seed, **found},
    )  # fmt: skip
    assert "| tnews | 8 | 1 | 50.0 | 50.0 | 0.0 | 1 |" in printed.splitlines()
