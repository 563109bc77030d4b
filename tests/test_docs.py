"""The pages of the documentation: their code runs, their commands and links exist.

The blocks of a page run in one process, in their order, in a folder of their own. To take seconds,
they run on the smallest checkpoint, a few reviews, and one epoch. A block with a comment before it,
`<!-- not run: reason -->`, does not run.
"""

import pathlib
import re
import shlex
import shutil

import pytest

import keras_ptuning_command
from keras_ptuning import PromptClassifier, datasets
from keras_ptuning.tuning.base import LabelModel

ROOT = pathlib.Path(__file__).absolute().parents[1]
DOCS = ROOT / "docs"
# These have tests of their own.
ELSEWHERE = {DOCS / "porting.md", DOCS / "contributing.md"}
PAGES = [
    ROOT / "README.md",
    ROOT / "README_zh.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.rglob("*.md")),
]
WITH_CODE = [p for p in PAGES if p not in ELSEWHERE and "```python" in p.read_text("utf-8")]
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```(\w+)[^\n]*\n(.*?)^```", re.S | re.M)
SMALLER = {
    "bert-small-zh": "bert-mini-zh",
    "words_per_label=3": "words_per_label=1",
    "passes=50": "passes=1",
}
REVIEWS = [
    ("房间很小，隔音也差。", 0),
    ("物流很快，包装也好。", 1),
    ("用了两天就坏了，很失望。", 0),
    ("服务很好，下次还来。", 1),
]


def blocks(page, language):
    """The code of a page, each block with as many empty lines before it as the page has lines."""
    text = page.read_text("utf-8")
    return [
        "\n" * text[: block.start(3)].count("\n") + block[3]
        for block in BLOCK.finditer(text)
        if block[2] == language and not block[1]
    ]


def reviews(count):
    rows = (REVIEWS * count)[:count]
    return tuple(list(column) for column in zip(*rows, strict=True))


@pytest.fixture
def small(monkeypatch, tmp_path, eagerly):
    """Makes all that a page does take seconds."""

    def fit_once(self, *args, fit=LabelModel.fit, **kwargs):
        return fit(self, *args, **kwargs | {"epochs": 1, "verbose": 0})

    monkeypatch.setattr(LabelModel, "fit", fit_once)
    monkeypatch.setattr(PromptClassifier.__init__, "__defaults__", ("bert-mini-zh",))
    data = {"train": reviews(12), "valid": reviews(4), "test": reviews(4), "source": "here"}
    monkeypatch.setattr(datasets, "load_sentiment", lambda: data)
    for file in DOCS.glob("*.csv"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_runs(page, small, capsys):
    names = {"__name__": "page"}
    for code in blocks(page, "python"):
        for old, new in SMALLER.items():
            code = code.replace(old, new)
        exec(compile(code, str(page), "exec"), names)
    # What a page says that a summary prints.
    printed = capsys.readouterr().out
    for comment in re.findall(r"# +((?:Trained|lora|prompt): .+)", page.read_text("utf-8")):
        assert comment in printed
    for plot in re.findall(r'savefig\("([^"]+)"', page.read_text("utf-8")):
        assert pathlib.Path(plot).exists() and f"]({plot})" in page.read_text("utf-8")


def test_the_readme_is_the_quickstart():
    """Its output was printed by the example."""
    block = blocks(ROOT / "README.md", "python")[0].lstrip("\n")
    assert (ROOT / "examples" / "quickstart.py").read_text("utf-8").endswith(block)
    printed = [
        [code.strip() for code in blocks(ROOT / name, "text")]
        for name in ("README.md", "README_zh.md")
    ]
    assert printed[0] == printed[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_links(page):
    for code in blocks(page, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["keras-ptuning"]:
                keras_ptuning_command._parse(words[1:])
            for word in words:
                if re.fullmatch(r"(examples|benchmarks|tests)/[\w/]+\.py", word):
                    assert (ROOT / word).exists(), word
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if not link.startswith(("https://", "http://")):
            assert (page.parent / link).exists(), link
