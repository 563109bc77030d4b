"""A bank of prompts: memory of 1, 10 and 100 prompts, and texts a second with 1, 8 and 100 tasks.

    python benchmarks/bank.py
    python benchmarks/bank.py --shape bert-base --texts 256

The model has random weights of the given shape, the prompts have eight virtual tokens with random
vectors, and the texts have 64 tokens. The numbers of tasks take turns, after one turn that warms
up; what is printed are medians. One task alone in a `ClozeModel` is the measure.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_ptuning import PromptBank, Template, build_ptuning_model
from keras_ptuning.models import find_model
from keras_ptuning.tuning.tuned_file import read_tuned, write_tuned

SHAPES = {
    "bert-mini": {},
    "bert-base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
}
PATTERN = "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}"
LABELS = {"负面": "不", "正面": "很"}
LENGTH = 64


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--shape", choices=SHAPES, default="bert-mini", help="of the random weights"
    )
    parser.add_argument("--texts", type=int, default=1024, help="texts to predict")
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch")
    parser.add_argument(
        "--prompts",
        type=int,
        nargs="+",
        default=[1, 10, 100],
        help="prompts to measure the memory of",
    )
    parser.add_argument(
        "--tasks", type=int, nargs="+", default=[1, 8, 100], help="numbers of tasks to predict for"
    )
    parser.add_argument("--turns", type=int, default=5, help="turns, of which the median counts")
    options = parser.parse_args()
    least = min(options.texts, options.batch_size, options.turns, *options.prompts, *options.tasks)
    if least < 1:
        parser.error(f"All numbers must be at least 1. Received: {least}")
    return options


def resident():
    """MiB of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def write_prompts(model, folder, count):
    """Tuned files that differ in their vectors."""
    path = folder / "0.tuned"
    model.save_tuned(path)
    tensors, content = read_tuned(path)
    content["template"]["tokenizer"]["vocab"] = model.template.tokenizer.vocab
    rng = np.random.default_rng(0)
    for i in range(count):
        tensors = {name: rng.normal(0, 0.02, v.shape) for name, v in tensors.items()}
        write_tuned(folder / f"{i}.tuned", tensors, content)


def main():
    options = parse_arguments()
    config, _ = find_model("bert-mini-zh")
    config = {**config, **SHAPES[options.shape]}
    vocab = Template("[MASK]{text}", LABELS, "bert-mini-zh").tokenizer.vocab
    template = Template(PATTERN, LABELS, vocab, LENGTH)
    model = build_ptuning_model(config, None, template)
    weights = model.backbone.get_weights()
    most = max(options.prompts + options.tasks)
    rng = np.random.default_rng(1)
    characters = [token for token in vocab if len(token) == 1 and "一" <= token <= "龥"]
    texts = ["".join(rng.choice(characters, LENGTH)) for _ in range(options.texts)]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_prompts(model, folder, most)
        bank = PromptBank(config, None, vocab)
        # The random weights of the model, without its overlay.
        own = iter(weights)
        for layer in model.backbone.layers:
            values = [next(own) for _ in layer.weights]
            twin = bank._model.backbone.get_layer(layer.name)
            twin.set_weights(values[: len(twin.weights)])
        bank._fingerprint = model.fingerprint()
        print("| prompts | MiB of the process | more for each |\n|---|---|---|")
        before, added = resident(), 0
        for count in sorted(set(options.prompts)):
            for i in range(added, count):
                bank.add(str(i), folder / f"{i}.tuned")
            now = resident()
            print(f"| {count} | {now:.1f} | {(now - before) / (count - added):.3f} |", flush=True)
            before, added = now, count
        for i in range(added, most):
            bank.add(str(i), folder / f"{i}.tuned")
        data = template.dataset(texts, batch_size=options.batch_size)
        works = {"one model": lambda: model.predict(data, verbose=0)}
        for count in options.tasks:
            requests = [(str(i % count), text) for i, text in enumerate(texts)]
            works[f"bank, {count} tasks"] = lambda requests=requests: bank.scores(
                requests, options.batch_size
            )
        seconds = {name: [] for name in works}
        for turn in range(options.turns + 1):
            for name, work in works.items():
                start = time.perf_counter()
                work()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
    first = statistics.median(seconds["one model"])
    print("\n| | texts a second | against one model |\n|---|---|---|")
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"| {name} | {len(texts) / median:.0f} | {first / median:.2f} |")


if __name__ == "__main__":
    main()
