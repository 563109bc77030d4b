"""Requests a second and their latency, of `keras-ptuning serve`, batched and one by one.

    python benchmarks/serving.py
    python benchmarks/serving.py --cores 1 --seconds 10

Makes a tuned file by one training step, and serves it with the embedded `bert-mini-zh`. Each client
sends one text after the other, over one connection, and reads the answer before it sends the next.
With `--cores` the server has these cores alone; the clients take the others.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TEXTS = [
    "物流很快，包装也好。",
    "房间很小，隔音也差，早餐只有几样。",
    "书不错",
    "屏幕有划痕，客服不理人。",
]


def make_prompt(folder):
    from keras_ptuning import Template, build_ptuning_model

    labels = {"负面": "不", "正面": "很"}
    template = Template("[u1][u2][u3][u4][MASK]满意。{text}", labels, "bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template)
    model.compile()
    model.fit(template.dataset(TEXTS, ["正面", "负面", "正面", "负面"]), verbose=0)
    model.save_tuned(pathlib.Path(folder) / "sentiment.tuned")


def start(folder, batch_size, cores):
    """A server, and the port that it listens at."""
    command = [sys.executable, "-m", "keras_ptuning_command", "serve", folder, "--port", "0"]
    command += ["--batch-size", str(batch_size)]
    if cores:
        command = ["taskset", "-c", cores, *command]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        if line.startswith("Serving at "):
            return server, int(line.rsplit(":", 1)[1])
    raise SystemExit("The server did not start.")


def client(port, first, end, latencies):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    number = first
    while time.perf_counter() < end:
        text = TEXTS[number % len(TEXTS)]
        body = json.dumps({"task": "sentiment", "text": text}).encode()
        begin = time.perf_counter()
        connection.request("POST", "/predict", body)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(content.decode())
        latencies.append(time.perf_counter() - begin)
        number += 1
    connection.close()


def measure(port, clients, seconds):
    """Requests a second, and the median and the 99th percentile of latency in ms."""
    latencies, begin = [], time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        answers = [pool.submit(client, port, i, begin + seconds, latencies) for i in range(clients)]
    # A client that got an error has measured nothing: the error is raised here.
    for answer in answers:
        answer.result()
    rate = len(latencies) / (time.perf_counter() - begin)
    percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
    return rate, 1000 * percentiles[49], 1000 * percentiles[98]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--cores", help="those of the server, as taskset takes them, e.g. 1 or 0-3")
    parser.add_argument("--seconds", type=float, default=6, help="seconds to measure")
    options = parser.parse_args()
    # The processes that are started must find the package where this one does.
    root = str(pathlib.Path(__file__).absolute().parents[1])
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    cores = os.sched_getaffinity(0) if options.cores else None
    print("| at most in a batch | clients | requests/s | median, ms | 99 %, ms |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_prompt(folder)
        for batch_size in (32, 1):
            server, port = start(folder, batch_size, options.cores)
            if cores:
                # The clients are threads of this process, and begin later.
                os.sched_setaffinity(0, cores - os.sched_getaffinity(server.pid) or cores)
            try:
                measure(port, 4, 2)
                for clients in (1, 8, 32):
                    rate, median, slowest = measure(port, clients, options.seconds)
                    print(
                        f"| {batch_size} | {clients} | {rate:.0f} | {median:.0f} | {slowest:.0f} |",
                        flush=True,
                    )
            finally:
                server.terminate()
                server.wait()


if __name__ == "__main__":
    main()
