"""How long a checkpoint takes to load, and how much memory: this library, bert4keras, transformers.

    python benchmarks/loading.py
    python benchmarks/loading.py --sizes large --repeats 5 --markdown loading.md

Random weights of BERT-base (12 x 768) and BERT-large (24 x 1024) are written into a folder, in the
formats that each library reads. Each measurement is a process of its own; those of the libraries
take turns. Time is from the first call to a model whose weights are there, after the imports;
memory is how much the process grew at its peak, over what the numbers of the model take. Libraries
that are not installed are skipped, by name.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

SIZES = {"base": (12, 768, 12), "large": (24, 1024, 16)}
VOCABULARY = 21128
# What is measured: the modules it needs, its environment, its imports, and what is timed.
PEERS = {
    "keras_ptuning, TensorFlow format": (
        ["tensorflow"],
        {},
        "from keras_ptuning import build_transformer_model as build",
        "model = build(folder + '/config.json', folder + '/bert_model.ckpt', with_mlm='linear')",
    ),
    "keras_ptuning, safetensors": (
        ["tensorflow"],
        {},
        "from keras_ptuning import build_transformer_model as build",
        "model = build(folder + '/config.json', folder + '/model.safetensors', with_mlm='linear')",
    ),
    "keras_ptuning, PyTorch file": (
        ["tensorflow", "torch"],
        {},
        "import torch; from keras_ptuning import build_transformer_model as build",
        "model = build(folder + '/config.json', folder + '/pytorch_model.bin', with_mlm='linear')",
    ),
    "bert4keras, TensorFlow format": (
        ["bert4keras", "tf_keras"],
        {"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"},
        "from bert4keras.models import build_transformer_model as build",
        "model = build(folder + '/config.json', folder + '/bert_model.ckpt', with_mlm='linear')",
    ),
    "transformers, safetensors": (
        ["transformers", "torch"],
        {},
        "from transformers import BertForMaskedLM",
        # The file is only mapped into memory, and read where it is used: so it is, here.
        "model = BertForMaskedLM.from_pretrained(folder)\n"
        "total = sum(float(p.sum()) for p in model.parameters())",
    ),
}
# Run with the imports and the loading of a peer in it.
CHILD = """
import json, sys, time
folder = sys.argv[1]
{imports}
def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak so far is forgotten
before, start = status("VmRSS"), time.perf_counter()
{load}
seconds = time.perf_counter() - start
print(json.dumps([seconds, status("VmHWM") - before]))
"""


def write_checkpoint(folder, size):
    """Writes a random BERT in all formats; returns the bytes of its numbers in float32."""
    import numpy as np

    from keras_ptuning.checkpoints import write_safetensors, write_tensorflow
    from keras_ptuning.models import BERT
    from keras_ptuning.models.names import tensors_of

    layers, hidden, heads = SIZES[size]
    config = {
        "model_type": "bert",
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = {
        "Embedding-Token": VOCABULARY,
        "Embedding-Segment": 2,
        "Embedding-Position": 512,
    }
    rng = np.random.default_rng(0)
    names = [name for name in BERT.google if name not in ("Embedding-Mapping", "Pooler-Dense")]
    tensors = {"google": {}, "hugging_face": {}}
    for pattern in names:
        for i in range(layers if "{}" in pattern else 1):
            layer = pattern.format(i)
            pairs = zip(
                tensors_of(BERT.google, layer),
                tensors_of(BERT.hugging_face, layer),
                strict=True,
            )
            for ours, theirs in pairs:
                shape = (hidden,)
                if layer in rows:
                    shape = (rows[layer], hidden)
                elif layer == "MLM-Bias":
                    shape = (VOCABULARY,)
                elif "intermediate" in ours.name:
                    shape = (hidden, 4 * hidden) if "kernel" in ours.name else (4 * hidden,)
                elif ours.name.endswith("kernel"):
                    inner = "FeedForward" in layer
                    shape = (4 * hidden if inner else hidden, hidden)
                value = rng.standard_normal(shape, "float32") * 0.02
                tensors["google"][ours.name] = value
                tensors["hugging_face"][theirs.name] = np.ascontiguousarray(
                    value.T if theirs.transposed else value
                )
    write_tensorflow(str(folder / "bert_model.ckpt"), tensors["google"])
    write_safetensors(str(folder / "model.safetensors"), tensors["hugging_face"])
    if importlib.util.find_spec("torch"):
        import torch

        values = {n: torch.from_numpy(v) for n, v in tensors["hugging_face"].items()}
        torch.save(values, folder / "pytorch_model.bin")
    return sum(value.nbytes for value in tensors["google"].values())


def measure(folder, environment, imports, load):
    """Seconds and bytes of one process."""
    code = CHILD.format(imports=imports, load=load)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="models to load"
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts")
    parser.add_argument("--markdown", help="file to write the table to")
    options = parser.parse_args()
    peers = {}
    for name, (needs, *rest) in PEERS.items():
        missing = [module for module in needs if not importlib.util.find_spec(module)]
        if missing:
            print(f"Skipped: {name}, without {' and '.join(missing)}", file=sys.stderr)
        else:
            peers[name] = rest
    lines = ["| model | loaded by | seconds | peak memory / model |", "|---|---|---|---|"]
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            total = write_checkpoint(folder, size)
            found = {name: [] for name in peers}
            for repeat in range(options.repeats):
                for name, (environment, imports, load) in peers.items():
                    found[name].append(measure(folder, environment, imports, load))
                    print(f"{size}, {repeat + 1}, {name}: {found[name][-1]}", file=sys.stderr)
        for name, results in found.items():
            seconds, grown = (statistics.median(column) for column in zip(*results, strict=True))
            layers, hidden, _ = SIZES[size]
            lines.append(
                f"| {size}, {layers} x {hidden}, {total / 2**20:,.0f} MiB | {name} | "
                f"{seconds:.1f} | {grown / total:.2f} |"
            )
    table = "\n".join(lines) + "\n"
    print(table)
    if options.markdown:
        pathlib.Path(options.markdown).write_text(table, "utf-8")


if __name__ == "__main__":
    main()
