"""Records what other libraries compute of many architectures, for `tests/test_architectures.py`.

Three environments, as no one has all of them (for bert4keras see `record_bert4keras.py`):

    pip install torch transformers==5.23.0
    python tests/goldens/record_architectures.py transformers

    pip install torch transformers==4.57.3
    python tests/goldens/record_architectures.py nezha

    pip install tensorflow tf-keras jieba && pip install --no-deps bert4keras==0.11.5
    python tests/goldens/record_architectures.py bert4keras

The models are the random ones of `tests/small_checkpoints.py`, so this needs no download. Each
writes one file into its own folder, or into the one given as `--output`: `transformers_`,
`transformers_nezha_` or `bert4keras_architectures.npz`, with logits of every second token of the
vocabulary, and 0 for padding. Hugging Face's loading must miss no tensor, and have none left over.
"""

import argparse
import os
import pathlib
import sys
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
import small_checkpoints  # noqa: E402

FILES = {
    "transformers": "transformers_architectures.npz",
    "nezha": "transformers_nezha_architectures.npz",
    "bert4keras": "bert4keras_architectures.npz",
}


def shorten(logits, token_ids):
    return np.where(token_ids[:, :, None] != 0, logits, 0)[:, :, ::2].astype("float32")


def hugging_face_logits(folder, name, seed):
    import torch
    import transformers

    small_checkpoints.write_hugging_face(folder, name, seed)
    (class_name,) = small_checkpoints.HUGGING_FACE[name]["architectures"]
    model, info = getattr(transformers, class_name).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    # What is tied was tied.
    values = small_checkpoints.hugging_face_tensors(name, seed)
    (bias,) = (v for n, v in values.items() if n.endswith(("predictions.bias", "lm_head.bias")))
    head = model.get_output_embeddings()
    np.testing.assert_array_equal(head.bias.detach().numpy(), bias)
    assert head.weight is model.get_input_embeddings().weight
    token_ids, segment_ids = small_checkpoints.make_inputs(name, "hugging_face")
    with torch.no_grad():
        return model.eval()(
            input_ids=torch.tensor(token_ids, dtype=torch.long),
            attention_mask=torch.tensor(token_ids != 0, dtype=torch.long),
            token_type_ids=torch.tensor(segment_ids, dtype=torch.long),
        ).logits.numpy()


def bert4keras_logits(folder, name, seed):
    os.environ |= {"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"}
    from bert4keras.models import BERT, build_transformer_model

    class ElectraGenerator(BERT):
        """bert4keras has the discriminator only; the names are those of Google's code."""

        def variable_mapping(self):
            changes = {
                "bert/embeddings": "electra/embeddings",
                "bert/encoder/embedding_hidden_mapping_in": "generator/embeddings_project",
                "bert/encoder": "generator/encoder",
                "cls/predictions/transform": "generator_predictions",
                "cls/predictions": "generator_predictions",
            }
            mapping = super().variable_mapping()
            for old, new in changes.items():
                mapping = {k: [v.replace(old, new) for v in names] for k, names in mapping.items()}
            return mapping

    small_checkpoints.write_tensorflow(folder, name, seed)
    architecture = name.split("-")[0]
    model = ElectraGenerator if architecture == "electra" else architecture
    arguments = {"model": model, **small_checkpoints.ARGUMENTS.get(name, {})}
    arguments |= (
        {"final_activation": "linear"} if architecture == "gpt2" else {"with_mlm": "linear"}
    )
    transformer = build_transformer_model(
        os.path.join(folder, "bert_config.json"),
        os.path.join(folder, "bert_model.ckpt"),
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        return_keras_model=False,
        **arguments,
    )
    # It has loaded all of the file, but what another head would need.
    mapping = transformer.variable_mapping()
    loaded = {v for layer, names in mapping.items() if layer in transformer.layers for v in names}
    others = set(small_checkpoints.tensorflow_tensors(name)) - loaded
    assert all(
        n.startswith(("bert/pooler", "electra/en", "electra/embeddings_p", "discriminator"))
        for n in others
    ), others
    inputs = small_checkpoints.make_inputs(name, "tensorflow")
    return np.asarray(
        transformer.model(list(inputs[: len(transformer.model.inputs)]), training=False)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=FILES)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--output", metavar="FOLDER", type=pathlib.Path, default=FOLDER)
    arguments = parser.parse_args()
    layout = "tensorflow" if arguments.library == "bert4keras" else "hugging_face"
    names = small_checkpoints.TENSORFLOW
    if layout == "hugging_face":
        wanted = arguments.library == "nezha"
        names = [n for n in small_checkpoints.HUGGING_FACE if (n == "nezha") == wanted]
    golden = {}
    for name in names:
        record = bert4keras_logits if layout == "tensorflow" else hugging_face_logits
        token_ids, _ = small_checkpoints.make_inputs(name, layout)
        with tempfile.TemporaryDirectory() as folder:
            golden[name] = shorten(record(folder, name, arguments.seed), token_ids)
    np.savez_compressed(arguments.output / FILES[arguments.library], **golden)


if __name__ == "__main__":
    main()
