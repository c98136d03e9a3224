"""Layers that Keras lacks, in keras.ops, so that they run on every backend."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="labkit")
class FractionalMaxPooling2D(keras.layers.Layer):
    """Max pooling by a ratio between 1 and 2 (or more): Graham 2014, arXiv:1412.6071.

    Rows and columns are cut into regions of two neighbouring sizes. The cuts are drawn anew for every batch
    while training. At inference they lie on a fixed grid, or with `inference="random"` are drawn there too,
    for averaging over passes.
    """

    def __init__(
        self,
        pool_ratio: float | Sequence[float],
        *,
        overlapping: bool = True,
        inference: str = "fixed",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        ratios = (pool_ratio, pool_ratio) if isinstance(pool_ratio, int | float) else tuple(pool_ratio)
        if len(ratios) != 2 or min(ratios) < 1:
            raise ValueError(f"pool_ratio must be one or two numbers of at least 1. Received: {pool_ratio}")
        if inference not in ("fixed", "random"):
            raise ValueError(f'inference must be "fixed" or "random". Received: {inference!r}')
        self.pool_ratio = ratios
        self.overlapping = overlapping
        self.inference = inference
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        drawn = training or self.inference == "random"
        for axis in (1, 2):
            length, regions = images.shape[axis], self._regions(images.shape[axis], axis)
            place = keras.random.uniform((), dtype="float32", seed=self.seed_generator) if drawn else None
            images = self._pooled(images, _cuts(length, regions, place), length // regions, axis)
        return images

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, self._regions(height, 1), self._regions(width, 2), channels

    def get_config(self):
        return super().get_config() | {
            "pool_ratio": self.pool_ratio,
            "overlapping": self.overlapping,
            "inference": self.inference,
            "seed": self.seed,
        }

    def middles(self, length: int, axis: int) -> np.ndarray:
        """Where the regions of the fixed grid lie along an axis of so many places: the middle of each."""
        cuts = ops.convert_to_numpy(_cuts(length, self._regions(length, axis), None))
        last = np.minimum(cuts[1:], length - 1) if self.overlapping else cuts[1:] - 1
        return (cuts[:-1] + last) / 2

    def _regions(self, length: int | None, axis: int) -> int:
        if length is None:
            raise ValueError("Fractional pooling needs images of a known size. Received: None")
        regions = int(length / self.pool_ratio[axis - 1] + 1e-6)  # 31 / (31 / 22) is a hair below 22
        if regions < 1:
            raise ValueError(f"Nothing is left of {length} pixels pooled by {self.pool_ratio[axis - 1]}")
        return regions

    def _pooled(self, images, cuts, shortest: int, axis: int):
        """Take the maximum over the pixels of each region, one offset after the other.

        Offsets past a region's end read its last pixel again, which leaves the maximum as it is.
        """
        starts, ends = cuts[:-1], cuts[1:]
        last = ops.minimum(ends, images.shape[axis] - 1) if self.overlapping else ends - 1
        pooled = ops.take(images, starts, axis=axis)
        for offset in range(1, shortest + 1 + self.overlapping):
            pooled = ops.maximum(pooled, ops.take(images, ops.minimum(starts + offset, last), axis=axis))
        return pooled


def _cuts(length: int, regions: int, place):
    """The ends of all regions from 0 to `length`, shifted by `place` in (0, 1), halfway when it is None.

    The highest shift is what keeps every region between `length // regions` and one pixel more.
    """
    shortest, alpha = length // regions, length / regions
    if length % regions == 0:
        return ops.arange(0, length + 1, shortest, dtype="int32")
    highest = min((shortest + 2) / alpha - 1, (length + 1 - shortest) / alpha - (regions - 1))
    inner = np.arange(1, regions)
    if place is None:
        middle = np.ceil(alpha * (inner + highest / 2)).astype("int32") - 1
        return ops.convert_to_tensor(np.concatenate([[0], middle, [length]]).astype("int32"))
    drawn = ops.cast(ops.ceil(alpha * (ops.cast(inner, "float32") + place * highest)), "int32") - 1
    return ops.concatenate([ops.zeros(1, "int32"), drawn, ops.full((1,), length, "int32")])


@keras.saving.register_keras_serializable(package="labkit")
class PatchWhitening(keras.layers.Layer):
    """A frozen first convolution that decorrelates patches of 0-255 images: Jordan 2024, arXiv:2404.00498.

    Its filters are the eigenvectors of the patches' covariance, scaled to unit variance, each with both
    signs; `adapt` computes them from training images. Until then they are a random orthonormal set.
    """

    def __init__(self, patch: int = 2, **kwargs: Any):
        super().__init__(**kwargs)
        self.patch = patch

    def build(self, input_shape):
        channels = input_shape[-1]
        inputs = self.patch * self.patch * channels
        shape = (self.patch, self.patch, channels, 2 * inputs)
        self.kernel = self.add_weight(
            name="kernel", shape=shape, initializer=_signed_orthonormal, trainable=False
        )
        self.bias = self.add_weight(name="bias", shape=(2 * inputs,), initializer="zeros", trainable=False)

    def call(self, images):
        pixels = ops.cast(images, self.compute_dtype) / 255.0
        return ops.conv(pixels, self.kernel, padding="valid") + self.bias

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height - self.patch + 1, width - self.patch + 1, 2 * self.patch**2 * channels

    def adapt(self, images: np.ndarray) -> None:
        """Fit the filters to the first 5,000 images, which hold millions of patches."""
        pixels = np.asarray(images[:5000], "float32") / 255.0
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (self.patch, self.patch), axis=(1, 2))
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, self.patch**2 * pixels.shape[-1])
        mean = patches.mean(axis=0, dtype="float64")
        covariance = (patches.T @ patches).astype("float64") / len(patches) - np.outer(mean, mean)
        variances, vectors = np.linalg.eigh(covariance)
        floor = 5e-4 * variances.mean()  # keeps the noise of all but constant directions from being blown up
        filters = vectors / np.sqrt(np.maximum(variances, 0) + floor)
        filters *= np.where(filters.sum(axis=0) < 0, -1, 1)  # eigenvectors come with either sign
        filters = np.concatenate([filters, -filters], axis=1)
        self.kernel.assign(filters.reshape(self.kernel.shape))
        self.bias.assign(-mean @ filters)

    def get_config(self):
        return super().get_config() | {"patch": self.patch}


def _signed_orthonormal(shape, dtype=None):
    """An orthonormal set of filters and its negative."""
    patch, _, channels, filters = shape
    half = keras.initializers.Orthogonal()((patch * patch * channels, filters // 2), dtype)
    return ops.reshape(ops.concatenate([half, -half], axis=1), shape)


@keras.saving.register_keras_serializable(package="labkit")
class PositionEmbedding(keras.layers.Layer):
    """Adds a vector to each token by its place: learned, or a constant drawn once from a seed."""

    def __init__(self, *, learned: bool = True, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.learned = learned
        self.seed = keras.initializers.RandomUniform(seed=seed).seed  # drawn by Keras when None

    def build(self, input_shape):
        shape = tuple(input_shape[1:])
        if self.learned:
            self.embedding = self.add_weight(name="embedding", shape=shape, initializer="uniform")
        else:
            self.embedding = np.random.default_rng(self.seed).uniform(-0.05, 0.05, shape).astype("float32")

    def call(self, tokens):
        return tokens + ops.cast(self.embedding, tokens.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"learned": self.learned, "seed": self.seed}


@keras.saving.register_keras_serializable(package="labkit")
class SettledNormalization(keras.layers.BatchNormalization):
    """Batch normalization by the statistics it has, in training too; scale and shift train as usual.

    Calling a network with `training=False` is not enough: the mode of a model around it overrides that.
    """

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


@keras.saving.register_keras_serializable(package="labkit")
class AtInference(keras.layers.Layer):
    """A network that always runs as at inference, whatever the mode of the model around it."""

    def __init__(self, network: keras.Model, **kwargs: Any):
        super().__init__(**kwargs)
        self.network = network

    def call(self, inputs):
        return self.network(inputs, training=False)

    def compute_output_shape(self, input_shape):
        return self.network.compute_output_shape(input_shape)

    def get_config(self):
        return super().get_config() | {"network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("network")), **config)


@keras.saving.register_keras_serializable(package="labkit")
class Unreached(keras.layers.Layer):
    """Passes its input through, and holds layers that a report built and never used, for its counts."""

    def __init__(self, unused: Sequence[keras.layers.Layer], **kwargs: Any):
        super().__init__(**kwargs)
        self.unused = list(unused)

    def build(self, input_shape):
        for layer in self.unused:
            if not layer.built:  # loading a model has built them already
                layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"unused": keras.saving.serialize_keras_object(self.unused)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("unused")), **config)


@keras.saving.register_keras_serializable(package="labkit")
class Marginal(keras.layers.Layer):
    """The logits of one of two heads out of the logits of all pairs, the other head summed away."""

    def __init__(self, pairs: Sequence[int], head: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.pairs = tuple(pairs)
        self.head = head

    def call(self, logits):
        return ops.logsumexp(ops.reshape(logits, (-1, *self.pairs)), axis=2 - self.head)

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.pairs[self.head]

    def get_config(self):
        return super().get_config() | {"pairs": self.pairs, "head": self.head}
