"""The thread of the server, with a bank that only says what it was asked."""

import threading
import time
import types

import pytest
from small_bert import SPECIAL
from small_decoders import write_tokenizer

import keras_ptuning
from keras_ptuning.serving import worker as working
from keras_ptuning.serving.worker import BadText, Full, UnknownTask, Worker


class Template:
    slots = ("text",)

    def __init__(self, labels):
        self.labels = self.label_names = labels

    def encode(self, texts, candidates=None):
        if "wrong" in texts:
            raise ValueError("It is wrong.")


class Bank:
    """Answers with the text. A batch waits until it may be answered."""

    def __init__(self):
        self.files, self.batches = {}, []
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def tasks(self):
        return list(self.files)

    def add(self, name, path):
        with open(path) as file:
            self.files[name] = file.read()
        if self.files[name] == "broken":
            del self.files[name]
            raise ValueError("It is broken.")

    def remove(self, name):
        del self.files[name]

    def template(self, name):
        return Template([1, "1"] if self.files[name] == "alike" else ["good", "bad"])

    def predict_proba(self, requests, batch_size=64):
        texts = [text for _, text in requests]
        if texts == ["a"]:  # the trial of a new file
            if self.files[requests[0][0]] == "nan":
                raise ValueError("It is not finite.")
            return [{}]
        self.batches.append(texts)
        assert self.may_answer.wait(10)
        for text in texts:
            if text in ("wrong", "nan"):
                raise ValueError("A batch has something wrong.")
        return [{self.files[name]: text} for name, text in requests]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The bank, the worker, and the folder with the task `a`."""
    monkeypatch.setattr(working, "LOOK_SECONDS", 0.02)
    (tmp_path / "a.tuned").write_text("first")
    bank = Bank()
    worker = Worker(bank, str(tmp_path), batch_size=4, max_waiting=10)
    worker.look()
    worker.start()
    yield types.SimpleNamespace(bank=bank, worker=worker, folder=tmp_path)
    bank.may_answer.set()
    worker.stop()


def hold(served):
    """Keeps the worker busy with a text; returns its future."""
    served.bank.may_answer.clear()
    future = served.worker.submit([("a", "held")])
    eventually(lambda: served.bank.batches == [["held"]])
    return future


def eventually(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_arrives_together_is_one_batch(served):
    hold(served)
    futures = [served.worker.submit([("a", f"{i}"), ("a", f"{i}b")]) for i in range(3)]
    served.bank.may_answer.set()
    for i, future in enumerate(futures):
        assert future.result(10) == [{"first": f"{i}"}, {"first": f"{i}b"}]
    assert served.bank.batches == [["held"], ["0", "0b", "1", "1b"], ["2", "2b"]]


def test_what_is_wrong_fails_alone(served):
    hold(served)
    rows = [[("a", "x")], [("a", "wrong")], [("a", "y"), ("gone", "z")], [("a", "nan")]]
    futures = [served.worker.submit(row) for row in rows]
    last = served.worker.submit([("a", "z")])
    served.bank.may_answer.set()
    assert futures[0].result(10) == [{"first": "x"}] and last.result(10) == [{"first": "z"}]
    with pytest.raises(BadText, match=r"^It is wrong\.$"):
        futures[1].result(10)
    with pytest.raises(UnknownTask, match=r"no task 'gone'. There are: \['a'\]"):
        futures[2].result(10)
    # The text is not to blame.
    with pytest.raises(ValueError, match="A batch has something wrong") as error:
        futures[3].result(10)
    assert not isinstance(error.value, BadText)


def test_no_more_wait_than_may(served):
    hold(served)
    served.worker.submit([("a", "x")] * 9)
    with pytest.raises(Full, match=r"Too many texts wait: 9, and 2 more came\. At most 10 can"):
        served.worker.submit([("a", "y")] * 2)
    assert served.worker.submit([("a", "y")])


def test_who_hangs_up_is_not_answered(served):
    hold(served)
    gone, other = served.worker.submit([("a", "x")] * 3), served.worker.submit([("a", "y")])
    gone.cancel()
    served.bank.may_answer.set()
    assert other.result(10) == [{"first": "y"}]
    assert served.bank.batches == [["held"], ["y"]]


def test_stopping_answers_what_waits(served):
    futures = [hold(served), *(served.worker.submit([("a", f"{i}")]) for i in range(9))]
    threading.Timer(0.05, served.bank.may_answer.set).start()
    served.worker.stop()
    assert [future.result(0)[0]["first"] for future in futures[1:]] == [f"{i}" for i in range(9)]


def test_the_folder(served):
    worker, folder = served.worker, served.folder
    (folder / "b.tuned").write_text("other")
    (folder / ".hidden.tuned").write_text("other")
    (folder / "b.txt").write_text("other")
    eventually(lambda: list(worker.templates) == ["a", "b"])
    for content, problem in (("broken", "It is broken."), ("nan", "It is not finite.")):
        (folder / "a.tuned").write_text(content)
        eventually(lambda problem=problem: worker.problems == {"a.tuned": problem})
        assert worker.submit([("a", "x")]).result(10) == [{"first": "x"}]
    (folder / "a.tuned").write_text("second")
    eventually(lambda: not worker.problems)
    assert worker.submit([("a", "x")]).result(10) == [{"second": "x"}]
    (folder / "b.tuned").unlink()
    eventually(lambda: list(worker.templates) == ["a"])
    assert len(served.bank.tasks) == 1
    # The folder is exchanged for another.
    folder.rename(folder.parent / "away")
    eventually(lambda: list(worker.problems) == [str(folder)])
    assert worker.submit([("a", "x")]).result(10) == [{"second": "x"}]
    (folder.parent / "away").rename(folder)
    eventually(lambda: not worker.problems)
    assert list(worker.templates) == ["a"]


def test_a_link_that_leads_nowhere_fails_alone(served):
    (served.folder / "b.tuned").symlink_to("b.tuned")
    (served.folder / "c.tuned").write_text("other")
    eventually(lambda: list(served.worker.templates) == ["a", "c"])
    assert list(served.worker.problems) == ["b.tuned"]
    (served.folder / "b.tuned").unlink()
    eventually(lambda: not served.worker.problems)


def test_a_file_that_cannot_be_read_now_is_read_later(served, monkeypatch):
    add = served.bank.add

    def fails(name, path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(served.bank, "add", fails)
    (served.folder / "b.tuned").write_text("other")
    eventually(lambda: "b.tuned" in served.worker.problems)
    monkeypatch.setattr(served.bank, "add", add)
    eventually(lambda: "b" in served.worker.templates)
    assert not served.worker.problems


def test_labels_that_are_alike_as_strings(served):
    (served.folder / "b.tuned").write_text("alike")
    eventually(lambda: "must differ as strings" in served.worker.problems.get("b.tuned", ""))
    assert len(served.bank.tasks) == 1


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["[unused1]", "##s", "the", "is"], ["the", "is"]),
        (["很", "不"], ["很", "不"]),
    ],
)
def test_the_trial_of_candidates(words, found):
    """Two tokens that are read as themselves, of any language."""
    template = keras_ptuning.Template("[MASK]{text}", None, ["[PAD]", *SPECIAL[1:], *words])
    assert working._trial(template) == [("a", found)]
    template.encode(["a"], candidates=[found])


def test_the_trial_of_a_model_that_cannot_continue_an_empty_text(tmp_path):
    write_tokenizer(tmp_path, model_max_length=48)
    words = {"bad": "不", "good": "很"}
    template = keras_ptuning.Template("{text}[MASK]", words, tmp_path, causal=True)
    with pytest.raises(ValueError, match="leaves nothing to continue"):
        template.encode([""])
    assert template.encode(*working._trial(template))["token_ids"].shape == (1, 1)
