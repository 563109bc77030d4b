"""The topic of a news title, out of fifteen: words of two characters answer.

    python examples/news.py "高考分数线今天公布" "股市收盘上涨百分之三"

A template of words, "下面是体育新闻：...", first without any training, then with LoRA trained on
480 labelled titles; and P-tuning, where only virtual tokens learn. The titles are those of tnews in
FewCLUE (https://github.com/CLUEbenchmark/FewCLUE), downloaded once.
"""

import argparse
import collections
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_ptuning import PromptClassifier, Template, build_ptuning_model, datasets
from keras_ptuning.checkpoints import find_checkpoint

WORDS = {
    "news_story": "故事", "news_culture": "文化", "news_entertainment": "娱乐",
    "news_sports": "体育", "news_finance": "财经", "news_house": "房产", "news_car": "汽车",
    "news_edu": "教育", "news_tech": "科技", "news_military": "军事", "news_travel": "旅游",
    "news_world": "国际", "news_stock": "股票", "news_agriculture": "农业", "news_game": "电竞",
}  # fmt: skip
PATTERN = "下面是[MASK][MASK]新闻：{text}"
P_TUNING = "[u1][u2][u3][u4][MASK][MASK][u5][u6][u7][u8]{text}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("titles", nargs="*", help="titles to classify in the end")
    parser.add_argument(
        "--checkpoint",
        default="bert-small-zh",
        help="embedded name, folder of a checkpoint, or path of its weights",
    )
    parser.add_argument("--data", help="folder with tnews/; downloaded, if left out")
    parser.add_argument("--draw", type=int, default=0, choices=range(5), help="of the labels")
    parser.add_argument("--epochs", type=int, help="if left out, as many as the methods take")
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers")
    args = parser.parse_args()

    data = datasets.load_fewclue("tnews", args.draw, args.data)
    texts, labels = (
        train + valid for train, valid in zip(data["train"], data["valid"], strict=True)
    )
    test_texts, test_labels = data["test"]
    config, weights, vocab = find_checkpoint(args.checkpoint)
    template, virtual = (Template(p, WORDS, vocab, maxlen=64) for p in (PATTERN, P_TUNING))

    predictions = {}
    model = build_ptuning_model(config, weights, template)
    scores = model.predict(template.dataset(test_texts))
    predictions["template, zero-shot"] = np.array(template.decode(scores))
    common = {"checkpoint": args.checkpoint, "epochs": args.epochs, "random_state": args.draw}
    tuned = PromptClassifier(template, **common).fit(texts, labels)
    predictions["template, LoRA"] = tuned.predict(test_texts)
    classifier = PromptClassifier(virtual, tune="prompt", **common).fit(texts, labels)
    predictions["P-tuning"] = classifier.predict(test_texts)

    count = collections.Counter(test_labels)
    right = {name: np.equal(found, test_labels) for name, found in predictions.items()}
    print(f"Accuracy on {len(test_labels)} titles, {len(labels)} labelled:")
    for name, hits in right.items():
        print(f"{hits.mean():7.1%}  {name}")
    print("The classes, in the same order:")
    for label, word in WORDS.items():
        of_label = np.equal(test_labels, label)
        shares = "".join(f"{hits[of_label].mean():6.0%}" for hits in right.values())
        print(f"  {word}{shares}  of {count[label]}")
    if args.json:
        os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
        with open(args.json, "w", encoding="utf-8") as file:
            results = {name: float(hits.mean()) for name, hits in right.items()}
            json.dump({"test_acc": results, "arguments": vars(args)}, file, ensure_ascii=False)

    if args.titles:
        for title, label in zip(args.titles, tuned.predict(args.titles), strict=True):
            print(f"{WORDS[label]}  {title}")


if __name__ == "__main__":
    main()
