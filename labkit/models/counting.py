"""The size of a model: its parameters, and the multiply-adds of one image."""

from math import prod

import keras
from keras import layers

from labkit.models.layers import AtInference, PatchWhitening
from labkit.models.registry import Counts

_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_MULTIPLYING = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.Dense,
    PatchWhitening,
)


def counts(model: keras.Model) -> Counts:
    """Parameters of a model, as Keras lists them in `weights`: without the states of random generators."""
    total = sum(prod(weight.shape) for weight in model.weights)
    trainable = sum(prod(weight.shape) for weight in model.trainable_weights)
    return Counts(total, trainable, total - trainable)


def macs(model: keras.Model) -> int:
    """Multiply-adds of one forward pass of one image, in convolutions, dense layers and attention."""
    return sum(_layer_macs(layer) for layer in model.layers)


def _layer_macs(layer: keras.layers.Layer) -> int:
    if isinstance(layer, keras.Model):
        return macs(layer)
    if isinstance(layer, AtInference):
        return macs(layer.network)
    if isinstance(layer, layers.MultiHeadAttention):
        return _attention_macs(layer)
    if isinstance(layer, layers.Dot):
        return prod(layer.output.shape[1:]) * layer.input[0].shape[layer.axes[0]]
    if not isinstance(layer, _MULTIPLYING):
        return 0
    positions = prod(layer.output.shape[1:-1])
    return positions * sum(
        prod(getattr(layer, kernel).shape) for kernel in _KERNELS if hasattr(layer, kernel)
    )


def _attention_macs(layer: layers.MultiHeadAttention) -> int:
    """Four projections of every token, then each token's scores and weighted sum over all tokens."""
    tokens, _ = layer.output.shape[1:]
    projections = sum(prod(weight.shape) for weight in layer.weights if weight.name == "kernel")
    return tokens * projections + 2 * tokens**2 * layer.num_heads * layer.key_dim
