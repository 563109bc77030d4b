"""HTTP around the worker: JSON in, JSON out, and a limit for everything that a client sends."""

import asyncio
import json
import logging
import math
import os
import signal
import socket

from keras_ptuning.checks import Path, check_integer, check_path, check_text
from keras_ptuning.files import parse_json
from keras_ptuning.serving.worker import ENDING, BadText, Full, UnknownTask, Worker, unknown_task
from keras_ptuning.tuning import PromptBank

try:
    import resource
except ImportError:  # on Windows
    resource = None
try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import Response
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise ImportError(
        f"The server needs starlette and uvicorn: pip install 'keras_ptuning[serve]'. ({error})"
    ) from None

logger = logging.getLogger("keras_ptuning.serving")
# How long a client may take to send the headers of a request, how long to send the body, and how
# long it may read nothing of an answer.
BODY_SECONDS = 30
# How long what is being answered may take after the signal to stop.
STOP_SECONDS = 30
STATUSES = {BadText: 400, UnknownTask: 404, Full: 503}
# For the client that has hung up, and never reads it.
HUNG_UP = 499


def serve(
    folder: Path,
    checkpoint: Path = "bert-mini-zh",
    host: str = "127.0.0.1",
    port: int = 8000,
    batch_size: int = 32,
    max_bytes: int = 2**20,
    max_texts: int = 256,
    max_waiting: int = 1024,
) -> None:
    """Answers over HTTP from a folder of tuned files, until Ctrl-C or SIGTERM.

    `sentiment.tuned` in the folder is the task `sentiment`. A file that comes, changes or goes is
    noticed within about a second. If a changed one is broken, the old prompt stays. Requests that
    arrive together are answered in one batch of one `PromptBank`.

    - `POST /predict` takes `{"task": "sentiment", "text": "..."}`, and returns
      `{"label": "正面", "probabilities": {"负面": 0.07, "正面": 0.93}}`. It also takes
      `{"requests": [...]}`, and returns `{"results": [...]}` in the same order. A pair of texts is
      a list of two. For a template without labels, a request has `"candidates": [...]` too.
    - `GET /tasks` returns the names of the tasks, with their patterns and labels.
    - `GET /health` returns the number of tasks, and what is wrong with which file.

    An error is `{"error": "..."}` with the status 400 (wrong JSON, or a text that the task cannot
    read), 404 (no such task), 408 (too slow), 413 (too much), 503 (too busy) or 500.

    It must be called in the main thread, which signals reach.

    Args:
        folder: Path of the folder.
        checkpoint: Path of the pretrained model's folder, or its name, as `PromptBank` takes it.
            Defaults to `"bert-mini-zh"`.
        host: String, the address to listen at. Defaults to `"127.0.0.1"`, this machine alone.
        port: Integer. `0` is any port that is free. Defaults to `8000`.
        batch_size: Integer, the most texts that are answered at a time. Defaults to `32`.
        max_bytes: Integer, the most bytes in a request. Defaults to 1 MiB.
        max_texts: Integer, the most texts in a request, and the most candidates of all its texts
            together. Defaults to `256`.
        max_waiting: Integer, the most texts that wait. Defaults to `1024`.

    Raises:
        NotADirectoryError: if there is no such folder.
        OSError: if the server cannot listen at the address.
        ValueError: if an argument is out of range.

    Example:

    ```python
    serve("prompts", "bert-mini-zh", port=8000)
    # curl 127.0.0.1:8000/predict -d '{"task": "sentiment", "text": "物流很快，包装也好。"}'
    ```
    """
    check_path("folder", folder)
    check_integer("port", port, 0, 65535)
    for name, value in {"batch_size": batch_size, "max_bytes": max_bytes}.items():
        check_integer(name, value, 1)
    check_integer("max_texts", max_texts, 1)
    # Otherwise a request could be allowed and never answered.
    check_integer("max_waiting", max_waiting, max_texts)
    if not os.path.isdir(folder):
        raise NotADirectoryError(
            f"There is no folder {str(folder)!r}. Expected one with tuned files, such as "
            "sentiment.tuned, which `model.save_tuned(...)` writes."
        )
    # Before the model is loaded, which takes seconds. If that fails, the port is free again.
    with _bind(host, port) as listening:
        worker = Worker(PromptBank(checkpoint), os.fspath(folder), batch_size, max_waiting)
        worker.look()
        app = make_app(worker, max_bytes, max_texts)
        config = uvicorn.Config(
            app,
            http=Protocol,
            # As many are accepted before the first of them can be refused.
            backlog=128,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = uvicorn.Server(config)

        def stop(number, frame):
            server.should_exit = True

        # At the end uvicorn sends the signal again, to those that were there before it. Its own
        # handler would take that for a second Ctrl-C, which gives up what waits.
        numbers = signal.SIGINT, signal.SIGTERM
        before = [signal.signal(number, stop) for number in numbers]
        try:
            worker.start()
            _announce(worker, listening)
            server.run(sockets=[listening])
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
    if not server.force_exit:
        worker.stop()
    print("Stopped.", flush=True)


class Protocol(H11Protocol):
    """HTTP of uvicorn, which by itself waits for headers for ever, and on any connection."""

    _deadline = None

    def connection_made(self, transport):
        super().connection_made(transport)
        # `close` waits until the client has read all, which may be never. Only Linux has the
        # option.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection = transport.get_extra_info("socket")
            milliseconds = int(1000 * BODY_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self._watch()
        if len(self.connections) > _most_connections():
            transport.close()

    def data_received(self, data):
        super().data_received(data)
        self._watch()

    def _watch(self):
        if self.cycle is not None and not self.cycle.response_complete:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:
            self._deadline = self.loop.call_later(BODY_SECONDS, self.transport.close)


def _most_connections():
    """Three quarters of the files that the process may open: it needs others."""
    files = -1 if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # Negative is unlimited.
    return math.inf if files < 0 else files * 3 // 4


def _bind(host, port):
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        # After a restart, connections of the last process still wait for their end.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # Two that are started together may both bind, but only one can listen. From here on a
        # client is not refused, but waits.
        listening.listen()
    except OSError as error:
        raise OSError(
            f"The server cannot listen at {host!r}, port {port}: {error.strerror}. Choose another "
            "--port or --host."
        ) from None
    return listening


def _announce(worker, listening):
    host, port = listening.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    print(f"Serving at http://{host}:{port}", flush=True)
    for name, template in worker.templates.items():
        print(f"  {name}: {template.pattern}", flush=True)
    if not worker.templates:
        logger.warning("There is no tuned file (*%s) that can be served yet.", ENDING)


def make_app(worker, max_bytes, max_texts):
    """The ASGI application.

    Args:
        worker: A `Worker`.
        max_bytes, max_texts: As `serve` takes them.

    Returns:
        A `starlette.applications.Starlette`.
    """

    async def predict(request):
        content = _parse(await _read_body(request, max_bytes))
        several = "requests" in content
        requests = _read_requests(content, max_texts) if several else [content]
        rows = []
        for number, one in enumerate(requests):
            try:
                rows.append(_read_row(one, worker.templates))
            except (BadText, UnknownTask) as error:
                where = f"Request {number}: " if several else ""
                raise type(error)(f"{where}{error}") from None
        _check_count("candidates", sum(len(row[2]) for row in rows if len(row) > 2), max_texts)
        found = await _answers(request, worker.submit(rows))
        results = [_result(probabilities) for probabilities in found]
        return _json({"results": results} if several else results[0])

    async def tasks(request):
        found = [
            {"name": name, "pattern": template.pattern, "labels": template.label_names}
            for name, template in worker.templates.items()
        ]
        return _json({"tasks": found})

    async def health(request):
        alive = worker.is_alive()
        content = {
            "status": "ok" if alive else "stopped",
            "tasks": len(worker.templates),
            "problems": worker.problems,
        }
        return _json(content, 200 if alive else 503)

    handlers = {error: _refuse for error in STATUSES}
    handlers |= {HTTPException: _refuse_http, ClientDisconnect: _ignore, Exception: _fail}
    routes = [
        Route("/predict", predict, methods=["POST"]),
        Route("/tasks", tasks),
        Route("/health", health),
    ]
    app = Starlette(routes=routes, exception_handlers=handlers)
    # Otherwise /predict/ is answered with an empty redirection.
    app.router.redirect_slashes = False
    return app


def _json(content, status=200, headers=None):
    # An error may quote halves of surrogate pairs, which UTF-8 does not have.
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, status, headers, "application/json")


def _refuse(request, error):
    status = STATUSES[type(error)]
    return _json({"error": str(error)}, status, {"Retry-After": "1"} if status == 503 else None)


def _refuse_http(request, error):
    text = error.detail
    if error.status_code in (404, 405):
        text = "There are POST /predict, GET /tasks and GET /health. Received: "
        text += f"{request.method} {request.url.path:.100}."
    return _json({"error": text}, error.status_code, error.headers)


def _fail(request, error):
    # Starlette has the error logged.
    return _json({"error": "The server made a mistake, which is in its log. Try again."}, 500)


def _ignore(request, error):
    return Response(status_code=HUNG_UP)


async def _read_body(request, max_bytes):
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                # What is too much is read too, and dropped: most clients read no answer before
                # they have sent all.
                if size <= max_bytes:
                    body += part
    except TimeoutError:
        if size <= max_bytes:
            text = f"A request must be sent within {BODY_SECONDS} seconds."
            raise HTTPException(408, text, {"Connection": "close"}) from None
    if size > max_bytes:
        raise HTTPException(
            413,
            f"A request may have {max_bytes:,} bytes. Received at least {size:,}. Send several "
            "smaller ones.",
            {"Connection": "close"},
        )
    return bytes(body)


def _parse(body):
    try:
        content = parse_json(body)
    except ValueError as error:
        raise BadText(f"Expected JSON in UTF-8. Received: {body[:60]!r} ({error}).") from None
    if not isinstance(content, dict):
        raise BadText(
            'Expected an object of JSON, {"task": ..., "text": ...} or {"requests": [...]}. '
            f"Received: {content!r:.60}."
        )
    return content


def _read_requests(content, max_texts):
    requests = content["requests"]
    if not isinstance(requests, list) or not requests or len(content) > 1:
        raise BadText(
            'Expected {"requests": [...]} with at least one request, and nothing else. Received: '
            f"{content!r:.60}."
        )
    _check_count("texts", len(requests), max_texts)
    return requests


def _check_count(what, count, most):
    if count > most:
        raise HTTPException(
            413, f"A request may have {most} {what}. Received: {count}. Send several smaller ones."
        )


def _read_row(request, templates):
    """A row for the worker, whose kinds are those that the task needs."""
    allowed = {"task", "text", "candidates"}
    if not isinstance(request, dict) or not {"task", "text"} <= set(request) <= allowed:
        raise BadText(
            'Expected an object {"task": ..., "text": ...}, and "candidates" where the task needs '
            'them; for several texts, {"requests": [...]} with a list of such objects. Received: '
            f"{request!r:.100}."
        )
    task, text = request["task"], request["text"]
    template = templates.get(task) if isinstance(task, str) else None
    if template is None:
        raise unknown_task(task, templates)
    pair = "text_b" in template.slots
    parts = text if pair and isinstance(text, list) and len(text) == 2 else [text]
    if len(parts) != 1 + pair or not all(isinstance(part, str) for part in parts):
        expected = "a list of two strings" if pair else "a string"
        raise BadText(f"A text of the task {task!r} is {expected}. Received: {text!r:.60}.")
    candidates = request.get("candidates")
    if (candidates is None) != (template.labels is not None):
        labels = template.label_names
        has = "no labels, and needs candidates" if labels is None else f"the labels {labels}"
        raise BadText(f"The task {task!r} has {has}. Received: candidates={candidates!r:.60}.")
    if candidates is None:
        return task, text
    if not isinstance(candidates, list):
        raise BadText(f"Candidates are a list of strings. Received: {candidates!r:.60}.")
    for candidate in candidates:
        try:
            check_text("A candidate", candidate)
        except (TypeError, ValueError) as error:
            raise BadText(str(error)) from None
    return task, text, candidates


async def _answers(request, future):
    """What the worker answers, unless the client hangs up before."""
    answered = asyncio.wrap_future(future)
    # After the body, the next message is that the client has hung up.
    hung_up = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({answered, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            raise ClientDisconnect
        return answered.result()
    finally:
        hung_up.cancel()
        # The worker leaves out what nobody waits for.
        answered.cancel()


def _result(probabilities):
    rounded = {str(name): round(p, 6) for name, p in probabilities.items()}
    return {"label": max(probabilities, key=probabilities.get), "probabilities": rounded}
