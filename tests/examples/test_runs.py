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
