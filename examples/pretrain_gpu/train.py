"""Pretrains a small BERT or GPT on one GPU within minutes, without Keras.

    python examples/pretrain_gpu/train.py DATA my_bert --start
    python examples/pretrain_gpu/train.py DATA my_mini_bert --layers 3 --hidden-size 192
    python examples/pretrain_gpu/train.py DATA my_gpt --layers 3 --hidden-size 192 --causal

DATA is a folder that `prepare.py` wrote. Training takes as long as `--seconds` says, and writes a
checkpoint that the library loads. For a BERT two losses are added: words are masked and predicted,
and the mean vector of each masked text is brought close to the one that the teacher gives for the
whole text. So the student learns what texts mean from the teacher while it learns to fill gaps.
`--start` begins with the teacher's body. Needs PyTorch 2.10, `safetensors` and `tokenizers`.

Reference:
    - Vectors of sentences as targets:
      [Reimers and Gurevych, 2020](https://arxiv.org/abs/2004.09813), section 2.
    - Masking whole words: [Cui et al., 2019](https://arxiv.org/abs/1906.08101), section 2.2.
"""

import argparse
import csv
import json
import math
import os
import time

import numpy as np
import torch
from e5 import WORDS, decode
from safetensors.torch import save_file
from text import join
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

# Attributes of `Block`, and the names of these sublayers in Google's checkpoints.
DENSE = {
    "query": "attention/self/query",
    "key": "attention/self/key",
    "value": "attention/self/value",
    "output": "attention/output/dense",
    "up": "intermediate/dense",
    "down": "output/dense",
}
NORMS = {"attention_norm": "attention/output/LayerNorm", "output_norm": "output/LayerNorm"}
# The places of special tokens in the teacher's table: see `e5.SPECIAL`.
TEACHER_START, TEACHER_END = 1, 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COLUMNS = [
    "step",
    "tokens",
    "loss",
    "distance",
    "learning_rate",
    "seconds",
    "val_loss",
    "val_distance",
]
# Steps between rows of the curve, and how many times the held-out texts are scored.
LOG_EVERY, EVALUATIONS = 50, 20
# Compiling happens in the first steps, and does not count as time.
COMPILING = 10


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("data", help="folder that prepare.py wrote")
    add("folder", help="where to write the checkpoint")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--start", action="store_true", help="from the teacher's body, of its size")
    kind.add_argument("--causal", action="store_true", help="a GPT; without the teacher")
    add("--layers", type=int, default=3, help="blocks of a new model")
    add("--hidden-size", type=int, default=192, help="a multiple of 64")
    add("--seconds", type=float, default=300, help="of training; the rate falls with time")
    add("--steps", type=int, help="in place of --seconds")
    add("--batch-size", type=int, default=256, help="sequences")
    add("--learning-rate", type=float, help="if left out, 4e-3 of Muon, with --start 5e-4 of AdamW")
    add("--mask-rate", type=float, default=0.2, help="share of the tokens to mask")
    add("--whole-words", type=float, default=0.5, help="share of sequences where words are masked")
    add("--distill", type=float, default=5.0, help="weight of the loss of vectors; 0: none")
    add("--seed", type=int, default=0, help="of all that is random")
    args = parser.parse_args()
    if args.hidden_size % 64 or args.hidden_size < 64:
        parser.error(f"--hidden-size must be a multiple of 64. Received: {args.hidden_size}")
    if args.causal:
        args.distill = 0
    if args.learning_rate is None:
        args.learning_rate = 5e-4 if args.start else 4e-3
    return args


class Block(nn.Module):
    def __init__(self, hidden, inner, heads):
        super().__init__()
        self.heads = heads
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(hidden, hidden))
        self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.output_norm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x, bias):
        q, k, v = (
            dense(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for dense in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.attention_norm(x + self.output(mixed.transpose(1, 2).flatten(-2)))
        return self.output_norm(x + self.down(functional.gelu(self.up(x))))


class Bert(nn.Module):
    def __init__(self, config, vocab_size):
        super().__init__()
        hidden = config["hidden_size"]
        self.words = nn.Embedding(vocab_size, hidden)
        self.positions = nn.Embedding(config["max_position_embeddings"], hidden)
        self.types = nn.Embedding(2, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        inner, heads = config["intermediate_size"], config["num_attention_heads"]
        layers = config["num_hidden_layers"]
        self.blocks = nn.ModuleList(Block(hidden, inner, heads) for _ in range(layers))
        self.transform = nn.Linear(hidden, hidden)
        self.transform_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids, positions, bias=None):
        x = self.norm(self.words(ids) + self.positions(positions) + self.types.weight[0])
        for block in self.blocks:
            x = block(x, bias)
        return x

    def logits(self, x):
        x = self.transform_norm(functional.gelu(self.transform(x)))
        return functional.linear(x, self.words.weight, self.bias)

    def body(self):
        """The tensors of a checkpoint but those of words and the head, by Google's names."""
        tensors = {
            "embeddings/position_embeddings": self.positions.weight,
            "embeddings/token_type_embeddings": self.types.weight,
            "embeddings/LayerNorm/gamma": self.norm.weight,
            "embeddings/LayerNorm/beta": self.norm.bias,
        }
        for i, block in enumerate(self.blocks):
            for short, name in DENSE.items():
                dense, name = getattr(block, short), f"encoder/layer_{i}/{name}"
                tensors |= {f"{name}/kernel": dense.weight.T, f"{name}/bias": dense.bias}
            for short, name in NORMS.items():
                norm, name = getattr(block, short), f"encoder/layer_{i}/{name}"
                tensors |= {f"{name}/gamma": norm.weight, f"{name}/beta": norm.bias}
        return tensors

    @torch.no_grad()
    def load(self, stored, words):
        self.words.weight.copy_(torch.from_numpy(words))
        for name, tensor in self.body().items():
            tensor.copy_(torch.from_numpy(stored[name]))

    def save(self, path):
        head = "cls/predictions"
        tensors = {f"bert/{name}": tensor for name, tensor in self.body().items()} | {
            f"bert/{WORDS}": self.words.weight,
            f"{head}/transform/dense/kernel": self.transform.weight.T,
            f"{head}/transform/dense/bias": self.transform.bias,
            f"{head}/transform/LayerNorm/gamma": self.transform_norm.weight,
            f"{head}/transform/LayerNorm/beta": self.transform_norm.bias,
            f"{head}/output_bias": self.bias,
        }
        tensors = {name: t.detach().half().contiguous().cpu() for name, t in tensors.items()}
        save_file(tensors, path)


class Batches:
    """The packed sequences on the device, and what attention and the losses need of them."""

    def __init__(self, folder, vocab, args):
        with open(os.path.join(folder, "settings.json")) as file:
            self.held_out = json.load(file)["held_out"]
        rows = np.load(os.path.join(folder, "rows.npy")).astype("int32")
        words = np.unpackbits(np.load(os.path.join(folder, "words.npy")), axis=1)
        self.rows = torch.from_numpy(rows).to(DEVICE)
        self.words = torch.from_numpy(words[:, : rows.shape[1]]).to(DEVICE)
        self.pad_id, self.start_id, self.mask_id = map(vocab.index, ("[PAD]", "[CLS]", "[MASK]"))
        texts = (self.rows == self.start_id).sum(1)
        self.texts_before = texts.cumsum(0) - texts
        special = [token[0] == "[" and len(token) > 1 for token in vocab]
        self.special = torch.tensor(special, device=DEVICE)
        self.ordinary = (~self.special).nonzero()[:, 0]
        self.causal = args.causal
        self.size = args.batch_size
        self.generator = torch.Generator(DEVICE).manual_seed(args.seed)
        self.order = torch.empty(0, dtype=torch.long, device=DEVICE)

    def next(self):
        """The numbers of the next sequences; each comes once before any comes again."""
        if len(self.order) < self.size:
            number = len(self.rows) - self.held_out
            fresh = torch.randperm(number, generator=self.generator, device=DEVICE)
            self.order = torch.cat([self.order, fresh + self.held_out])
        index, self.order = self.order[: self.size], self.order[self.size :]
        return index

    def tokens(self, index):
        """Tokens, the number of the text of each (0 for none), positions in it, and the mask."""
        tokens = self.rows[index].long()
        begins = tokens == self.start_id
        texts = begins.cumsum(1) * (tokens != self.pad_id)
        places = torch.arange(tokens.shape[1], device=DEVICE).expand_as(tokens)
        positions = places - torch.where(begins, places, 0).cummax(1).values
        allowed = texts[:, :, None] == texts[:, None, :]
        if self.causal:
            allowed &= torch.ones_like(allowed[0]).tril()
        bias = torch.zeros(allowed.shape, dtype=torch.bfloat16, device=DEVICE)
        return tokens, texts, positions, bias.masked_fill_(~allowed, -math.inf)[:, None]

    def mask(self, tokens, index, rate, whole_words, generator):
        """Tokens with some masked, and which were chosen."""

        def draw(*shape):
            return torch.rand(shape, generator=generator, device=DEVICE)

        draws = draw(*tokens.shape)
        of_word = draws.gather(1, (self.words[index].long().cumsum(1) - 1).clamp_(min=0))
        draws = torch.where(draw(len(tokens), 1) < whole_words, of_word, draws)
        chosen = (draws < rate) & ~self.special[tokens]
        kinds = draw(*tokens.shape)
        other = torch.randint(len(self.ordinary), tokens.shape, generator=generator, device=DEVICE)
        masked = torch.where(chosen & (kinds < 0.8), self.mask_id, tokens)
        return torch.where(chosen & (kinds >= 0.9), self.ordinary[other], masked), chosen


class Losses:
    """The loss of words, and how far the vectors of texts are from the teacher's."""

    def __init__(self, model, batches, targets, args):
        self.model, self.batches, self.args = model, batches, args
        self.targets = targets
        if targets is not None:
            # The teacher's vectors all point in nearly one direction; they differ around the mean.
            self.center = targets.float().mean(0)
            self.project = nn.Linear(args.hidden_size, targets.shape[1]).to(DEVICE)
            if args.start:
                with torch.no_grad():
                    self.project.weight.copy_(torch.eye(targets.shape[1]))
                    self.project.bias.copy_(-self.center)

    def __call__(self, index, rate, whole_words, generator):
        tokens, texts, positions, bias = self.batches.tokens(index)
        with torch.autocast(DEVICE, torch.bfloat16):
            if self.args.causal:
                x = self.model(tokens, positions, bias)
                # That a new text begins is not worth predicting.
                wanted = torch.where(tokens == self.batches.start_id, -100, tokens)
                wanted = torch.where(tokens == self.batches.pad_id, -100, wanted)[:, 1:].flatten()
                logits = self.model.logits(x[:, :-1].flatten(0, 1))
            else:
                masked, chosen = self.batches.mask(tokens, index, rate, whole_words, generator)
                x = self.model(masked, positions, bias)
                # The same number of places each time.
                room = int(1.1 * rate * tokens.numel())
                places = chosen.flatten().nonzero_static(size=room, fill_value=-1)[:, 0]
                wanted = torch.where(places < 0, -100, tokens.flatten()[places.clamp(min=0)])
                logits = self.model.logits(x.flatten(0, 1)[places.clamp(min=0)])
        loss = functional.cross_entropy(logits.float(), wanted)
        distance = None if self.targets is None else self.distance(x, texts, index)
        return loss, distance

    def distance(self, x, texts, index):
        """One less the cosine between the student's and the teacher's vectors, on average."""
        counts = texts.amax(1)
        before = (counts.cumsum(0) - counts)[:, None]
        # Text 0 takes what belongs to none.
        number = torch.where(texts > 0, before + texts, 0)
        total = int(counts.sum()) + 1
        sums = x.new_zeros(total, x.shape[-1], dtype=torch.float32)
        sums.index_add_(0, number.flatten(), x.flatten(0, 1).float())
        lengths = torch.bincount(number.flatten(), minlength=total)[:, None]
        of_rows = self.batches.texts_before[index]
        wanted = torch.repeat_interleave(of_rows - before[:, 0], counts, output_size=total - 1)
        wanted = self.targets[wanted + torch.arange(total - 1, device=DEVICE)].float()
        found = self.project((sums / lengths.clamp(min=1))[1:])
        return 1 - functional.cosine_similarity(found, wanted - self.center).mean()


@torch.no_grad()
def teach(stored, config, folder, rows, vocab):
    """The teacher's vector of each text, in their order."""
    cache = os.path.join(folder, "targets.npy")
    if os.path.exists(cache):
        vectors = torch.from_numpy(np.load(cache))
        if len(vectors) != (rows == vocab.index("[CLS]")).sum():
            raise SystemExit(f"{cache!r} belongs to other texts. Delete it.")
        return vectors.to(DEVICE)
    teacher = Bert(config, len(stored["words"]))
    teacher.load(stored, stored["words"])
    teacher.to(DEVICE)
    tokenizer = Tokenizer.from_file(os.path.join(folder, "teacher.json"))
    room = config["max_position_embeddings"] - 2
    ids = [
        [TEACHER_START, *encoding.ids[:room], TEACHER_END]
        for encoding in tokenizer.encode_batch_fast(join(rows, vocab))
    ]
    lengths = np.array([len(row) for row in ids])
    vectors = torch.empty(len(ids), config["hidden_size"], device=DEVICE).half()
    # Texts of one length at a time need no mask.
    for length in np.unique(lengths).tolist():
        same = np.flatnonzero(lengths == length)
        for chosen in np.array_split(same, math.ceil(len(same) * length / 65_536)):
            inputs = torch.tensor([ids[i] for i in chosen], device=DEVICE)
            with torch.autocast(DEVICE, torch.bfloat16):
                x = teacher(inputs, torch.arange(length, device=DEVICE).expand_as(inputs))
            vectors[torch.from_numpy(chosen).to(DEVICE)] = x.float().mean(1).half()
    np.save(cache, vectors.cpu().numpy())
    return vectors


def make_optimizers(model, parameters, args):
    """AdamW, and for the matrices of a model from scratch Muon, which needs fewer steps."""
    matrices = [] if args.start else [p for p in model.blocks.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in known]
    groups = [
        {"params": [p for p in others if p.ndim == 2], "weight_decay": 0.01},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers = [torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=DEVICE == "cuda")]
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def rate_at(share):
    """The factor of the learning rate after this share of the time: up, and along a cosine."""
    if share < 0.05:
        return max(share / 0.05, 1e-3)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (share - 0.05) / 0.95)) / 2


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    with open(os.path.join(args.data, "vocab.txt"), encoding="utf-8") as file:
        vocab = file.read().splitlines()
    with open(os.path.join(args.data, "settings.json")) as file:
        teacher_config = json.load(file)["config"]
    stored = dict(np.load(os.path.join(args.data, "teacher.npz")))
    stored["words"] = decode(stored["words"])
    for name in [name for name in stored if name.startswith("blocks ")]:
        stored[name.removeprefix("blocks ")] = decode(stored.pop(name)).T.copy()

    size = args.hidden_size
    sizes = {
        "hidden_size": size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": size // 64,
        "intermediate_size": 4 * size,
        "max_position_embeddings": 256,
        "type_vocab_size": 2,
    }
    if args.start:
        sizes = {name: teacher_config[name] for name in sizes}
        args.hidden_size = sizes["hidden_size"]
    config = {
        "vocab_size": len(vocab),
        **sizes,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "is_decoder": args.causal,
    }
    model = Bert(config, len(vocab))
    with torch.no_grad():
        if args.start:
            model.load(stored, stored["student_words"])
            model.transform.weight.copy_(torch.eye(args.hidden_size))
        model.bias.copy_(torch.from_numpy(stored["log_frequency"]))
    model.to(DEVICE)
    if DEVICE == "cuda":
        # One block is compiled, and serves for all.
        for block in model.blocks:
            block.compile(dynamic=False)
    batches = Batches(args.data, vocab, args)
    if batches.rows.shape[1] > config["max_position_embeddings"]:
        raise SystemExit(
            f"The sequences have {batches.rows.shape[1]} tokens, and the model "
            f"{config['max_position_embeddings']} positions. Prepare shorter ones."
        )
    targets = None
    if args.distill:
        begin = time.perf_counter()
        rows = batches.rows.cpu().numpy()
        targets = teach(stored, teacher_config, args.data, rows, vocab)
        print(f"{len(targets):,} vectors, {time.perf_counter() - begin:.0f} s", flush=True)
    losses = Losses(model, batches, targets, args)
    parameters = [*model.parameters(), *(losses.project.parameters() if args.distill else ())]
    optimizers = make_optimizers(model, parameters, args)

    @torch.no_grad()
    def evaluate():
        """Of as many full batches as the held-out sequences make."""
        generator = torch.Generator(DEVICE).manual_seed(1)
        scores = []
        for start in range(0, max(batches.held_out - args.batch_size, 0) + 1, args.batch_size):
            index = torch.arange(start, start + args.batch_size, device=DEVICE) % batches.held_out
            loss, distance = losses(index, 0.15, 0.0, generator)
            scores.append((loss.item(), math.nan if distance is None else distance.item()))
        loss, distance = np.mean(scores, axis=0).round(4).tolist()
        return loss, distance if args.distill else ""

    os.makedirs(args.folder, exist_ok=True)
    curve, step, tokens, evaluated = [], 0, 0, 0
    begin = time.perf_counter()
    while True:
        if step == COMPILING:
            begin = time.perf_counter()
        share = 0 if step < COMPILING else (time.perf_counter() - begin) / args.seconds
        if args.steps:
            share = step / args.steps
        if share >= 1:
            break
        rate = args.learning_rate * rate_at(share)
        for group in (group for each in optimizers for group in each.param_groups):
            group["lr"] = rate
        index = batches.next()
        loss, distance = losses(index, args.mask_rate, args.whole_words, batches.generator)
        total = loss if distance is None else loss + args.distill * distance
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for each in optimizers:
            each.step()
            each.zero_grad(set_to_none=True)
        step += 1
        tokens += index.numel() * batches.rows.shape[1]
        if step % LOG_EVERY == 0 or step == 1:
            row = {
                "step": step,
                "tokens": tokens,
                "loss": round(loss.item(), 4),
                "distance": "" if distance is None else round(distance.item(), 4),
                "learning_rate": f"{rate:.3g}",
                "seconds": round(time.perf_counter() - begin, 1),
            }
            if share * EVALUATIONS >= evaluated:
                evaluated += 1
                row["val_loss"], row["val_distance"] = evaluate()
                print(row, flush=True)
            curve.append(row)
    loss, distance = evaluate()
    curve.append({"step": step, "tokens": tokens, "val_loss": loss, "val_distance": distance})
    with open(os.path.join(args.folder, "curve.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(curve)
    if not args.start:
        # Segments were never told apart.
        with torch.no_grad():
            model.types.weight[1] = model.types.weight[0]
    model.save(os.path.join(args.folder, "bert_model.safetensors"))
    with open(os.path.join(args.folder, "bert_config.json"), "w") as file:
        json.dump(config, file, indent=2)
    with open(os.path.join(args.folder, "vocab.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{token}\n" for token in vocab)
    print(f"{step:,} steps, {tokens:,} tokens; held out: loss {loss}, distance {distance}")


if __name__ == "__main__":
    main()
