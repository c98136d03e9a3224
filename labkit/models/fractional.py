"""Pooling by less than two, so that a small image lasts for more layers: Graham 2014, arXiv:1412.6071."""

import keras
from keras import layers

from labkit.models import heads, pixels
from labkit.models.layers import FractionalMaxPooling2D
from labkit.models.registry import Classes, Form, Shape, register

# width of the convolution and ratio of the pooling after it: 31→22, 21→15, 14→10, 9→6, 5→4, 3→2 for 32 pixels
_STAGES = ((32, 31 / 22), (64, 21 / 15), (96, 14 / 10), (128, 9 / 6), (160, 5 / 4), (192, 3 / 2))


@register(
    chapter="dual_cifar",
    report="003",
    paper="Graham 2014, arXiv:1412.6071",
    classes={"first": 5, "second": 5},
    figure="0.6970, mean of both heads",
    as_run="Pooling regions are drawn at random at inference too, so two passes differ.",
    forms=[Form(474_410, 474_410, 16.12), Form(474_410, 474_410, 16.12, {"as_run": True})],
)
def fmp3(
    input_shape: Shape,
    classes: Classes,
    *,
    overlapping: bool = True,
    inference: str = "fixed",
    as_run: bool = False,
) -> keras.Model:
    """Six 2×2 convolutions, each followed by fractional max pooling, and two heads."""
    images = keras.Input(input_shape, name="image")
    x = pixels.unit(images)
    for stage, (width, ratio) in enumerate(_STAGES, start=1):
        x = _leaky_convolution(x, width, 2, f"conv{stage}")
        x = FractionalMaxPooling2D(
            ratio,
            overlapping=overlapping,
            inference="random" if as_run else inference,
            name=f"pool{stage}",
        )(x)
    x = _leaky_convolution(x, 192, 2, "conv7")
    x = _leaky_convolution(x, 192, 1, "conv8")
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    return keras.Model(images, heads.logits(x, classes), name="fmp3")


def _leaky_convolution(x, width: int, kernel: int, name: str):
    x = layers.Conv2D(width, kernel, name=name)(x)
    return layers.LeakyReLU(0.3, name=f"{name}_relu")(x)
