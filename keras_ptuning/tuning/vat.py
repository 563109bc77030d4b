"""Virtual adversarial training, the semi-supervised baseline: a classifier that stays its mind."""

import math

import keras
from keras import ops

from keras_ptuning.tuning.finetuning import TextClassifier, _classifier_arguments

# How far the random direction is followed to find the adversarial one, in the unit of `epsilon`:
# near enough for the curvature to rule, far enough to be seen in single precision.
XI = 0.1


@keras.saving.register_keras_serializable(package="keras_ptuning")
class VATClassifier(TextClassifier):
    """A `TextClassifier` that learns from texts without a label too.

    Made by `build_vat_classifier`, whose documentation has the arguments. `evaluate` and `predict`
    are those of a `TextClassifier`. `fit` adds to the mean cross-entropy of the labels, in each
    batch, the mean over all of its texts of how much the prediction changes, as a Kullback-Leibler
    divergence, where the token embeddings are moved in the direction that changes it most.
    """

    learns_from_unlabeled = True

    def __init__(self, config, template, checkpoint_path=None, epsilon=0.5, name=None, **kwargs):
        if not 0 < epsilon < math.inf:
            raise ValueError(f"`epsilon` must be positive and finite. Received: {epsilon!r}.")
        super().__init__(config, template, checkpoint_path, name, **kwargs)
        self.epsilon = epsilon
        self.seed_generator = keras.random.SeedGenerator()
        embeddings = self.backbone.get_layer("Embedding-Token").output
        rest = keras.Model([embeddings, *self.backbone.inputs], self.backbone.output)
        # In a function Keras does not find this second way into the layers, which it would save
        # and count as further ones.
        self._read_embeddings = lambda x, inputs: rest([x, *inputs], training=False)

    def call(self, inputs, training=False):
        scores = super().call(inputs, training=training)
        if not training:
            return scores
        return {"scores": scores, "divergence": self._divergence(inputs)}

    def _divergence(self, inputs):
        """How much the adversarial perturbation of each text changes its prediction."""
        token_ids, segment_ids = (
            ops.convert_to_tensor(inputs[name]) for name in ("token_ids", "segment_ids")
        )
        named = {"Input-Token": token_ids, "Input-Segment": segment_ids}
        x = self.backbone.get_layer("Embedding-Token")(token_ids)
        # A perturbation may be too small for half precision.
        x = ops.cast(x, "float32")

        # Without dropout: two masks make two predictions, and what the masks change would pass
        # for what the perturbation does.
        def log_p(x):
            y = self._read_embeddings(x, [named[i.name] for i in self.backbone.inputs])
            return ops.log_softmax(self.classifier(y[:, 0]))

        clean = ops.stop_gradient(log_p(x))
        r = self._perturbation(x, token_ids, lambda x: _divergences(clean, log_p(x)))
        return _divergences(clean, log_p(x + r))

    def _perturbation(self, x, token_ids, divergences):
        """The direction of greatest divergence, by one step of the power method."""
        x = ops.stop_gradient(x)
        tokens = ops.cast(ops.not_equal(token_ids, 0), "float32")[..., None]
        squares = ops.sum(ops.square(x) * tokens, axis=(1, 2), keepdims=True)
        unit = ops.sqrt(squares / ops.sum(tokens, axis=(1, 2), keepdims=True))
        d = keras.random.normal(ops.shape(x), dtype="float32", seed=self.seed_generator)
        d = XI * unit * _normalized(d * tokens)
        g = _gradient(lambda d: ops.sum(divergences(x + d)), d)
        return ops.stop_gradient(self.epsilon * unit * _normalized(g * tokens))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = super().compute_loss(x, y, y_pred["scores"], sample_weight, training)
        return loss + ops.mean(y_pred["divergence"])

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


def _divergences(log_p, log_q):
    """The Kullback-Leibler divergence of each row."""
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def _normalized(x):
    """Each text's array with the norm 1; or 0 where it is nothing but zeros."""
    # First by the largest, since the squares of a sure prediction's gradients may be too small.
    x = x / ops.maximum(ops.max(ops.abs(x), axis=(1, 2), keepdims=True), 1e-30)
    norm = ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True))
    return x / ops.maximum(norm, 1e-30)


def _gradient(function, x):
    """The gradient of a function that returns one number."""
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


def build_vat_classifier(config_path, checkpoint_path=None, template=None, epsilon=0.5, **kwargs):
    """Builds the classifier of `build_classifier`, with virtual adversarial training."""
    arguments = _classifier_arguments(config_path, checkpoint_path, template)
    return VATClassifier(*arguments, epsilon=epsilon, **kwargs)
