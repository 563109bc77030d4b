"""Records what other libraries compute of small T5s, for `tests/models/test_t5.py`.

    pip install torch transformers==5.24.0
    python tests/goldens/record_t5.py transformers

    pip install tensorflow tf-keras && pip install --no-deps bert4keras==0.11.5
    python tests/goldens/record_t5.py bert4keras

The models are the random ones of `tests/small_t5.py`, so this needs no download. Each writes one
file next to itself, or in the folder given as `--output`: `transformers_t5.npz` or
`bert4keras_t5.npz`, with every second of the logits. Loading must miss no tensor, and have none
left over.
"""

import argparse
import os
import pathlib
import sys
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
import small_t5  # noqa: E402


def hugging_face_logits(folder, name, seed):
    import torch
    import transformers

    small_t5.write_hugging_face(folder, name, seed)
    config = small_t5.HUGGING_FACE[name]
    (class_name,) = config["architectures"]
    model, info = getattr(transformers, class_name).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    tied = torch.equal(model.lm_head.weight, model.shared.weight)
    assert tied == config.get("tie_word_embeddings", True)
    read, written = small_t5.make_inputs()
    # Padding at the end of what is written is seen by nothing but itself.
    with torch.no_grad():
        return model.eval()(
            input_ids=torch.tensor(read, dtype=torch.long),
            attention_mask=torch.tensor(read != 0, dtype=torch.long),
            decoder_input_ids=torch.tensor(written, dtype=torch.long),
            decoder_attention_mask=torch.ones(written.shape, dtype=torch.long),
        ).logits.numpy()


def bert4keras_logits(folder, name, seed):
    os.environ |= {"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"}
    from bert4keras.models import build_transformer_model

    small_t5.write_bert4keras(folder, name, seed)
    transformer = build_transformer_model(
        os.path.join(folder, "config.json"),
        os.path.join(folder, "model.ckpt"),
        model=name.split("-")[0],
        with_lm="linear",
        cross_position_bias=small_t5.BERT4KERAS[name][1],
        return_keras_model=False,
    )
    mapping = transformer.variable_mapping()
    loaded = {v for layer, names in mapping.items() if layer in transformer.layers for v in names}
    assert loaded == set(small_t5.bert4keras_tensors(name)), loaded
    return np.asarray(transformer.model(list(small_t5.make_inputs()), training=False))


RECORD = {"transformers": hugging_face_logits, "bert4keras": bert4keras_logits}
NAMES = {"transformers": small_t5.HUGGING_FACE, "bert4keras": small_t5.BERT4KERAS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=RECORD)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--output", metavar="FOLDER", type=pathlib.Path, default=FOLDER)
    arguments = parser.parse_args()
    golden = {}
    for name in NAMES[arguments.library]:
        with tempfile.TemporaryDirectory() as folder:
            logits = RECORD[arguments.library](folder, name, arguments.seed)
        golden[name] = logits[:, :, ::2]
    np.savez_compressed(arguments.output / f"{arguments.library}_t5.npz", **golden)


if __name__ == "__main__":
    main()
