"""A step of prompt tuning in a decoder, next to PEFT on transformers; and what loading takes.

    python benchmarks/decoders.py
    python benchmarks/decoders.py --hidden-size 256 --layers 4 --turns 7

The decoder has random weights in bfloat16, by default in the shape of Qwen2.5-0.5B. Both libraries
train eight virtual vectors on the same token ids, and predict the one token after each text; both
keep the rest of the weights frozen. Their steps take turns in one process, after one that warms
up; what is printed are medians, and the median of the ratios. PEFT's loss leaves out all positions
but the last, and its logits are those of all positions, as transformers computes them.

It needs `pip install torch transformers peft`.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import ml_dtypes
import numpy as np
import safetensors.numpy

from keras_ptuning import Template, build_ptuning_model

VIRTUAL = 8


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--vocab-size", type=int, default=151936, help="of the random weights")
    parser.add_argument("--hidden-size", type=int, default=896, help="of the random weights")
    parser.add_argument("--layers", type=int, default=24, help="of the random weights")
    parser.add_argument("--heads", type=int, default=14, help="of the random weights")
    parser.add_argument("--key-heads", type=int, default=2, help="of the random weights")
    parser.add_argument("--intermediate-size", type=int, default=4864, help="of the random weights")
    parser.add_argument("--batch-size", type=int, default=4, help="texts in a step")
    parser.add_argument("--length", type=int, default=64, help="tokens in a text")
    parser.add_argument("--turns", type=int, default=3, help="turns, of which the median counts")
    return parser.parse_args()


def write_checkpoint(folder, options):
    """A Qwen2 of random weights, whose tokens are words `w0`, `w1`..."""
    hidden, inner, rows = options.hidden_size, options.intermediate_size, options.vocab_size
    key_size = hidden // options.heads * options.key_heads
    shapes = {"model.embed_tokens.weight": (rows, hidden), "model.norm.weight": (hidden,)}
    for i in range(options.layers):
        block = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{block}.{norm}.weight"] = (hidden,)
        for letter, size in (("q", hidden), ("k", key_size), ("v", key_size)):
            shapes[f"{block}.self_attn.{letter}_proj.weight"] = (size, hidden)
            shapes[f"{block}.self_attn.{letter}_proj.bias"] = (size,)
        shapes[f"{block}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{block}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{block}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{block}.mlp.down_proj.weight"] = (hidden, inner)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        value = 0.02 * rng.standard_normal(shape, dtype="float32")
        tensors[name] = (value + ("norm" in name)).astype(ml_dtypes.bfloat16)
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "torch_dtype": "bfloat16",
        "vocab_size": rows,
        "hidden_size": hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.key_heads,
        "intermediate_size": inner,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    words = {f"w{i}": i for i in range(rows)}
    tokenizer = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
        "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text('{"pad_token": "w0"}')
    return sum(value.nbytes for value in tensors.values())


def resident():
    """Bytes of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024


class Peak(threading.Thread):
    """The greatest memory of this process while it runs."""

    def __enter__(self):
        self.start_bytes = self.bytes = resident()
        self.running = True
        self.start()
        return self

    def run(self):
        while self.running:
            self.bytes = max(self.bytes, resident())
            time.sleep(0.01)

    def __exit__(self, *error):
        self.running = False
        self.join()


def our_step(folder, options, texts, answers):
    pattern = "".join(f"[u{i + 1}]" for i in range(VIRTUAL)) + "{text}[MASK]"
    template = Template(pattern, {0: "w1", 1: "w2"}, str(folder), options.length + 16, causal=True)
    begun = time.time()
    with Peak() as peak:
        model = build_ptuning_model(str(folder), template=template, auxiliary=False)
    print(
        f"Loaded in {time.time() - begun:.1f} s; at its peak the process had grown by "
        f"{(peak.bytes - peak.start_bytes) / options.size:.2f} times the file."
    )
    model.compile(keras.optimizers.Adam(1e-3))
    x, y = template.encode([" ".join(f"w{i}" for i in text) for text in texts], answers)
    return lambda: model.train_on_batch(x, y)


def peft_step(folder, options, texts, answers):
    import peft
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    model = peft.get_peft_model(base, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-3)
    ids = torch.tensor(np.concatenate([texts, np.array(answers)[:, None] + 1], axis=1))
    targets = torch.full_like(ids, -100)
    targets[:, -1] = ids[:, -1]
    mask = torch.ones_like(ids)

    def step():
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=targets).loss.backward()
        optimizer.step()

    return step


def main():
    options = parse_arguments()
    rng = np.random.default_rng(1)
    shape = (options.batch_size, options.length)
    texts = rng.integers(3, options.vocab_size, shape)
    answers = rng.integers(0, 2, options.batch_size).tolist()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        options.size = write_checkpoint(folder, options)
        print(f"The weights have {options.size / 1e6:.0f} MB.")
        steps = {
            "keras_ptuning": our_step(folder, options, texts, answers),
            "PEFT": peft_step(folder, options, texts, answers),
        }
    seconds = {name: [] for name in steps}
    for turn in range(options.turns + 1):
        for name, step in steps.items():
            begun = time.time()
            step()
            if turn:
                seconds[name].append(time.time() - begun)
    for name, found in seconds.items():
        print(f"{name}: {statistics.median(found):.2f} s a step")
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    print(f"{statistics.median(ratios):.2f} times as fast as PEFT")


if __name__ == "__main__":
    main()
