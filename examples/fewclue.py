"""FewCLUE: zero-shot, and P-tuning on five draws of a few labelled examples.

    python examples/fewclue.py --task eprstmt
    python examples/fewclue.py --task tnews --draw 0 1 2 3 4 --data datasets

Reviews (eprstmt), titles of news (tnews), descriptions of apps (iflytek, 119 classes), inference
(ocnli, pairs of sentences), and idioms to fill in (chid, seven candidates each). The files of
https://github.com/CLUEbenchmark/FewCLUE are downloaded once, or read from `--data`. The numbers
are those on `test_public`; the draws differ in the labelled examples, and the prompt is that of the
epoch which is best on the draw's validation examples.
"""

import argparse
import json
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from news import WORDS

from keras_ptuning import Template, build_ptuning_model, datasets
from keras_ptuning.checkpoints import find_checkpoint

# Other words for the names of labels that are too long, or rare.
OTHER = {"语言(非英语)": "外语", "薅羊毛": "省钱"}
# An epoch goes over few examples several times, or validation would take most of the time.
STEPS = 25
# For each task the template of a person, that of P-tuning, and the words of the labels: "names" for
# the names of the labels, such as 公共交通, and `None` where the texts have candidates.
TASKS = {
    "eprstmt": (
        "[MASK]满意。{text}",
        "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}",
        {"Negative": "不", "Positive": "很"},
    ),
    "tnews": (
        "[MASK][MASK]新闻：{text}",
        "[u1][u2][u3][u4][MASK][MASK][u5][u6][u7][u8]{text}",
        WORDS,
    ),
    "iflytek": (
        "这是[MASK][MASK][MASK][MASK]应用：{text}",
        "[u1][u2][u3][u4][MASK][MASK][MASK][MASK][u5][u6][u7][u8]{text}",
        "names",
    ),
    "ocnli": (
        "{text}？[MASK][MASK]，{text_b}",
        "[u1][u2]{text}？[u3][u4][MASK][MASK][u5][u6]，{text_b}[u7][u8]",
        {"entailment": "是的", "contradiction": "不是", "neutral": "可能"},
    ),
    "chid": (
        "{text:-60}[MASK][MASK][MASK][MASK]{text_b:60}",
        "[u1][u2][u3][u4]{text:-50}[MASK][MASK][MASK][MASK]{text_b:50}[u5][u6][u7][u8]",
        None,
    ),
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--draw", type=int, nargs="+", default=range(5), choices=range(5))
    parser.add_argument("--data", help="folder with the tasks' folders; default: downloaded")
    parser.add_argument(
        "--checkpoint",
        default="bert-mini-zh",
        help="embedded name, folder of a checkpoint, or path of its weights",
    )
    parser.add_argument("--epochs", type=int, default=12, help=f"of {STEPS} steps or more")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--learning-rate", type=float, help="default: 1e-2, or 1e-3 with --train-all"
    )
    parser.add_argument("--auxiliary", action="store_true", help="also predict masked words")
    parser.add_argument("--train-all", action="store_true", help="the whole model, not the prompt")
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error("--epochs must be at least 1")
    args.learning_rate = args.learning_rate or (1e-3 if args.train_all else 1e-2)
    return args


def main():
    args = parse_arguments()
    config, weights, vocab = find_checkpoint(args.checkpoint)
    zero_shot_pattern, pattern, words = TASKS[args.task]

    def make(split, template, repeat=1, **kwargs):
        texts, labels, *candidates = (column * repeat for column in split)
        candidates = candidates[0] if candidates else None
        return template.dataset(texts, labels, args.batch_size, candidates=candidates, **kwargs)

    def accuracy(model, split):
        return model.evaluate(make(split, model.template), verbose=0, return_dict=True)["accuracy"]

    results = []
    for draw in args.draw:
        data = datasets.load_fewclue(args.task, draw, args.data)
        labels = words
        if words == "names":
            labels = {name: OTHER.get(name, name) for name in data["labels"]}
        if not results:
            template = Template(zero_shot_pattern, labels, vocab)
            zero_shot = accuracy(build_ptuning_model(config, weights, template), data["test"])
            print(f"{args.task}, zero-shot, {zero_shot_pattern}: {zero_shot:.4f}")
        keras.utils.set_random_seed(draw)
        template = Template(pattern, labels, vocab)
        tune = "all" if args.train_all else None
        model = build_ptuning_model(config, weights, template, tune, auxiliary=args.auxiliary)
        repeat = max(1, STEPS * args.batch_size // len(data["train"][0]))
        train = make(data["train"], template, repeat, seed=draw)
        steps = args.epochs * len(train)
        schedule = keras.optimizers.schedules.CosineDecay(args.learning_rate, steps)
        model.compile(keras.optimizers.Adam(schedule))
        keep_best = keras.callbacks.EarlyStopping(
            "val_accuracy", mode="max", patience=args.epochs, restore_best_weights=True
        )
        valid_acc = model.fit(
            train,
            validation_data=make(data["valid"], template),
            epochs=args.epochs,
            callbacks=[keep_best],
            verbose=2,
        ).history["val_accuracy"]
        results.append(
            {"draw": draw, "valid_acc": max(valid_acc), "test_acc": accuracy(model, data["test"])}
        )
        print(f"{args.task}, draw {draw}: {results[-1]}")

    found = [result["test_acc"] for result in results]
    summary = {
        "task": args.task,
        "checkpoint": args.checkpoint,
        "zero_shot_test_acc": zero_shot,
        "test_acc_mean": statistics.mean(found),
        "test_acc_deviation": statistics.stdev(found) if len(found) > 1 else None,
        "draws": results,
        "arguments": {**vars(args), "draw": list(args.draw)},
    }
    print(json.dumps(summary, ensure_ascii=False, indent=2))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(summary, file, ensure_ascii=False, indent=2)


if __name__ == "__main__":
    main()
