"""The command `keras-ptuning`."""

import importlib.util
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pandas
import pytest
import small_bert
import small_checkpoints

from keras_ptuning.tuning import predicting
from keras_ptuning_command import main

pytestmark = pytest.mark.usefixtures("eagerly")

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments, **kwargs):
    """The command in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "keras_ptuning_command", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **kwargs)


def fails(arguments, match):
    with pytest.raises(SystemExit, match=match) as end:
        main(list(map(str, arguments)))
    assert str(end.value.code).startswith("keras-ptuning: ")


@pytest.fixture
def job(tmp_path, make_model, reviews):
    """The arguments of a prediction."""
    make_model().save(tmp_path / "model.keras")
    (tmp_path / "texts").write_text("\n".join(reviews[0]), "utf-8")
    return ["predict", *(str(tmp_path / name) for name in ("model.keras", "texts", "out.jsonl"))]


def test_help_needs_no_backend():
    code = "import sys, keras_ptuning_command as c\n"
    code += "try: c.main(sys.argv[1:])\nfinally: assert not {'keras', 'numpy'} & set(sys.modules)"
    for arguments, expected in (
        (["--help"], "inspect"),
        (["predict", "--help"], "--batch-size"),
        (["serve", "--help"], "--port"),
        (["demo", "--help"], "bert-small-zh"),
        (["--version"], "keras_ptuning "),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0 and expected in done.stdout, done.stderr


def test_a_demo_without_gradio(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fails(["demo"], r"needs gradio: pip install 'keras_ptuning\[demo\]'")


def test_inspect():
    done = run("inspect", "bert-mini-zh")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "architecture   bert" in lines and "parameters     2,271,152" in lines
    assert lines[-1] == "It can answer a cloze."


def test_inspect_what_cannot_answer(tmp_path, capsys):
    values = {k: v for k, v in small_bert.tensors().items() if not k.startswith("cls/")}
    small_bert.write_small_bert(str(tmp_path), values=values)
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(tmp_path)])
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert "head           none" in lines and lines[-1].startswith("Problem: It has no head")


def test_inspect_what_is_not_there(tmp_path):
    fails(["inspect", tmp_path / "nowhere"], "There is no nowhere in")
    small_checkpoints.write_tensorflow(tmp_path, "nezha")
    fails(["inspect", tmp_path], "model='nezha'")
    shutil.copy(small_bert.__file__, tmp_path / "vocab.txt")
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(tmp_path), "--model", "nezha"])
    assert end.value.code == 1


def test_predict_and_again(job, capsys, monkeypatch):
    with pytest.raises(SystemExit) as end:
        main(job)
    assert not end.value.code
    assert "24/24" in capsys.readouterr().out
    with open(job[-1], encoding="utf-8") as file:
        assert [json.loads(line)["index"] for line in file] == list(range(24))
    # The command sees this before it loads the model.
    pathlib.Path(job[1]).write_text("no model")
    with pytest.raises(SystemExit) as end:
        main(job)
    assert not end.value.code
    assert "has 24 predictions, as many as there are texts" in capsys.readouterr().out
    os.remove(job[1])
    fails(job, r"There is no file '.*model\.keras'")


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture
def tuned(tmp_path, small_bert, make_model):
    """The arguments of a prediction by a tuned file; the texts are to be named yet."""
    make_model().save_tuned(tmp_path / "a.tuned")
    checkpoint = os.path.dirname(small_bert[0])
    return [str(tmp_path / "a.tuned"), str(tmp_path / "out.jsonl"), "--checkpoint", checkpoint]


def succeeds(arguments):
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    assert not end.value.code


def test_tables(tuned, tmp_path, reviews):
    """The same texts in files of all kinds give the same predictions."""
    table = pandas.DataFrame({"number": range(24), "text": reviews[0]})
    table.loc[3, "text"] = '很，\n“好”"差"'
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_csv(tmp_path / "t.tsv.gz", index=False, sep="\t")
    table.to_json(tmp_path / "t.jsonl", orient="records", lines=True, force_ascii=False)
    table.to_parquet(tmp_path / "t.parquet")
    model, out, *checkpoint = tuned
    found = {}
    for name in ("t.csv", "t.tsv.gz", "t.jsonl", "t.parquet"):
        succeeds(["predict", model, tmp_path / name, out, *checkpoint, "--column", "text"])
        found[name] = pathlib.Path(out).read_bytes()
        os.remove(out)
    assert len(set(found.values())) == 1 and found["t.csv"].count(b"\n") == 24


def test_pairs(tmp_path, small_bert, make_model, make_template, capsys):
    make_model(make_template("[u1]{text}[MASK]{text_b}")).save_tuned(tmp_path / "pair.tuned")
    (tmp_path / "t.csv").write_text("b,a\n很,书\n不,书贵\n", "utf-8")
    job = ["predict", tmp_path / "pair.tuned", tmp_path / "t.csv", tmp_path / "out"]
    job += ["--checkpoint", os.path.dirname(small_bert[0]), "--column", "a"]
    fails(job, "needs 2 columns, for {text} and {text_b}. Received: column=.'a'.")
    succeeds([*job, "--column", "b"])
    assert len(read(tmp_path / "out")) == 2
    capsys.readouterr()
    # Before the model is loaded.
    (tmp_path / "pair.tuned").write_text("no model")
    succeeds([*job, "--column", "b"])
    assert "Nothing to do" in capsys.readouterr().out


def test_wrong_tables(tuned, tmp_path):
    model, out, *checkpoint = tuned
    for name, content, match in (
        ("a.csv", "text,label\n好,1\n好\n", "a.csv, line 3: expected 2 cells.*Received: 1"),
        ("b.csv", "txt,label\n好,1\n", r"has no column 'text'.*Received: .'txt', 'label'"),
        ("c.csv", "text,text\n好,1\n", "has two columns 'text'"),
        ("d.csv", 'text\n"好\n差\n', "expected a table with ',' between its cells"),
        ("e.jsonl", '{"text": "好"}\n\n{"txt": "好"}\n', "e.jsonl, line 3: expected an object"),
        ("f.jsonl", '{"text": "好"}\n{', "f.jsonl, line 2: expected an object"),
        (
            "g.jsonl",
            '{"text": "好"}\n{"text": null}\n',
            "g.jsonl, line 2: texts must be strings. Received: text=None",
        ),
        ("h.parquet", "PAR1 and no more", "h.parquet' is damaged, or no Parquet"),
        ("i.txt", "好\n", "Expected a table, whose name ends in one of .csv"),
    ):
        (tmp_path / name).write_text(content, "utf-8")
        fails(["predict", model, tmp_path / name, out, *checkpoint, "--column", "text"], match)
    fails(["predict", model, tmp_path / "a.csv", out, *checkpoint], "--column text in the command")
    # Before the model is loaded.
    (tmp_path / "no.keras").write_text("no model")
    wrong = ["predict", tmp_path / "no.keras", tmp_path / "b.csv", out, "--column", "text"]
    fails(wrong, "has no column 'text'")
    fails(["predict", model, tmp_path / "h.parquet", out, *checkpoint], "--column text")


def test_what_is_told_before_anything_is_loaded(job, tmp_path):
    """A misspelt name, and a checkpoint for a file that has its model."""
    (tmp_path / "no.keras").write_text("no model")
    fails(["predict", tmp_path / "no.keras", tmp_path / "texts.tx", job[3]], "no text file")
    fails([*job, "--checkpoint", "bert-mini-zh"], r"has its model: leave out --checkpoint")


def test_labelled_texts_are_no_texts(job):
    """Otherwise the model would read the label."""
    with open(job[2], "w", encoding="utf-8") as file:
        file.write("书很好\t正面\n书贵\t负面\n")
    fails(job, "one text a line, and nothing else")


def test_a_tuned_file_needs_its_checkpoint(tuned, tmp_path):
    (tmp_path / "texts").write_text("好\n", "utf-8")
    model, out, *_ = tuned
    fails(
        ["predict", model, tmp_path / "texts", out], "a.tuned is a tuned file.*--checkpoint bert-"
    )
    fails(
        ["predict", model, tmp_path / "texts", out, "--checkpoint", "gpt-mini-zh"],
        "belongs to another vocabulary",
    )


def test_standard_input(tuned, tmp_path):
    model, out, *checkpoint = tuned
    done = run("predict", model, "-", out, *checkpoint, input="书贵\n屏幕\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Texts of standard input: an interruption needs the same texts")
    assert done.stdout.index("Loading") < done.stdout.index("0/Unknown")
    assert [line["index"] for line in read(out)] == [0, 1]
    fails(["predict", model, "-", out, *checkpoint, "--column", "text"], "leave out --column")


@pytest.mark.parametrize("content", ["mine\n", '{"index": 0}\n', '{"index": 1}\n' * 24])
def test_another_file_in_its_place(job, content):
    with open(job[-1], "w") as file:
        file.write(content)
    fails(job, r"out\.jsonl' exists\. Delete it")
    with open(job[-1]) as file:
        assert file.read() == content


def test_a_pipe_in_its_place(job):
    os.mkfifo(job[-1])
    fails(job, r"Received a device or a pipe: '.*out\.jsonl'")


def test_what_is_no_model(job, tmp_path):
    model = job[1]
    whole = pathlib.Path(model).read_bytes()
    for content in (b"", b"text", whole[:5000]):
        pathlib.Path(model).write_bytes(content)
        fails(job, r"model\.keras' is damaged, or not one that `model\.save` wrote")
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    pathlib.Path(model).write_bytes(changed)
    with pytest.raises(SystemExit) as end:
        main(job)
    if isinstance(end.value.code, str):
        assert end.value.code.startswith("keras-ptuning: ") and len(end.value.code) < 1100
    os.remove(model)
    fails(job, r"There is no file '.*model\.keras'")
    os.mkfifo(model)
    fails(job, "a device or a pipe")


def test_wrong_arguments(job, tmp_path):
    fails([*job, "--batch-size", "0"], "`batch_size` must be an integer, at least 1")
    fails([*job[:3], tmp_path / "no" / "out"], "There is no folder")
    fails([*job[:2], tmp_path / "none", job[3]], "There is no text file")
    fails([*job[:2], tmp_path, job[3]], "Is a directory")


@pytest.mark.parametrize("interruption", [signal.SIGINT])
def test_interrupted(job, tmp_path, interruption):
    """By Ctrl-C, after the first predictions; the same command completes them."""
    with open(job[2], "w", encoding="utf-8") as file:
        file.write("书很好，不喜欢\n" * 20_000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "keras_ptuning_command", *job]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a shell ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    part = pathlib.Path(f"{job[-1]}.part")
    while not part.exists() or not part.stat().st_size:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(interruption)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    lines = errors.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Interrupted. ")
    assert lines[0].endswith("out.jsonl.part. Run the same command again to continue.")
    done = int(lines[0].split()[1].replace(",", ""))
    with open(part, encoding="utf-8") as file:
        assert done <= len(file.readlines()) < 20_000


def test_interrupted_when_all_is_predicted(job, capsys, monkeypatch):
    def interrupted(path, columns):
        raise KeyboardInterrupt

    pathlib.Path(job[-1]).write_text('{"index": 0}\n')
    monkeypatch.setattr(predicting, "count_texts", interrupted)
    with pytest.raises(SystemExit):
        main(job)
    assert capsys.readouterr().err == f"\nInterrupted. {job[-1]} stays as it is.\n"


def test_streams_that_are_closed(job, monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    succeeds(job)
    assert len(read(job[-1])) == 24
    monkeypatch.setattr(sys, "stdin", None)
    fails([*job[:2], "-", job[-1]], "Standard input is closed: give the path")


def test_output_that_lacks_chinese(job, monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "latin-1"))
    fails(["predict", "没有.keras", *job[2:]], r"There is no file '没有\.keras'")
    assert printed.getvalue() == b"Loading \\u6ca1\\u6709.keras\n"


def test_a_pipe_that_is_closed():
    done = run("inspect", "bert-mini-zh", preexec_fn=lambda: os.dup2(_closed_pipe(), 1))
    assert (done.returncode, done.stderr) == (1, "")


def _closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing
