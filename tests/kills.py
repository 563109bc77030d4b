"""Does a job in processes that are killed; run by `test_kills.py`.

    python kills.py JOB FOLDER KILLS

The processes are forked before the backend has begun to work, so that the imports are done once.
"""

import functools
import json
import os
import pathlib
import random
import signal
import sys
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import keras
import numpy as np
from small_bert import CONFIG, vocabulary, write_small_bert

from keras_ptuning import (
    PackedDataset,
    Template,
    Tokenizer,
    build_ptuning_model,
    build_transformer_model,
    load_tuned,
    predict_to_file,
    pretrain,
)
from keras_ptuning.checkpoints import find_checkpoint, open_checkpoint
from keras_ptuning.models import load_config
from keras_ptuning.tuning import predicting

# A graph would take most of the time of a process.
keras.Model.run_eagerly = property(lambda self: True, lambda self, value: None)

TEXTS = ["书贵" * (1 + i % 5) + "屏幕"[: i % 3] for i in range(800)]


def make_model(folder):
    checkpoint = str(folder / "bert")
    if not os.path.exists(checkpoint):
        os.mkdir(checkpoint)
        write_small_bert(checkpoint)
    template = Template("[u1][u2][MASK]{text}", {"负面": "不", "正面": "很"}, checkpoint, 32)
    return build_ptuning_model(checkpoint, template=template)


# Jobs that save the numbers 1, 2, 3...: the name of the file, how to save it, and how to read the
# number.


def the_number(values):
    (number,) = np.unique(keras.ops.convert_to_numpy(values))
    return int(number)


def keras_file(folder, model):
    return "model.keras", model.save, lambda path: the_number(keras.models.load_model(path).prompt)


def tuned_file(folder, model):
    def load(path):
        return the_number(load_tuned(path, str(folder / "bert")).prompt)

    return "model.tuned", model.save_tuned, load


def checkpoint(folder, model):
    """The number is in each of the files, but for that of the template."""
    bias = model.backbone.get_layer("MLM-Bias").bias

    def save(path):
        number = the_number(model.prompt)
        bias.assign(np.full(bias.shape, number, "float32"))
        model.init_config["config"]["number"] = number
        model.template.tokenizer.vocab[-1] = str(number)
        model.save_checkpoint(path)

    def load(path):
        build_transformer_model(path, with_mlm=True)
        config, weights, vocab = find_checkpoint(path)
        template = json.loads((path / "template.json").read_text("utf-8"))
        assert template["pattern"] == model.template.pattern
        hugging_face = open_checkpoint(weights).read("cls.predictions.bias")
        google = open_checkpoint(path / "bert_model.ckpt").read("cls/predictions/output_bias")
        last = int(Tokenizer(vocab).vocab[-1])
        return the_number([*hugging_face, *google, load_config(config)["number"], last])

    return "checkpoint", save, load


def save(job, folder, report):
    """Reads what the last process left, and saves until it is killed."""
    model = make_model(folder)
    name, save, load = job(folder, model)
    number = load(folder / name) if (folder / name).exists() else 0
    report(number)
    while True:
        number += 1
        model.prompt.assign(np.full(model.prompt.shape, number, "float32"))
        save(folder / name)
        report(number)


def fit(folder, report):
    """Trains on, and saves after each step, until it is killed."""
    path = folder / "fit.keras"
    model = keras.models.load_model(path) if path.exists() else make_model(folder)
    if not path.exists():
        model.compile(keras.optimizers.SGD(0.01))
        model.optimizer.build(model.trainable_variables)

    def steps(*_):
        report(int(model.optimizer.iterations))

    steps()
    reports = keras.callbacks.LambdaCallback(on_epoch_end=steps)
    saving = keras.callbacks.ModelCheckpoint(str(path))
    data = model.template.dataset(TEXTS[:8], ["负面", "正面"] * 4, 8)
    model.fit(data, epochs=10**6, callbacks=[saving, reports], verbose=0)


def kill_saving(job, folder, kills):
    rng, least, most = random.Random(0), 0, 0
    for _ in range(kills + 1):
        process, lines = start(job, folder)
        found = int(lines.readline())
        assert least <= found <= most, (least, found, most)
        begin = time.monotonic()
        first = lines.readline()
        # A moment of the next two.
        time.sleep(rng.uniform(0, 2 * (time.monotonic() - begin)))
        least = int(([first, *kill(process, lines)])[-1])
        most = least + 1
        print(f"Found {found}, killed after {least}.")


# Jobs that continue.


def predict(folder, name, report):
    model = make_model(folder)
    predict, predicting.CHUNK = model.predict, 16

    def reporting(*args, **kwargs):
        scores = predict(*args, **kwargs)
        report("predicted")
        return scores

    model.predict = reporting
    predict_to_file(model, TEXTS, folder / name, verbose=0)


def train(folder, name, report):
    dataset = PackedDataset(TEXTS[:50], Tokenizer(vocabulary()), length=16, batch_size=4, steps=1)
    keras.utils.set_random_seed(0)
    config = {**CONFIG, "num_hidden_layers": 1}
    model = build_transformer_model(config, with_mlm="linear", gather_positions=True)
    reports = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: report(epoch))
    curve = pretrain(model, dataset, 40, folder / f"{name}.training", callbacks=[reports])
    weights = [row["loss"] for row in curve], [array.tolist() for array in model.get_weights()]
    (folder / name).write_text(json.dumps(weights))


def kill_continuing(job, folder, kills):
    """Without kills; with them; and to the end."""
    rng = random.Random(0)
    for name in ("whole", *kills * ["parts"], "parts"):
        # Slowly, so that the work is not done before the last kill.
        process, lines = start(job, folder, name, pause=0.1)
        if name == "whole" or not kills:
            lines.read()
            assert not os.waitpid(process, 0)[1]
            continue
        kills -= 1
        # A moment in, or after, what is written then.
        assert all(lines.readline() for _ in range(rng.randint(1, 2)))
        time.sleep(rng.uniform(0, 0.15))
        reports = kill(process, lines)
        assert not (folder / name).exists()
        print(f"Killed, with {len(reports)} steps more.")
    assert (folder / "parts").read_bytes() == (folder / "whole").read_bytes()


def start(function, *arguments, pause=0.0):
    """Forks a process; returns its number and the lines that it reports, each before a pause."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, os.fdopen(reading)

    def report(line):
        os.write(writing, f"{line}\n".encode())
        time.sleep(pause)

    try:
        function(*arguments, report)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def kill(process, lines):
    """Returns the last lines."""
    os.kill(process, signal.SIGKILL)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL, "it had ended already"
    return lines.read().splitlines()


JOBS = {
    "keras": (kill_saving, functools.partial(save, keras_file)),
    "tuned": (kill_saving, functools.partial(save, tuned_file)),
    "checkpoint": (kill_saving, functools.partial(save, checkpoint)),
    "fit": (kill_saving, fit),
    "predict": (kill_continuing, predict),
    "pretrain": (kill_continuing, train),
}

if __name__ == "__main__":
    run, job = JOBS[sys.argv[1]]
    run(job, pathlib.Path(sys.argv[2]), int(sys.argv[3]))
