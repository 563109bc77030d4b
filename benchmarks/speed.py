"""P-tuning, scoring and fine-tuning, side by side: bert4keras, transformers, and this library.

    python benchmarks/speed.py --data datasets
    python benchmarks/speed.py --models embedded --peers bert4keras tensorflow --repeats 5

Every peer (`peers.py`) does the same work with the same weights and reviews: random weights of a
BERT-base, 12 x 768 with 21,128 tokens, and the embedded checkpoint. Each turn of a peer is a
process of its own, and the peers take turns; medians count. Those that are not installed are
skipped, by name. Texts have up to 128 tokens, beside the template.

What is measured: from the first import to a model with its weights; a step of P-tuning at full
length, and a step of fine-tuning the whole of a classifier; the greatest memory of the process
until after the P-tuning steps; an epoch of P-tuning, over 168 reviews and over `--reviews`, and
scoring `--reviews`, tokenizing and padding included.
"""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from peers import PEERS, REFERENCE

WORK = {
    "build": "import and build",
    "step": "P-tuning step",
    "memory": "peak memory, GiB",
    "small_epoch": "epoch, {labeled} reviews",
    "epoch": "epoch, {reviews} reviews",
    "score": "scoring {reviews} reviews",
    "fine_tuning_step": "fine-tuning step",
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder or zip of the reviews, as `load_sentiment` takes it")
    parser.add_argument("--models", nargs="+", choices=("base", "embedded"))
    parser.add_argument("--peers", nargs="+", help="only those whose name has one of these in it")
    parser.add_argument("--labeled", type=int, default=168, help="reviews of the small epoch")
    parser.add_argument("--reviews", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="speed", help="path of the .md and .json to write")
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.models = options.models or ["base", "embedded"]
    if min(options.repeats, options.labeled, options.reviews, options.batch_size) < 1:
        parser.error("--repeats, --labeled, --reviews and --batch-size must be at least 1")
    return options


def write_work(folder, model, options):
    """The checkpoint in all formats, and the reviews."""
    from keras_ptuning import Tokenizer, build_transformer_model
    from keras_ptuning.datasets import load_sentiment
    from keras_ptuning.models import load_config, save_transformer_model

    config, vocab = load_config("bert-mini-zh"), list(Tokenizer("bert-mini-zh").vocab)
    checkpoint = "bert-mini-zh"
    if model == "base":
        config |= {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 512,
            "vocab_size": 21128,
        }
        known = set(vocab)
        spare = map("[unused{}]".format, itertools.count(1))
        spare = (token for token in spare if token not in known)
        vocab += itertools.islice(spare, config["vocab_size"] - len(vocab))
        checkpoint = config
    # As published checkpoints have them; they are on in training.
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    built = build_transformer_model(checkpoint, with_mlm="linear", with_pool=model == "base")
    save_transformer_model(built, folder, config, vocab)
    texts, labels = load_sentiment(options.data)["train"]
    names = sorted(set(labels))
    long = [i for i, text in enumerate(texts) if len(text) > 200][: options.batch_size]

    def take(rows):
        return [texts[i] for i in rows], [names.index(labels[i]) for i in rows]

    work = {
        "batch_size": options.batch_size,
        "maxlen": min(128 + 9, config["max_position_embeddings"]),
        "full": take(long),
        "small": take(range(options.labeled)),
        "reviews": take(range(options.labeled, options.labeled + options.reviews)),
    }
    (folder / "work.json").write_text(json.dumps(work), "utf-8")


def turn(folder, name):
    """What one process does: all the work of one peer."""
    start = time.perf_counter()
    folder = pathlib.Path(folder)
    work = json.loads((folder / "work.json").read_text("utf-8"))
    found = {}

    def timed(what, function, *arguments):
        begin = time.perf_counter()
        result = function(*arguments)
        found[what] = time.perf_counter() - begin
        return result

    def timed_steps(what, step, batch):
        step(batch)  # Traces or compiles.
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            step(batch)
            seconds.append(time.perf_counter() - begin)
        found[what] = statistics.median(seconds)

    peer = PEERS[name](folder, work["maxlen"], work["batch_size"])
    peer.build()
    found["build"] = time.perf_counter() - start
    timed_steps("step", peer.step, peer.prepare_step(*work["full"]))
    found["memory"] = peak_memory()
    # The graphs of an epoch and of scoring are made outside the time.
    peer.epoch(*work["small"])
    peer.score(work["small"][0])
    timed("small_epoch", peer.epoch, *work["small"])
    timed("epoch", peer.epoch, *work["reviews"])
    predicted = timed("score", peer.score, work["reviews"][0])
    found["predicted"] = [int(label) for label in predicted]
    timed_steps("fine_tuning_step", peer.fine_tuning_step, peer.prepare_fine_tuning(*work["full"]))
    print(json.dumps(found))


def peak_memory():
    with open("/proc/self/status") as lines:
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return kilobytes / 2**20


def installed():
    names = []
    for name, peer in PEERS.items():
        missing = [module for module in peer.needs if not importlib.util.find_spec(module)]
        if missing:
            print(f"Skipped: {name}, without {' and '.join(missing)}", file=sys.stderr)
        else:
            names.append(name)
    return names


def measure(folder, name):
    done = subprocess.run(
        [sys.executable, __file__, "--turn", str(folder), name],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **PEERS[name].environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def render(model, results, options):
    """The table of one model: medians, and how many times as fast as bert4keras."""
    sizes = {"labeled": options.labeled, "reviews": options.reviews}
    lines = [
        f"## {model}, medians of {options.repeats} turns: seconds, and times as fast as bert4keras",
        "",
        "| | " + " | ".join(text.format(**sizes) for text in WORK.values()) + " |",
        "|---" * (len(WORK) + 1) + "|",
    ]
    medians = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in WORK}
        for name, turns in results.items()
    }
    for name, found in medians.items():
        cells = []
        for key in WORK:
            cell = f"{found[key]:.3g}"
            if REFERENCE in medians and name != REFERENCE:
                cell += f" ({medians[REFERENCE][key] / found[key]:.2f}x)"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    options = parse_arguments()
    if options.turn:
        return turn(*options.turn)
    names = [
        name
        for name in installed()
        if not options.peers or any(part in name for part in options.peers)
    ]
    tables, results = [], {}
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            write_work(pathlib.Path(folder), model, options)
            found = {name: [] for name in names}
            for repeat in range(options.repeats):
                for name in names:
                    found[name].append(measure(folder, name))
                    shown = {key: round(found[name][-1][key], 3) for key in WORK}
                    print(f"{model}, {repeat + 1}, {name}: {shown}", file=sys.stderr, flush=True)
        results[model] = found
        tables.append(render(model, found, options))
        pathlib.Path(options.out + ".json").write_text(json.dumps(results), "utf-8")
        pathlib.Path(options.out + ".md").write_text("\n".join(tables), "utf-8")
    print("\n".join(tables))


if __name__ == "__main__":
    main()
