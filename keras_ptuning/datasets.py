"""Where example data comes from."""

import os

SPLITS = ("train", "valid", "test")


def read_labeled(path):
    """Reads a file of labelled texts, one `text<TAB>label` a line.

    Args:
        path: Path of the file, in UTF-8. Labels are integers.

    Returns:
        `(texts, labels)`, a list of strings and a list of integers.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is broken; its number is named.

    Example:

    ```python
    texts, labels = read_labeled("sentiment.train.data")  # ["很安静,隔音设施不错.", ...], [1, ...]
    ```
    """
    texts, labels = [], []
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    text, label = line.decode("utf-8").rstrip("\r\n").split("\t")
                    labels.append(int(label))
                except ValueError as error:
                    raise ValueError(
                        f"{path}, line {number}: expected `text<TAB>label` in UTF-8, with an "
                        f"integer label. Received: {line[:80]!r} ({error})."
                    ) from None
                texts.append(text)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no data file {str(path)!r}.") from None
    return texts, labels


def load_sentiment(folder):
    """Loads the Chinese review data of the P-tuning and PET articles.

    Args:
        folder: Folder with `sentiment.train.data`, `sentiment.valid.data` and
            `sentiment.test.data` (`sentiment.zip`, in `examples/datasets` of bert4keras).

    Returns:
        A dictionary with the keys `"train"`, `"valid"` and `"test"`, each a tuple
        `(texts, labels)`. Label 1 is positive, 0 negative.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: if a line is broken; its number is named.

    Example:

    ```python
    data = load_sentiment("datasets/sentiment")
    texts, labels = data["train"]  # 16,883 of each
    ```
    """
    return {
        split: read_labeled(os.path.join(folder, f"sentiment.{split}.data")) for split in SPLITS
    }
