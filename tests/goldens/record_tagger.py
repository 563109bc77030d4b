"""Records what Hugging Face's token classifier computes, for `tests/tuning/test_tagger.py`.

Run in an environment of its own:

    pip install torch transformers==5.24.0
    python tests/goldens/record_tagger.py

The model is the random BERT of `tests/small_checkpoints.py`, so this needs no download. It writes
`transformers_tagger.npz` next to itself: the inputs, the classifier, and the logits of all tokens.
"""

import pathlib
import sys
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
import small_checkpoints  # noqa: E402

TAGS = 5


def main():
    # Not at the top: pytest imports this file where transformers is not installed.
    import torch
    from transformers import BertForTokenClassification

    token_ids, _ = small_checkpoints.make_inputs("bert", "hugging_face")
    rng = np.random.default_rng(2)
    kernel, bias = rng.normal(size=(32, TAGS)), rng.normal(size=TAGS)
    with tempfile.TemporaryDirectory() as folder:
        small_checkpoints.write_hugging_face(folder, "bert", 0)
        model = BertForTokenClassification.from_pretrained(folder, num_labels=TAGS).eval()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor(kernel.T))
        model.classifier.bias.copy_(torch.tensor(bias))
        logits = model(
            input_ids=torch.tensor(token_ids, dtype=torch.long),
            attention_mask=torch.tensor(token_ids != 0, dtype=torch.long),
        ).logits.numpy()
    np.savez_compressed(
        FOLDER / "transformers_tagger.npz",
        token_ids=token_ids,
        kernel=kernel.astype("float32"),
        bias=bias.astype("float32"),
        logits=logits,
    )


if __name__ == "__main__":
    main()
