"""Named entities: what a prefix learns in a frozen model, against tuning all of it.

    pip install "keras_ptuning[ner]"
    python examples/ner.py
    python examples/ner.py --train train.bio --test test.bio --checkpoint my_bert

With `--method prefix` this is P-tuning v2 for sequence labelling. Without files, sentences are made
out of patterns and names. Half of the names are in the test sentences only, so a name that was
learned by heart is of no use there. Such sentences are much easier than those of people: take
files of your own to compare methods. The numbers are those of whole entities, by seqeval.
"""

import argparse
import json
import math
import os
import random
import re
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from seqeval.metrics import classification_report, f1_score

from keras_ptuning import Prefix, TaggedText, build_tagger, datasets
from keras_ptuning.checkpoints import find_checkpoint

PLACES = """
北京 上海 广州 深圳 杭州 成都 武汉 南京 西安 重庆 苏州 天津 长沙 青岛 昆明 大连 厦门 郑州
"""
KINDS = "大学 银行 医院 出版社 电视台 科技公司 汽车厂 研究所"
SURNAMES = "王李张刘陈杨黄赵周吴徐孙马朱胡林郭何"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰涛明超霞平刚华"
PATTERNS = """
{PER}出生在{LOC}。 昨天{PER}去了{LOC}。 {ORG}的{PER}说，明年会更好。 我在{ORG}工作了三年。
{LOC}的天气很热。 {PER}和{PER}是同学，都在{ORG}。 从{LOC}到{LOC}要坐四个小时。 物流很快，包装也好。
{ORG}昨天宣布，{PER}不再担任经理。 {PER}的书我很喜欢。 听说{ORG}要搬到{LOC}去。 今天没有什么新闻。
这家酒店离{LOC}很近，房间不错。 {PER}：“{LOC}我去过两次。” 手机用了三天就坏了。
在{LOC}，{PER}见到了{ORG}的人。
"""


def make_sentences(count, is_test, seed):
    """Sentences as lists of characters, and their tags; no name is in both parts."""
    rng = random.Random(2 * seed + is_test)
    places, surnames = PLACES.split()[is_test::2], SURNAMES[is_test::2]
    made = {
        "LOC": lambda: rng.choice(places),
        "ORG": lambda: rng.choice(places) + rng.choice(KINDS.split()),
        "PER": lambda: rng.choice(surnames) + "".join(rng.choices(GIVEN, k=rng.choice((1, 2)))),
    }
    sentences, tags = [], []
    for _ in range(count):
        parts = re.split(r"\{(\w+)\}", rng.choice(PATTERNS.split()))
        words, own = [], []
        for i, part in enumerate(parts):
            text = made[part]() if i % 2 else part
            words += text
            own += [f"B-{part}", *[f"I-{part}"] * (len(text) - 1)] if i % 2 else ["O"] * len(text)
        sentences.append(words)
        tags.append(own)
    return sentences, tags


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--train", metavar="FILE", help="BIO file; if left out, sentences are made")
    parser.add_argument("--test", metavar="FILE", help="BIO file")
    methods = ["prefix", "all"]
    parser.add_argument("--method", nargs="+", choices=methods, default=methods, help="what trains")
    parser.add_argument("--checkpoint", default="bert-mini-zh", help="embedded name, or a folder")
    parser.add_argument("--sentences", type=int, default=300, help="made for training")
    parser.add_argument("--prefix", type=int, default=100, help="virtual tokens")
    parser.add_argument("--epochs", type=int, default=20, help="of training")
    parser.add_argument("--batch-size", type=int, default=16, help="sentences")
    parser.add_argument("--maxlen", type=int, default=128, help="tokens")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers")
    args = parser.parse_args()
    if (args.train is None) != (args.test is None):
        parser.error("Give both --train and --test, or none of them.")
    if args.train:
        train, test = datasets.read_bio(args.train), datasets.read_bio(args.test)
    else:
        train, test = (make_sentences(args.sentences, i, args.seed) for i in (False, True))
    config, weights, vocab = find_checkpoint(args.checkpoint)
    tagged = TaggedText(sorted({t for own in train[1] + test[1] for t in own}), vocab, args.maxlen)
    results = {}
    for method in args.method:
        keras.utils.set_random_seed(args.seed)
        tune = Prefix(args.prefix) if method == "prefix" else "all"
        model = build_tagger(config, weights, tagged, tune)
        data = tagged.dataset(*train, batch_size=args.batch_size, seed=args.seed)
        schedule = keras.optimizers.schedules.CosineDecay(
            model.default_learning_rate, args.epochs * len(data)
        )
        model.compile(keras.optimizers.Adam(schedule))
        start = time.perf_counter()
        model.fit(data, epochs=args.epochs, verbose=2)
        seconds = round(time.perf_counter() - start, 1)
        found = tagged.decode(model.predict(tagged.dataset(test[0]), verbose=0), test[0])
        print(classification_report(test[1], found, digits=3, zero_division=0))
        trained = sum(math.prod(v.shape) for v in model.trainable_variables)
        f1 = float(f1_score(test[1], found))
        results[method] = {"f1": f1, "trained": trained, "seconds": seconds}
    print(f"F1 of entities in {len(test[0])} sentences, {len(train[0])} to learn from:")
    for method, numbers in results.items():
        print("{f1:7.1%}  {0}: {trained:,} numbers, {seconds} s".format(method, **numbers))
    if args.json:
        os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"results": results, "arguments": vars(args)}, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
