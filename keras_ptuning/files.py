"""Writing files, finding them in a folder, and reading them."""

import contextlib
import csv
import errno
import functools
import glob
import gzip
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib

from keras_ptuning.assets import NAMES, find_asset
from keras_ptuning.checks import check_path

try:
    import fcntl
except ImportError:  # Windows has none, so nothing is locked or swept there.
    fcntl = None

# What the folders of unfinished files begin with, and in full those that are made here.
UNFINISHED = ".writing-"
_OWN = f"{UNFINISHED}keras_ptuning-"
# The folder of a set of files that is complete, and not yet in its place.
COMPLETE = ".complete-keras_ptuning"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes of a line beyond which it is no text: a small gzip may unpack to any number of them.
LONGEST_LINE = 2**26
# A labelled text, `text<TAB>label`, or an object of JSON lines.
LABELED = re.compile(r"\t-?[0-9]+\r?\n?$|^\{.*\}\r?\n?$")
# Tables that have a text in a column, also as a gzip, but for Parquet.
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
# A name of Hugging Face's hub. The path of a file may look the same, but for its ending.
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_FILE_ENDINGS = (
    *(".txt", ".json", ".index", ".ckpt", ".safetensors", ".bin", ".pt", ".pth", ".h5", ".npz"),
    *(".keras", ".tuned", ".prompt"),
)


def lock(file):
    """Locks an open file or folder until it is closed, or its process ends.

    Args:
        file: An open file, or a descriptor.

    Returns:
        `True`; or `False` if it is locked already, in this process or another; or `None` where
        there are no such locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def sweep(folder):
    """Deletes what killed processes left half written in a folder, and nothing that is in use.

    Args:
        folder: Path of the folder.
    """
    for path in glob.glob(os.path.join(glob.escape(folder), f"{_OWN}*")):
        with contextlib.suppress(OSError), opened(path) as descriptor:
            if lock(descriptor):
                shutil.rmtree(path)


@contextlib.contextmanager
def opened(folder):
    """A descriptor of a folder, for `lock`; `None` where there are no locks."""
    if fcntl is None:
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _beside(folder):
    """A new folder in `folder`, locked while it is in use, and deleted in the end."""
    sweep(folder)
    with contextlib.ExitStack() as stack:
        beside = None
        while beside is None:
            beside = tempfile.mkdtemp(prefix=_OWN, dir=folder)
            if fcntl is None:
                continue
            # In between, another process may take it for what a killed one left.
            with contextlib.suppress(FileNotFoundError):
                descriptor = stack.enter_context(opened(beside))
                if lock(descriptor) is not False and os.path.isdir(beside):
                    continue
            beside = None
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        yield beside


@contextlib.contextmanager
def naming(path):
    """Has the error of a full disk name the file."""
    try:
        yield
    except Exception as error:
        # Libraries have classes and words of their own, around those of the system.
        for code in _FULL:
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), os.fspath(path)) from error
        raise


def check_target(path):
    """Where writing to a path leads, behind links.

    Args:
        path: Path of a file to write or replace.

    Returns:
        The path of the file itself.

    Raises:
        FileNotFoundError: if its folder does not exist.
        IsADirectoryError: if it is a folder.
        OSError: if it is a device or a pipe.
    """
    target = os.path.realpath(path)
    if os.path.isdir(target) or os.fspath(path).endswith(os.sep):
        raise IsADirectoryError(f"Expected the path of a file. Received the folder {path!r}.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(
            f"Expected the path of a file, which is replaced by a complete one. Received a device "
            f"or a pipe: {path!r}."
        )
    folder, name = os.path.split(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder!r} to write {name!r} into.")
    return target


def _keep_mode(new, old):
    # Where there is none, the new file has the usual mode; some file systems have no modes.
    with contextlib.suppress(OSError):
        os.chmod(new, stat.S_IMODE(os.stat(old).st_mode))


@contextlib.contextmanager
def replacing(path):
    """Gives a path to write to; when the block ends well, that file takes the place of `path`.

    The new file has the mode of the old one. What a link points to is replaced, and not the link.

    Args:
        path: Path of the file to write or replace.

    Yields:
        A temporary path in the same folder, with the same name.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        IsADirectoryError: if `path` is a folder.
        OSError: if `path` is a device or a pipe; if the disk is full.

    Example:

    ```python
    with replacing("result.json") as temporary, open(temporary, "w") as file:
        json.dump(result, file)
    ```
    """
    check_path("path", path)
    path = check_target(path)
    folder, name = os.path.split(path)
    with naming(path), _beside(folder) as beside:
        temporary = os.path.join(beside, name)
        yield temporary
        _keep_mode(temporary, path)
        os.replace(temporary, path)


@contextlib.contextmanager
def _made(folder):
    """Has a folder, which is deleted again if it was made for nothing."""
    new = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise


@contextlib.contextmanager
def replacing_all(folder, clashing=()):
    """Gives a folder to write files to, which all at once take their places in `folder`.

    Other files in `folder` stay. A process that is killed before the block has ended leaves the
    old files. One that is killed afterwards leaves the new ones, of which some may still have to
    be moved to their places: `finish` does that, before anything is read or written there.

    Args:
        folder: Path of a folder; made if need be.
        clashing: Names of files that must be replaced too, if there are any in `folder`.

    Yields:
        A temporary folder.

    Raises:
        OSError: if the folder cannot be made, or written to.
        ValueError: if a clashing file would stay.

    Example:

    ```python
    with replacing_all("my_bert") as temporary:
        for name in ("config.json", "vocab.txt"):
            shutil.copy(name, temporary)
    ```
    """
    with naming(folder), _made(folder), _beside(folder) as beside:
        yield beside
        new = os.listdir(beside)
        staying = [n for n in clashing if n not in new and os.path.exists(os.path.join(folder, n))]
        if staying:
            raise ValueError(
                f"The folder {str(folder)!r} has other files that would be taken for a part of the "
                f"new ones: {', '.join(staying)}. Nothing was replaced. Choose another folder, or "
                "delete these files."
            )
        for name in new:
            if os.path.isdir(os.path.join(folder, name)):
                raise IsADirectoryError(
                    f"Expected to write a file. Received a folder of its name: "
                    f"{os.path.join(folder, name)!r}. Nothing was replaced."
                )
            _keep_mode(os.path.join(beside, name), os.path.join(folder, name))
        while True:
            finish(folder)
            try:
                # From here on the new files count.
                os.rename(beside, os.path.join(folder, COMPLETE))
                break
            except OSError as error:
                # Another process has just done the same.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finish(folder)


def finish(folder):
    """Moves a complete set of files to its places, if the process that wrote it was killed.

    Args:
        folder: Path of the folder.

    Raises:
        OSError: if the files cannot be moved; it says where they are.
    """
    complete = os.path.join(folder, COMPLETE)
    if not os.path.isdir(complete):
        return
    try:
        for name in sorted(os.listdir(complete)):
            # If it is gone, another process does the same.
            with contextlib.suppress(FileNotFoundError):
                os.replace(os.path.join(complete, name), os.path.join(folder, name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise OSError(
            f"New files for {folder!r} are complete, and not all of them are in their places yet. "
            f"The others are in {complete!r}. Move them one folder up, which is not possible here: "
            f"{error}."
        ) from None
    with contextlib.suppress(OSError):
        os.rmdir(complete)


def check_file(path, missing):
    """Refuses what cannot be read, and what is no file and may have no end.

    Args:
        path: Path of the file.
        missing: String, the error if there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a folder.
        PermissionError: if it must not be read.
        OSError: if it is a device or a pipe.
    """
    finish(os.path.dirname(path))
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(missing) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"Expected the path of a file. Received the folder {path!r}.")
    if not stat.S_ISREG(mode):
        raise OSError(f"Expected the path of a file. Received a device or a pipe: {path!r}.")
    with open(path, "rb"):
        pass


def parse_json(text):
    """Reads JSON.

    Args:
        text: String, or bytes in UTF-8.

    Raises:
        ValueError: if it is not JSON, or is nested too deep.

    Example:

    >>> parse_json('{"hidden_size": 768}')
    {'hidden_size': 768}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path, missing):
    """Reads a file of JSON.

    Args:
        path: Path of the file.
        missing: String, the error if there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read.
        ValueError: if it is not JSON.
    """
    check_file(path, missing)
    with open(path, encoding="utf-8-sig") as file:
        return parse_json(file.read())


def check_archive(archive, size):
    """Refuses a zip file that unpacks to far more than it is, and would fill the memory.

    Args:
        archive: A `zipfile.ZipFile`.
        size: Integer, the bytes of the whole file.

    Raises:
        zipfile.BadZipFile: if it does.
    """
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > 20 * size + 2**26:
        raise zipfile.BadZipFile(
            f"it has {size:,} bytes, and would unpack to {unpacked:,}, which no such file does"
        )


def check_keras_file(path):
    """Refuses what is no file of `model.save`, before Keras reads it.

    Args:
        path: Path of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read, or is no file.
        ValueError: if it is not a zip file, or unpacks to far more than it is.
    """
    check_file(path, f"There is no file {str(path)!r}.")
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, os.path.getsize(path))
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"The file {str(path)!r} is damaged, or not one that `model.save` wrote ({error}). A "
            "file of `model.save_tuned` is loaded with `load_tuned`."
        ) from None


def find_local(path):
    """The path on this machine of what `path` names.

    Args:
        path: Name of an embedded checkpoint; or name of a model of Hugging Face's hub, such as
            `hfl/chinese-roberta-wwm-ext`, if there is nothing at this path, nor a folder of the
            first part of the name; or any other path, which is returned as it is.

    Returns:
        A string. A model of the hub is downloaded once, into the cache that Hugging Face's
        libraries share.

    Raises:
        FileNotFoundError: if the hub has no such model, or cannot be reached.

    Example:

    >>> find_local("bert-mini-zh").endswith("assets/bert-mini-zh/")
    True
    """
    asset = find_asset(path, "")
    if asset is not None:
        return asset
    path = os.fspath(path)
    is_name = _HUB_NAME.fullmatch(path) and not path.endswith(_FILE_ENDINGS)
    return _download(path) if is_name and not os.path.lexists(path.split("/")[0]) else path


@functools.cache
def _download(name):
    # Importing it takes time.
    import huggingface_hub

    wanted = ["config.json", "vocab.txt", "tokenizer.json"]
    wanted += ["tokenizer_config.json", "special_tokens_map.json", "spiece.model"]
    wanted += ["model*.safetensors", "model.safetensors.index.json"]
    try:
        folder = huggingface_hub.snapshot_download(name, allow_patterns=wanted)
        if not glob.glob(os.path.join(glob.escape(folder), "*.safetensors")):
            wanted += ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
            folder = huggingface_hub.snapshot_download(name, allow_patterns=wanted)
    except Exception as error:  # those of the libraries below it have no class in common
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"There is no folder {name!r}, and no model of this name could be downloaded from "
            f"Hugging Face ({type(error).__name__}: {reason}). If the hub cannot be reached, set "
            "HF_ENDPOINT to a mirror of it; or download the model elsewhere, with "
            f"`hf download {name} --local-dir FOLDER`, and give the path of that folder."
        ) from None
    return folder


def folder_of(path):
    """The folder of a checkpoint.

    Args:
        path: Name of an embedded checkpoint, or of a model of Hugging Face's hub; a folder; or the
            path of a file in it, or of a TensorFlow checkpoint in it, whose path is the beginning
            of its files' names.

    Returns:
        Path of the folder.

    Raises:
        FileNotFoundError: if there is nothing at `path`, or nothing can be downloaded.

    Example:

    >>> folder_of("bert-mini-zh").endswith("assets/bert-mini-zh/")
    True
    """
    check_path("path", path)
    path = find_local(path)
    is_folder = os.path.isdir(path)
    folder, name = (path, "") if is_folder else os.path.split(path)
    finish(folder)
    files = (glob.glob(glob.escape(path) + end) for end in ("", ".index", ".data-*"))
    if not is_folder and not any(files):
        raise FileNotFoundError(
            f"There is no {name} in {folder or '.'!r}. Expected a checkpoint's folder, or a file "
            f"in it, or the name of an embedded checkpoint, {NAMES}, or of a model of Hugging "
            "Face's hub with its owner in front, such as 'google-bert/bert-base-chinese'. "
            f"Received: {path!r}."
        )
    return folder


def find_one(path, patterns, expected):
    """Finds one file in a checkpoint's folder.

    Args:
        path: As `folder_of` takes it.
        patterns: Regular expressions of whole file names, the best first.
        expected: String, what to say is expected where none is there.

    Returns:
        Path of the one file that matches the first pattern that any file matches.

    Raises:
        FileNotFoundError: if no file matches any.
        ValueError: if several match that pattern.
    """
    folder = folder_of(path)
    names = [name for name in sorted(os.listdir(folder or ".")) if not name.startswith(".")]
    for pattern in patterns:
        found = [name for name in names if re.fullmatch(pattern, name)]
        if len(found) == 1:
            return os.path.join(folder, found[0])
        if found:
            raise ValueError(
                f"The folder {folder or '.'!r} has several files that could be meant: "
                f"{', '.join(found)}. Give the path of one of them."
            )
    raise FileNotFoundError(
        f"There is no {expected} in {folder or '.'!r}. Expected the files of a checkpoint in "
        f"one folder, or the name of an embedded one, {NAMES}. Received: {str(path)!r}, with "
        f"{names[:8] or 'no files'}."
    )


def decode_lines(lines, name):
    """The lines of a file as text.

    Args:
        lines: Iterable of bytes, in UTF-8.
        name: What to call the file in errors.

    Yields:
        Strings, with their ends of line. A byte order mark at the beginning is left out.

    Raises:
        ValueError: if a line is not UTF-8, or longer than any text; its number is named.

    Example:

    >>> import codecs
    >>> list(decode_lines([codecs.BOM_UTF8 + b"one", b"two"], "x.txt"))
    ['one', 'two']
    """
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(
                f"{name}, line {number}: expected one text a line. Received one of more than "
                f"{LONGEST_LINE:,} bytes, which begins with {line[:80]!r}."
            )
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: expected text in UTF-8. Received: {line[:80]!r} ({error})."
                " If it is in GB18030, as Excel saves Chinese, save it as CSV UTF-8, or convert it "
                "with `iconv -f gb18030 -t utf-8`."
            ) from None


def iterate_lines(path):
    """The lines of a text file in UTF-8, or of a gzip of one, without keeping them.

    Args:
        path: Path of the file; or an open binary file, such as `sys.stdin.buffer`.

    Yields:
        Strings, with their ends of line. A byte order mark at the beginning is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not UTF-8, or longer than any text (its number is named); if the
            file is binary, or a compressed one that is damaged or cut off.
    """
    is_open = hasattr(path, "peek")
    name = path.name if is_open else path
    try:
        with contextlib.nullcontext(path) if is_open else open(path, "rb") as file:
            lines = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
            if b"\0" in lines.peek(4096):
                raise ValueError(
                    f"{name}: expected text in UTF-8. Received a binary file, or text in UTF-16, "
                    f"which begins with {lines.peek(8)[:8]!r}."
                )
            read = functools.partial(lines.readline, LONGEST_LINE + 1)
            yield from decode_lines(iter(read, b""), name)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no text file {str(name)!r}.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"The gzip file {str(name)!r} is damaged or cut off ({error}). Copy or download it "
            "again."
        ) from None


def iterate_table(path, columns):
    """Columns of a table, row by row, without keeping them.

    Args:
        path: Path of a file whose name ends in `.csv` or `.tsv`, with the names of the columns in
            the first row; in `.jsonl` or `.ndjson`, with an object in each line; or in `.parquet`.
            `.gz` may follow, but after `.parquet`. Lines without anything are skipped.
        columns: List of the names of the columns.

    Yields:
        What the column has, if it is one; otherwise a tuple. The columns of CSV have strings.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if it is Parquet, and `pyarrow` is missing.
        TypeError: if a cell of JSON or Parquet is not a string (its number is named).
        ValueError: if the ending is none of these; if a column is missing, or there twice; if the
            file is damaged, or a row has more or fewer cells than columns (its number is named).

    Example:

    ```python
    for text in iterate_table("reviews.csv", ["text"]):
        ...
    ```
    """
    name = os.fspath(path)
    kind = os.path.splitext(name.lower().removesuffix(".gz"))[1]
    if kind not in TABLES or name.lower().endswith(".parquet.gz"):
        raise ValueError(
            f"Expected a table, whose name ends in one of {', '.join(TABLES)}. Received: {name!r}."
        )
    if kind == ".parquet":
        rows = _parquet_rows(name, columns)
    elif kind in (".csv", ".tsv"):
        rows = _csv_rows(name, columns, "\t" if kind == ".tsv" else ",")
    else:
        rows = _json_rows(name, columns)
    for row in rows:
        yield row[0] if len(row) == 1 else tuple(row)


def _places(name, columns, found):
    """Where the columns of a table are, by their names."""
    for column in columns:
        if found.count(column) != 1:
            what = "two columns" if column in found else "no column"
            raise ValueError(
                f"The table {name!r} has {what} {column!r}. Expected one of that name. Received: "
                f"{f'{found}':.300}."
            )
    return [found.index(column) for column in columns]


def _csv_rows(name, columns, delimiter):
    # The module's own limit, which is for all readers, is less than what a line may have.
    csv.field_size_limit(max(LONGEST_LINE, csv.field_size_limit()))
    # Otherwise a quotation mark that is never closed would make one text of all that follows.
    rows = csv.reader(iterate_lines(name), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        places = _places(name, columns, header)
        for row in rows:
            # As pandas skips lines, so that the rows of both are the same.
            if not row or (len(row) == 1 and row[0] and not row[0].strip()):
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"{name}, line {rows.line_num}: expected {len(header)} cells, as many as there "
                    f"are columns. Received: {len(row)}. A cell with {delimiter!r} needs quotation "
                    "marks around it."
                )
            yield [row[place] for place in places]
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {rows.line_num}: expected a table with {delimiter!r} between its cells, "
            f"and quotation marks around cells that have one. Received something else ({error})."
        ) from None


def _json_rows(name, columns):
    for number, row in iterate_objects(name, columns):
        cells = [row[column] for column in columns]
        _check_cells(f"{name}, line {number}", columns, cells)
        yield cells


def _check_cells(place, columns, cells):
    for column, cell in zip(columns, cells, strict=True):
        if not isinstance(cell, str):
            raise TypeError(
                f"{place}: texts must be strings. Received: {column}={cell!r:.60}. Leave such rows "
                "out."
            )


def iterate_objects(path, keys):
    """The objects of a file of JSON lines, without keeping them. Empty lines are skipped.

    Args:
        path: Path of the file, as `iterate_lines` takes it.
        keys: List of strings that each object must have.

    Yields:
        Pairs `(number, object)`, where lines are counted from 1.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is no such object; its number is named.

    Example:

    ```python
    for number, fact in iterate_objects("P36.jsonl", ["sub_label", "obj_label"]):
        ...
    ```
    """
    for number, line in enumerate(iterate_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: expected an object of JSON. Received: {line[:60]!r} "
                f"({error})."
            ) from None
        if not isinstance(row, dict) or not set(keys) <= set(row):
            raise ValueError(
                f"{path}, line {number}: expected an object of JSON with {keys}. Received: "
                f"{line[:60]!r}."
            )
        yield number, row


def _parquet_rows(name, columns):
    check_file(name, f"There is no file {name!r}.")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            f"To read {name!r}, install pyarrow: pip install pyarrow. Or save the table as CSV."
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(name) as file:
            _places(name, columns, file.schema_arrow.names)
            numbers = itertools.count(1)
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                values = [batch.column(column).to_pylist() for column in columns]
                for cells, number in zip(zip(*values, strict=True), numbers, strict=False):
                    _check_cells(f"{name}, row {number}", columns, cells)
                    yield list(cells)
    except pyarrow.ArrowException as error:
        raise ValueError(
            f"The file {name!r} is damaged, or no Parquet ({f'{error}':.300}). Copy or download it "
            "again."
        ) from None
