"""The thread that owns a `PromptBank`: it answers what waits, and keeps up with a folder."""

import collections
import concurrent.futures
import contextlib
import itertools
import logging
import os
import threading
import time

from keras_ptuning.tuning.predicting import named_labels

logger = logging.getLogger("keras_ptuning.serving")
# How often to look into the folder.
LOOK_SECONDS = 1
ENDING = ".tuned"
# Of an error that a client sees, which may quote a whole text.
LONGEST_ERROR = 1000


class UnknownTask(LookupError):
    """There is no such task."""


class BadText(ValueError):
    """The task cannot read such a text, or such candidates."""


class Full(RuntimeError):
    """Too many texts wait."""


class Waiting:
    """A request of one text or more, until all are answered.

    Attributes:
        rows: List of `(task, text)` or `(task, text, candidates)`.
        future: What becomes the list of the answers, or an error.
    """

    def __init__(self, rows):
        self.rows = rows
        self.future = concurrent.futures.Future()
        self._answers = [None] * len(rows)
        self._missing = len(rows)

    def answer(self, place, found):
        self._answers[place] = found
        self._missing -= 1
        if not self._missing:
            self._end(self.future.set_result, self._answers)

    def fail(self, error):
        self._end(self.future.set_exception, error)

    def _end(self, end, value):
        # The client may have hung up, or another of its texts failed.
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            end(value)


class Worker(threading.Thread):
    """Answers the texts that wait, in batches, and changes the tasks between two batches.

    No other thread touches the bank, whose methods are not made for several. A batch has what
    arrived while the last one was computed.

    Args:
        bank: A `PromptBank` without tasks.
        folder: Path of the folder of tuned files.
        batch_size: Integer, the most texts in a batch.
        max_waiting: Integer, the most texts that wait.

    Attributes:
        templates: Dictionary from the tasks to their templates. It is never changed but replaced,
            so that other threads can read it.
        problems: Dictionary from files to what is wrong with them; replaced as well.
    """

    def __init__(self, bank, folder, batch_size, max_waiting):
        super().__init__(name="keras_ptuning-worker", daemon=True)
        self.templates, self.problems = {}, {}
        self._bank = bank
        self._folder = folder
        self._batch_size = batch_size
        self._max_waiting = max_waiting
        # Of each task, its name in the bank. A new file comes in under a new name.
        self._keys = {}
        self._numbers = itertools.count()
        # Of each file, what it was like when it was last read.
        self._stamps = {}
        self._queue = collections.deque()
        self._changed = threading.Condition()
        self._stopping = False

    def submit(self, rows):
        """Has texts answered. Any thread may call it.

        Args:
            rows: List of `(task, text)` or `(task, text, candidates)`.

        Returns:
            A `concurrent.futures.Future` of a list of dictionaries, from labels to probabilities.
            Texts of a future that is cancelled are not answered.

        Raises:
            Full: if too many texts wait.
        """
        waiting = Waiting(rows)
        with self._changed:
            if len(self._queue) + len(rows) > self._max_waiting:
                raise Full(
                    f"Too many texts wait: {len(self._queue)}, and {len(rows)} more came. At most "
                    f"{self._max_waiting} can. Try again in a second."
                )
            self._queue.extend((waiting, place) for place in range(len(rows)))
            self._changed.notify()
        return waiting.future

    def stop(self):
        """Ends the thread once all that waits is answered."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self.join()

    def run(self):
        look_at = time.monotonic() + LOOK_SECONDS
        while True:
            with self._changed:
                if not self._queue and not self._stopping:
                    self._changed.wait(max(0, look_at - time.monotonic()))
                batch = self._next_batch()
                if self._stopping and not batch:
                    return
            if batch:
                self._answer(batch)
            if time.monotonic() >= look_at:
                try:
                    self.look()
                except Exception:  # without this thread nothing would be answered any more
                    logger.exception("The folder could not be looked at.")
                look_at = time.monotonic() + LOOK_SECONDS

    def _next_batch(self):
        batch = []
        while self._queue and len(batch) < self._batch_size:
            waiting, place = self._queue.popleft()
            if not waiting.future.done():
                batch.append((waiting, place))
        return batch

    def _answer(self, batch):
        try:
            requests = [
                (self._keys[task], *rest)
                for task, *rest in (waiting.rows[place] for waiting, place in batch)
            ]
            found = self._bank.predict_proba(requests, self._batch_size)
        except Exception as error:
            if len(batch) == 1:
                ((waiting, place),) = batch
                waiting.fail(self._reason(waiting.rows, place, error))
                return
            # Only what is wrong fails. It is found by halves.
            half = len(batch) // 2
            self._answer(batch[:half])
            self._answer(batch[half:])
            return
        for (waiting, place), probabilities in zip(batch, found, strict=True):
            waiting.answer(place, probabilities)

    def _reason(self, rows, place, error):
        """What to tell the client whose text failed."""
        task, text, *candidates = rows[place]
        template = self.templates.get(task)
        if template is None:
            return unknown_task(task, self.templates)
        try:
            template.encode([text], candidates=candidates or None)
        except (TypeError, ValueError) as wrong:
            where = f"Request {place}: " if len(rows) > 1 else ""
            return BadText(f"{where}{wrong}"[:LONGEST_ERROR])
        return error

    def look(self):
        """Takes over what has changed in the folder."""
        try:
            found = _tuned_files(self._folder)
        except OSError as error:
            # The tasks stay, as the folder may come back.
            self._set_problem(self._folder, error)
            return
        self._set_problem(self._folder, None)
        for file in [file for file in self._stamps if file not in found]:
            del self._stamps[file]
            self._set_problem(file, None)
            self._remove(file.removesuffix(ENDING))
        for file, (path, stamp) in found.items():
            if self._stamps.get(file) != stamp:
                self._stamps[file] = stamp
                self._load(file, path)

    def _load(self, file, path):
        name, key = file.removesuffix(ENDING), f"{file} {next(self._numbers)}"
        try:
            self._bank.add(key, path)
            template = self._bank.template(key)
            if template.labels is not None:
                named_labels(template)
            # It compiles what the first client would wait for, and a prompt that cannot predict
            # never takes the place of one that can.
            self._bank.predict_proba([(key, *row) for row in _trial(template)])
        except Exception as error:  # whatever is wrong with a file, the others are served
            if key in self._bank.tasks:
                self._bank.remove(key)
            self._set_problem(file, error)
            if isinstance(error, OSError):
                # The file itself may be whole. It is read again at the next look.
                self._stamps[file] = None
            return
        self._set_problem(file, None)
        old = self._keys.get(name)
        self._keys[name] = key
        self.templates = {**self.templates, name: template}
        if old is not None:
            self._bank.remove(old)
        logger.info("The task %r is %s.", name, "there" if old is None else "replaced")

    def _remove(self, name):
        if name in self._keys:
            self._bank.remove(self._keys.pop(name))
            self.templates = {task: t for task, t in self.templates.items() if task != name}
            logger.info("The task %r is removed.", name)

    def _set_problem(self, file, error):
        problems = {name: text for name, text in self.problems.items() if name != file}
        if error is not None:
            problems[file] = f"{error}"[:LONGEST_ERROR]
            if problems[file] != self.problems.get(file):
                kept = file.removesuffix(ENDING) in self._keys
                logger.warning("%s%s", problems[file], " The old prompt stays." if kept else "")
        self.problems = problems


def unknown_task(task, tasks):
    """The error about a task that is not there."""
    return UnknownTask(f"There is no task {task!r:.100}. There are: {sorted(tasks)}.")


def _tuned_files(folder):
    """Dictionary from the names of the tuned files in a folder to `(path, stamp)`."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(ENDING) or entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
                # Copies of files may keep their time and size, but not that of the last change.
                stamp = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
            except FileNotFoundError:
                # It may have been deleted just now.
                continue
            except OSError:
                # Such as a link to itself. Loading it says what is wrong, and with it alone.
                stamp = ()
            # Names that are no UTF-8 could not be sent.
            name = os.fsencode(entry.name).decode("utf-8", "replace")
            found[name] = (entry.path, stamp)
    return dict(sorted(found.items()))


def _trial(template):
    """A short text for a template, with candidates if it needs some."""
    # An empty one leaves some causal models nothing to continue.
    text = ("a", "a") if "text_b" in template.slots else "a"
    if template.labels is not None:
        return [(text,)]
    tokenizer = template.tokenizer
    tokens = ((i, tokenizer.id_to_token(i)) for i in template.ordinary_ids)
    words = (token for i, token in tokens if tokenizer.token_ids([token]) == [[i]])
    return [(text, list(itertools.islice(words, 2)))]
