"""Several devices: each has the whole model, and takes its share of every batch."""

import os

import keras
import numpy as np
from keras import ops

# Where TensorFlow is told which of several processes it is.
WORKERS = "TF_CONFIG"


def find_distribution():
    """All devices there are: of this process, or of all processes that work together.

    Returns:
        A `tf.distribute.Strategy`, or on JAX a `keras.distribution.DataParallel`. Both have a
        `scope()`, in which models are made and used.

    Raises:
        ValueError: on PyTorch, with which Keras uses one device.

    Reference:
        - https://keras.io/guides/distribution/
        - https://www.tensorflow.org/guide/distributed_training
    """
    backend = keras.backend.backend()
    if backend == "jax":
        return keras.distribution.DataParallel(auto_shard_dataset=False)
    if backend != "tensorflow":
        raise ValueError(
            "Several devices need the backend TensorFlow or JAX: set KERAS_BACKEND before Keras is "
            f"imported. Received: data_parallel=True with the backend {backend!r}."
        )
    import tensorflow as tf

    if WORKERS in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    if gpus:
        return tf.distribute.MirroredStrategy(gpus)
    # The usual way of TensorFlow to sum confuses the sums of several CPUs, where there are many.
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    one_by_one = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(cpus, cross_device_ops=one_by_one)


def build_model(model_class, *args, data_parallel=False, **kwargs):
    """Makes a `LabelModel`, on one device or on all."""
    if not data_parallel:
        return model_class(*args, **kwargs)
    distribution = find_distribution()
    _share_seed(distribution)
    with distribution.scope():
        model = model_class(*args, **kwargs)
    model.distribution = distribution
    return model


def _share_seed(distribution):
    """Seeds all processes alike, so that JAX's draw the same first weights.

    With TensorFlow all take those of the first process.
    """
    if find_part(distribution)[1] > 1:
        from jax.experimental import multihost_utils

        seed = multihost_utils.broadcast_one_to_all(np.random.randint(2**31 - 1))
        keras.utils.set_random_seed(int(seed))


def count_replicas(distribution):
    """Into how many shares each batch is split."""
    if distribution is None:
        return 1
    if keras.backend.backend() == "jax":
        return distribution.num_model_replicas
    return distribution.num_replicas_in_sync


def find_part(distribution):
    """`(i, n)`: Keras wants the i-th of n parts of each batch from this process."""
    if distribution is None or keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def is_shared(distribution):
    """Whether other processes take part."""
    if distribution is None or keras.backend.backend() != "tensorflow":
        return find_part(distribution)[1] > 1
    return WORKERS in os.environ


def sum_over_replicas(x):
    """The sum of a number that each replica has for its share of the batch.

    On TensorFlow a replica sees its share alone, while on JAX all code sees the whole batch.
    """
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return x
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, ops.convert_to_tensor(x))


def for_all_workers(logs):
    """The metrics of a step, in the shape in which Keras takes their mean over workers.

    With TensorFlow's workers it takes the mean of the first axis, which numbers do not have.
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: ops.expand_dims(value, 0) for name, value in logs.items()}
