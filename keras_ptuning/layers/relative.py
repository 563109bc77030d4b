"""T5's relative positions: a trained number for each head and range of distances."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ptuning.backend import for_dense_gradient


def find_buckets(buckets, max_distance, bidirectional):
    """The number of the bucket of each distance.

    Half of the buckets are for one distance each; the others grow with the logarithm, and the last
    one has all that is far.

    Args:
        buckets: Integer. How many there are.
        max_distance: Integer. From here on, distances are alike.
        bidirectional: Whether what comes after a token has buckets of its own, the second half of
            them. Otherwise all of it is in bucket 0.

    Returns:
        An integer array of shape `(2 * max_distance + 1,)`: the buckets of the distances
        `-max_distance`, ..., `max_distance` from the token that looks to the one it looks at.

    Example:

    >>> find_buckets(8, 4, bidirectional=True).tolist()
    [3, 3, 2, 1, 0, 5, 6, 7, 7]
    >>> find_buckets(4, 4, bidirectional=False).tolist()
    [3, 3, 2, 1, 0, 0, 0, 0, 0]

    Reference:
        - [Raffel et al., 2019](https://arxiv.org/abs/1910.10683), section 2.1.
    """
    distances = np.arange(-max_distance, max_distance + 1)
    count = buckets // 2 if bidirectional else buckets
    start = np.where(distances > 0, count, 0) if bidirectional else 0
    far = np.abs(distances) if bidirectional else np.maximum(-distances, 0)
    exact = count // 2
    # In float32, as the checkpoints were trained: on a border it decides.
    share = np.log(np.maximum(far, 1).astype("float32") / np.float32(exact))
    share = share / np.float32(np.log(max_distance / exact)) * np.float32(count - exact)
    coarse = np.minimum(exact + share.astype("int32"), count - 1)
    return (start + np.where(far < exact, far, coarse)).astype("int32")


@keras.saving.register_keras_serializable(package="keras_ptuning")
class RelativeBias(keras.layers.Layer):
    """A number for each pair of tokens and head, by how far they are apart, to add to scores.

    Args:
        heads: Integer. Number of attention heads.
        buckets: Integer. How many ranges of distances have a number. Defaults to `32`.
        max_distance: Integer. From here on, distances are alike. Defaults to `128`.
        bidirectional: Whether what comes after a token has numbers of its own. Defaults to `True`.
        embeddings_initializer: Initializer of the numbers.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        queries: Integer tensor of shape `(1 or batch, n)`, the positions of the tokens that look.
        keys: Integer tensor of shape `(1 or batch, m)`, of those that they look at.

    Returns:
        Tensor of shape `(1 or batch, heads, n, m)`.

    Raises:
        ValueError: if there are no buckets for one distance each, or none left for others up to
            `max_distance`.

    Example:

    >>> import numpy as np
    >>> tuple(RelativeBias(heads=2)(np.arange(3)[None], np.arange(5)[None]).shape)
    (1, 2, 3, 5)

    Reference:
        - [Raffel et al., 2019](https://arxiv.org/abs/1910.10683), section 2.1.
    """

    def __init__(
        self,
        heads: int,
        buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.buckets = buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        exact = buckets // (4 if bidirectional else 2)
        if not 0 < exact < max_distance:
            raise ValueError(
                f"`buckets` must be at least {4 if bidirectional else 2}, and `max_distance` "
                f"greater than {exact}, the number of buckets for one distance each. Received: "
                f"buckets={buckets}, max_distance={max_distance}, bidirectional={bidirectional}."
            )
        self._buckets = find_buckets(buckets, max_distance, bidirectional)

    def build(self, queries_shape, keys_shape=None):
        self.embeddings = self.add_weight(
            shape=(self.buckets, self.heads),
            initializer=self.embeddings_initializer,
            name="embeddings",
        )

    def call(self, queries, keys):
        distance = ops.cast(keys, "int32")[:, None, :] - ops.cast(queries, "int32")[:, :, None]
        limit = self.max_distance
        bucket = ops.take(self._buckets, ops.clip(distance, -limit, limit) + limit, axis=0)
        numbers = ops.take(for_dense_gradient(self.embeddings), bucket, axis=0)
        return ops.transpose(numbers, (0, 3, 1, 2))

    def compute_output_spec(self, queries, keys):
        batch = queries.shape[0] if keys.shape[0] == 1 else keys.shape[0]
        shape = (batch, self.heads, queries.shape[1], keys.shape[1])
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "buckets": self.buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
