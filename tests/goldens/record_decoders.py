"""Records what Hugging Face's decoders compute on PyTorch, for `tests/models/test_llama.py`.

Run in an environment of its own:

    pip install torch transformers==5.23.0
    python tests/goldens/record_decoders.py

The models are the random ones of `tests/small_decoders.py`, so this needs no download. It writes
`transformers_decoders.npz` next to itself.
"""

import pathlib
import sys
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
import small_decoders  # noqa: E402


def main():
    # Not at the top: pytest imports this file where transformers is not installed.
    import torch
    import transformers

    # Id 0 is a token like any other here.
    token_ids = np.random.default_rng(1).integers(0, 120, (3, 24)).astype("int32")
    token_ids[0, :2] = 0
    golden = {"token_ids": token_ids}
    for name, config in small_decoders.CONFIGS.items():
        (class_name,) = config["architectures"]
        with tempfile.TemporaryDirectory() as folder:
            small_decoders.write_small_decoder(folder, name)
            model, info = getattr(transformers, class_name).from_pretrained(
                folder, output_loading_info=True
            )
        assert not any(info.values()), info
        with torch.no_grad():
            outputs = model.eval()(torch.tensor(token_ids, dtype=torch.long))
        golden[name] = outputs.logits.numpy()
    np.savez_compressed(FOLDER / "transformers_decoders.npz", **golden)


if __name__ == "__main__":
    main()
