"""P-tuning, scoring and fine-tuning, side by side: bert4keras, transformers, and this library.

    python benchmarks/speed.py --data datasets
    python benchmarks/speed.py --models embedded --peers bert4keras tensorflow --repeats 5
    python benchmarks/speed.py --methods --batch-size 8

Every peer (`peers.py`) does the same work with the same weights and reviews: random weights of a
BERT-base, 12 x 768 with 21,128 tokens, and the embedded checkpoint. Each turn of a peer is a
process of its own, and the peers take turns; medians count. Those that are not installed are
skipped, by name. Texts have up to 128 tokens, and the template.

What is measured: from the first import to a model with its weights; a step of P-tuning at full
length, and a step of fine-tuning the whole of a classifier; the greatest memory of the process
until after the P-tuning steps; an epoch of P-tuning, over 168 reviews and over `--reviews`, and
scoring `--reviews`, tokenizing and padding included.

With `--methods` it is, instead, a training step of each tuning method, and the greatest memory of
the process after the steps, next to PEFT on transformers. Each turn builds one model, and is a
process too. All take the same texts of 128 tokens, with the same masks; of the template's virtual
tokens PEFT has its own. PEFT's users give `labels` to `BertForMaskedLM`, which predicts the tokens
of all positions: that is compared, and not what the masks alone would take. PEFT has no adapters of
Houlsby and Pfeiffer; "all" is transformers by itself. On a busy machine the seconds that all cores
worked say more than those that passed, with one thread for each library:

    export OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
"""

import argparse
import importlib.util
import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from peers import (
    MASK_RATE,
    METHODS,
    METHODS_REFERENCE,
    PEERS,
    PREFIX,
    PROMPT,
    REFERENCE,
    WORDS,
    cloze_pattern,
)

WORK = {
    "build": "import and build",
    "step": "P-tuning step",
    "memory": "peak memory, GiB",
    "small_epoch": "epoch, {labeled} reviews",
    "epoch": "epoch, {reviews} reviews",
    "score": "scoring {reviews} reviews",
    "fine_tuning_step": "fine-tuning step",
}
# Those that compare tuning methods unless `--peers` says otherwise.
METHODS_PEERS = (METHODS_REFERENCE, "keras_ptuning, tensorflow, float32")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", help="folder or zip of the reviews, as `load_sentiment` takes it")
    parser.add_argument(
        "--models", nargs="+", choices=("base", "embedded"), help="models to run; all, if left out"
    )
    parser.add_argument("--peers", nargs="+", help="only those whose name has one of these in it")
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=METHODS,
        help="compare tuning methods instead: these, or all",
    )
    parser.add_argument("--labeled", type=int, default=168, help="reviews of the small epoch")
    parser.add_argument("--reviews", type=int, default=2000, help="reviews to predict")
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts")
    parser.add_argument("--out", default="speed", help="path of the .md and .json to write")
    parser.add_argument("--turn", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.methods is not None:
        options.models = options.models or ["base"]
        options.methods = options.methods or list(METHODS)
    options.models = options.models or ["base", "embedded"]
    if min(options.repeats, options.labeled, options.reviews, options.batch_size) < 1:
        parser.error("--repeats, --labeled, --reviews and --batch-size must be at least 1")
    return options


def write_checkpoint(folder, model):
    """The checkpoint in all formats; returns its configuration and vocabulary."""
    from keras_ptuning import Tokenizer, build_transformer_model
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
    return config, vocab


def write_work(folder, model, options):
    """The checkpoint and the reviews."""
    from keras_ptuning.datasets import load_sentiment

    config, _ = write_checkpoint(folder, model)
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


def write_methods_work(folder, model, options):
    """The checkpoint, and the batch of each method, of random texts at full length."""
    import numpy as np

    from keras_ptuning import Template

    config, vocab = write_checkpoint(folder, model)
    # In transformers the text's positions continue those of a prefix.
    maxlen = min(128, config["max_position_embeddings"] - PREFIX)
    rng = np.random.default_rng(0)
    known = [token for token in vocab if len(token) == 1 and "一" <= token <= "龥"]
    texts = ["".join(rng.choice(known, 2 * maxlen)) for _ in range(options.batch_size)]
    labels = [i % len(WORDS) for i in range(options.batch_size)]
    work = {"batch_size": options.batch_size, "maxlen": maxlen, "batches": {}}
    for method in options.methods:
        pattern = cloze_pattern(PROMPT if method == "prompt" else 0)
        template = Template(pattern, dict(enumerate(WORDS)), str(folder), maxlen)
        data = template.dataset(texts, labels, options.batch_size, mask_rate=MASK_RATE, seed=0)
        inputs, targets = data[0]
        work["batches"][method] = {
            "inputs": {name: array.tolist() for name, array in inputs.items()},
            "labels": targets.tolist(),
            "template_ids": [int(i) for i in template.virtual_ids],
            "word_ids": [words[0][0] for words in template.word_ids],
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

    peer = PEERS[name](folder, work["maxlen"], work["batch_size"])
    peer.build()
    found["build"] = time.perf_counter() - start
    found["step"] = time_steps(peer.step, peer.prepare_step(*work["full"]))
    found["memory"] = peer.peak_memory()
    # The graphs of an epoch and of scoring are made outside the time.
    peer.epoch(*work["small"])
    peer.score(work["small"][0])
    timed("small_epoch", peer.epoch, *work["small"])
    timed("epoch", peer.epoch, *work["reviews"])
    predicted = timed("score", peer.score, work["reviews"][0])
    found["predicted"] = [int(label) for label in predicted]
    batch = peer.prepare_fine_tuning(*work["full"])
    found["fine_tuning_step"] = time_steps(peer.fine_tuning_step, batch)
    print(json.dumps(found))


def turn_of_method(folder, name, method):
    """What one process does with `--methods`: the steps of one peer with one method."""
    work = json.loads((pathlib.Path(folder) / "work.json").read_text("utf-8"))
    peer = PEERS[name](folder, work["maxlen"], work["batch_size"])
    peer.build_method(method)
    batch = peer.prepare_method(**work["batches"][method])
    seconds, cores = time_method_steps(peer, batch)
    print(json.dumps({"step": seconds, "cores": cores, "memory": peer.peak_memory()}))


def time_steps(step, batch, count=3):
    """The median of the seconds of some steps."""
    step(batch)  # Traces or compiles.
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def time_method_steps(peer, batch):
    """The medians, over some steps, of their seconds, and of the seconds that all cores worked."""
    count = 3
    peer.method_steps(batch, count)  # Traces or compiles.
    while True:
        clocks = peer.method_steps(batch, count)
        passed = clocks[-1][0] - clocks[0][0]
        # Steps of a GPU are short.
        if passed > 1:
            break
        count = math.ceil(2 * count / passed)
    steps = [[b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(clocks)]
    return [statistics.median(column) for column in zip(*steps, strict=True)]


def installed(options):
    """The names of the peers that can do the work, and are asked for."""
    names = []
    for name, peer in PEERS.items():
        needs = peer.needs
        if options.methods is not None:
            needs = (*needs, *peer.methods_need)
            if not peer.methods or (not options.peers and name not in METHODS_PEERS):
                continue
        if options.peers and not any(part in name for part in options.peers):
            continue
        missing = [module for module in needs if not importlib.util.find_spec(module)]
        if missing:
            print(f"Skipped: {name}, without {' and '.join(missing)}", file=sys.stderr)
        else:
            names.append(name)
    return names


def measure(folder, name, *method):
    done = subprocess.run(
        [sys.executable, __file__, "--turn", str(folder), name, *method],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **PEERS[name].environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join([name, *method])} failed:\n{done.stderr}")
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


def render_methods(model, results, options):
    """The table of one model with `--methods`: medians, and how they compare."""
    lines = [
        f"## Tuning methods, {model}, batches of {options.batch_size}, medians of "
        f"{options.repeats} turns, next to {METHODS_REFERENCE} (with PEFT)",
        "",
        '| method | | step, s | times as fast | of its step of "all" | work of all cores, s | '
        "times as little | peak memory, GiB | share |",
        "|---" * 9 + "|",
    ]
    medians = {
        method: {
            name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
            for name, turns in found.items()
        }
        for method, found in results.items()
    }
    for method, found in medians.items():
        reference = found.get(METHODS_REFERENCE)
        for name, own in found.items():
            whole = medians.get("all", {}).get(name)
            compared = reference and name != METHODS_REFERENCE
            cells = [
                f"{method}: {METHODS[method]}",
                name,
                f"{own['step']:.3g}",
                f"{reference['step'] / own['step']:.2f}x" if compared else "",
                f"{own['step'] / whole['step']:.2f}" if whole else "",
                f"{own['cores']:.3g}",
                f"{reference['cores'] / own['cores']:.2f}x" if compared else "",
                f"{own['memory']:.3g}",
                f"{own['memory'] / reference['memory']:.2f}" if compared else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def take_turns(model, names, options):
    """The results of all peers, each a list with those of its turns."""
    with tempfile.TemporaryDirectory() as folder:
        write_work(pathlib.Path(folder), model, options)
        found = {name: [] for name in names}
        for repeat in range(options.repeats):
            for name in names:
                found[name].append(measure(folder, name))
                shown = {key: round(found[name][-1][key], 3) for key in WORK}
                print(f"{model}, {repeat + 1}, {name}: {shown}", file=sys.stderr, flush=True)
    return found


def take_turns_with_methods(model, names, options):
    """The results of each method, and of each peer that has it."""
    with tempfile.TemporaryDirectory() as folder:
        write_methods_work(pathlib.Path(folder), model, options)
        found = {
            method: {name: [] for name in names if method in PEERS[name].methods}
            for method in options.methods
        }
        for repeat in range(options.repeats):
            for method, peers in found.items():
                for name, turns in peers.items():
                    turns.append(measure(folder, name, method))
                    shown = {key: round(value, 3) for key, value in turns[-1].items()}
                    what = f"{model}, {repeat + 1}, {method}, {name}"
                    print(f"{what}: {shown}", file=sys.stderr, flush=True)
    return found


def main():
    options = parse_arguments()
    if options.turn:
        return turn(*options.turn) if len(options.turn) == 2 else turn_of_method(*options.turn)
    work, show = take_turns, render
    if options.methods is not None:
        work, show = take_turns_with_methods, render_methods
    names = installed(options)
    tables, results = [], {}
    for model in options.models:
        results[model] = work(model, names, options)
        tables.append(show(model, results[model], options))
        pathlib.Path(options.out + ".json").write_text(json.dumps(results), "utf-8")
        pathlib.Path(options.out + ".md").write_text("\n".join(tables), "utf-8")
    print("\n".join(tables))


if __name__ == "__main__":
    main()
