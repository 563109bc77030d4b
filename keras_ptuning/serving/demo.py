"""A page to try templates on, in a browser. It needs the extra `demo`."""

import contextlib
import html
import itertools
import os
import re

from keras_ptuning.checkpoints import find_vocab
from keras_ptuning.checks import check_integer
from keras_ptuning.models import find_model, max_length
from keras_ptuning.text import Template, as_tokenizer
from keras_ptuning.tuning import PromptBank

try:
    import gradio as gr
except ImportError:
    gr = None

# How many words to show at each mask.
TOP = 10
# What a template takes by default.
MAXLEN = 128
TITLE = "Templates (模板)"
SIDES = ("A", "B")

SENTIMENT = "负面: 不\n正面: 很"
QUALITY = "负面: 差\n正面: 好"
TOPICS = "体育: 体育\n财经: 财经\n科技: 科技\n教育: 教育"
# For a masked model, and for a causal one, whose [MASK] comes last.
PATTERNS = {
    False: ("[MASK]满意。{text}", "{text}总之很[MASK]。", "下面是[MASK][MASK]新闻：{text}"),
    True: ("{text}我[MASK]", "{text}总之很[MASK]", "{text}这是[MASK][MASK]"),
}
NEWS = "女排世界联赛今晚打响首场比赛"
REVIEWS = """\
物流很快，包装也好，下次还会再来。\t正面
房间很小，隔音也差，一夜没睡好。\t负面
屏幕清晰，电池也耐用。\t正面
客服态度恶劣，问什么都不回答。\t负面
味道不错，分量也足。\t正面
用了两天就坏了，退货还要自己出运费。\t负面
书的内容很扎实，孩子看得入迷。\t正面
等了一个小时才上菜，菜还是凉的。\t负面
价格便宜，质量超出预期。\t正面
和图片完全不一样，布料很薄。\t负面
位置方便，早餐丰富，前台热情。\t正面
系统经常死机，开机要五分钟。\t负面"""


def read_words(lines):
    """Reads label words.

    Args:
        lines: String, a line `label: word, word` for each label.

    Returns:
        A dictionary from labels to lists of words; `None` if there are no lines.

    Raises:
        ValueError: if a line has no label or no colon, or a label is there twice.

    Example:

    >>> read_words("负面: 不\\n正面: 很, 挺")
    {'负面': ['不'], '正面': ['很', '挺']}
    """
    labels = {}
    # `splitlines` would also split at what a text may have, such as U+2028.
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        label, *words = (part.strip() for part in re.split("[:：]", line, maxsplit=1))
        if not label or not words:
            raise ValueError(
                f"Line {number} of the label words must be a label, a colon and words, e.g. "
                f"'正面: 很, 挺'. Received: {line!r:.60}."
            )
        if label in labels:
            raise ValueError(
                f"Line {number} of the label words has the label {label!r} again. Put all words of "
                "a label on one line, e.g. '正面: 很, 挺'."
            )
        labels[label] = [word.strip() for word in re.split("[,，、]", words[0]) if word.strip()]
    return labels or None


def read_labeled(lines):
    """Reads texts with labels.

    Args:
        lines: String, a line for each text: the text, a tab, and its label.

    Returns:
        A list of tuples `(line number, text, label)`.

    Raises:
        ValueError: if a line has no text, tab or label, or there are no lines.

    Example:

    >>> read_labeled("很好\\t正面")
    [(1, '很好', '正面')]
    """
    found = []
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        text, _, label = (part.strip() for part in line.rpartition("\t"))
        if not text or not label:
            raise ValueError(
                f"Line {number} of the texts must be a text, a tab and a label. Received: "
                f"{line!r:.60}."
            )
        found.append((number, text, label))
    if not found:
        raise ValueError("There are no texts. Paste lines of a text, a tab and a label.")
    return found


class Trials:
    """One pretrained model, and the templates that the page tries on it.

    Args:
        checkpoint: What `PromptBank` takes as `config_path`.

    Raises:
        FileNotFoundError, ValueError: as those of `PromptBank`.
    """

    def __init__(self, checkpoint):
        self.bank = PromptBank(checkpoint)
        self.tokenizer = as_tokenizer(find_vocab(checkpoint))
        config, _ = find_model(checkpoint)
        self.maxlen = min(MAXLEN, max_length(config) or MAXLEN)
        self._names = map(str, itertools.count())

    @contextlib.contextmanager
    def _task(self, pattern, words, tuned, called=""):
        """The name of a task and its template, while it is in the bank."""
        name = next(self._names)
        try:
            prompt = tuned or Template(
                pattern, read_words(words), self.tokenizer, self.maxlen, self.bank.causal
            )
            self.bank.add(name, prompt)
            template = self.bank.template(name)
            if "text_b" in template.slots:
                self.bank.remove(name)
                raise ValueError(
                    "The page has one text at a time. Use a template without {text_b}. Received: "
                    f"{template.pattern!r}."
                )
        except (OSError, TypeError, ValueError) as error:
            # A browser sends a file into a temporary folder, which tells the user nothing.
            message = str(error).replace(os.path.join(os.path.dirname(tuned or ""), ""), "")
            raise ValueError(f"{called}{message}") from None
        try:
            yield name, template
        finally:
            self.bank.remove(name)

    def answer(self, text, pattern, words, tuned=None):
        """Asks a template about one text.

        Args:
            text: String.
            pattern: String, the pattern of a `Template`.
            words: String, label words as `read_words` takes them; empty for a template without
                labels.
            tuned: Path of a tuned file, in place of the pattern and the words.

        Returns:
            `(template, probabilities, table)`: a string that describes the template; a dictionary
            from labels to probabilities; and the likeliest words at each mask, a dictionary with
            `headers` and `data`.

        Raises:
            ValueError: as those of `Template`, `PromptBank.add` and `read_words`.
        """
        with self._task(pattern, words, tuned) as (name, template):
            filled = self.bank.fill([(name, text)], TOP)[0]
            labels = {}
            if template.labels:
                found = self.bank.predict_proba([(name, text)])[0]
                labels = {str(label): p for label, p in found.items()}
        headers = [f"[MASK] {i}" for i in range(1, len(filled) + 1)]
        rows = [[f"{token}  {p:.1%}" for token, p in row] for row in zip(*filled, strict=True)]
        return describe(template), labels, {"headers": headers, "data": rows}

    def compare(self, lines, *sides):
        """Compares two templates on texts with labels.

        Args:
            lines: String, as `read_labeled` takes it.
            *sides: The pattern, the words and the tuned file of A, and then those of B, as `answer`
                takes them.

        Returns:
            `(summary, table)`: a string, and the texts with different answers, a dictionary with
            `headers` and `data`.

        Raises:
            ValueError: as that of `answer`; if a line has a label that a template does not have.
        """
        labeled = read_labeled(lines)
        texts = [text for _, text, _ in labeled]
        found = []
        for side, own in zip(SIDES, (sides[:3], sides[3:]), strict=True):
            called = f"Template {side}: "
            with self._task(*own, called=called) as (name, template):
                check_labels(called, template, labeled)
                answers = self.bank.predict_proba([(name, text) for text in texts])
            found.append([max(p.items(), key=lambda item: item[1]) for p in answers])
        rows, right, total = [], dict.fromkeys(SIDES, 0), len(texts)
        for (_, text, label), *answers in zip(labeled, *found, strict=True):
            for side, (answer, _) in zip(SIDES, answers, strict=True):
                right[side] += str(answer) == label
            # A tuned file may have numbers as labels.
            if str(answers[0][0]) != str(answers[1][0]):
                marks = ["✓" if str(answer) == label else "✗" for answer, _ in answers]
                cells = [f"{m} {a}  {p:.0%}" for m, (a, p) in zip(marks, answers, strict=True)]
                rows.append([text, label, *cells])
        lines = [f"{side}: {n} of {total} right, {n / total:.1%}" for side, n in right.items()]
        lines.append(f"Different answers: {len(rows)} of {total}")
        headers = ["Text (文本)", "Label (标签)", *SIDES]
        return "\n".join(lines), {"headers": headers, "data": rows}


def describe(template):
    """A template in one line: the pattern, and the words of each label."""
    words = (f"{label}: {', '.join(own)}" for label, own in (template.labels or {}).items())
    return "   ".join([template.pattern, *words])


def check_labels(called, template, labeled):
    """Refuses labels that a template does not have."""
    if not template.labels:
        raise ValueError(
            f"{called}it has no label words, so it has no labels to compare. Write a line for each "
            "label, e.g. '正面: 很, 挺'."
        )
    names = list(map(str, template.label_names))
    for number, _, label in labeled:
        if label not in names:
            raise ValueError(
                f"{called}line {number} of the texts has the label {label!r}, which the template "
                f"does not have. Expected one of {names}."
            )


def shown(function, count):
    """A function of the page: its error in HTML, or an empty string, and then its results.

    Args:
        function: A method of `Trials`.
        count: Integer, how many results it has.

    Returns:
        A function that raises none of the errors that a user can make.
    """

    def call(*inputs):
        try:
            return "", *function(*inputs)
        except (OSError, TypeError, ValueError) as error:
            style = "color: var(--error-text-color); white-space: pre-wrap"
            return f'<p role="alert" style="{style}">{html.escape(str(error))}</p>', *[None] * count

    return call


def template_inputs(pattern, words, side=""):
    """The three inputs that make up a template."""
    of = side and f" {side}"
    return [
        gr.Textbox(pattern, label=f"Template{of} (模板)", elem_id=f"pattern{side}"),
        gr.Textbox(
            words,
            lines=4,
            label=f"Label words{of}, a line for each label (标签词，每个标签一行)",
            elem_id=f"words{side}",
        ),
        gr.File(
            label=f"Tuned file{of}, in place of both (训练好的文件，代替以上两项)",
            height=160,
            elem_id=f"tuned{side}",
        ),
    ]


def build_page(checkpoint="bert-small-zh"):
    """Builds a page to try templates on.

    One tab asks a template about a text: the probability of each label, and the likeliest words at
    each mask. Another one compares two templates on texts with labels. A tuned file can be in the
    place of a template. The model is loaded once.

    Args:
        checkpoint: What `PromptBank` takes as `config_path`. Defaults to `"bert-small-zh"`.

    Returns:
        A `gradio.Blocks`. Its functions are called `answer` and `compare`.

    Raises:
        FileNotFoundError, ValueError: as those of `PromptBank`.
        ImportError: if gradio is not installed.

    Example:

    ```python
    build_page("bert-mini-zh").launch(share=False)
    ```
    """
    if gr is None:
        raise ImportError("The page needs gradio: pip install 'keras_ptuning[demo]'")
    trials = Trials(checkpoint)
    answer, compare = shown(trials.answer, 3), shown(trials.compare, 2)
    first, second, news = PATTERNS[trials.bank.causal]
    review = REVIEWS.split("\t")[0]
    # The model answers one request at a time.
    queue = {"concurrency_id": "model", "concurrency_limit": 1}
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n{checkpoint}")
        with gr.Tab("Try (试用)"):
            with gr.Row():
                with gr.Column():
                    text = gr.Textbox(review, lines=2, label="Text (文本)", elem_id="text")
                    inputs = [text, *template_inputs(first, SENTIMENT)]
                    ask = gr.Button("Answer (回答)", variant="primary", elem_id="ask")
                with gr.Column():
                    outputs = [
                        gr.HTML(elem_id="answer-error"),
                        gr.Textbox(label="Answered by (所用模板)", elem_id="used"),
                        gr.Label(label="Labels (标签)", elem_id="labels"),
                        gr.Dataframe(
                            label="Likeliest words (最可能的词)",
                            interactive=False,
                            elem_id="likeliest",
                        ),
                    ]
            examples = gr.Examples(
                [[review, first, SENTIMENT], [review, second, QUALITY], [NEWS, news, TOPICS]],
                inputs[:3],
                label="Examples (例子)",
            )
            # Results that belong to other inputs than those on the page would mislead.
            events = [page.load, ask.click, inputs[1].submit, inputs[3].change]
            queue["show_progress_on"] = outputs[1:]
            gr.on(events, answer, inputs, outputs, api_name="answer", **queue)
            examples.load_input_event.then(
                answer, inputs, outputs, api_visibility="private", **queue
            )
        with gr.Tab("Compare (比较)"):
            with gr.Row():
                sides = []
                for side, pattern, words in zip(
                    SIDES, (first, second), (SENTIMENT, QUALITY), strict=True
                ):
                    with gr.Column():
                        sides += template_inputs(pattern, words, side)
            lines = gr.Textbox(
                REVIEWS,
                lines=6,
                max_lines=12,
                label="Texts, a line each: text, tab, label (每行：文本、制表符、标签)",
                elem_id="lines",
            )
            start = gr.Button("Compare (比较)", variant="primary", elem_id="compare")
            outputs = [
                gr.HTML(elem_id="compare-error"),
                gr.Textbox(label="Accuracy (准确率)", lines=3, elem_id="accuracy"),
                gr.Dataframe(
                    label="Different answers (不同的回答)",
                    interactive=False,
                    wrap=True,
                    elem_id="different",
                ),
            ]
            queue["show_progress_on"] = outputs[1:]
            start.click(compare, [lines, *sides], outputs, api_name="compare", **queue)
    return page


def show_page(checkpoint, port):
    """Shows the page in the browsers of this machine, until Ctrl-C.

    Args:
        checkpoint: As `build_page` takes it.
        port: Integer, the port to listen to.

    Raises:
        FileNotFoundError: as that of `build_page`.
        ValueError: as that of `build_page`; if there is no such port.
        OSError: if the port is taken.
    """
    check_integer("port", port, 1, 65535)
    page = build_page(checkpoint)
    try:
        page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            footer_links=[],
            prevent_thread_lock=True,
        )
    except OSError:
        raise OSError(
            f"The port {port} is taken, or may not be used. Give another one: --port {port + 1}"
        ) from None
    print(f"The page is at {page.local_url} Stop it with Ctrl-C.", flush=True)
    page.block_thread()
