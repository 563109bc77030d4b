"""FewCLUE: zero-shot, and P-tuning on five draws of a few labelled examples.

    python examples/fewclue.py --task eprstmt
    python examples/fewclue.py --task tnews --draw 0 1 2 3 4 --data datasets

Reviews (eprstmt), titles of news (tnews), descriptions of apps (iflytek, 119 classes), abstracts of
articles (csldcp, 67 disciplines), inference (ocnli, pairs of sentences), and idioms to fill in
(chid, seven candidates each). The files of https://github.com/CLUEbenchmark/FewCLUE are downloaded
once, or read from `--data`. The numbers are those on `test_public`. The draws differ in the
labelled examples. The prompt is that of the epoch which is best on the draw's validation examples.
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
# Two characters for each discipline of csldcp.
DISCIPLINES = {
    "中医学/中药学": "中医",
    "中国语言文学": "文学",
    "交通运输工程": "交通",
    "体育学": "体育",
    "作物学": "作物",
    "信息与通信工程": "通信",
    "光学工程": "光学",
    "公共卫生与预防医学": "卫生",
    "公共管理": "行政",
    "兵器科学与技术": "兵器",
    "军事学": "军事",
    "农业工程": "农机",
    "农业资源利用": "土壤",
    "农林经济管理": "农经",
    "冶金工程": "冶金",
    "力学": "力学",
    "动力工程及工程热物理": "热能",
    "化学/化学工程与技术": "化学",
    "历史学": "历史",
    "口腔医学": "口腔",
    "哲学": "哲学",
    "园艺学": "园艺",
    "图书馆、情报与档案管理": "图书",
    "土木工程": "土木",
    "地球物理学": "地震",
    "地理学": "地理",
    "地质学/地质资源与地质工程": "地质",
    "基础医学/临床医学": "医学",
    "大气科学": "气象",
    "天文学": "天文",
    "工商管理": "企业",
    "应用经济学": "经济",
    "建筑学": "建筑",
    "心理学": "心理",
    "控制科学与工程": "控制",
    "政治学": "政治",
    "教育学": "教育",
    "数学": "数学",
    "新闻传播学": "新闻",
    "机械工程": "机械",
    "材料科学与工程": "材料",
    "林学/林业工程": "森林",
    "核科学与技术": "核能",
    "植物保护": "植保",
    "民族学": "民族",
    "水产": "水产",
    "水利工程": "水利",
    "法学": "法律",
    "测绘科学与技术": "测绘",
    "海洋科学": "海洋",
    "物理学": "物理",
    "环境科学与工程": "环境",
    "理论经济学": "资本",
    "生物学/生物科学与工程": "生物",
    "电子科学与技术": "电子",
    "电气工程": "电力",
    "畜牧学/兽医学": "畜牧",
    "石油与天然气工程": "石油",
    "矿业工程": "采矿",
    "社会学": "社会",
    "纺织科学与工程": "纺织",
    "航空宇航科学与技术": "航空",
    "船舶与海洋工程": "船舶",
    "艺术学": "艺术",
    "药学": "药物",
    "计算机科学与技术": "电脑",
    "食品科学与工程": "食品",
}
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
    "csldcp": (
        "这是[MASK][MASK]论文：{text}",
        "[u1][u2][u3][u4][MASK][MASK][u5][u6][u7][u8]{text}",
        DISCIPLINES,
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
