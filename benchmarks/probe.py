"""What does a pretrained model know? Facts asked with prompts that are written, found and learned.

    python benchmarks/probe.py
    python benchmarks/probe.py --checkpoint bert-small-zh --corpus corpus.txt.gz --json results.json
    python benchmarks/probe.py --mlama mlama1.1/zh --relations P36 P30 P1376 --facts 200
    python benchmarks/probe.py --xfactr X-FACTR/data --facts 200

Half of the facts of each relation are for learning, and the others are asked. An object competes
with all objects of its relation. The prompts: that of a person; the best of those that a corpus
has (`mine_templates`); words by gradient (`search_template`); virtual tokens (P-tuning). A prompt
that learns may learn which answers are frequent, and no fact. So there are two baselines: always
the most frequent object, and the same P-tuning on a model of random weights. The facts in this file
are few; those of mLAMA and X-FACTR are downloaded by you.
"""

import argparse
import json
import os
import statistics
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_ptuning import (
    Template,
    Tokenizer,
    build_ptuning_model,
    datasets,
    mine_templates,
    probe,
    search_template,
)
from keras_ptuning.checkpoints import find_checkpoint

# Subjects and objects.
CAPITALS = """
法国-巴黎 英国-伦敦 德国-柏林 俄罗斯-莫斯科 日本-东京 韩国-首尔 泰国-曼谷 埃及-开罗 希腊-雅典
意大利-罗马 美国-华盛顿 西班牙-马德里 越南-河内 印度-新德里 奥地利-维也纳 加拿大-渥太华
葡萄牙-里斯本 古巴-哈瓦那
"""
PROVINCES = """
广东-广州 浙江-杭州 江苏-南京 四川-成都 湖北-武汉 湖南-长沙 山东-济南 河南-郑州 陕西-西安
福建-福州 江西-南昌 安徽-合肥 云南-昆明 贵州-贵阳 山西-太原 辽宁-沈阳 吉林-长春 河北-石家庄
甘肃-兰州 海南-海口
"""
CONTINENTS = """
法国-欧洲 德国-欧洲 英国-欧洲 希腊-欧洲 瑞典-欧洲 波兰-欧洲 中国-亚洲 日本-亚洲 韩国-亚洲
泰国-亚洲 印度-亚洲 伊朗-亚洲 埃及-非洲 南非-非洲 肯尼亚-非洲 尼日利亚-非洲 美国-美洲
巴西-美洲 古巴-美洲 加拿大-美洲
"""
RELATIONS = {
    "capital": ("[X]的首都是[Y]。", CAPITALS),
    "province": ("[X]省的省会是[Y]市。", PROVINCES),
    "continent": ("[X]这个国家在[Y]。", CONTINENTS),
}
# Where words are found, and where vectors are learned; [Y] is the place of the masks.
MINED, SEARCHED, LEARNED = "{text}[T][Y]。", "{text}[T][T][Y]。", "[u1]{text}[u2][u3][u4][Y]。[u5]"

# Facts are short.
MAXLEN = 64


def read_relations(args):
    if args.mlama or args.xfactr:
        load = datasets.load_mlama if args.mlama else datasets.load_xfactr
        found = load(args.mlama or args.xfactr)
    else:
        found = {}
        for name, (template, facts) in RELATIONS.items():
            pairs = [tuple(fact.split("-")) for fact in facts.split()]
            found[name] = {"template": template, "facts": pairs}
    names = args.relations or list(found)
    if not set(names) <= set(found):
        raise SystemExit(f"Expected --relations to be some of {list(found)}. Received: {names}.")
    return {name: found[name] for name in names}


class Relation:
    """The facts of a relation in two halves, and its prompts."""

    def __init__(self, relation, args):
        self.args, self.written = args, relation["template"].replace("[X]", "{text}")
        self.config, self.weights, vocab = find_checkpoint(args.checkpoint)
        self.tokenizer = Tokenizer(vocab)
        facts = relation["facts"]
        tokens = self.tokenizer.token_ids([name for _, name in facts])
        unknown = self.tokenizer.unk_id
        lengths = [0 if unknown in ids else len(ids) for ids in tokens]
        kept = [i for i, length in enumerate(lengths) if 0 < length <= args.longest]
        order = np.random.default_rng(args.seed).permutation(kept)[: args.facts]
        # Every template has masks for the longest object.
        self.masks = "[MASK]" * max((lengths[i] for i in order), default=1)
        self.train = [facts[i] for i in order[: len(order) // 2]]
        self.test = [facts[i] for i in order[len(order) // 2 :]]
        self.names = list(dict.fromkeys(facts[i][1] for i in order))
        self.few = len({name for _, name in self.train}) < 2 or len(self.names) < 2

    def ask(self, pattern, learn=False, known=True):
        """The numbers of one prompt, whose vectors may learn first."""
        keras.utils.set_random_seed(self.args.seed)
        template = Template(pattern.replace("[Y]", self.masks), None, self.tokenizer, MAXLEN)
        weights = self.weights if known else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The weights are random")
            model = build_ptuning_model(self.config, weights, template)
        if learn:
            subjects, objects = map(list, zip(*self.train, strict=True))
            names = [self.names] * len(objects)
            data = template.dataset(subjects, objects, batch_size=16, candidates=names)
            model.compile()
            model.fit(data, epochs=self.args.epochs, verbose=0)
        return probe(model, self.test, candidates=self.names, train=self.train)

    def found(self, find, pattern, *corpus, **kwargs):
        subjects, objects = map(list, zip(*self.train, strict=True))
        words = {name: name for name in self.names}
        pattern, checkpoint = pattern.replace("[Y]", self.masks), self.args.checkpoint
        kwargs = {"maxlen": MAXLEN, "verbose": 0, **kwargs}
        return find(checkpoint, pattern, words, subjects, objects, *corpus, **kwargs)

    def prompts(self, corpus):
        """Pairs of a method and what it says."""
        yield "random weights", self.written, self.ask(self.written, known=False)
        yield "random weights, P-tuned", LEARNED, self.ask(LEARNED, learn=True, known=False)
        yield "written", self.written, self.ask(self.written)
        if corpus:
            try:
                pattern = self.found(mine_templates, MINED, corpus)[0].pattern
            except ValueError as error:
                print(f"Nothing mined: {error}")
            else:
                yield "mined", pattern, self.ask(pattern)
        # The same facts also choose among the templates on the way, as they are few.
        held_out = tuple(map(list, zip(*self.train, strict=True)))
        pattern = self.found(
            search_template, SEARCHED, held_out, steps=self.args.steps, seed=self.args.seed
        ).pattern
        yield "searched", pattern, self.ask(pattern)
        yield "P-tuned", LEARNED, self.ask(LEARNED, learn=True)


def table(results):
    """P@1 in percent by relation, then the means of P@1 and of MRR."""
    rows = {"most frequent object": []}
    for name, found in results.items():
        for method, (_, numbers) in found.items():
            rows.setdefault(method, []).append((name, 100 * numbers["p@1"], numbers["mrr"]))
        rows["most frequent object"].append((name, 100 * numbers["majority_p@1"], None))
    lines = [["prompt", *results, "mean P@1", "mean MRR"]]
    lines.append(["---"] * len(lines[0]))
    for method, cells in rows.items():
        hits = {name: f"{hit:.1f}" for name, hit, _ in cells}
        means = ["", ""]
        if len(cells) == len(results):
            means[0] = f"{statistics.mean(hit for _, hit, _ in cells):.1f}"
            if cells[0][2] is not None:
                means[1] = f"{statistics.mean(mrr for *_, mrr in cells):.3f}"
        lines.append([method, *(hits.get(name, "") for name in results), *means])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", default="bert-small-zh", help="embedded name, or folder of a checkpoint"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--mlama", metavar="FOLDER", help="of one language, such as mlama1.1/zh")
    source.add_argument("--xfactr", metavar="FOLDER", help="X-FACTR/data")
    parser.add_argument("--relations", nargs="+", help="such as P36; if left out, all")
    parser.add_argument("--facts", type=int, help="of each relation; if left out, all")
    parser.add_argument("--longest", type=int, default=4, help="tokens of an object")
    parser.add_argument("--corpus", metavar="FILE", help="of texts, to mine templates in")
    parser.add_argument("--steps", type=int, default=30, help="of the search of words")
    parser.add_argument("--epochs", type=int, default=60, help="of P-tuning")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers")
    args = parser.parse_args()
    corpus = datasets.read_documents(args.corpus) if args.corpus else None
    results = {}
    for name, facts in read_relations(args).items():
        relation = Relation(facts, args)
        if relation.few:
            print(f"{name}: left out, since a half of its facts has fewer than two objects.")
            continue
        print(f"{name}: {len(relation.train)} facts to learn from, {len(relation.test)} asked")
        results[name] = {}
        for method, pattern, numbers in relation.prompts(corpus):
            pattern = pattern.replace("[Y]", relation.masks)
            print(f"{numbers['p@1']:7.1%}  {method}: {pattern}", flush=True)
            results[name][method] = pattern, numbers
    if not results:
        raise SystemExit(
            "No relation has facts to ask. Ask more --facts, allow a larger --longest, or use a "
            "checkpoint with a larger vocabulary."
        )
    print(table(results))
    if args.json:
        os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"results": results, "arguments": vars(args)}, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
