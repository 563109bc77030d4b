"""The page for contributors: its code runs as it is, in order."""

import pathlib
import re

import pytest

import keras_ptuning
from keras_ptuning.checkpoints import opening
from keras_ptuning.methods import METHODS
from keras_ptuning.models.architectures import ARCHITECTURES
from keras_ptuning.tuning.base import LabelModel

ROOT = pathlib.Path(__file__).absolute().parents[1]
TEXT = (ROOT / "docs" / "contributing.md").read_text("utf-8")


def compile_eagerly(self, *args, compile=LabelModel.compile, **kwargs):
    compile(self, *args, run_eagerly=True, **kwargs)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the page's code defines, and the folder that it ran in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("contributing"))
        # The page enters a reader.
        patch.setattr(opening, "READERS", dict(opening.READERS))
        # Two steps take less time than tracing them.
        patch.setattr(LabelModel, "compile", compile_eagerly)
        names = {"__name__": "contributing"}
        for block in re.finditer(r"^```python\n(.*?)^```", TEXT, re.S | re.M):
            # Errors have the line of the page.
            before = "\n" * TEXT[: block.start(1)].count("\n")
            exec(compile(before + block[1], "docs/contributing.md", "exec"), names)
        return names, pathlib.Path.cwd()


def test_the_code_runs(page):
    names, folder = page
    for file in ("scale.tuned", "distilbert.tuned", "distilbert.keras", "distilbert-mini-zh"):
        assert (folder / file).exists(), file
    assert "bert/embeddings/word_embeddings" in names["NumPyCheckpoint"](folder / "bert.npz").shapes


def test_the_methods_are_no_part_of_the_package(page):
    names, _ = page
    assert names["BitFit"] not in METHODS.values()
    assert names["ScaleTuning"] not in METHODS.values()
    assert names["DistilBERT"] not in ARCHITECTURES


def test_what_the_summary_says(page):
    names, _ = page
    lines = []
    build, tune = keras_ptuning.build_ptuning_model, names["ScaleTuning"]()
    model = build("bert-mini-zh", template=names["template"], tune=tune)
    model.summary(print_fn=lambda line, **_: lines.append(line))
    comment = re.search(r"model\.summary\(\)  # (.*)", TEXT)[1]
    assert any(comment in line for line in lines), lines[-2:]


@pytest.mark.parametrize("room", re.findall(r"`(\w+/|\w+\.py)`(?=[,` \w./]* \|)", TEXT))
def test_the_rooms_are_there(room):
    assert (ROOT / "keras_ptuning" / room).exists() or (ROOT / room).exists()


def test_no_room_is_missing():
    own = {p.name for p in (ROOT / "keras_ptuning").iterdir() if (p / "__init__.py").exists()}
    assert own == {name.rstrip("/") for name in re.findall(r"`(\w+/)`(?=[,` \w./]* \|)", TEXT)}
