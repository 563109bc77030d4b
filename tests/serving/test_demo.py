"""The page to try templates on: its functions, and the whole in a browser."""

import contextlib
import html
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from keras_ptuning import PromptBank, Template, build_ptuning_model

pytest.importorskip("gradio")

from keras_ptuning.serving.demo import build_page, read_labeled, read_words
from keras_ptuning_command import main

ROOT = pathlib.Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WORDS = "负面: 不\n正面：很，好"
LABELS = {"负面": ["不"], "正面": ["很", "好"]}
TEXTS = "书贵\t正面\n屏幕\t负面\n\n房间差\t负面"


@pytest.fixture(scope="module")
def folder(small_bert):
    return os.path.dirname(small_bert[0])


@pytest.fixture(scope="module")
def page(folder):
    return build_page(folder)


@pytest.fixture(scope="module")
def functions(page):
    return {function.api_name: function.fn for function in page.fns.values()}


@pytest.fixture(scope="module")
def bank(small_bert):
    return PromptBank(*small_bert)


@pytest.fixture(scope="module")
def tuned(small_bert, tmp_path_factory):
    """The path of a tuned file, whose labels are numbers."""
    template = Template("[u1][MASK]{text}", {0: "[v1]", 1: "[v2]"}, small_bert[2], maxlen=48)
    path = str(tmp_path_factory.mktemp("tuned") / "numbers.tuned")
    build_ptuning_model(*small_bert[:2], template).save_tuned(path)
    return path


def test_answer(functions, bank, tokenizer):
    """As the bank answers."""
    error, used, labels, table = functions["answer"]("书贵", "[MASK]满意。{text}", WORDS, None)
    assert (error, used) == ("", "[MASK]满意。{text}   负面: 不   正面: 很, 好")
    bank.add("task", Template("[MASK]满意。{text}", LABELS, tokenizer, maxlen=64))
    assert labels == pytest.approx(bank.predict_proba([("task", "书贵")])[0], abs=1e-5)
    (filled,) = bank.fill([("task", "书贵")])[0]
    assert table["headers"] == ["[MASK] 1"]
    assert table["data"] == [[f"{token}  {p:.1%}"] for token, p in filled]
    bank.remove("task")


def test_answer_without_labels(functions):
    error, used, labels, table = functions["answer"]("书贵", "{text}[MASK][MASK]", " \n", None)
    assert (error, used, labels) == ("", "{text}[MASK][MASK]", {})
    assert table["headers"] == ["[MASK] 1", "[MASK] 2"] and len(table["data"]) == 10


def test_answer_of_a_tuned_file(functions, bank, tuned):
    error, used, labels, _ = functions["answer"]("书贵", "not read", "not read", tuned)
    assert (error, used) == ("", "[u1][MASK]{text}   0: [v1]   1: [v2]")
    bank.add("task", tuned)
    expected = bank.predict_proba([("task", "书贵")])[0]
    assert labels == pytest.approx({str(k): p for k, p in expected.items()}, abs=1e-5)
    bank.remove("task")


def test_compare(functions, bank, tokenizer, tuned):
    patterns = ["[MASK]满意。{text}", "{text}[MASK]"]
    sides = [(pattern, WORDS, None) for pattern in patterns]
    error, summary, table = functions["compare"](TEXTS, *sides[0], *sides[1])
    assert error == ""
    labeled = read_labeled(TEXTS)
    answers = []
    for i, pattern in enumerate(patterns):
        bank.add(str(i), Template(pattern, LABELS, tokenizer, maxlen=64))
        answers.append(bank.predict([(str(i), text) for _, text, _ in labeled]))
        bank.remove(str(i))
    rights = [sum(a == x[2] for a, x in zip(own, labeled, strict=True)) for own in answers]
    different = [x[1] for x, *pair in zip(labeled, *answers, strict=True) if len(set(pair)) > 1]
    lines = [f"{s}: {n} of 3 right, {n / 3:.1%}" for s, n in zip("AB", rights, strict=True)]
    assert summary.splitlines() == [*lines, f"Different answers: {len(different)} of 3"]
    assert [row[0] for row in table["data"]] == different
    error, summary, table = functions["compare"](TEXTS, *sides[0], *sides[0])
    assert error == "" and summary.endswith("Different answers: 0 of 3") and not table["data"]
    numbers = ("", "", tuned)
    error, summary, _ = functions["compare"]("书\t0\n屏\t1", *numbers, *numbers)
    assert error == "" and summary.startswith("A: ")
    # The page's labels are strings. Two orders of the words give opposite answers.
    rows = []
    for words in ("0: 不\n1: 很", "0: 很\n1: 不"):
        written = "[MASK]满意。{text}", words, None
        error, _, table = functions["compare"]("书\t0\n屏\t1", *numbers, *written)
        assert error == ""
        rows += table["data"]
    assert sorted(text for text, *_ in rows) == ["书", "屏"]


@pytest.mark.parametrize(
    ("pattern", "words", "message"),
    [
        ("满意。{text}", WORDS, "at least one [MASK]"),
        ("[MASK]{word}", WORDS, "Unknown '{word}'"),
        ("[MASK]{text}", "负面: 不\n正面: 很好", "has 2 tokens"),
        ("[MASK]{text}", "负面: 不\n正面", "Line 2 of the label words must be a label, a colon"),
        ("[MASK]{text}", "负面: 不\n负面: 很", "the label '负面' again"),
        ("[MASK]{text}", "负面:\n正面: 很", "The label '负面' has no word"),
        ("[MASK]{text}", "负面: 不", "at least two labels"),
        ("[u1][MASK]{text}", WORDS, "tokens that learn, ['[u1]']"),
        ("[MASK]{text}{text_b}", WORDS, "one text at a time"),
    ],
)
def test_errors_can_be_read(functions, pattern, words, message):
    error, *results = functions["answer"]("书", pattern, words, None)
    assert message in html.unescape(error) and results == [None] * 3
    assert "Traceback" not in error and 'role="alert"' in error
    error, *results = functions["compare"](TEXTS, "[MASK]{text}", WORDS, None, pattern, words, None)
    text = re.sub("<.*?>", "", html.unescape(error))
    assert text.startswith("Template B: ") and message in text and results == [None] * 2


def test_errors_of_files_and_lists(functions, tuned, tmp_path):
    path = tmp_path / "broken.tuned"
    path.write_bytes(pathlib.Path(tuned).read_bytes()[:-9])
    error = html.unescape(functions["answer"]("书", "", "", str(path))[0])
    assert "'broken.tuned' is damaged" in error and str(tmp_path) not in error
    side = ("[MASK]{text}", WORDS, None)
    for lines, other, message in (
        ("", side, "There are no texts"),
        ("书 正面", side, "Line 1 of the texts must be a text, a tab and a label"),
        ("书\t中", side, "Template A: line 1 of the texts has the label '中'"),
        ("书\t正面", ("[MASK]{text}", "", None), "Template B: it has no label words"),
    ):
        assert message in html.unescape(functions["compare"](lines, *side, *other)[0])


def test_the_examples_work():
    """Those that the page starts with are for a vocabulary with all characters."""
    embedded = build_page("bert-mini-zh")
    own = {function.api_name: function.fn for function in embedded.fns.values()}
    values = {
        getattr(b, "elem_id", None): getattr(b, "value", None) for b in embedded.blocks.values()
    }
    error, _, labels, _ = own["answer"](*(values[i] for i in ("text", "pattern", "words")), None)
    assert error == "" and list(labels) == ["负面", "正面"]
    sides = [values[f"{name}{side}"] for side in "AB" for name in ("pattern", "words", "tuned")]
    error, summary, _ = own["compare"](values["lines"], *sides)
    assert error == "" and "of 12 right" in summary


def test_a_causal_model():
    page = build_page("gpt-mini-zh")
    own = {function.api_name: function.fn for function in page.fns.values()}
    values = {getattr(b, "elem_id", None): getattr(b, "value", None) for b in page.blocks.values()}
    error, _, labels, table = own["answer"](
        *(values[i] for i in ("text", "pattern", "words")), None
    )
    assert error == "" and len(labels) == 2 and table["headers"] == ["[MASK] 1"]
    error = html.unescape(own["answer"]("书", "[MASK]满意。{text}", WORDS, None)[0])
    assert "[MASK] must come last" in error


def test_nothing_leaves_the_machine(page):
    assert page.analytics_enabled is False


def test_words():
    assert read_words("a：很、好\n b : c:d ") == {"a": ["很", "好"], "b": ["c:d"]}
    assert read_words("\n") is None


def test_texts_with_other_ends_of_lines():
    text = "很\u2028好\x0b的"
    assert read_labeled(f"{text}\t正面\r\n差\t负面\n") == [(1, text, "正面"), (2, "差", "负面")]


def test_a_port_that_is_taken(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"The port {port} is taken.*--port {port + 1}"):
            main(["demo", folder, "--port", str(port)])


@contextlib.contextmanager
def served(folder):
    """The address of the page, served by the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "keras_ptuning_command", "demo", folder, "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == f"Loading {folder}\n"
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def browser_page(address):
    """A page of a headless browser, and what it asked other machines for."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        try:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        view, outside = browser.new_page(viewport={"width": 1280, "height": 1000}), []
        view.on("request", lambda r: None if address in r.url else outside.append(r.url))
        view.goto(address)
        view.set_default_timeout(120_000)
        yield view, outside
        browser.close()


def until(what, seconds=120):
    """Waits for something to be true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


@pytest.mark.slow
def test_in_a_browser(folder, tuned, tmp_path):
    with served(folder) as address, browser_page(address) as (view, outside):

        def read(place):
            return view.locator(f"#{place}").inner_text()

        def value(place):
            return view.locator(f"#{place} textarea, #{place} input").first.input_value()

        def write(place, text):
            view.locator(f"#{place} textarea, #{place} input").first.fill(text)

        # The small vocabulary lacks characters of the examples.
        write("text", "物流很快，服务态度好。")
        write("pattern", "[MASK]满意。{text}")
        view.locator("#ask").click()
        until(lambda: "%" in read("labels") and "%" in read("likeliest"))
        first = read("labels"), read("likeliest")
        write("pattern", "{text}感觉[MASK]好。")
        view.locator("#ask").click()
        until(lambda: value("used").startswith("{text}"))
        until(lambda: read("labels") != first[0])
        assert read("likeliest") != first[1] and "正面" in read("labels")
        view.screenshot(path=tmp_path / "answer.png")

        write("pattern", "{text}满意。")
        view.locator("#ask").click()
        until(lambda: "at least one [MASK]" in read("answer-error"))
        assert "Traceback" not in view.locator("body").inner_text()
        view.screenshot(path=tmp_path / "error.png")

        view.locator("#tuned input[type=file]").set_input_files(tuned)
        until(lambda: value("used").startswith("[u1]"))
        assert read("answer-error").strip() == ""
        view.screenshot(path=tmp_path / "tuned.png")

        view.get_by_role("tab", name="Compare").click()
        write("patternA", "[MASK]满意。{text}")
        write("patternB", "{text}感觉[MASK]好。")
        write("lines", TEXTS)
        view.locator("#compare").click()
        until(lambda: "of 3 right" in value("accuracy"))
        assert "Different answers: " in value("accuracy")
        view.screenshot(path=tmp_path / "compare.png", full_page=True)
        assert not outside
    assert all((tmp_path / f"{name}.png").stat().st_size for name in ("answer", "error", "tuned"))
