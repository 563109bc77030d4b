"""Records what transformers and PEFT compute and train, for `tests/methods/test_parity.py`.

Run in an environment of its own:

    pip install torch transformers==5.24.0 peft==0.21.0
    python tests/goldens/record_peft.py

The models are the random ones of `tests/small_checkpoints.py` and `tests/small_gpt2.py`, without
dropout, so this needs no download. It writes `peft.npz` next to itself.

A step is one of gradient descent without momentum. The loss is the mean cross-entropy of one token
of each text, a mask or the last one, over the whole vocabulary.
"""

import pathlib
import sys
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
import small_checkpoints  # noqa: E402
import small_gpt2  # noqa: E402

BLOCKS, HEADS, HIDDEN, WIDTH = 2, 4, 32, 512
LENGTH = 3
RANK, ALPHA = 3, 12
STEPS = 3
# Greater ones would make much of the last bits.
LEARNING_RATES = {"lora": 0.05, "prefix": 0.5, "mlp": 0.2, "prompt": 0.2}
PROJECTIONS = ("query", "value")


def make_inputs():
    """Texts of different lengths, padded with 0 on the right, and a token to predict for each."""
    rng = np.random.default_rng(1)
    token_ids, segment_ids = np.zeros((2, 3, 11), "int32")
    lengths = np.array([11, 6, 3], "int32")
    for row, length in zip(token_ids, lengths, strict=True):
        row[:length] = rng.integers(1, 120, length)
    segment_ids[0, 7:] = 1
    return {
        "token_ids": token_ids,
        "segment_ids": segment_ids,
        "masks": np.array([2, 4, 1], "int32"),
        "last": lengths - 1,
        "targets": rng.integers(1, 120, 3).astype("int32"),
    }


def make_starts():
    """What the methods start from, larger than usual so that it leaves its mark."""
    rng = np.random.default_rng(2)

    def normal(*shape):
        return rng.normal(scale=0.3, size=shape).astype("float32")

    return {
        "prefix": normal(BLOCKS, 2, LENGTH, HIDDEN),
        "prompt": normal(LENGTH, HIDDEN),
        "lora_a": normal(BLOCKS, len(PROJECTIONS), HIDDEN, RANK),
        "lora_b": normal(BLOCKS, len(PROJECTIONS), RANK, HIDDEN),
    }


def make_mlp():
    """A network that makes a prefix: `tokens`, and the kernels and biases of two layers."""
    rng = np.random.default_rng(3)
    shapes = {
        "tokens": (LENGTH, HIDDEN),
        "inner": (HIDDEN, WIDTH),
        "inner_bias": (WIDTH,),
        "outer": (WIDTH, 2 * BLOCKS * HIDDEN),
        "outer_bias": (2 * BLOCKS * HIDDEN,),
    }
    return {k: rng.normal(scale=0.1, size=v).astype("float32") for k, v in shapes.items()}


def main():
    # Not at the top: pytest imports this file where PEFT is not installed.
    import peft
    import torch
    from transformers import BertForMaskedLM, GPT2LMHeadModel
    from transformers.cache_utils import DynamicCache

    inputs, starts, mlp = make_inputs(), make_starts(), make_mlp()
    token_ids = torch.tensor(inputs["token_ids"], dtype=torch.long)
    segment_ids = torch.tensor(inputs["segment_ids"], dtype=torch.long)
    mask = (token_ids != 0).long()
    targets = torch.tensor(inputs["targets"], dtype=torch.long)
    found = {}

    def load(model_class):
        with tempfile.TemporaryDirectory() as folder:
            if model_class is GPT2LMHeadModel:
                small_gpt2.write_small_gpt2(folder)
            else:
                small_checkpoints.write_hugging_face(folder, "bert")
            return model_class.from_pretrained(folder).eval()

    def numpy(tensor):
        return tensor.detach().numpy().copy()

    def train(name, model, logits, places, results):
        """Records the logits, takes the steps, and records `results()`."""
        found[f"{name}_logits"] = numpy(logits())
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, LEARNING_RATES[name])
        places = torch.tensor(places, dtype=torch.long)
        for step in range(STEPS):
            optimizer.zero_grad()
            chosen = logits()[torch.arange(len(places)), places]
            loss = torch.nn.functional.cross_entropy(chosen, targets)
            loss.backward()
            optimizer.step()
            found[f"{name}_loss_{step}"] = numpy(loss)
        found.update({f"{name}_{key}": value for key, value in results().items()})

    # A prefix of BERT. Its texts begin at position 0, as in pretraining. The mask has four axes,
    # since that of two is cut to the length of the text.
    model = load(BertForMaskedLM)
    cache = DynamicCache()
    for i, pair in enumerate(starts["prefix"]):
        pair = pair.reshape(2, LENGTH, HEADS, -1).transpose(0, 2, 1, 3)
        pair = torch.tensor(pair)[:, None].expand(-1, 3, -1, -1, -1)
        cache.update(pair[0], pair[1], i)
    whole = torch.cat([torch.ones(3, LENGTH), mask], dim=1)[:, None, None, :]
    whole = torch.where(whole == 0, torch.finfo(torch.float32).min, 0.0)
    with torch.no_grad():
        outputs = model(
            input_ids=token_ids,
            token_type_ids=segment_ids,
            attention_mask=whole.expand(-1, -1, token_ids.shape[1], -1),
            position_ids=torch.arange(token_ids.shape[1])[None].expand(3, -1),
            past_key_values=cache,
        )
    found["bert_prefix_logits"] = numpy(outputs.logits)

    # LoRA of BERT.
    model = load(BertForMaskedLM)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(PROJECTIONS), lora_dropout=0.0
    )
    model = peft.get_peft_model(model, config).eval()
    layers = model.base_model.model.bert.encoder.layer
    pairs = {}
    for i, layer in enumerate(layers):
        for j, name in enumerate(PROJECTIONS):
            linear = getattr(layer.attention.self, name)
            pairs[i, j] = linear.lora_A["default"].weight, linear.lora_B["default"].weight
            for weight, value in zip(
                pairs[i, j], (starts["lora_a"], starts["lora_b"]), strict=True
            ):
                weight.data = torch.tensor(value[i, j].T.copy())

    def lora_weights():
        values = {"a": np.zeros_like(starts["lora_a"]), "b": np.zeros_like(starts["lora_b"])}
        for place, pair in pairs.items():
            for name, weight in zip("ab", pair, strict=True):
                values[name][place] = numpy(weight).T
        return values

    def lora_logits():
        return model(input_ids=token_ids, token_type_ids=segment_ids, attention_mask=mask).logits

    train("lora", model, lora_logits, inputs["masks"], lora_weights)

    # Prefixes of GPT-2, which PEFT has as one row for each token: of each block key and value.
    for name in ("prefix", "mlp"):
        config = peft.PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=LENGTH,
            prefix_projection=name == "mlp",
            encoder_hidden_size=WIDTH,
        )
        model = peft.get_peft_model(load(GPT2LMHeadModel), config).eval()
        encoder = model.prompt_encoder["default"]
        if name == "prefix":
            rows = starts["prefix"].transpose(2, 0, 1, 3).reshape(LENGTH, -1)
            encoder.embedding.weight.data = torch.tensor(rows.copy())
        else:
            encoder.embedding.weight.data = torch.tensor(mlp["tokens"])
            for layer, part in ((encoder.transform[0], "inner"), (encoder.transform[2], "outer")):
                layer.weight.data = torch.tensor(mlp[part].T.copy())
                layer.bias.data = torch.tensor(mlp[f"{part}_bias"])

        def vectors(encoder=encoder):
            rows = numpy(encoder(torch.arange(LENGTH)[None])[0])
            return {"vectors": rows.reshape(LENGTH, BLOCKS, 2, -1).transpose(1, 2, 0, 3)}

        def prefix_logits(model=model):
            return model(input_ids=token_ids, attention_mask=mask).logits

        train(name, model, prefix_logits, inputs["last"], vectors)

    # A prompt of GPT-2.
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)
    model = peft.get_peft_model(load(GPT2LMHeadModel), config).eval()
    rows = model.prompt_encoder["default"].embedding.weight
    rows.data = torch.tensor(starts["prompt"])
    train(
        "prompt",
        model,
        lambda: model(input_ids=token_ids, attention_mask=mask).logits,
        inputs["last"] + LENGTH,
        lambda: {"vectors": numpy(rows)},
    )
    np.savez_compressed(FOLDER / "peft.npz", **found)


if __name__ == "__main__":
    main()
