"""The files of finished runs, which the benchmarks continue."""

import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def runs(load_script):
    return load_script(BENCHMARKS / "runs.py")


def test_half_a_line_gives_way(runs, tmp_path):
    """To the next run, and not before: a table only reads."""
    path = tmp_path / "runs.jsonl"
    assert runs.read_runs(path) == []
    for rest in (b"", b"{", b'{"task": "tne'):
        content = b'{"seed": 0}\n{"seed": 1}\n' + rest
        path.write_bytes(content)
        assert runs.read_runs(path) == [{"seed": 0}, {"seed": 1}]
        assert path.read_bytes() == content
        runs.add_run(path, {"task": "新"})
        assert path.read_text("utf-8") == '{"seed": 0}\n{"seed": 1}\n{"task": "新"}\n'


@pytest.mark.parametrize("content", [b"text", b"one\ntwo", b'{"seed": 0}\n\ntwo'])
def test_another_file_stays_as_it_is(runs, tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="one of finished runs"):
        runs.read_runs(path)
    with pytest.raises(SystemExit, match="one of finished runs"):
        runs.add_run(path, {})
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


def test_an_ensemble_of_other_settings_is_another_run(run_script, tmp_path):
    """The table has the runs of its own settings alone, each seed once."""

    def call(*options):
        printed = run_script(
            BENCHMARKS / "ensemble.py",
            "--tasks", "tnews", "--seeds", 0, 0, "--out", tmp_path / "out", *options,
            load=lambda *_: (None, None, None, "[MASK]{text}", {"a": "不", "b": "很"}),
            build_prompt_ensemble=lambda *_, members, **kwargs: members,
            train=lambda *_: (1, 1),
            accuracies=lambda members, _: (members / 10, members / 10, [members / 10]),
        )  # fmt: skip
        (row,) = (line for line in printed.splitlines() if line.startswith("| tnews"))
        return row.split(" | ")[1:3]

    assert call() == ["1", "50.0"]
    assert call("--members", 3) == ["1", "30.0"]
    assert call() == ["1", "50.0"]
    assert len((tmp_path / "out").read_text("utf-8").splitlines()) == 2
