"""The server in a process of its own, asked over HTTP."""

import concurrent.futures
import contextlib
import http.client
import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import uvicorn
from keras import ops
from small_bert import write_small_bert

from keras_ptuning import Template, build_ptuning_model
from keras_ptuning.serving import serve
from keras_ptuning.serving import server as serving

ROOT = pathlib.Path(__file__).parents[2]
TEXTS = [
    "书贵",
    "屏幕" * 20,
    "物流很快，服务态度好。",
    "房间差",
    "体育财经",
    "a b ok",
    "",
    "好\n好",
]
TASKS = {
    "sentiment": ("[u1][u2][MASK]满意。{text}", {"负面": "不", "正面": "很"}),
    "numbers": ("[u1][MASK]{text}", {0: "不", 1: "很", 2: "差"}),
    "pair": ("[u1]{text}？[MASK]，{text_b}", {"负": "不", "正": "很"}),
    "free": ("[u1]{text}[MASK]", None),
}


class Prompts:
    """A folder of tuned files, and what the model of each answers."""

    def __init__(self, folder):
        self.checkpoint, self.folder = str(folder / "bert"), folder / "prompts"
        os.makedirs(self.checkpoint)
        os.makedirs(self.folder)
        write_small_bert(self.checkpoint)
        self.models = {}
        for seed, (name, (pattern, labels)) in enumerate(TASKS.items()):
            template = Template(pattern, labels, self.checkpoint, maxlen=48)
            self.models[name] = build_ptuning_model(self.checkpoint, template=template)
            self.train(name, seed)
            self.save(name)

    def train(self, name, seed):
        prompt = self.models[name].prompt
        prompt.assign(np.random.default_rng(seed).normal(0, 0.5, prompt.shape))

    def save(self, name):
        self.models[name].save_tuned(self.folder / f"{name}.tuned")

    def expected(self, name, texts, candidates=None):
        model = self.models[name]
        data = model.template.dataset(texts, candidates=candidates and [candidates] * len(texts))
        found = ops.convert_to_numpy(ops.softmax(model.predict(data, verbose=0)))
        return [
            dict(zip(candidates or model.template.label_names, row, strict=True)) for row in found
        ]


class Server:
    """A process that serves."""

    def __init__(self, prompts, port=0, *options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "keras_ptuning_command", "serve", str(prompts.folder)]
        command += ["--checkpoint", prompts.checkpoint, "--port", str(port), *options]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.port = None
        self.errors = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr)).start()

    def wait(self):
        for line in self.process.stdout:
            if line.startswith("Serving at http://127.0.0.1:"):
                self.port = int(line.rsplit(":", 1)[1])
                return self
        raise AssertionError("".join(self.errors))

    def ask(self, path, content=None, method=None):
        """The status and the content of an answer; content that is bytes is sent as it is."""
        body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        with contextlib.closing(self.connection()) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(40)
        return self.process.stdout.read()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return Prompts(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(prompts):
    (prompts.folder / "broken.tuned").write_text("no tuned file")
    server = Server(prompts, 0, "--max-bytes", "50000", "--max-texts", "20").wait()
    yield server
    assert "Stopped." in server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in "".join(server.errors)


def check(answer, expected):
    names, found = list(expected), answer["probabilities"]
    assert list(found) == [str(name) for name in names]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-5)
    # The label is no string where it is a number.
    assert answer["label"] in names and found[str(answer["label"])] == max(found.values())


def eventually(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_each_kind_of_task(prompts, server):
    status, found = server.ask("/predict", {"task": "numbers", "text": "书贵"})
    assert status == 200
    check(found, prompts.expected("numbers", ["书贵"])[0])
    requests = [
        {"task": "free", "text": "书", "candidates": ["好", "差", "贵"]},
        {"task": "pair", "text": ["书贵", "屏幕"]},
        {"task": "sentiment", "text": "书"},
    ]
    status, found = server.ask("/predict", {"requests": requests})
    assert status == 200
    check(found["results"][0], prompts.expected("free", ["书"], ["好", "差", "贵"])[0])
    check(found["results"][1], prompts.expected("pair", [("书贵", "屏幕")])[0])
    check(found["results"][2], prompts.expected("sentiment", ["书"])[0])


def test_what_is_there(server):
    status, found = server.ask("/tasks")
    assert status == 200
    assert [task["name"] for task in found["tasks"]] == sorted(TASKS)
    for task in found["tasks"]:
        pattern, labels = TASKS[task["name"]]
        assert task["pattern"] == pattern and task["labels"] == (labels and list(labels))
    status, found = server.ask("/health")
    assert (status, found["status"], found["tasks"]) == (200, "ok", 4)
    assert "is damaged or not a tuned file" in found["problems"]["broken.tuned"]


def test_many_clients(prompts, server):
    """Some of them send what is wrong, and all others get what their own model answers."""
    expected = {name: prompts.expected(name, TEXTS) for name in ("sentiment", "numbers")}
    wrong = {"task": "free", "text": "书", "candidates": ["好", "好"]}

    def client(number):
        for turn in range(4):
            i = (number + turn) % len(TEXTS)
            if number % 4 == 3:
                assert server.ask("/predict", wrong)[0] == 400
                continue
            name = "sentiment" if (number + turn) % 3 else "numbers"
            status, found = server.ask("/predict", {"task": name, "text": TEXTS[i]})
            assert status == 200
            check(found, expected[name][i])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b'{"task', 400, "Expected JSON in UTF-8"),
        (b"\xff\xfe\xfa", 400, "Expected JSON in UTF-8"),
        (b"[" * 20_000, 400, "nested too deep"),
        ([1], 400, "Expected an object of JSON"),
        ({"text": "书"}, 400, "Expected an object"),
        ({"task": "sentiment", "text": "书", "txt": 1}, 400, "Expected an object"),
        ({"task": "sentiment", "texts": ["书"]}, 400, 'for several texts, {"requests": [...]}'),
        ({"task": "sentiment", "text": 3}, 400, "is a string. Received: 3"),
        ({"task": "sentiment", "text": ["书", "贵"]}, 400, "is a string"),
        ({"task": "pair", "text": "书"}, 400, "is a list of two strings"),
        ({"task": "pair", "text": ["书", None]}, 400, "is a list of two strings"),
        ({"task": "free", "text": "书"}, 400, "has no labels, and needs candidates"),
        ({"task": "numbers", "text": "书", "candidates": ["好", "差"]}, 400, "has the labels"),
        ({"task": "free", "text": "书", "candidates": "好差"}, 400, "a list of strings"),
        ({"task": "free", "text": "书", "candidates": ["好", "\ud800"]}, 400, "surrogate"),
        ({"task": "free", "text": "书", "candidates": ["好", "好"]}, 400, "each once"),
        ({"task": "nothing", "text": "书"}, 404, "There is no task 'nothing'. There are: ['free'"),
        ({"task": ["\ud800"], "text": "书"}, 404, "There is no task"),
        (
            {"task": "free", "text": "书", "candidates": [chr(i) for i in range(19968, 19989)]},
            413,
            "may have 20 candidates. Received: 21",
        ),
        ({"requests": []}, 400, "at least one request"),
        ({"requests": [{"task": "sentiment", "text": "书"}] * 21}, 413, "may have 20 texts"),
        (
            {"requests": [{"task": "sentiment", "text": "书"}, {"task": "no", "text": "书"}]},
            404,
            "Request 1: There is no task 'no'",
        ),
        ({"task": "sentiment", "text": "x" * 60_000}, 413, "may have 50,000 bytes"),
        ({"task": "sentiment", "text": "x" * 9_000_000}, 413, "may have 50,000 bytes"),
    ],
)
def test_what_is_refused(server, content, status, text):
    found, answer = server.ask("/predict", content)
    assert found == status and text in answer["error"] and "Traceback" not in answer["error"]


def test_other_places(server):
    assert server.ask("/predict")[0] == 405
    status, answer = server.ask("/nothing")
    assert status == 404 and "There are POST /predict" in answer["error"]
    status, answer = server.ask("/predict/", {"task": "sentiment", "text": "书"})
    assert status == 404 and "Received: POST /predict/." in answer["error"]


def test_who_hangs_up(prompts, server):
    """In the middle of a request, or before the answer: the others are answered."""
    body = json.dumps({"requests": [{"task": "sentiment", "text": "书"}] * 20}).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for sent in (head[:20], head, head + body[:50], *[head + body] * 20):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(sent)
    status, found = server.ask("/predict", {"task": "sentiment", "text": "书"})
    assert status == 200
    check(found, prompts.expected("sentiment", ["书"])[0])
    assert server.process.poll() is None


def test_files_that_change(prompts, server):
    def answers_as_expected(name="sentiment"):
        _, found = server.ask("/predict", {"task": name, "text": "书"})
        expected = prompts.expected(name, ["书"])[0]
        return np.allclose(
            list(found["probabilities"].values()), list(expected.values()), atol=1e-5
        )

    prompts.train("sentiment", 100)
    assert not answers_as_expected()
    prompts.save("sentiment")
    eventually(answers_as_expected)
    path = prompts.folder / "sentiment.tuned"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    eventually(lambda: "sentiment.tuned" in server.ask("/health")[1]["problems"])
    assert answers_as_expected()
    assert any("The old prompt stays." in line for line in server.errors)
    path.write_bytes(whole)
    eventually(lambda: "sentiment.tuned" not in server.ask("/health")[1]["problems"])
    (prompts.folder / "new.tuned").write_bytes(whole)
    eventually(lambda: server.ask("/predict", {"task": "new", "text": "书"})[0] == 200)
    (prompts.folder / "new.tuned").unlink()
    eventually(lambda: server.ask("/predict", {"task": "new", "text": "书"})[0] == 404)
    assert answers_as_expected()


@pytest.mark.slow
def test_killed_and_started_again(prompts):
    """While clients ask: each answer that comes is right, and after SIGTERM none is cut off."""
    expected = prompts.expected("numbers", TEXTS)
    server = Server(prompts).wait()
    answered, cut_off, stop = [], [], threading.Event()

    def client(number):
        while not stop.is_set():
            i = (number + len(answered)) % len(TEXTS)
            try:
                status, found = server.ask("/predict", {"task": "numbers", "text": TEXTS[i]})
            except (OSError, http.client.HTTPException, ValueError) as error:
                cut_off.append(error)
                time.sleep(0.05)
                continue
            assert status == 200
            check(found, expected[i])
            answered.append(i)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        try:
            eventually(lambda: len(answered) > 20)
            server.process.kill()
            server.process.wait()
            port, before = server.port, len(answered)
            server = Server(prompts, port)
            server.port = port
            server.wait()
            eventually(lambda: len(answered) > before + 20)
            assert cut_off
            cut_off.clear()
            assert "Stopped." in server.stop(signal.SIGINT) and server.process.returncode == 0
        finally:
            stop.set()
            server.process.kill()
        for done in clients:
            done.result()
    # Who came after the end was refused.
    assert all(isinstance(error, ConnectionError) for error in cut_off)
    assert "Traceback" not in "".join(server.errors)


def test_a_taken_port_and_a_folder_that_is_not_there(prompts, tmp_path):
    with pytest.raises(
        NotADirectoryError, match=r"There is no folder .*nowhere'\. Expected one with"
    ):
        serve(tmp_path / "nowhere")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}: Address already in use. Choose another"):
            serve(prompts.folder, port=port)
    with pytest.raises(ValueError, match="`max_waiting` must be an integer, at least 256"):
        serve(prompts.folder, max_waiting=100)


def test_a_port_is_given_once():
    """Also to servers that are started together, and still load the model."""
    with serving._bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}: Address already in use. Choose another"):
            serving._bind("127.0.0.1", port)


def test_a_model_that_is_not_there_leaves_the_port_free(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(FileNotFoundError) as raised:
        serve(tmp_path, "no_checkpoint", port=port)
    # As in a notebook, which keeps the last error, and with it what the call had.
    assert raised.value.__traceback__
    serving._bind("127.0.0.1", port).close()


def test_one_ctrl_c_stops_the_worker(tmp_path, monkeypatch):
    stopped = []

    class Worker(serving.Worker):
        def stop(self):
            super().stop()
            stopped.append(self)

    monkeypatch.setattr(serving, "Worker", Worker)
    monkeypatch.setattr(serving, "PromptBank", lambda checkpoint: None)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    try:
        timer.start()
        serve(tmp_path, port=0)
    finally:
        timer.cancel()
    assert len(stopped) == 1 and not stopped[0].is_alive()
    # What follows in the same process can be interrupted again.
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@contextlib.contextmanager
def answering(app):
    """The port of a server in a thread."""
    listening = serving._bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    config = uvicorn.Config(app, http=serving.Protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


def test_headers_that_do_not_end(monkeypatch):
    """Of the first request, or of a later one, and however slowly they come."""
    monkeypatch.setattr(serving, "BODY_SECONDS", 0.2)
    worker = types.SimpleNamespace(is_alive=lambda: True, templates={}, problems={})
    with answering(serving.make_app(worker, 1000, 10)) as port:
        for before in (b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(before)
                assert not before or connection.recv(10_000).startswith(b"HTTP/1.1 200")
                with pytest.raises(ConnectionError):
                    for _ in range(100):
                        connection.sendall(b"P")
                        time.sleep(0.02)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has the option")
def test_answers_that_nobody_reads(monkeypatch):
    """More than the buffers take; the connection does not wait for ever."""
    monkeypatch.setattr(serving, "BODY_SECONDS", 0.2)
    templates = {"long": types.SimpleNamespace(pattern="x" * 20_000_000, label_names=None)}
    worker = types.SimpleNamespace(is_alive=lambda: True, templates=templates, problems={})
    with answering(serving.make_app(worker, 1000, 10)) as port, contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        connection.sendall(b"GET /tasks HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3)
        with pytest.raises(ConnectionError):
            while connection.recv(1_000_000):
                pass


def test_too_many_connections(monkeypatch):
    monkeypatch.setattr(serving, "_most_connections", lambda: 2)
    worker = types.SimpleNamespace(is_alive=lambda: True, templates={}, problems={})
    with answering(serving.make_app(worker, 1000, 10)) as port, contextlib.ExitStack() as stack:
        first, _, third = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for _ in range(3)
        )
        assert third.recv(1) == b""
        first.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(10_000).startswith(b"HTTP/1.1 200")


def test_without_starlette(monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.delitem(sys.modules, "keras_ptuning.serving.server")
    with pytest.raises(ImportError, match=r"pip install 'keras_ptuning\[serve\]'"):
        importlib.import_module("keras_ptuning.serving.server")
