"""Reading a tuned prompt: which words its vectors are close to, and how far they have moved."""

import itertools
import os
import unicodedata
import warnings
from typing import Any

import numpy as np
from keras import ops

from keras_ptuning.checks import Path, check_path
from keras_ptuning.files import replacing
from keras_ptuning.text.tokenizers import is_special
from keras_ptuning.tuning.cloze import ClozeModel

# What fonts with Chinese characters are usually called, on Linux, Windows and macOS.
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "Source Han Sans",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "STHeiti",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
    # The first of the languages in one file, which is all that some versions of matplotlib see.
    "Noto Sans CJK JP",
)


def nearest_tokens(vectors, table, vocab, k=5):
    """The tokens whose embeddings point in the most similar directions.

    Args:
        vectors: Array of shape `(n, hidden)`.
        table: Array of shape `(vocabulary, hidden)`, the token embedding.
        vocab: List of tokens, one for each row of `table`. Special ones, such as `[PAD]` and
            `[unused1]`, are never among the nearest.
        k: Integer, how many to find for each vector. Defaults to `5`.

    Returns:
        For each vector a list of pairs `(token, cosine)`, the nearest first.

    Raises:
        ValueError: if `k` is not positive.

    Example:

    >>> table = np.array([[9, 9], [1, 0], [0, 1], [1, 1]])
    >>> nearest_tokens([[0, 5]], table, ["[PAD]", "书", "很", "好"], k=1)
    [[('很', 1.0)]]
    """
    if k < 1:
        raise ValueError(f"`k` must be 1 or more. Received: k={k}.")
    ordinary = [i for i, token in enumerate(vocab) if not is_special(token)]
    cosines = _unit(vectors) @ _unit(np.asarray(table)[ordinary]).T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return [
        [(vocab[ordinary[i]], float(row[i])) for i in indices]
        for row, indices in zip(cosines, best, strict=True)
    ]


def _unit(vectors):
    vectors = np.asarray(vectors, "float32")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def describe_prompt(model: ClozeModel, k: int = 5) -> list[dict[str, Any]]:
    """What the trainable tokens of a model have become.

    A nearest word need not be what a vector means to the model: trained vectors often lie far from
    all words.

    Args:
        model: A model with virtual tokens, such as a `ClozeModel`.
        k: Integer, how many nearest tokens to find. Defaults to `5`.

    Returns:
        A list of dictionaries, one for each virtual token and then for each label token, with the
        entries `token`, its name in the template; `moved`, how far it is from where it started
        (Euclidean distance, `None` if that is unknown); `norm`, its length; and `nearest`, pairs
        `(token, cosine)`.

    Raises:
        ValueError: if the model has no virtual tokens, is a `PromptEnsemble`, or is not a
            `ClozeModel`.

    Example:

    ```python
    model.fit(template.dataset(texts, labels), epochs=10)
    describe_prompt(model)[0]  # {"token": "[u1]", "moved": 3.1, "norm": 4.2, "nearest": [...]}
    ```

    Reference:
        - [Lester et al., 2021](https://arxiv.org/abs/2104.08691), section 7.
    """
    template, embedding = model.template, getattr(model, "embedding", None)
    if embedding is None:
        raise ValueError(
            "Only a `ClozeModel` has a prompt, of a template with virtual tokens [u1], [u2]... "
            f"Received: {model!r:.80}."
        )
    vectors = ops.convert_to_numpy(embedding.vectors())
    table = ops.convert_to_numpy(embedding.embeddings)
    nearest = nearest_tokens(vectors, table, template.tokenizer.vocab, k)
    moved = [None] * len(vectors)
    if embedding.start is not None:
        moved = np.linalg.norm(vectors - embedding.start, axis=1).tolist()
    return [
        {"token": token, "moved": distance, "norm": float(np.linalg.norm(vector)), "nearest": near}
        for token, distance, vector, near in zip(
            template.tuned_names, moved, vectors, nearest, strict=True
        )
    ]


def prompt_table(model: ClozeModel, k: int = 5) -> str:
    """`describe_prompt` as text, to be printed.

    Args:
        model: A model with virtual tokens.
        k: Integer, how many nearest tokens to show. Defaults to `5`.

    Returns:
        A string, one line for each token, with aligned columns where Chinese characters are two
        columns wide.

    Raises:
        ValueError: if the model has no virtual tokens, is a `PromptEnsemble`, or is not a
            `ClozeModel`.

    Example:

    ```python
    print(prompt_table(model, k=3))
    # token  moved  norm  nearest tokens, and their cosines
    # [u1]    3.10  4.20  很 0.31   满 0.22    ##ay 0.20
    # [u2]    2.87  3.95  是 0.28   书 0.27    的 0.19
    ```
    """
    rows = [["token", "moved", "norm"]]
    for entry in describe_prompt(model, k):
        moved = "-" if entry["moved"] is None else f"{entry['moved']:.2f}"
        nearest = [f"{token} {cosine:.2f}" for token, cosine in entry["nearest"]]
        rows.append([entry["token"], moved, f"{entry['norm']:.2f}", *nearest])
    widths = [max(map(_width, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    lines[0] += "  nearest tokens, and their cosines"
    return "\n".join(lines)


def _aligned(row, widths):
    for i, (cell, width) in enumerate(zip(row, widths, strict=False)):
        blank = " " * (width - _width(cell))
        # The two columns of numbers end at the same place, the others begin there.
        yield blank + cell if i in (1, 2) else cell + blank


def _width(text):
    """How many columns of a terminal a text takes."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def plot_prompt(model: ClozeModel, path: Path | None = None, k: int = 5) -> Any:
    """Draws what the trainable tokens of a model are close to, and how far they have moved.

    Needs matplotlib.

    Args:
        model: A model with virtual tokens.
        path: Optional path of a file to save the plot to, with an ending that matplotlib knows,
            such as `.png` or `.svg`. The text of an `.svg` stays text, for which the viewer chooses
            a font.
        k: Integer, how many nearest tokens to show. Defaults to `5`.

    Returns:
        A `matplotlib.figure.Figure`. Without a `path` it stays open in pyplot. Without fonts for
        Chinese characters there is a warning that says how to get one.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no virtual tokens, is a `PromptEnsemble`, or is not a
            `ClozeModel`; if `path` has another ending.

    Example:

    ```python
    plot_prompt(model, "prompt.png")
    ```
    """
    try:
        import matplotlib
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("Plots need matplotlib: pip install matplotlib") from None
    if path is not None:
        check_path("path", path)
        known = matplotlib.figure.Figure().canvas.get_supported_filetypes()
        ending = os.path.splitext(path)[1].lower().removeprefix(".")
        if ending not in known:
            raise ValueError(
                f"The path of a plot must end in one of {sorted(known)}, such as 'prompt.png'. "
                f"Received: path={os.fspath(path)!r}."
            )
    entries = describe_prompt(model, k)
    is_svg = path is not None and ending == "svg"
    words = "".join(token for entry in entries for token, _ in entry["nearest"])
    fonts = ["sans-serif"]
    if _width(words) > len(words):
        fonts += _chinese_fonts(matplotlib, warn=not is_svg)
    style: Any = {"font.family": fonts, "font.size": 9, "svg.fonttype": "none"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Once is enough, and with a word on what to do.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure = _draw(entries, pyplot)
        if path is not None:
            with replacing(path) as temporary:
                figure.savefig(temporary, dpi=150)
            # Others stay open, for `pyplot.show()`.
            pyplot.close(figure)
    return figure


def _chinese_fonts(matplotlib, warn):
    """The first of the usual fonts that is installed, in a list; an empty list if none is."""
    installed = {font.name for font in matplotlib.font_manager.fontManager.ttflist}
    found = [name for name in CHINESE_FONTS if name in installed][:1]
    if not found and warn:
        warnings.warn(
            "There is no font with Chinese characters, so the plot has boxes in their place. "
            "Install one, e.g. with `apt install fonts-noto-cjk`, and delete `fontlist-*.json` in "
            f"{matplotlib.get_cachedir()!r}, where matplotlib keeps its list; or save the plot as "
            "an .svg, for which the viewer chooses a font.",
            stacklevel=3,
        )
    return found


def _draw(entries, pyplot):
    k = max(len(entry["nearest"]) for entry in entries)
    moved = [entry["moved"] for entry in entries]
    panels = 1 if None in moved else 2
    # Each token has a row as high as its bars and a gap.
    height = k + 1.2
    figure, axes = pyplot.subplots(
        1,
        panels,
        figsize=(7, 0.8 + 0.15 * height * len(entries)),
        width_ratios=[5, 2][:panels],
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    near, *others = axes[0]
    rows = np.arange(len(entries)) * height
    for row, entry in zip(rows, entries, strict=True):
        tokens, cosines = zip(*entry["nearest"], strict=True)
        places = row + np.arange(len(tokens)) - (len(tokens) - 1) / 2
        near.barh(places, cosines, height=0.75, color="#4477aa")
        for place, token, cosine in zip(places, tokens, cosines, strict=True):
            near.annotate(
                token,
                (max(cosine, 0), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center_baseline",
                # A token may be a dollar sign.
                parse_math=False,
            )
    lowest = min(cosine for entry in entries for _, cosine in entry["nearest"])
    # The same scale in every plot, with room for a word after a full bar.
    near.set_xlim(min(lowest, 0), 1.2)
    near.set_xticks([0, 0.25, 0.5, 0.75, 1])
    near.set_ylim(rows[-1] + height / 2, -height / 2)
    near.set_yticks(rows, [entry["token"] for entry in entries])
    near.set_xlabel("cosine with the nearest tokens")
    for far in others:
        bars = far.barh(rows, moved, height=0.3 * k, color="#bbbbbb")
        far.bar_label(bars, fmt="%.2f", padding=4)
        far.set_xlim(0, 1.4 * max(moved) or 1)
        far.set_xlabel("distance moved")
    for axis in axes[0]:
        for row in rows[1:]:
            axis.axhline(row - height / 2, color="#dddddd", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    return figure
