"""Labels for a folder of Parquet files or JSON lines, with Spark on one machine or on many.

    python examples/predict_spark.py model.keras reviews predictions --workers 2

Each file of `reviews` is a partition. Its predictions are in the file of the same name in
`predictions`: the same rows with two more columns, `label` and `probability`. A file there is
complete. So run the same command again after an interruption: it predicts the files that are
missing. For another model, name another folder. All machines must see the same folders, and have
`keras_ptuning` installed with the extra `spark`. Spark needs Java.
"""

import argparse
import concurrent.futures
import glob
import os
import sys
import time

from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from keras_ptuning import TextPredictor
from keras_ptuning.files import replacing

ENDINGS = (".parquet", ".jsonl")
# Rows that a worker gets at once.
ROWS = 2048
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
    parser.add_argument("--workers", type=int, default=2, help="files to predict at once")
    parser.add_argument("--master", help="of a Spark cluster; without it, this machine")
    args = parser.parse_args()
    args.texts, args.out = map(os.path.realpath, (args.texts, args.out))
    if args.texts == args.out:
        parser.error("the predictions need a folder of their own: they have the names of the texts")
    return args


def start_spark(args):
    # A task that lost its worker is tried again, as on a cluster: four times in all.
    builder = SparkSession.builder.master(args.master or f"local[{args.workers},4]")
    # A file is one task, so its rows keep their order and go into one file.
    builder = builder.config("spark.sql.files.maxPartitionBytes", 2**50)
    # It would overwrite the lines that say what is complete.
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    for name, value in WORKER.items():
        # The workers of this machine inherit its environment, those of a cluster do not.
        os.environ.setdefault(name, value)
        builder = builder.config(f"spark.executorEnv.{name}", value)
    return builder.getOrCreate()


def as_udf(predictor):
    """The predictor as a function of Spark, which sends arrays of strings to it."""

    # `predict_batch_udf` gets the texts alone; the other columns never leave Spark, and keep their
    # types. `mapInPandas` would turn all of them into pandas and back.
    def make_predict():
        def predict(texts):
            found = predictor({predictor.column: texts})
            # Spark has to know the type before any model is loaded.
            return {"label": found["label"].astype(str), "probability": found["probability"]}

        return predict

    added = StructType().add("label", "string").add("probability", "double")
    return predict_batch_udf(make_predict, return_type=added, batch_size=ROWS)


def main():
    args = parse_arguments()
    predictor = TextPredictor(args.model, args.checkpoint, args.column, args.batch_size)
    names = sorted(name for name in os.listdir(args.texts) if name.endswith(ENDINGS))
    os.makedirs(args.out, exist_ok=True)
    left = [name for name in names if not os.path.exists(os.path.join(args.out, name))]
    print(f"{len(names)} partitions in {args.texts}, {len(left)} of them without predictions")
    if not left:
        return
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = start_spark(args)
    predicted, start = as_udf(predictor)(args.column), time.perf_counter()

    def predict(name):
        kind = "parquet" if name.endswith(".parquet") else "json"
        rows = spark.read.format(kind).load(os.path.join(args.texts, name))
        rows = rows.withColumn("predicted", predicted).select(*rows.columns, "predicted.*")
        with replacing(os.path.join(args.out, name)) as temporary:
            # Spark writes a folder.
            rows.write.format(kind).save(f"{temporary}.folder")
            (part,) = glob.glob(f"{glob.escape(temporary)}.folder/part-*")
            os.replace(part, temporary)
        print(f"{name} is complete after {time.perf_counter() - start:.0f} s", flush=True)

    # A job for each file: Spark commits a whole job or nothing of it.
    pool = concurrent.futures.ThreadPoolExecutor(args.workers)
    try:
        list(pool.map(predict, left))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        spark.stop()


if __name__ == "__main__":
    main()
