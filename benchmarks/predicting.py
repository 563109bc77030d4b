"""Many short texts through `predict_to_file`: time, and memory as it goes.

    python benchmarks/predicting.py --data datasets
    TF_NUM_INTRAOP_THREADS=1 python benchmarks/predicting.py --data datasets  # on one core

The texts are the clauses of the reviews, each with the first characters of another clause once all
have had their turn. The model is the embedded checkpoint, zero-shot.
"""

import argparse
import pathlib
import re
import tempfile
import time

from peers import peak_memory


def make_texts(reviews, count, every):
    """Yields the texts, and tells how far they are."""
    parts = {part for review in reviews for part in re.split(r"[\s，。！？；,.!?;]+", review)}
    clauses = sorted(part for part in parts if 5 <= len(part) <= 30)
    start = time.perf_counter()
    for i in range(count):
        if i % every == 0:
            print(
                f"{i:,} texts, {time.perf_counter() - start:.0f} s, "
                f"{1024 * peak_memory():.0f} MiB at most",
                flush=True,
            )
        turn, place = divmod(i, len(clauses))
        more = clauses[(7 * place + turn) % len(clauses)][:5] if turn else ""
        yield clauses[place] + more


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", help="folder or zip of the reviews, as `load_sentiment` takes it")
    parser.add_argument("--texts", type=int, default=1_000_000, help="texts to predict")
    options = parser.parse_args()
    if options.texts < 1:
        parser.error("--texts must be at least 1")

    from keras_ptuning import Template, build_ptuning_model, predict_to_file
    from keras_ptuning.datasets import load_sentiment

    reviews, _ = load_sentiment(options.data)["train"]
    template = Template("[MASK]好。{text}", {"负面": "不", "正面": "很"}, "bert-mini-zh")
    model = build_ptuning_model("bert-mini-zh", template=template)
    texts = make_texts(reviews, options.texts, max(1, options.texts // 10))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        count = predict_to_file(model, texts, pathlib.Path(folder) / "found.jsonl", verbose=False)
        seconds = time.perf_counter() - start
    print(
        f"{count:,} texts in {seconds:.0f} s, {count / seconds:.0f} a second; "
        f"{1024 * peak_memory():.0f} MiB at most"
    )


if __name__ == "__main__":
    main()
