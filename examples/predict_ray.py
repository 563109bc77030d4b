"""Labels for a folder of Parquet files or JSON lines, with Ray on one machine or on many.

    python examples/predict_ray.py model.keras reviews predictions --workers 2

Each file of `reviews` is a partition. Its predictions are in the file of the same name in
`predictions`: the same rows with two more columns, `label` and `probability`. A file there is
complete. So run the same command again after an interruption: it predicts the files that are
missing. For another model, name another folder. All machines must see the same folders, and have
`keras_ptuning` installed with the extra `ray`.
"""

import argparse
import itertools
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from keras_ptuning import TextPredictor
from keras_ptuning.files import iterate_lines, replacing

ENDINGS = (".parquet", ".jsonl")
# Rows in memory at once.
ROWS = 10_000
# Each worker has one core, and is quiet about it.
WORKER = {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("model", help="file of `save`, or of `save_tuned` with --checkpoint")
    parser.add_argument("texts", help=f"folder of files that end in {' or '.join(ENDINGS)}")
    parser.add_argument("out", help="folder to write to, made if need be")
    parser.add_argument("--checkpoint", help="what a tuned file was trained with")
    parser.add_argument("--column", default="text", help="the column of the texts")
    parser.add_argument("--batch-size", type=int, default=64, help="texts in a batch")
    parser.add_argument("--workers", type=int, default=2, help="processes that predict")
    parser.add_argument("--address", help="of a Ray cluster; without it, this machine")
    args = parser.parse_args()
    args.texts, args.out = map(os.path.realpath, (args.texts, args.out))
    if args.texts == args.out:
        parser.error("the predictions need a folder of their own: they have the names of the texts")
    return args


# Ray reads and writes tables too. But its blocks are not the files that were read, and what it has
# half written when it is killed has the name of a complete file. So it hands out names of files.
class PartitionPredictor:
    """Predicts whole files, in a worker of Ray."""

    def __init__(self, texts, out, predictor):
        self.texts, self.out, self.predictor = texts, out, predictor

    def __call__(self, batch):
        for name in batch["name"]:
            predict = self.parquet if name.endswith(".parquet") else self.json_lines
            with replacing(os.path.join(self.out, name)) as temporary:
                predict(os.path.join(self.texts, name), temporary)
        return batch

    def parquet(self, source, target):
        def added(table):
            found = self.predictor(table.to_pydict())
            for name in ("label", "probability"):
                table = table.append_column(name, pa.array(found[name]))
            return table

        with pq.ParquetFile(source) as file:
            schema = added(file.schema_arrow.empty_table()).schema
            with pq.ParquetWriter(target, schema) as writer:
                for rows in file.iter_batches(ROWS):
                    writer.write_table(added(pa.Table.from_batches([rows])))

    def json_lines(self, source, target):
        # Some files end with an empty line.
        lines = filter(str.strip, iterate_lines(source))
        with open(target, "w", encoding="utf-8") as file:
            while rows := [json.loads(line) for line in itertools.islice(lines, ROWS)]:
                names = {name: None for row in rows for name in row}
                found = self.predictor({name: [row.get(name) for row in rows] for name in names})
                added = found["label"].tolist(), found["probability"].tolist()
                for row, label, probability in zip(rows, *added, strict=True):
                    row |= {"label": label, "probability": probability}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main():
    args = parse_arguments()
    predictor = TextPredictor(args.model, args.checkpoint, args.column, args.batch_size)
    names = sorted(name for name in os.listdir(args.texts) if name.endswith(ENDINGS))
    os.makedirs(args.out, exist_ok=True)
    left = [name for name in names if not os.path.exists(os.path.join(args.out, name))]
    print(f"{len(names)} partitions in {args.texts}, {len(left)} of them without predictions")
    if not left:
        return
    # A machine with fewer cores than workers would wait for more of them.
    cores = None if args.address else args.workers
    ray.init(args.address, num_cpus=cores, runtime_env={"env_vars": WORKER})
    start = time.perf_counter()
    done = ray.data.from_items([{"name": name} for name in left], override_num_blocks=len(left))
    done = done.map_batches(
        PartitionPredictor,
        fn_constructor_args=(args.texts, args.out, predictor),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=args.workers),
    )
    for row in done.iter_rows():
        print(f"{row['name']} is complete after {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
