"""Trains and predicts on several devices or processes; run by `test_distribution.py`.

    python distribution_run.py prompt,vat CONFIG CHECKPOINT VOCAB DEVICES [RANK PORT PORT]

Prints a line of JSON. The texts of a batch differ in length and in how many of their words the
auxiliary task predicts, so that no share is like another.
"""

import functools
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
names, config, checkpoint, vocab = sys.argv[1:5]
devices, worker = int(sys.argv[5]), sys.argv[6:]
if os.environ["KERAS_BACKEND"] == "jax":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
else:
    if worker:
        rank, *ports = worker
        os.environ["TF_CONFIG"] = json.dumps(
            {
                "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
                "task": {"type": "worker", "index": int(rank)},
            }
        )
    import tensorflow as tf
    from tensorflow.python.eager import context

    # On a busy machine a process may stop for ten seconds. TensorFlow takes it for dead then.
    context.context().configure_coordination_service = functools.partial(
        context.context().configure_coordination_service, heartbeat_timeout_in_ms=120_000
    )
    (cpu,) = tf.config.list_physical_devices("CPU")
    virtual = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, virtual)

import keras  # noqa: E402

if worker and os.environ["KERAS_BACKEND"] == "jax":
    keras.distribution.initialize(f"127.0.0.1:{worker[1]}", 2, int(worker[0]))

from keras_ptuning import (  # noqa: E402
    PlainText,
    Template,
    build_classifier,
    build_ptuning_model,
    build_vat_classifier,
)

data_parallel = devices > 1 or bool(worker)
kwargs = {
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "data_parallel": data_parallel,
}
template = Template("[u1][u2][MASK][u3]{text}", {"负面": "不", "正面": "很"}, vocab, maxlen=64)
plain = PlainText(["负面", "正面"], vocab, maxlen=64)
texts = [("书贵" if i % 2 else "屏幕") * (1 + i % 7) for i in range(24)]
labels = ["正面" if i % 2 else "负面" for i in range(24)]
# Batches that cannot be split evenly.
odd = texts[:19]
models = {
    "prompt": (build_ptuning_model, template, {}),
    "all": (build_ptuning_model, template, {"tune": "all"}),
    # So small that what is random about it does not show.
    "vat": (build_vat_classifier, plain, {"epsilon": 1e-3}),
}
found = {}
if worker:
    # Processes that draw other numbers start with the same weights.
    keras.utils.set_random_seed(int(worker[0]))
    model = build_classifier(config, checkpoint, plain, **kwargs)
    found["head"] = [keras.ops.convert_to_numpy(w).tolist() for w in model.get_weights()[-2:]]
for name in names.split(","):
    keras.utils.set_random_seed(0)
    build, data, arguments = models[name]
    model = build(config, checkpoint, data, **arguments, **kwargs)
    model.compile(keras.optimizers.Adam(1e-3))
    losses = model.fit(data.dataset(texts, labels, batch_size=8), epochs=3, verbose=0).history
    model.fit(data.dataset(odd, labels[:19], batch_size=8), verbose=0)
    loss, accuracy = model.evaluate(data.dataset(texts, labels, batch_size=8), verbose=0)
    scores = model.predict(data.dataset(odd, batch_size=7), verbose=0)
    found[name] = [losses["loss"], losses["accuracy"], loss, accuracy, scores.tolist()]
print(json.dumps(found))
