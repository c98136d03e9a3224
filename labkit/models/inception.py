"""Parallel convolutions of several sizes: Szegedy 2014, arXiv:1409.4842."""

import keras
from keras import layers

from labkit.models import heads, pixels
from labkit.models.registry import Classes, Form, Shape, register


@register(
    chapter="animals",
    report="002",
    paper="Szegedy 2014, arXiv:1409.4842",
    input_shape=(100, 100, 3),
    classes=5,
    figure="0.8484",
    as_run="No convolution has an activation.",
    forms=[
        Form(14_633_877, 14_632_725, 7_546.61),
        Form(14_633_877, 14_632_725, 7_546.61, {"as_run": True}),
    ],
)
def inception(input_shape: Shape, classes: Classes, *, as_run: bool = False) -> keras.Model:
    """Three inception modules, each followed by a 7×7 convolution, and a dense layer of 1000."""
    activation = None if as_run else "relu"
    images = keras.Input(input_shape, name="image")
    x = pixels.unit(images)
    for stage in (1, 2, 3):
        if stage > 1:
            x = layers.MaxPooling2D(name=f"pool{stage - 1}")(x)
        x = _module(x, activation, f"module{stage}")
        x = layers.BatchNormalization(name=f"norm{stage}")(x)
        x = layers.Conv2D(64, 7, activation=activation, name=f"conv{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(1000, activation="relu", name="features")(x)
    return keras.Model(images, heads.logits(x, classes), name="inception")


# width and kernel of the convolutions of each branch; the third begins with a max pooling
_BRANCHES = (((32, 1),), ((32, 1), (32, 3)), ((64, 1),), ((64, 1), (64, 3), (64, 3)))


def _module(x, activation: str | None, name: str):
    branches = []
    for branch, convolutions in enumerate(_BRANCHES, start=1):
        y = x
        if branch == 3:
            y = layers.MaxPooling2D(2, 1, padding="same", name=f"{name}_pool")(y)
        for conv, (width, kernel) in enumerate(convolutions, start=1):
            y = layers.Conv2D(
                width, kernel, padding="same", activation=activation, name=f"{name}_branch{branch}_conv{conv}"
            )(y)
        branches.append(y)
    return layers.Concatenate(name=f"{name}_concat")(branches)
