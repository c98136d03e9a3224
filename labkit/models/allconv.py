"""Nets without pooling layers, for two images in one: Springenberg 2014, arXiv:1412.6806."""

import keras
from keras import layers

from labkit.models import heads, pixels
from labkit.models.registry import Classes, Form, Shape, register

PAPER = "Springenberg 2014, arXiv:1412.6806"
_TWO_HEADS = {"first": 5, "second": 5}
_ACCN_SIZE = [Form(1_374_730, 1_372_234, 135.11)]
# width, kernel, stride
_ACCN = (
    (96, 3, 1),
    (96, 3, 1),
    (96, 3, 2),
    (192, 3, 1),
    (192, 3, 1),
    (192, 3, 2),
    (192, 3, 1),
    (192, 1, 1),
)


@register(
    chapter="dual_cifar",
    report="003",
    paper=PAPER,
    classes=_TWO_HEADS,
    forms=_ACCN_SIZE,
)
def accn(
    input_shape: Shape,
    classes: Classes,
    *,
    flip=False,
    l2=0.0,
    slope=0.0,
    joint: tuple[int, int] | None = None,
) -> keras.Model:
    """Eight unpadded convolutions, two of them strided, mean pooling and two heads.

    `slope` is that of the ReLUs below zero; `joint=(5, 5)` gives one head for all 25 pairs, summed into two.
    """
    images = keras.Input(input_shape, name="image")
    x = pixels.unit(images)
    if flip:
        x = layers.RandomFlip("horizontal", dtype="float32", name="flip")(x)
    x = _eight_convolutions(x, slope)
    outputs = heads.joint_logits(x, classes, joint) if joint else heads.logits(x, classes, l2=l2)
    return keras.Model(images, outputs, name="accn")


@register(
    chapter="dual_cifar",
    report="003",
    paper=PAPER,
    classes=_TWO_HEADS,
    figure="0.7717, mean of both heads",
    as_run="The random flip is cut off from the model, which trains without augmentation.",
    forms=[*_ACCN_SIZE, Form(1_374_730, 1_372_234, 135.11, {"as_run": True})],
)
def accnrr(input_shape: Shape, classes: Classes, *, as_run: bool = False) -> keras.Model:
    """The net of `accn` with random flips and an L2 penalty on the heads."""
    model = accn(input_shape, classes, flip=not as_run, l2=0.001)
    return keras.Model(model.input, model.output, name="accnrr")


@register(
    chapter="dual_cifar",
    report="003",
    paper=PAPER,
    classes=_TWO_HEADS,
    figure="0.7453, mean of both heads",
    forms=_ACCN_SIZE,
)
def accnl(input_shape: Shape, classes: Classes) -> keras.Model:
    """The net of `accn` with leaky ReLUs (slope 0.3)."""
    model = accn(input_shape, classes, slope=0.3)
    return keras.Model(model.input, model.output, name="accnl")


def _eight_convolutions(x, slope: float):
    for number, (width, kernel, stride) in enumerate(_ACCN, start=1):
        x = layers.Conv2D(width, kernel, strides=stride, name=f"conv{number}")(x)
        x = layers.ReLU(negative_slope=slope, name=f"relu{number}")(x)
        x = layers.BatchNormalization(name=f"norm{number}")(x)
    return layers.GlobalAveragePooling2D(name="mean")(x)


@register(
    chapter="dual_cifar",
    report="003",
    paper=PAPER,
    classes=_TWO_HEADS,
    figure="0.7037 on validation images, mean of both heads",
    as_run="The last convolution of the fourth stage is 960 wide instead of 1280.",
    forms=[
        Form(73_786_570, 73_776_970, 26_465.29),
        Form(70_098_570, 70_089_610, 26_355.1, {"as_run": True}),
        Form(73_786_570, 73_776_970, 26_465.29, {"padded": True}),
    ],
)
def lacnn(input_shape: Shape, classes: Classes, *, padded: bool = False, as_run: bool = False) -> keras.Model:
    """Sixteen 2×2 convolutions up to 1920 wide on images enlarged to 126×126: 26 billion multiply-adds.

    Images are scaled to that size as in the report, or `padded` with black.
    """
    images = keras.Input(input_shape, name="image")
    x = enlarged(pixels.unit(images), padded=padded)
    for stage, width in enumerate((320, 640, 960, 1280, 1600), start=1):
        last = 960 if as_run and stage == 4 else width
        for conv, (filters, stride) in enumerate(((width, 1), (width, 1), (last, 2)), start=1):
            x = _leaky_convolution(x, filters, stride, f"stage{stage}_conv{conv}")
        x = layers.BatchNormalization(name=f"stage{stage}_norm")(x)
    x = _leaky_convolution(x, 1920, 1, "conv")
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(images, heads.logits(x, classes, l2=0.001), name="lacnn")


def enlarged(images: keras.KerasTensor, *, padded: bool) -> keras.KerasTensor:
    """Images of 126×126: with a black border around the pixels there are, or with pixels between them."""
    if not padded:
        return layers.Resizing(126, 126, dtype="float32", name="enlarge")(images)
    border = [((126 - side) // 2, (127 - side) // 2) for side in images.shape[1:3]]
    return layers.ZeroPadding2D(border, dtype="float32", name="enlarge")(images)


def _leaky_convolution(x, width: int, stride: int, name: str):
    x = layers.Conv2D(width, 2, strides=stride, name=name)(x)
    return layers.LeakyReLU(0.3, name=f"{name}_relu")(x)
