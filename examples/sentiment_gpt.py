"""P-tuning of a GPT: virtual tokens before and after the review, and the answer generated last.

    python examples/sentiment_gpt.py "房间很小，隔音也差。" "物流很快，包装也好。"
    python examples/sentiment_gpt.py --template "{text}[u1][u2][u3][u4][u5][u6][u7][u8][MASK]"

The first takes the small GPT that comes with the library; the second leaves the prefix out, which
https://kexue.fm/archives/8295 (section on the experiments) finds clearly worse. The reviews are
those of this article, as in `sentiment.py`.
"""

import argparse
import json
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from sentiment import LABELS, NAMES, PASSES, accuracy

from keras_ptuning import Prompt, Template, build_ptuning_model, datasets
from keras_ptuning.checkpoints import find_checkpoint

PATTERN = "[u1][u2][u3][u4]{text}[u5][u6][u7][u8][MASK]"
ZERO_SHOT = "{text}我[MASK]"


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("sentences", nargs="*", help="sentences to classify in the end")
    parser.add_argument(
        "--checkpoint",
        default="gpt-mini-zh",
        help="embedded name, folder of a checkpoint, or path of its weights",
    )
    parser.add_argument("--data", help="folder with sentiment.train.data..., or their zip file")
    parser.add_argument("--template", default=PATTERN, help="of the P-tuning; [MASK] comes last")
    parser.add_argument("--labeled", type=int, default=168, help="reviews to learn from")
    parser.add_argument("--epochs", type=int, default=10, help=f"of {PASSES} passes each")
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch")
    parser.add_argument(
        "--learning-rate", type=float, help="if left out, 1e-2, or 1e-3 with a prompt encoder"
    )
    parser.add_argument("--auxiliary", action="store_true", help="also predict the whole review")
    parser.add_argument(
        "--prompt-encoder", choices=["lstm", "mlp"], help="what makes the vectors while they train"
    )
    parser.add_argument("--maxlen", type=int, default=128, help="tokens of a review + template")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers")
    args = parser.parse_args()
    if args.labeled < 1 or args.epochs < 1:
        parser.error("--labeled and --epochs must be at least 1")
    args.learning_rate = args.learning_rate or (1e-3 if args.prompt_encoder else 1e-2)
    return args


def main():
    args = parse_arguments()
    keras.utils.set_random_seed(args.seed)
    data = datasets.load_sentiment(args.data)
    texts, labels = (column[: args.labeled] for column in data["train"])
    config, weights, vocab = find_checkpoint(args.checkpoint)

    template = Template(ZERO_SHOT, LABELS, vocab, args.maxlen, causal=True)
    zero_shot = accuracy(build_ptuning_model(config, weights, template), data)
    print(f"Zero-shot, {ZERO_SHOT}: test accuracy {zero_shot[0]:.4f}, unseen {zero_shot[1]:.4f}")

    template = Template(args.template, LABELS, vocab, args.maxlen, causal=True)
    tune = Prompt(encoder=args.prompt_encoder)
    model = build_ptuning_model(config, weights, template, tune, auxiliary=args.auxiliary)
    steps = args.epochs * math.ceil(len(texts) * PASSES / args.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(args.learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule))
    keep_best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=args.epochs, restore_best_weights=True
    )
    history = model.fit(
        template.dataset(texts * PASSES, labels * PASSES, args.batch_size, seed=args.seed),
        validation_data=template.dataset(*data["valid"], batch_size=64),
        epochs=args.epochs,
        callbacks=[keep_best],
    ).history
    test_acc = accuracy(model, data)
    results = {
        "data": data["source"],
        "valid_acc": max(history["val_accuracy"]),
        "test_acc": test_acc[0],
        "test_acc_deduplicated": test_acc[1],
        "zero_shot_test_acc": zero_shot[0],
        "zero_shot_test_acc_deduplicated": zero_shot[1],
        "valid_acc_of_each_epoch": history["val_accuracy"],
        "arguments": vars(args),
    }
    print(json.dumps(results, ensure_ascii=False, indent=2))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, ensure_ascii=False, indent=2)

    if args.sentences:
        scores = model.predict(template.dataset(args.sentences), verbose=0)
        for text, label in zip(args.sentences, template.decode(scores), strict=True):
            print(f"{NAMES[label]}  {text}")


if __name__ == "__main__":
    main()
