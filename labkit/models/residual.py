"""Residual nets: He 2015, arXiv:1512.03385."""

import keras
from keras import layers

from labkit.models import heads, pixels
from labkit.models.layers import Unreached
from labkit.models.registry import Classes, Form, Shape, register

PAPER = "He 2015, arXiv:1512.03385"


@register(
    chapter="noisy_cifar",
    report="000",
    paper=PAPER,
    figure='0.6370 from noisy labels, 0.6344 from cleaned ones (there named "ResNet20")',
    forms=[Form(103_306, 102_826, 14.60)],
)
def resnet8(input_shape: Shape, classes: Classes) -> keras.Model:
    """Three residual blocks, one a stage (16, 32, 64), and a dense layer of 64."""
    return _cifar_resnet("resnet8", input_shape, classes, blocks=1)


@register(
    chapter="noisy_cifar",
    report="000",
    paper=PAPER,
    figure="not run: what the report names ResNet20 is a ResNet8",
    forms=[Form(299_082, 297_706, 42.91)],
)
def resnet20(input_shape: Shape, classes: Classes) -> keras.Model:
    """Nine residual blocks, three a stage (16, 32, 64), and a dense layer of 64."""
    return _cifar_resnet("resnet20", input_shape, classes, blocks=3)


@register(
    chapter="noisy_cifar",
    report="000",
    paper=PAPER,
    figure="0.6724 from noisy labels, 0.8120 from cleaned ones",
    forms=[Form(690_634, 687_466, 99.54)],
)
def resnet44(input_shape: Shape, classes: Classes) -> keras.Model:
    """Twenty-one residual blocks, seven a stage (16, 32, 64), and a dense layer of 64."""
    return _cifar_resnet("resnet44", input_shape, classes, blocks=7)


def _cifar_resnet(name: str, input_shape, classes, *, blocks: int) -> keras.Model:
    images = keras.Input(input_shape, name="image")
    x = pixels.jittered(pixels.unit(images), rotation=0.02, zoom=0.2)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _cifar_block(x, width, stride, f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Dense(64, activation="relu", name="features")(x)
    return keras.Model(images, heads.logits(x, classes), name=name)


def _cifar_block(x, width: int, stride: int, name: str):
    """The report's own order: normalization after the second ReLU, none after the addition."""
    skip = x
    x = layers.Conv2D(width, 3, strides=stride, padding="same", name=f"{name}_conv1")(x)
    x = layers.BatchNormalization(name=f"{name}_norm1")(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"{name}_conv2")(x)
    x = layers.BatchNormalization(name=f"{name}_norm2")(x)
    if stride > 1:
        skip = layers.Conv2D(width, 3, strides=stride, padding="same", name=f"{name}_skip")(skip)
    return layers.Add(name=f"{name}_add")([x, skip])


_ANIMALS_AS_RUN = (
    "The second convolution of each identity block reads the block's input, which leaves the first one dead, "
    "and the dense layer comes before the mean"
)
_ANIMALS_FORMS = [
    Form(11_705_333, 11_697_525, 474.18),
    Form(11_705_333, 11_697_525, 332.56, {"as_run": True}),
]


@register(
    chapter="animals",
    report="002",
    paper=PAPER,
    input_shape=(100, 100, 3),
    classes=5,
    figure="0.8891",
    as_run=f"{_ANIMALS_AS_RUN}.",
    forms=_ANIMALS_FORMS,
)
def custom_resnet(input_shape: Shape, classes: Classes, *, as_run: bool = False) -> keras.Model:
    """Eight residual blocks (64 to 512) after a 7×7 stem, and a dense layer of 1000."""
    images = keras.Input(input_shape, name="image")
    x = _animals_resnet(pixels.unit(images), as_run=as_run)
    return keras.Model(images, heads.logits(x, classes), name="custom_resnet")


@register(
    chapter="animals",
    report="002",
    paper=PAPER,
    input_shape=(100, 100, 3),
    classes=5,
    figure="0.9365",
    as_run=f"{_ANIMALS_AS_RUN}; noise of 0.01 is added to pixels of 0-255.",
    forms=_ANIMALS_FORMS,
)
def resnet_aug(input_shape: Shape, classes: Classes, *, as_run: bool = False) -> keras.Model:
    """The net of `custom_resnet` behind random flips, rotations, zooms and noise."""
    images = keras.Input(input_shape, name="image")
    noise = layers.GaussianNoise(0.01, dtype="float32", name="noise")
    if as_run:
        x = pixels.unit(noise(pixels.jittered(images, rotation=0.1, zoom=0.2)))
    else:
        x = noise(pixels.jittered(pixels.unit(images), rotation=0.1, zoom=0.2))
    x = _animals_resnet(x, as_run=as_run)
    return keras.Model(images, heads.logits(x, classes), name="resnet_aug")


def _animals_resnet(x, *, as_run: bool):
    x = _stem(x, None)
    x = _identity_block(x, 64, "stage1_block1", as_run=as_run)
    x = _identity_block(x, 64, "stage1_block2", as_run=as_run)
    for stage, width in enumerate((128, 256, 512), start=2):
        x = _convolution_block(x, width, f"stage{stage}_block1")
        x = _identity_block(x, width, f"stage{stage}_block2", as_run=as_run)
    dense = layers.Dense(1000, activation="relu", name="features")
    mean = layers.GlobalAveragePooling2D(name="mean")
    return mean(dense(x)) if as_run else dense(mean(x))


@register(
    chapter="cifar100",
    report="004",
    paper=PAPER,
    classes=100,
    figure="0.3802 on validation images",
    as_run="The second convolution of each strided block has no penalty.",
    forms=[Form(4_962_155, 4_958_180, 39.49), Form(4_962_155, 4_958_180, 39.49, {"as_run": True})],
)
def custom_resnet10(
    input_shape: Shape, classes: Classes, *, l2: float = 0.005, as_run: bool = False
) -> keras.Model:
    """Four residual blocks (64 to 512) after a 7×7 stem, with an L2 penalty."""
    images = keras.Input(input_shape, name="image")
    x = _penalized_resnet(pixels.standard(images), (1, 1, 1, 1), 0.0, l2, as_run)
    return keras.Model(images, heads.logits(x, classes), name="custom_resnet10")


@register(
    chapter="cifar100",
    report="004",
    paper=PAPER,
    classes=100,
    figure="0.3590 on validation images",
    as_run="The second convolution of each strided block has no penalty.",
    forms=[Form(21_357_931, 21_342_692, 167.19), Form(21_357_931, 21_342_692, 167.19, {"as_run": True})],
)
def custom_resnet34_dropout(
    input_shape: Shape, classes: Classes, *, l2: float = 0.005, as_run: bool = False
) -> keras.Model:
    """Sixteen residual blocks (64 to 512) after a 7×7 stem, an L2 penalty, dropout after each stage."""
    images = keras.Input(input_shape, name="image")
    x = _penalized_resnet(pixels.standard(images), (3, 4, 6, 3), 0.3, l2, as_run)
    return keras.Model(images, heads.logits(x, classes), name="custom_resnet34_dropout")


def _penalized_resnet(x, depths: tuple[int, ...], dropout: float, l2: float, as_run: bool):
    x = _stem(x, l2)
    for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), start=1):
        for block in range(1, depth + 1):
            name = f"stage{stage}_block{block}"
            if stage > 1 and block == 1:
                x = _convolution_block(x, width, name, l2=l2, second_l2=None if as_run else l2)
            else:
                x = _identity_block(x, width, name, l2=l2)
        if dropout:
            x = layers.Dropout(dropout, name=f"stage{stage}_dropout")(x)
    x = layers.AveragePooling2D(2, padding="same", name="mean")(x)
    return layers.Flatten(name="flatten")(x)


def _stem(x, l2: float | None):
    x = layers.ZeroPadding2D(3, name="pad")(x)
    x = _convolution(64, "conv", l2, kernel=7, stride=2)(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    return layers.MaxPooling2D(3, 2, padding="same", name="pool")(x)


def _identity_block(x, width: int, name: str, *, l2: float | None = None, as_run: bool = False):
    """Two convolutions around a plain skip; as run, the first one and its normalization reach no output."""
    first = _convolution(width, f"{name}_conv1", l2)
    norm = layers.BatchNormalization(name=f"{name}_norm1")
    y = Unreached([first, norm], name=f"{name}_unreached")(x) if as_run else norm(first(x))
    y = y if as_run else layers.ReLU(name=f"{name}_relu1")(y)
    y = _convolution(width, f"{name}_conv2", l2)(y)
    y = layers.BatchNormalization(name=f"{name}_norm2")(y)
    y = layers.Add(name=f"{name}_add")([y, x])
    return layers.ReLU(name=f"{name}_relu2")(y)


def _convolution_block(x, width: int, name: str, *, l2: float | None = None, second_l2: float | None = None):
    """Two convolutions, the first strided, around a 1×1 convolution without normalization."""
    y = _convolution(width, f"{name}_conv1", l2, stride=2)(x)
    y = layers.BatchNormalization(name=f"{name}_norm1")(y)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _convolution(width, f"{name}_conv2", second_l2)(y)
    y = layers.BatchNormalization(name=f"{name}_norm2")(y)
    skip = _convolution(width, f"{name}_skip", l2, kernel=1, stride=2)(x)
    y = layers.Add(name=f"{name}_add")([y, skip])
    return layers.ReLU(name=f"{name}_relu2")(y)


def _convolution(width: int, name: str, l2: float | None, *, kernel: int = 3, stride: int = 1):
    penalty = keras.regularizers.L2(l2) if l2 else None
    return layers.Conv2D(width, kernel, strides=stride, padding="same", kernel_regularizer=penalty, name=name)
