"""The same numbers on TensorFlow, JAX and PyTorch: each in a process of its own."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

BACKENDS = [
    name
    for name, module in (("tensorflow", "tensorflow"), ("jax", "jax"), ("torch", "torch"))
    if importlib.util.find_spec(module)
]
SCRIPT = """
import sys
import keras, numpy as np
from keras_ptuning import Template, build_ptuning_model, build_transformer_model
config, checkpoint, vocab, out = sys.argv[1:]
pattern = "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}"
template = Template(pattern, {0: "不", 1: "很"}, vocab, maxlen=64)
texts = [("书贵" if i % 2 else "屏幕") + "房间服务" * (i % 4) for i in range(20)]
labels = [i % 2 for i in range(20)]
x = template.encode(texts)
model = build_transformer_model(config, checkpoint, with_mlm="linear")
logits = model.predict([x["token_ids"], x["segment_ids"]], verbose=0)
logits = logits[x["token_ids"] > 0]
model = build_ptuning_model(
    config, checkpoint, template, dropout_rate=0.0, attention_dropout_rate=0.0
)
model.compile(keras.optimizers.Adam(0.01))
data = template.dataset(texts, labels, batch_size=4)
# No epoch of the training, whatever the backend.
model.evaluate(data, verbose=0)
losses = model.fit(data, epochs=4, verbose=0)
np.savez(
    out,
    logits=logits,
    losses=losses.history["loss"],
    prompt=keras.ops.convert_to_numpy(model.prompt),
    scores=model.predict(template.dataset(texts), verbose=0),
)
"""


@pytest.fixture(scope="module")
def results(small_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backends")
    found = {}
    for backend in BACKENDS:
        out = str(folder / f"{backend}.npz")
        subprocess.run(
            [sys.executable, "-c", SCRIPT, *small_bert, out],
            env={**os.environ, "KERAS_BACKEND": backend},
            check=True,
        )
        found[backend] = np.load(out)
    return found


@pytest.mark.skipif(len(BACKENDS) < 2, reason="only one backend is installed")
@pytest.mark.parametrize("name", ["logits", "losses", "prompt", "scores"])
def test_backends_agree(results, name):
    """Logits, and twenty steps with the auxiliary task: same batches, same masks, same prompt."""
    first, *others = (result[name] for result in results.values())
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-4)


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "tensorflow"])
def test_tensorflow_is_not_imported_where_it_is_not_needed(backend, tmp_path):
    """Without a TensorFlow checkpoint, a machine without TensorFlow is enough."""
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not on this machine')\n")
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from small_bert import CONFIG, vocabulary
from keras_ptuning import Template, build_ptuning_model
template = Template("[u1][MASK]{text}", {0: "不", 1: "很"}, vocabulary(), maxlen=64)
model = build_ptuning_model(CONFIG, None, template)
model.compile()
model.fit(template.dataset(["书", "贵"], [0, 1]), verbose=0)
model.save(sys.argv[1] + "/model.keras")
model.predict(template.dataset(["书", "贵"]), verbose=0)
try:
    build_ptuning_model(CONFIG, sys.argv[1] + "/x.ckpt", template)
except ImportError as error:
    print(error)
"""
    for suffix in (".index", ".data-00000-of-00001"):
        (tmp_path / f"x.ckpt{suffix}").write_bytes(b"")
    here = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), here],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install tensorflow" in done.stdout


USE = """
import sys
import keras, numpy as np
import keras_ptuning
from keras_ptuning import Template, build_ptuning_model
path, config, checkpoint, vocab, out = sys.argv[1:]
texts, labels = ["书贵", "屏幕很好", "房间服务", "慢"], [0, 1, 0, 1]
def predict():
    return model.predict(model.template.dataset(texts), verbose=0)
if path:
    model = keras_ptuning.load_model(path + ".keras")
    np.testing.assert_allclose(predict(), np.load(path + ".npy"), atol=1e-4)
else:
    template = Template("[u1][u2][MASK]{text}", {0: "不", 1: "很"}, vocab, maxlen=64)
    model = build_ptuning_model(config, checkpoint, template, tune=["prompt", "lora"])
    optimizers = {"prompt": keras.optimizers.AdamW(0.01), "lora": "adam"}
    model.compile(optimizers, run_eagerly=True)
if out:
    model.fit(model.template.dataset(texts, labels, batch_size=2), verbose=0)
    model.save(out + ".keras")
    np.save(out + ".npy", predict())
print(int(model.optimizer.iterations), sorted(type(v).__name__ for v in model.optimizer.optimizers))
"""


@pytest.mark.skipif("torch" not in BACKENDS, reason="PyTorch is not installed")
def test_files_of_one_backend_load_on_the_others(small_bert, tmp_path):
    """PyTorch's on TensorFlow, which trains on; and that file on all others."""

    def use(backend, path, out):
        done = subprocess.run(
            [sys.executable, "-c", USE, path, *small_bert, out],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    use("torch", "", first)
    # Two steps each, and the optimizers that there were.
    assert "4 ['Adam', 'AdamW']" in use("tensorflow", first, second)
    for backend in set(BACKENDS) - {"tensorflow"}:
        assert "4 ['Adam', 'AdamW']" in use(backend, second, "")
