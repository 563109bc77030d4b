"""Derivatives written by hand, where those of TensorFlow take more passes over the numbers."""

import functools

from keras import ops


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
