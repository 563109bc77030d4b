"""Sixty SIGKILLs: what is read afterwards is old or new, and what continues ends the same."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parent / "kills.py"


@pytest.mark.slow
@pytest.mark.parametrize("job", ["keras", "tuned", "checkpoint", "fit", "predict", "pretrain"])
def test_killed_at_random_moments(tmp_path, job):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), job, str(tmp_path), "10"], capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().count("killed") >= 10
    # What the last process left is swept by the next; nothing else is left.
    unfinished = (".writing", ".complete")
    left = [
        path
        for path in tmp_path.rglob(".*")
        # A folder that it was writing is one, with what is in it.
        if path.name.startswith(unfinished) and not path.parent.name.startswith(unfinished)
    ]
    assert len(left) <= 1
    names = os.listdir(tmp_path)
    assert not [name for name in names if name.endswith((".part", ".progress"))]
