"""Records what Hugging Face's GPT-2 computes on PyTorch, for `tests/test_gpt2.py`.

Run in an environment of its own:

    pip install torch transformers==5.23.0
    python tests/goldens/record_transformers.py

The model is the random one of `tests/small_gpt2.py`, so this needs no download. It writes
`transformers_gpt2.npz` next to itself.
"""

import pathlib
import sys
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
import small_gpt2  # noqa: E402


def make_inputs():
    """Sequences of different lengths, padded with 0 on the right; one has all positions."""
    rng = np.random.default_rng(1)
    token_ids = np.zeros((4, small_gpt2.CONFIG["n_positions"]), "int32")
    for row, length in zip(token_ids, (32, 17, 1, 10), strict=True):
        row[:length] = rng.integers(1, small_gpt2.CONFIG["vocab_size"], length)
    return token_ids


def main():
    # Not at the top: pytest imports this file where transformers is not installed.
    import torch
    from transformers import GPT2LMHeadModel

    with tempfile.TemporaryDirectory() as folder:
        small_gpt2.write_small_gpt2(folder)
        model = GPT2LMHeadModel.from_pretrained(folder).eval()
    token_ids = make_inputs()
    with torch.no_grad():
        outputs = model(
            input_ids=torch.tensor(token_ids, dtype=torch.long),
            attention_mask=torch.tensor(token_ids != 0, dtype=torch.long),
            output_hidden_states=True,
        )
    np.savez_compressed(
        FOLDER / "transformers_gpt2.npz",
        token_ids=token_ids,
        hidden=outputs.hidden_states[-1].numpy(),
        logits=outputs.logits.numpy(),
    )


if __name__ == "__main__":
    main()
