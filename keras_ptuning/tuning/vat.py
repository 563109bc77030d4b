"""Virtual adversarial training, the semi-supervised baseline: predictions that stay the same."""

from typing import Any

import keras
from keras import ops

from keras_ptuning.backend import build_model, gradient
from keras_ptuning.checks import Config, Path, check_positive
from keras_ptuning.methods.method import Tune
from keras_ptuning.text.templates import PlainText
from keras_ptuning.tuning.base import divergences, mean_over_texts
from keras_ptuning.tuning.classifier import TextClassifier, find_classifier

# How far to go in the random direction to find the adversarial one, in the unit of `epsilon`: near
# enough for the divergence to be quadratic, far enough to be told from rounding errors.
XI = 0.1


@keras.saving.register_keras_serializable(package="keras_ptuning")
class VATClassifier(TextClassifier):
    """A `TextClassifier` that learns from texts without a label too.

    Made by `build_vat_classifier`, whose documentation has the arguments. `evaluate` and `predict`
    are those of a `TextClassifier`. The loss of `fit` is, for each batch, the mean cross-entropy of
    its labels, plus the mean over all its texts of how much a prediction changes (as a
    Kullback-Leibler divergence) where the token embeddings are moved in the direction that changes
    it most.
    """

    learns_from_unlabeled = True

    def __init__(
        self,
        config,
        template,
        tune="all",
        epsilon=0.5,
        checkpoint=None,
        name=None,
        **kwargs,
    ):
        check_positive("epsilon", epsilon)
        super().__init__(config, template, tune, checkpoint, name, **kwargs)
        self.epsilon = float(epsilon)
        self.seed_generator = keras.random.SeedGenerator()
        embeddings = self.backbone.get_layer("Embedding-Token").output
        rest = keras.Model([embeddings, *self.backbone.inputs], self.backbone.output)
        # In a function, where Keras does not find it: it has no layers but those of the backbone.
        self._read_embeddings = lambda x, inputs: rest([x, *inputs], training=False)

    def call(self, inputs, training=False):
        found = super().call(inputs, training=training)
        if not training:
            return found
        found = found if isinstance(found, dict) else {"scores": found}
        return {**found, "divergence": self._divergence(inputs)}

    def _divergence(self, inputs):
        """How much the adversarial perturbation of each text changes its prediction."""
        token_ids = ops.convert_to_tensor(inputs["token_ids"])
        inputs = self.backbone_inputs(inputs)
        x = self.backbone.get_layer("Embedding-Token")(token_ids)
        # A perturbation may be too small for half precision.
        x = ops.cast(x, "float32")

        # Without dropout, which changes predictions more than a small perturbation does: what two
        # different dropout masks do would be taken for it.
        def log_p(x):
            return self.log_probs(self._read_embeddings(x, inputs))

        clean = ops.stop_gradient(log_p(x))
        r = self._perturbation(x, token_ids, lambda x: divergences(clean, log_p(x)))
        return divergences(clean, log_p(x + r))

    def _perturbation(self, x, token_ids, distances):
        """The direction of greatest divergence, by one step of the power method."""
        x = ops.stop_gradient(x)
        is_token = self.backbone.transformer.is_token(token_ids)
        tokens = ops.cast(is_token, "float32")[..., None]
        squares = ops.sum(ops.square(x) * tokens, axis=(1, 2), keepdims=True)
        unit = ops.sqrt(squares / ops.sum(tokens, axis=(1, 2), keepdims=True))
        d = keras.random.normal(ops.shape(x), dtype="float32", seed=self.seed_generator)
        d = XI * unit * _normalized(d * tokens)
        g = gradient(lambda d: ops.sum(distances(x + d)), d)
        # It is 0 at padding, which no token sees.
        return ops.stop_gradient(self.epsilon * unit * _normalized(g))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + mean_over_texts(y_pred["divergence"], x)

    def _options(self):
        return {"epsilon": self.epsilon}


def _normalized(x):
    """Each text's array with the norm 1; or 0 where it is nothing but zeros."""
    # First by the largest, since the squares of a sure prediction's gradients may be too small.
    x = x / ops.maximum(ops.max(ops.abs(x), axis=(1, 2), keepdims=True), 1e-30)
    norm = ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True))
    return x / ops.maximum(norm, 1e-30)


def build_vat_classifier(
    config_path: Config,
    checkpoint_path: Path | None = None,
    template: PlainText | None = None,
    tune: Tune = "all",
    epsilon: float = 0.5,
    **kwargs: Any,
) -> VATClassifier:
    """Builds the classifier of `build_classifier`, to be trained on texts without labels too.

    A text without a label still has a prediction, which should not change with a small change of
    the text. Virtual adversarial training finds the change of the token embeddings that matters
    most, by one step of the power method, and makes it matter less. It takes about three times as
    long as training without.

    Args:
        config_path, checkpoint_path, template, tune: As `build_classifier` takes them.
        epsilon: Float, the size of the change of a text: the norm of the change of all its token
            embeddings together, in units of the length of one of them (the root mean square in
            this text). So it is the same for all checkpoints, and for texts of any length.
            Defaults to `0.5`.
        **kwargs: Other arguments of `build_transformer_model`, such as `dropout_rate`, `dtype`;
            and `data_parallel`, as `build_ptuning_model` takes it.

    Returns:
        A `VATClassifier`.

    Raises:
        FileNotFoundError: if the configuration or (a part of) the checkpoint does not exist.
        TypeError: if `template` is not a `PlainText`.
        ValueError: if `epsilon` is no positive number, or for the reasons of
            `build_classifier`.

    Example:

    ```python
    plain = PlainText(["负面", "正面"], "bert-mini-zh")
    model = build_vat_classifier("bert-mini-zh", template=plain)
    model.compile(keras.optimizers.Adam(2e-5))
    model.fit(plain.dataset(texts, labels, unlabeled=more_texts), epochs=10)
    plain.decode(model.predict(plain.dataset(new_texts)))
    ```

    Reference:
        - [Miyato et al., 2017](https://arxiv.org/abs/1704.03976), section 3; on the embeddings of
          texts: [Miyato et al., 2016](https://arxiv.org/abs/1605.07725), section 3.
        - Of a BERT: [Su, 2020](https://kexue.fm/archives/7466).
    """
    model = kwargs.get("model")
    config, checkpoint = find_classifier(config_path, checkpoint_path, template, model)
    kwargs = {"tune": tune, "epsilon": epsilon, "checkpoint": checkpoint, **kwargs}
    return build_model(VATClassifier, config, template, **kwargs)
