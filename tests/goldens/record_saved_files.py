"""Writes the files of users of version 0.1.0, before `tune=`, that later versions must load.

Run once with that version, whose `build_ptuning_model` takes `trainable=` and `prompt_encoder=`:

    PYTHONPATH=tests python tests/goldens/record_saved_files.py tests/goldens/saved
"""

import os
import sys
import tempfile

import keras
import numpy as np
from small_bert import write_small_bert

from keras_ptuning import PlainText, Template, build_classifier, build_ptuning_model

TEXTS = ["书贵", "屏幕很好，喜欢", "服务态度糟糕"]
MODELS = {
    "prompt": {},
    "lstm": {"prompt_encoder": "lstm", "normalization": "labels"},
    "all": {"trainable": "all", "prompt_start": "labels"},
}


def main(folder):
    os.makedirs(folder, exist_ok=True)
    scores = {}
    with tempfile.TemporaryDirectory() as checkpoint:
        config, weights, vocab = write_small_bert(checkpoint)
        labels = {"负面": ["不", "差"], "正面": ["很", "[v1]"]}
        template = Template("[u1][u2][MASK][u3]{text}", labels, vocab, maxlen=64)
        data = template.dataset(TEXTS, ["负面", "正面", "负面"])
        for name, kwargs in MODELS.items():
            keras.utils.set_random_seed(0)
            model = build_ptuning_model(config, weights, template, **kwargs)
            model.compile(keras.optimizers.Adam(1e-2))
            model.fit(data, epochs=2, verbose=0)
            scores[name] = model.predict(template.dataset(TEXTS), verbose=0)
            if name != "lstm":
                model.save(os.path.join(folder, f"{name}.keras"))
            if name != "all":
                model.save_prompt(os.path.join(folder, f"{name}.prompt"))
        plain = PlainText(["负面", "正面"], vocab, maxlen=64)
        keras.utils.set_random_seed(0)
        model = build_classifier(config, weights, plain)
        scores["classifier"] = model.predict(plain.dataset(TEXTS), verbose=0)
        model.save(os.path.join(folder, "classifier.keras"))
    np.savez(os.path.join(folder, "scores.npz"), **scores)


if __name__ == "__main__":
    main(sys.argv[1])
