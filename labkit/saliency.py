"""Where a network of several heads looks: by the slopes of its logits, or by hiding parts of the image."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from labkit.errors import ModelError
from labkit.models.layers import FractionalMaxPooling2D

Targets = Mapping[str, np.ndarray]  # of each head, the class to ask about in each image
Maps = dict[str, np.ndarray]  # of each head, a value of at least 0 for each pixel of each image


def class_maps(model: keras.Model, images: np.ndarray, targets: Targets, *, layer: str | None = None) -> Maps:
    """Class activation maps: where the activations of a layer raise the logit of a class.

    A channel counts by the mean slope of the logit over its map (Selvaraju 2016, arXiv:1610.02391). The layer
    is the last ReLU whose map is at least a quarter as wide as the image, unless one is named. The layers up
    to it have to follow one another, so that each place of its map has a place in the image.
    """
    chain = _chain(model, layer or _last_large_map(model))
    activations = keras.Model(model.inputs, chain[-1].output)([images], training=False)
    rest = keras.Model(chain[-1].output, model.output)
    values = ops.convert_to_numpy(activations)
    maps = {}
    for head, classes in targets.items():
        shares = _slopes(rest, head, classes, activations).mean(axis=(1, 2), keepdims=True)
        maps[head] = _over_pixels(np.maximum((shares * values).sum(axis=-1), 0), chain, images.shape[1:3])
    return maps


def hiding_maps(
    model: keras.Model, images: np.ndarray, targets: Targets, *, patch: int = 8, step: int = 4
) -> Maps:
    """How much of a class's probability goes when a patch turns grey (Zeiler 2013, arXiv:1311.2901).

    It asks the same as a class activation map, of any network, and owes nothing to its inner layers.
    """
    height, width = images.shape[1:3]
    corners = [(y, x) for y in range(0, height - patch + 1, step) for x in range(0, width - patch + 1, step)]
    lost = {head: np.zeros(images.shape[:3]) for head in targets}
    counts = np.zeros((height, width))
    whole = _probabilities(model, images, targets)
    for y, x in corners:
        hidden = images.copy()
        hidden[:, y : y + patch, x : x + patch] = 128
        found = _probabilities(model, hidden, targets)
        counts[y : y + patch, x : x + patch] += 1
        for head in targets:
            loss = np.maximum(whole[head] - found[head], 0)
            lost[head][:, y : y + patch, x : x + patch] += loss[:, None, None]
    return {head: maps / np.maximum(counts, 1) for head, maps in lost.items()}


def agreement(some: Maps, others: Maps) -> tuple[float, float]:
    """How maps of the same images correlate over pixels, and how maps of different images do."""
    correlations = np.stack([_standardized(some[head]) @ _standardized(others[head]).T for head in some])
    told = ~np.isnan(correlations)
    same = np.eye(correlations.shape[-1], dtype=bool)
    pairs = (correlations[told & which] for which in (same, ~same))
    of_same, of_different = (float(found.mean()) if found.size else np.nan for found in pairs)
    return of_same, of_different


def _standardized(maps: np.ndarray) -> np.ndarray:
    """Each map as a row of mean 0 and length 1; one without any place correlates with nothing, and is nan."""
    rows = maps.reshape(len(maps), -1) - maps.mean(axis=(1, 2))[:, None]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, np.nan)


def _probabilities(model: keras.Model, images: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
    logits = model.predict_on_batch(images)
    shares = {head: np.asarray(ops.softmax(logits[head])) for head in targets}
    return {head: shares[head][np.arange(len(images)), targets[head]] for head in targets}


def _last_large_map(model: keras.Model) -> str:
    width = model.inputs[0].shape[2]
    large = [
        layer.name
        for layer in model.layers
        if isinstance(layer, layers.ReLU | layers.LeakyReLU) and 4 * layer.output.shape[2] >= width
    ]
    if not large:
        raise ModelError(
            f"{model.name} has no ReLU whose map is a quarter as wide as the image.",
            mend='Name a layer with maps: class_maps(…, layer="…").',
        )
    return large[-1]


def _chain(model: keras.Model, last: str) -> Sequence[keras.layers.Layer]:
    names = [layer.name for layer in model.layers]
    if last not in names:
        raise ModelError(f"{model.name} has no layer {last!r}.", expected=", ".join(names))
    chain = model.layers[: names.index(last) + 1]
    joined = [layer.name for layer in chain if isinstance(layer.input, list | tuple) and len(layer.input) > 1]
    if joined or len(chain[-1].output.shape) != 4:
        raise ModelError(
            f"Layer {last!r} of {model.name} does not map places of the image one after another.",
            expected="a layer with maps, before the first that joins two",
            mend="Ask hiding_maps, which takes any network.",
        )
    return chain


def _slopes(rest: keras.Model, head: str, classes: np.ndarray, activations: Any) -> np.ndarray:
    """The gradient of each image's logit of its class by the activations."""
    chosen = ops.one_hot(classes, rest.output[head].shape[-1])

    def logits(values: Any) -> Any:
        return ops.sum(rest(values, training=False)[head] * chosen)  # no image's logit knows another image

    return ops.convert_to_numpy(_gradient(logits, activations))


def _gradient(function: Callable[[Any], Any], values: Any) -> Any:
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(values)
                result = function(values)
            return tape.gradient(result, values)
        case "jax":
            import jax

            return jax.grad(function)(values)
    values = values.detach().requires_grad_()
    function(values).backward()
    return values.grad


def _over_pixels(maps: np.ndarray, chain: Sequence[keras.layers.Layer], size: Sequence[int]) -> np.ndarray:
    """Maps as large as the image: a value lies in the middle of what it sees, linear in between."""
    rows, columns = (_shares(_middles(chain, axis), pixels) for axis, pixels in enumerate(size, start=1))
    return np.einsum("ap,npq,bq->nab", rows, maps, columns)


def _shares(middles: np.ndarray, pixels: int) -> np.ndarray:
    """How much each place of a map counts at each pixel of a line."""
    return np.stack([np.interp(np.arange(pixels), middles, one) for one in np.eye(len(middles))], axis=1)


def _middles(chain: Sequence[keras.layers.Layer], axis: int) -> np.ndarray:
    """The pixel in the middle of what each place along an axis of the last map sees."""
    middles = np.arange(chain[0].output.shape[axis], dtype=float)
    for previous, layer in itertools.pairwise(chain):
        before, after = previous.output.shape[axis], layer.output.shape[axis]
        middles = np.interp(_seen(layer, before, after, axis), np.arange(before), middles)
    return middles


def _seen(layer: keras.layers.Layer, before: int, after: int, axis: int) -> np.ndarray:
    """For each place of a layer's map, where the middle of what it sees lies in the map before it."""
    places = np.arange(after)
    match layer:
        case FractionalMaxPooling2D():
            return layer.middles(before, axis)
        case layers.Conv2D(padding="valid"):
            return places * layer.strides[axis - 1] + (layer.kernel_size[axis - 1] - 1) / 2
        case layers.ZeroPadding2D():
            return places - layer.padding[axis - 1][0]
    return (places + 0.5) * before / after - 0.5  # what is before it, evenly
