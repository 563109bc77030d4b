"""A classifier without TensorFlow and Keras: exported to ONNX, and served by onnxruntime.

    pip install --no-deps onnx==1.23.2 tf2onnx==1.17.0
    python examples/onnx_serving.py export sentiment.keras served

    pip install onnxruntime tokenizers jieba    # in another environment, or on another machine
    python examples/onnx_serving.py predict served "物流很快，包装也好。"

The first command writes three files: the model, its tokenizer, and the template as numbers. It is
for templates with one `{text}`, of masked models. The second needs nothing else than these files.
"""

import argparse
import json
import pathlib

import numpy as np

# A character that no template has, to see where the text goes.
MARK = "囧"


def export(model_path, folder):
    """Writes what `predict` needs, out of a file that `model.save` wrote."""
    from keras_ptuning import load_model

    model = load_model(model_path)
    template, folder = model.template, pathlib.Path(folder)
    # A limit, as in {text:64}, would cut texts in another way than `predict` does.
    simple = template.slots == ["text"] and "{text}" in template.pattern and template.num_masks
    if template.causal or not simple or MARK in template.pattern:
        raise SystemExit(
            "This example is for templates with [MASK] and one {text}, without a limit. Received: "
            f"{template}."
        )
    encoded = template.encode([MARK])
    token_ids, segment_ids = (encoded[name][0].tolist() for name in ("token_ids", "segment_ids"))
    place = token_ids.index(template.tokenizer.token_to_id(MARK))
    settings = {
        "labels": template.label_names,
        "before": token_ids[:place],
        "after": token_ids[place + 1 :],
        "segment_ids": segment_ids,
        "mask_id": template.mask_id,
        "maxlen": template.maxlen,
        "jieba": template.tokenizer.get_config()["pre_tokenize"] == "jieba",
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.export(folder / "model.onnx", "onnx", verbose=False)
    template.tokenizer.save(folder / "tokenizer.json")
    with open(folder / "template.json", "w", encoding="utf-8") as file:
        json.dump(settings, file, ensure_ascii=False)


class Classifier:
    """Scores texts with the files in a folder."""

    def __init__(self, folder):
        import onnxruntime
        import tokenizers

        folder = pathlib.Path(folder)
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        with open(folder / "template.json", encoding="utf-8") as file:
            self.settings = json.load(file)

    def token_ids(self, text):
        if not self.settings["jieba"]:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        import jieba

        ids = []
        for word in jieba.lcut(self.tokenizer.normalizer.normalize_str(text), HMM=False):
            known = self.tokenizer.token_to_id(word)
            if known is None:
                ids += self.tokenizer.encode(word, add_special_tokens=False).ids
            else:
                ids.append(known)
        return ids

    def predict_proba(self, texts):
        """Probabilities, `(len(texts), labels)`."""
        before, after = (self.settings[name] for name in ("before", "after"))
        room = self.settings["maxlen"] - len(before) - len(after)
        rows = [[*before, *self.token_ids(text)[:room], *after] for text in texts]
        length = max(map(len, rows))
        token_ids = np.array([row + [0] * (length - len(row)) for row in rows], "int32")
        # The text has the segment of its place, and what follows it its own.
        kinds, place = self.settings["segment_ids"], len(before)
        segment_ids = np.zeros_like(token_ids)
        for line, row in zip(segment_ids, rows, strict=True):
            own = [*kinds[:place], *[kinds[place]] * (len(row) - place - len(after))]
            line[: len(row)] = own + kinds[place + 1 :]
        masks = [np.flatnonzero(row == self.settings["mask_id"]) for row in token_ids]
        inputs = {
            "token_ids": token_ids,
            "segment_ids": segment_ids,
            "mask_positions": np.array(masks, "int32"),
        }
        (scores,) = self.session.run(None, inputs)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="needs keras_ptuning")
    command.add_argument("model", help="a file that model.save wrote")
    command.add_argument("folder", help="where to write the files")
    command = commands.add_parser("predict", help="needs onnxruntime and tokenizers")
    command.add_argument("folder", help="what export wrote")
    command.add_argument("texts", nargs="+")
    options = parser.parse_args()
    if options.command == "export":
        return export(options.model, options.folder)
    classifier = Classifier(options.folder)
    for text, p in zip(options.texts, classifier.predict_proba(options.texts), strict=True):
        print(f"{classifier.settings['labels'][p.argmax()]} {p.max():.1%}  {text}")


if __name__ == "__main__":
    main()
