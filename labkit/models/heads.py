"""Where predictions leave a model: logits, one tensor for one head, a dict for two."""

from collections.abc import Sequence

import keras
from keras import layers

from labkit.errors import ModelError
from labkit.models.layers import Marginal


def logits(
    features: keras.KerasTensor,
    classes: int | dict[str, int],
    *,
    l2: float | None = None,
) -> keras.KerasTensor | dict[str, keras.KerasTensor]:
    """A linear layer for each head, in float32 even under mixed precision."""
    if isinstance(classes, int):
        return _head(classes, "logits", l2)(features)
    return {head: _head(count, head, l2)(features) for head, count in classes.items()}


def joint_logits(
    features: keras.KerasTensor, classes: dict[str, int], pairs: Sequence[int]
) -> dict[str, keras.KerasTensor]:
    """One head for all pairs of classes, summed over the other head's classes for each of two."""
    if tuple(classes.values()) != tuple(pairs):
        raise ModelError(
            f"joint={tuple(pairs)!r} does not go with classes {classes!r}.",
            expected="the number of classes of the first head and of the second",
        )
    joint = logits(features, pairs[0] * pairs[1])
    return {
        head: Marginal(pairs, number, dtype="float32", name=head)(joint)
        for number, head in enumerate(classes)
    }


def _head(count: int, name: str, l2: float | None) -> layers.Dense:
    regularizer = keras.regularizers.L2(l2) if l2 else None
    return layers.Dense(count, kernel_regularizer=regularizer, dtype="float32", name=name)
