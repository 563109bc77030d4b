"""Writing files and reading them: nothing is lost, and nothing is taken for what it is not."""

import fnmatch
import gzip
import os
import pathlib
import resource
import shutil
import signal
import stat
import zipfile

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from small_bert import CONFIG

from keras_ptuning import Template, Tokenizer, build_ptuning_model, files, load_tuned
from keras_ptuning.datasets import load_sentiment, read_documents
from keras_ptuning.estimators import PromptClassifier
from keras_ptuning.files import (
    UNFINISHED,
    check_file,
    finish,
    iterate_lines,
    iterate_table,
    lock,
    read_json,
    replacing,
    replacing_all,
)
from keras_ptuning.models import load_config, read_config


def write(path, text="new"):
    with replacing(path) as temporary, open(temporary, "w") as file:
        file.write(text)


# Writing.


def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/null", "/dev/full"):
        with pytest.raises(OSError, match=r"Expected the path of a file.*a device or a pipe"):
            write(path)
    assert stat.S_ISFIFO(os.stat(tmp_path / "link").st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_modes(tmp_path):
    path = tmp_path / "file"
    before = os.umask(0o027)
    try:
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o600, 0o444, 0o755):
            path.chmod(mode)
            write(path)
            assert stat.S_IMODE(path.stat().st_mode) == mode
            with replacing_all(tmp_path) as temporary:
                (tmp_path / temporary / "file").write_text("other")
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_link_whose_target_is_missing(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new"


def killed(function):
    """Runs a function in a process that is killed when the function returns; its status."""
    pid = os.fork()
    if not pid:
        try:
            function()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def test_what_killed_processes_leave_is_swept(tmp_path):
    path = tmp_path / "file"
    write(path, "old")
    (tmp_path / f"{UNFINISHED}articles").mkdir()

    def write_half():
        manager = replacing(path)
        with open(manager.__enter__(), "w") as file:
            file.write("half")
        os.kill(os.getpid(), signal.SIGKILL)

    killed(write_half)
    assert len(list(tmp_path.glob(f"{UNFINISHED}*"))) == 2 and path.read_text() == "old"
    # What is in use is none of them.
    with replacing(path) as outer, open(outer, "w") as file:
        write(tmp_path / "other")
        file.write("new")
    assert path.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == [f"{UNFINISHED}articles", "file", "other"]


def test_a_lock_is_of_one_process_and_ends_with_it(tmp_path):
    with open(tmp_path / "file", "w") as first, open(tmp_path / "file") as second:
        assert lock(first) is True and lock(second) is False
        first.close()
        assert lock(second) is True
    with open(tmp_path / "file") as file:
        killed(lambda: lock(os.open(tmp_path / "file", os.O_RDONLY)))
        assert lock(file) is True


@pytest.fixture
def full_disk():
    """Files of more than 20 kB cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_names_the_file(tmp_path, make_model, full_disk):
    model = make_model()
    for path, save in (
        (tmp_path / "text", lambda path: write(path, 10_000 * "text")),
        (tmp_path / "model.keras", model.save),
        (tmp_path / "checkpoint", model.save_checkpoint),
    ):
        with pytest.raises(OSError, match=rf"File too large: '.*{path.name}'"):
            save(path)
    assert not os.listdir(tmp_path)


# Sets of files.


def write_set(folder, text, names="abc"):
    with replacing_all(folder) as temporary:
        for name in names:
            with open(os.path.join(temporary, name), "w") as file:
                file.write(text)


def read_set(folder, names="abc"):
    finish(folder)
    return {(folder / name).read_text() for name in names}


@pytest.mark.parametrize("step", range(6))
def test_a_set_of_files_is_replaced_at_once(tmp_path, monkeypatch, step):
    """Killed before any of the renames."""
    write_set(tmp_path, "old")
    (tmp_path / "other").write_text("mine")
    count = 0

    def counting(function):
        def call(*arguments):
            nonlocal count
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            function(*arguments)

        return call

    def save():
        for name in ("rename", "replace", "rmdir"):
            monkeypatch.setattr(os, name, counting(getattr(os, name)))
        write_set(tmp_path, "new")

    killed(save)
    assert read_set(tmp_path) == {"old" if step == 0 else "new"}
    write_set(tmp_path, "newer")
    assert read_set(tmp_path) == {"newer"} and (tmp_path / "other").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "other"]


def test_a_folder_in_the_place_of_a_file(tmp_path):
    write_set(tmp_path, "old")
    (tmp_path / "d").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a folder of its name.*Nothing was replaced"):
        write_set(tmp_path, "new", "abd")
    assert read_set(tmp_path) == {"old"}
    with pytest.raises(IsADirectoryError, match="Received the folder"), replacing(f"{tmp_path}/x/"):
        pass


def test_a_failing_set_changes_nothing(tmp_path):
    write_set(tmp_path, "old")
    with pytest.raises(KeyError), replacing_all(tmp_path) as temporary:
        shutil.copy(tmp_path / "a", temporary)
        raise KeyError
    clashing = pytest.raises(ValueError, match=r"other files .* new ones: b, c\. Nothing")
    with clashing, replacing_all(tmp_path, ["a", "b", "c", "d"]) as temporary:
        shutil.copy(tmp_path / "c", os.path.join(temporary, "a"))
    assert read_set(tmp_path) == {"old"} and sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


# Reading.


@pytest.fixture
def nobody(tmp_path):
    """The rights of a user who may read nothing of root's own."""
    if os.geteuid():
        yield
        return
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.seteuid(65534)
    yield
    os.seteuid(0)


def doors(small_bert, path):
    """What reads a file at `path`: one of each kind of reader."""
    config, vocab = small_bert[::2]
    template = Template("[u1][MASK]{text}", {"负面": "不", "正面": "很"}, vocab)
    return [
        lambda: load_config(path.with_suffix(".json")),
        lambda: Tokenizer(path.with_suffix(".txt")),
        lambda: Tokenizer(path.with_suffix(".json")),
        lambda: build_ptuning_model(config, path.with_suffix(".safetensors"), template),
        lambda: build_ptuning_model(config, path.with_suffix(".bin"), template),
        lambda: build_ptuning_model(config, path.with_suffix(".safetensors.index.json"), template),
        lambda: load_tuned(path.with_suffix(".tuned"), *small_bert),
        lambda: PromptClassifier.load(path.with_suffix(".keras")),
    ]


ENDINGS = (".json", ".txt", ".safetensors", ".bin", ".safetensors.index.json", ".tuned", ".keras")


def test_no_file(tmp_path, small_bert):
    """A pipe, which would hang; a device without end; a folder."""
    for kind, make, expected in (
        ("pipe", os.mkfifo, "a device or a pipe"),
        ("zero", lambda path: os.symlink("/dev/zero", path), "a device or a pipe"),
        ("folder", os.mkdir, "the folder"),
    ):
        path = tmp_path / kind
        for ending in ENDINGS:
            make(path.with_suffix(ending))
        for door in doors(small_bert, path):
            with pytest.raises((OSError, ValueError), match=rf"{expected}|no .* in '.*{kind}"):
                door()
    os.mkfifo(tmp_path / "model.ckpt.index")
    with pytest.raises(OSError, match="a device or a pipe"):
        build_ptuning_model(
            small_bert[0],
            tmp_path / "model.ckpt",
            Template("[MASK]{text}", {0: "不", 1: "很"}, small_bert[2]),
        )


def test_no_permission(tmp_path, small_bert, request):
    for ending in ENDINGS:
        path = tmp_path / f"private{ending}"
        path.write_text("{}")
        path.chmod(0)
    for folder in pathlib.Path(small_bert[0]).parents:
        if "pytest" in folder.name or "pytest" in folder.parent.name:
            folder.chmod(0o755)
    pathlib.Path(small_bert[0]).parent.chmod(0o755)
    readers = doors(small_bert, tmp_path / "private")
    request.getfixturevalue("nobody")
    for door in readers:
        with pytest.raises(PermissionError, match=r"Permission denied: .*private\."):
            door()


def test_json(tmp_path):
    path = tmp_path / "config.json"
    for text in ("[" * 100_000, '{"a":' * 100_000):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"config\.json' is not valid JSON: it is nested too"):
            load_config(path)
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match=r"tokenizer\.json' cannot be read.*nested too deep"):
            Tokenizer(tmp_path / "tokenizer.json")
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path, "") == {"a": 1}
    with pytest.raises(FileNotFoundError, match="nothing here"):
        check_file(path / "a", "nothing here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 10**12}, "about 3e.13 parameters.*'vocab_size': 1000000000000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be .* at most 1000"),
        ({"hidden_size": 10**6, "num_attention_heads": 10}, "about 8e.12 parameters"),
        ({"max_position_embeddings": 10**12}, "about 3e.13 parameters"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be a positive number"),
        ({"model_type": 5}, r"Expected one of \['albert'.*Received: model=5"),
        ({"model_type": ["bert"]}, r"Expected one of \['albert'.*Received: model=\['bert'\]"),
    ],
)
def test_configurations_that_no_model_has(changes, message):
    with pytest.raises(ValueError, match=message):
        read_config({**CONFIG, **changes})


def bomb(path, names, size=2**28):
    """A small zip file with large members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(size))
    return path


def test_archives_that_unpack_to_too_much(tmp_path):
    data = [f"sentiment.{split}.data" for split in ("train", "valid", "test")]
    with pytest.raises(ValueError, match=r"bytes, and would unpack to 805,306,368"):
        load_sentiment(bomb(tmp_path / "sentiment.zip", data))
    with pytest.raises(ValueError, match=r"bytes, and would unpack to 268,435,456"):
        PromptClassifier.load(bomb(tmp_path / "model.keras", ["classifier.json"]))
    with pytest.raises(ValueError, match=r"bytes, and would unpack to 268,435,456"):
        files.check_keras_file(tmp_path / "model.keras")
    (tmp_path / "model.keras").write_text("no archive")
    with pytest.raises(ValueError, match=r"model\.keras' is damaged, or not one that"):
        files.check_keras_file(tmp_path / "model.keras")


def test_lines_that_are_no_text(tmp_path, monkeypatch):
    path = tmp_path / "texts"
    bomb(tmp_path / "archive.zip", ["a"], 10)
    for content in ((tmp_path / "archive.zip").read_bytes(), "很好\n".encode("utf-16"), bytes(99)):
        path.write_bytes(content)
        for read in (read_documents, lambda path: list(iterate_lines(path))):
            with pytest.raises(ValueError, match="a binary file, or text in UTF-16"):
                read(path)
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    path.write_bytes(gzip.compress(b"short\n" + 1001 * b"a" + b"\n"))
    with pytest.raises(
        ValueError, match=r"line 2: .* more than 1,000 bytes, which begins with b'aa"
    ):
        list(iterate_lines(path))


def test_long_cells(tmp_path):
    """Python's own limit is 131,072 characters."""
    path = tmp_path / "texts.csv"
    path.write_text("text,label\n" + 140_000 * "好" + ",1\n", encoding="utf-8")
    assert [len(text) for text in iterate_table(path, ["text"])] == [140_000]


def test_rows_are_those_of_pandas(tmp_path):
    """Predictions are joined with a table by their order."""
    path = tmp_path / "texts.csv"
    path.write_text('text\n很好\n  \n\n""\n差\n', encoding="utf-8")
    assert [*iterate_table(path, ["text"])] == ["很好", "", "差"]
    assert len(pd.read_csv(path, skip_blank_lines=True)) == 3


def test_cells_that_are_no_text(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "texts.parquet"
    pd.DataFrame({"text": ["很好"] * 1024 + [None]}).to_parquet(path)
    with pytest.raises(TypeError, match=r"row 1025: texts must be strings.*text=None"):
        list(iterate_table(path, ["text"]))


# Names of Hugging Face's hub.


@pytest.fixture
def hub(tmp_path, small_bert, monkeypatch):
    """A hub with one model, in the two formats of weights that are read, and others."""
    repository, cache, calls = tmp_path / "repository", tmp_path / "cache", []
    repository.mkdir()
    cache.mkdir()
    monkeypatch.chdir(tmp_path)
    shutil.copy(small_bert[2], repository / "vocab.txt")
    shutil.copy(small_bert[0], repository / "config.json")
    for name in ("tf_model.h5", "flax_model.msgpack", "README.md"):
        (repository / name).write_text("not read")

    def download(name, allow_patterns):
        calls.append(name)
        if name != "hfl/small-bert":
            raise huggingface_hub.errors.LocalEntryNotFoundError("No network.\nMore words.")
        for path in repository.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files._download.cache_clear()
    yield repository, cache, calls
    files._download.cache_clear()


def test_a_model_of_the_hub(hub, make_model):
    repository, cache, calls = hub
    model = make_model()
    model.save_checkpoint("written")
    shutil.copy("written/model.safetensors", repository)
    (repository / "pytorch_model.bin").write_text("not needed")
    template = Template(model.template.pattern, model.template.labels, "hfl/small-bert", 64)
    loaded = build_ptuning_model("hfl/small-bert", template=template)
    data = template.dataset(["书很好", "屏幕差"])
    expected = model.predict(model.template.dataset(["书很好", "屏幕差"]), verbose=0)
    np.testing.assert_allclose(loaded.predict(data, verbose=0), expected, atol=1e-5)
    model.save_tuned("model.tuned")
    load_tuned("model.tuned", "hfl/small-bert")
    assert calls == ["hfl/small-bert"]
    assert sorted(os.listdir(cache)) == ["config.json", "model.safetensors", "vocab.txt"]


def test_the_hubs_pytorch_files_if_there_are_no_others(hub):
    repository, cache, calls = hub
    (repository / "pytorch_model.bin").write_text("weights")
    assert files.find_local("hfl/small-bert") == str(cache) and len(calls) == 2
    assert sorted(os.listdir(cache)) == ["config.json", "pytorch_model.bin", "vocab.txt"]


def test_what_the_hub_does_not_have(hub, tmp_path):
    calls = hub[-1]
    with pytest.raises(FileNotFoundError, match=r"No network\.\).*HF_ENDPOINT.*hf download hfl/no"):
        Tokenizer("hfl/nothing")
    assert calls == ["hfl/nothing"]
    # Paths are not names: there is the folder; a file; more folders.
    (tmp_path / "models").mkdir()
    for path in ("models/bert", "hfl/vocab.txt", "/hfl/bert", "./bert", "a/b/c", "bert"):
        assert files.find_local(path) == path
    assert calls == ["hfl/nothing"]
