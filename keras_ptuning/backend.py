"""What TensorFlow, JAX and PyTorch do differently: one room for it."""

import contextlib
import functools
import math
import mmap
import os
import re
import weakref

import keras
import numpy as np
from keras import ops

# Weights of more numbers are handled with care for memory.
LARGE = 2**20


def takes_derivatives(x):
    """Whether functions made by `with_derivative` can be called on a tensor: on TensorFlow."""
    return keras.backend.backend() == "tensorflow" and not isinstance(x, keras.KerasTensor)


def with_derivative(function):
    """Makes a function of a TensorFlow tensor out of one that brings its derivative along.

    TensorFlow registers each use of a custom gradient for good, together with the graph around it
    and the weights in that. So here it is traced once for each type of numbers, on its own.

    Args:
        function: Function of a tensor, and of other arguments that can be hashed. Returns its
            value, a tensor of the same shape, and a function that turns the gradient of this into
            the gradient of the input.

    Returns:
        A function of the same arguments that returns the value.
    """

    @functools.cache
    def trace(dtype, *args):
        import tensorflow as tf

        with tf.init_scope():
            traced = tf.function(ops.custom_gradient(lambda x: function(x, *args)), autograph=False)
            return traced.get_concrete_function(tf.TensorSpec(None, dtype))

    @functools.wraps(function)
    def call(x, *args):
        y = trace(x.dtype, *args)(x)
        y.set_shape(x.shape)
        return y

    return call


def computed_after(x, other):
    """A TensorFlow tensor once more, of which nothing is computed before another one is there.

    In a derivative, what is computed of `x` would otherwise be taken from where the value was
    computed, and kept until then.
    """
    import tensorflow as tf

    with tf.control_dependencies([other]):
        return tf.identity(x)


def for_dense_gradient(variable):
    """A variable as a tensor, whose gradient is dense where rows of it are looked up.

    On TensorFlow it would be a list of rows, which costs more in most optimizers.
    """
    tensor = ops.convert_to_tensor(variable)
    # It is a tensor already where Keras's `enable_lora` adds to it.
    if getattr(variable, "trainable", False) and keras.backend.backend() == "tensorflow":
        # The gradient of a product is dense.
        tensor = tensor * 1
    return tensor


def draw_kept(x, rate, seed_generator):
    """What dropout keeps: a boolean tensor of the shape of `x`.

    Returns `None` where Keras's own way is as fast: everywhere but on TensorFlow, where 16 bits
    for each number are drawn, and compared with the rate in steps of 1 / 65536.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    count = tf.size(x)
    seed = tf.cast(seed_generator.next(), "int32")
    bits = tf.random.stateless_uniform(
        [(count + 1) // 2], seed, minval=None, maxval=None, dtype="int32", alg="philox"
    )
    bits = tf.reshape(tf.bitcast(bits, "int16"), [-1])[:count]
    threshold = min(round(rate * 2**16), 2**16 - 1) - 2**15
    return tf.reshape(bits >= threshold, tf.shape(x))


@keras.saving.register_keras_serializable("keras_ptuning")
class Unset(keras.initializers.Zeros):
    """Zeros to be replaced. On TensorFlow's CPU, large ones take no memory until then."""

    def __call__(self, shape, dtype=None):
        if keras.backend.backend() == "tensorflow" and math.prod(shape) >= LARGE:
            import tensorflow as tf

            if tf.executing_eagerly():
                return _as_tensor(_pages(shape, keras.backend.standardize_dtype(dtype)))
        return super().__call__(shape, dtype)


def assign_parts(variable, parts, axis):
    """Assigns a large variable, whose values come some rows or columns at a time.

    On PyTorch, and on TensorFlow's CPU, this takes no memory but that of the variable.

    Args:
        variable: A `keras.Variable` of one axis or two.
        parts: Iterable of `(start, value)`: where a part begins along the axis, and a NumPy array.
        axis: Integer, 0 or 1.
    """
    backend = keras.backend.backend()
    whole = variable.value.data if backend == "torch" else _pages(variable.shape, variable.dtype)
    for start, value in parts:
        part = (*[slice(None)] * axis, slice(start, start + value.shape[axis]))
        whole[part] = ops.convert_to_tensor(value, variable.dtype) if backend == "torch" else value
    if backend != "torch":
        variable.assign(_as_tensor(whole) if backend == "tensorflow" else whole)


def _pages(shape, dtype):
    """A NumPy array of zeros, aligned as TensorFlow has it. It takes memory where it is written."""
    dtype = np.dtype(dtype)
    # A process that this one forks has its own.
    own = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, **own)
    return np.frombuffer(memory, dtype).reshape(shape)


def _as_tensor(pages):
    """TensorFlow's tensor of the same memory.

    Other ways copy the memory. A slice of a variable cannot be assigned instead: after that,
    TensorFlow copies the whole variable at every read.
    """
    import tensorflow as tf

    bits = pages.view(f"u{pages.itemsize}")
    return tf.bitcast(tf.experimental.dlpack.from_dlpack(bits.__dlpack__()), pages.dtype.name)


def without_gradients():
    """A context in which nothing is kept for gradients: PyTorch would keep all that it computes."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def gradient(function, x):
    """The gradient of a function of a tensor that returns one number."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    if backend == "torch":
        import torch

        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(function(x), x)[0]
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def seed_dropout(model, rng):
    """Sets the state of all dropout of a model, which Keras does not save with the weights."""
    for variable in model.variables:
        if variable.name == "seed_generator_state":
            variable.assign([rng.integers(2**31), 0])
    if keras.backend.backend() == "torch":
        # Dropout takes its numbers from PyTorch's own generator there.
        import torch

        torch.manual_seed(rng.integers(2**31))


def check_name(name):
    """Raises a ValueError if TensorFlow cannot take the name of a model for a scope.

    It would see so in the middle of the work, and refuse every model after it in the process too.
    """
    if name is None or keras.backend.backend() != "tensorflow":
        return
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.-]*", name):
        raise ValueError(
            "The name of a model must be of the letters A to Z and a to z, digits, '_', '.' and "
            "'-', as TensorFlow wants it, and begin with a letter or digit. Received: "
            f"name={name!r}."
        )


def compiles_each_shape():
    """Whether each new shape of a batch costs a compilation, so that there should be few."""
    return keras.backend.backend() == "jax"


def default_jit_compile():
    """What `jit_compile` of `keras.Model.compile` should be.

    On TensorFlow XLA would compile each length of batch, and is no faster on a CPU.
    """
    return False if keras.backend.backend() == "tensorflow" else "auto"


def as_batches(dataset):
    """What Keras is to iterate over in place of a `PyDataset`.

    On TensorFlow Keras guesses the shapes of its batches from two of them. Where these happen to be
    of one length, it refuses the others. So there it is a `tf.data.Dataset` of any shapes.
    """
    if keras.backend.backend() != "tensorflow":
        return dataset
    import tensorflow as tf

    signature = _any_shapes(dataset[0])
    # TensorFlow never lets go of a generator, and with it would keep all the texts.
    source = [dataset]
    batches = tf.data.Dataset.from_generator(lambda: iter(source[0]), output_signature=signature)
    batches = batches.apply(tf.data.experimental.assert_cardinality(len(dataset)))
    # Of several processes, each makes all batches and takes its share.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # There is nothing to tune, and stopping to tune can take longer than a small epoch.
    options.autotune.enabled = False
    batches = batches.with_options(options).prefetch(2)
    weakref.finalize(batches, source.clear)
    return batches


def _any_shapes(batch):
    """The shapes of a batch for TensorFlow, with nothing said of any axis."""
    import tensorflow as tf

    return keras.tree.map_structure(
        lambda array: tf.TensorSpec([None] * array.ndim, array.dtype), batch
    )


def predict_with_one_graph(model, batches):
    """Has one graph made for batches of all shapes, where TensorFlow would make several."""
    if keras.backend.backend() == "tensorflow" and not model.run_eagerly:
        model.make_predict_function()
        model.predict_function.get_concrete_function([batches.element_spec])


def predict_one_batch(model, batch):
    """What `model.predict` returns of a single batch, without a pipeline.

    On TensorFlow a pipeline takes longer to make than a small model takes to predict.

    Args:
        model: A compiled `keras.Model`.
        batch: Tuple of the inputs alone, `(inputs,)`.
    """
    tensorflow = keras.backend.backend() == "tensorflow"
    if tensorflow and not model.run_eagerly and model.predict_function is None:
        model.make_predict_function()
        model.predict_function.get_concrete_function([_any_shapes(batch)])
    return keras.ops.convert_to_numpy(model.predict_on_batch(batch[0]))


def for_any_backend(config):
    """A configuration out of a saved file, without the classes that one backend alone has.

    On PyTorch, Keras writes down its optimizers as those of this backend.
    """
    if isinstance(config, list | tuple):
        return [for_any_backend(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {name: for_any_backend(value) for name, value in config.items()}
    if str(config.get("module")).startswith("keras.src.backend.torch.optimizers."):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config


def export_arguments(format, axes, maxlen):
    """What Keras has to be told to export a model whose inputs share some of their axes.

    Args:
        format: The format of `keras.Model.export`.
        axes: Dictionary from the names of inputs to the names of their axes, such as `"length"`.
        maxlen: Integer, the greatest length.

    Returns:
        A dictionary of arguments. For JAX it says which axes are equal; Keras takes all of them
        but the batch for different ones.

    Raises:
        ValueError: on PyTorch.
    """
    if keras.backend.backend() == "torch":
        raise ValueError(
            "On PyTorch, Keras exports a model for one number of texts and one length. Save it, "
            "`model.save('model.keras')`, load the file where the backend is TensorFlow or JAX, "
            "and export it there; or give `input_signature`."
        )
    if keras.backend.backend() != "jax" or format != "tf_saved_model":
        return {}
    shapes = {name: f"({', '.join(own)})" for name, own in axes.items()}
    # Without the limit it is not known whether there are enough positions.
    limit = [f"length <= {maxlen}"]
    arguments = {"polymorphic_shapes": [shapes], "polymorphic_constraints": limit}
    # Gradients would be traced without the limit, and what is exported is not trained.
    return {"jax2tf_kwargs": {**arguments, "with_gradient": False}}


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
