"""Blocks of 3×3 convolutions and max pooling: Simonyan 2014, arXiv:1409.1556."""

import keras
from keras import layers

from labkit.models import heads, pixels
from labkit.models.registry import Classes, Form, Shape, register

PAPER = "Simonyan 2014, arXiv:1409.1556"


@register(
    chapter="noisy_cifar",
    report="000",
    paper=PAPER,
    figure="0.6604 from noisy labels, 0.7798 from cleaned ones",
    forms=[Form(814_122, 814_122, 39.16)],
)
def vgg(input_shape: Shape, classes: Classes) -> keras.Model:
    """Three pairs of 3×3 convolutions (32, 64, 128), dropout and a dense layer of 256."""
    images = keras.Input(input_shape, name="image")
    x = pixels.jittered(pixels.unit(images), rotation=0.02, zoom=0.2)
    relu = {"activation": "relu", "kernel_initializer": "he_uniform"}
    for block, width in enumerate((32, 64, 128), start=1):
        x = layers.Conv2D(width, 3, padding="same", name=f"block{block}_conv1", **relu)(x)
        x = layers.Conv2D(width, 3, padding="same", name=f"block{block}_conv2", **relu)(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Dense(256, name="features", **relu)(x)
    return keras.Model(images, heads.logits(x, classes), name="vgg")


_CUSTOM_SIZE = [Form(2_003_339, 2_002_372, 71.75)]


@register(
    chapter="cifar100",
    report="004",
    paper=PAPER,
    classes=100,
    figure="0.5054 on validation images",
    forms=_CUSTOM_SIZE,
)
def custom_vgg(input_shape: Shape, classes: Classes) -> keras.Model:
    """Ten 3×3 convolutions in four blocks (32 to 256), one batch normalization a block, mean pooling."""
    return _custom_vgg("custom_vgg", input_shape, classes, None)


@register(
    chapter="cifar100",
    report="004",
    paper=PAPER,
    classes=100,
    figure="0.4393 on validation images",
    forms=_CUSTOM_SIZE,
)
def custom_vgg_l1(input_shape: Shape, classes: Classes, *, l1: float = 5e-4) -> keras.Model:
    """The net of `custom_vgg` with an L1 penalty on the convolutions."""
    return _custom_vgg("custom_vgg_l1", input_shape, classes, lambda: keras.regularizers.L1(l1))


@register(
    chapter="cifar100",
    report="004",
    paper=PAPER,
    classes=100,
    figure="0.4938 on validation images",
    forms=_CUSTOM_SIZE,
)
def custom_vgg_l2(input_shape: Shape, classes: Classes, *, l2: float = 5e-4) -> keras.Model:
    """The net of `custom_vgg` with an L2 penalty on the convolutions."""
    return _custom_vgg("custom_vgg_l2", input_shape, classes, lambda: keras.regularizers.L2(l2))


def _custom_vgg(name: str, input_shape, classes, penalty) -> keras.Model:
    images = keras.Input(input_shape, name="image")
    x = pixels.standard(images)
    for block, (depth, width) in enumerate(((2, 32), (2, 64), (3, 128), (3, 256)), start=1):
        for conv in range(1, depth + 1):
            x = layers.Conv2D(
                width,
                3,
                padding="same",
                activation="relu",
                kernel_regularizer=penalty and penalty(),
                name=f"block{block}_conv{conv}",
            )(x)
        x = layers.BatchNormalization(name=f"block{block}_norm")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(256, activation="relu", name="features")(x)
    x = layers.Dropout(0.3, name="dropout")(x)
    return keras.Model(images, heads.logits(x, classes), name=name)


# width and dropout after each convolution of the block
_VGG16_BLOCKS = (
    (64, (0.3, 0.0)),
    (128, (0.4, 0.0)),
    (256, (0.4, 0.4, 0.0)),
    (512, (0.4, 0.4, 0.0)),
    (512, (0.4, 0.4, 0.0)),
)


@register(
    chapter="cifar100",
    report="004",
    paper=PAPER,
    classes=100,
    figure="0.6155 on the test images, tuned",
    forms=[Form(15_047_595, 15_038_116, 313.51)],
)
def custom_vgg16(
    input_shape: Shape, classes: Classes, *, l2: float = 5e-4, dense_l2: float | None = None
) -> keras.Model:
    """Thirteen 3×3 convolutions (64 to 512), each with batch normalization, dropout and an L2 penalty."""
    images = keras.Input(input_shape, name="image")
    x = pixels.standard(images)
    for block, (width, dropouts) in enumerate(_VGG16_BLOCKS, start=1):
        for conv, dropout in enumerate(dropouts, start=1):
            x = _vgg16_convolution(x, width, dropout, l2, f"block{block}_{{}}{conv}")
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    x = layers.Dropout(0.5, name="dropout1")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    penalty = keras.regularizers.L2(l2 if dense_l2 is None else dense_l2)
    x = layers.Dense(512, activation="relu", kernel_regularizer=penalty, name="dense")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.5, name="dropout2")(x)
    return keras.Model(images, heads.logits(x, classes), name="custom_vgg16")


def _vgg16_convolution(x, width: int, dropout: float, l2: float, name: str):
    penalty = keras.regularizers.L2(l2)
    x = layers.Conv2D(
        width, 3, padding="same", activation="relu", kernel_regularizer=penalty, name=name.format("conv")
    )(x)
    x = layers.BatchNormalization(name=name.format("norm"))(x)
    return layers.Dropout(dropout, name=name.format("dropout"))(x) if dropout else x
