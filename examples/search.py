"""Label words, templates and their weights out of 256 labelled reviews, without any training.

    python examples/search.py
    python examples/search.py --checkpoint bert-small-zh --steps 100

The model stays as it is. Four searches follow one another: which words answer for a label, which
words to put around the mask, by the gradient or out of what other reviews say around such words,
and how much each of several templates counts. What comes out is words that anybody can read. The
reviews are those of `examples/sentiment.py`. The corpus is all those to train with, without their
labels.
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_ptuning import (
    Template,
    build_ptuning_model,
    datasets,
    mine_templates,
    search_label_words,
    search_template,
    weigh_templates,
)

# The words and templates of a person.
WORDS = {0: "不", 1: "很"}
PATTERNS = ["[MASK]满意。{text}", "{text}总之[MASK]满意。", "这书[MASK]好。{text}"]
# Where the search puts words, and the mining.
OPEN = "[T][T][MASK][T]。{text}"
AROUND = "[T][MASK][T]。{text}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", default="bert-mini-zh", help="embedded name, or folder of a checkpoint"
    )
    parser.add_argument("--data", help="folder with sentiment.train.data..., or their zip file")
    parser.add_argument("--labeled", type=int, default=128, help="reviews of each label")
    parser.add_argument("--words", type=int, default=3, help="label words of each label")
    parser.add_argument("--steps", type=int, default=50, help="of the search of a template")
    parser.add_argument("--mined", type=int, default=3, help="templates out of other reviews")
    parser.add_argument("--test", type=int, default=1000, help="reviews to test with")
    parser.add_argument("--seed", type=int, default=0, help="of drawing and training")
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers")
    args = parser.parse_args()

    data = datasets.load_sentiment(args.data)
    # Some reviews are in both files. The searches must not see those of the test.
    asked = set(data["test"][0])
    known = [pair for pair in zip(*data["train"], strict=True) if pair[0] not in asked]
    order = np.random.default_rng(args.seed).permutation(len(known))
    chosen = []
    for label in WORDS:
        chosen += [known[i] for i in order if known[i][1] == label][: args.labeled]
    texts, labels = map(list, zip(*chosen, strict=True))
    test_texts, test_labels = (column[: args.test] for column in data["test"])
    right = {}

    def test(name, scores):
        right[name] = float((scores.argmax(axis=1) == test_labels).mean())

    def test_template(name, template):
        model = build_ptuning_model(args.checkpoint, template=template)
        test(name, model.predict(template.dataset(test_texts), verbose=0))
        return model

    written = [Template(pattern, WORDS, args.checkpoint) for pattern in PATTERNS]
    for template in written:
        model = test_template(template.pattern, template)

    words = search_label_words(model, PATTERNS[0], texts, labels, args.words)
    print(words)
    # In the order of the labels in the data.
    words = {label: words[label] for label in WORDS}
    test_template("label words found", Template(PATTERNS[0], words, args.checkpoint))

    found = search_template(
        args.checkpoint, OPEN, WORDS, texts, labels, steps=args.steps, seed=args.seed
    )
    test_template(f"found: {found.pattern}", found)

    corpus = [text for text, _ in known]
    mined = mine_templates(model, AROUND, WORDS, texts, labels, corpus, top=args.mined)
    for template in mined:
        test_template(f"mined: {template.pattern}", template)

    weighed = weigh_templates(model, [*written, found, *mined], texts, labels)
    print(weighed)
    test("all of them, weighed", weighed.predict(test_texts))

    print(f"Accuracy on {len(test_labels)} reviews, {len(labels)} labelled:")
    for name, hits in right.items():
        print(f"{hits:7.1%}  {name}")
    if args.json:
        os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"test_acc": right, "arguments": vars(args)}, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
