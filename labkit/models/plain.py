"""Plain stacks: linear and dense layers, or two or three convolutions under a dense head."""

import keras
from keras import layers, ops

from labkit.models import heads, pixels
from labkit.models.registry import Classes, Form, Shape, register


@register(
    chapter="noisy_cifar",
    report="000",
    figure="0.24, fitted as a logistic regression",
    forms=[Form(160, 160, 0.00015)],
)
def histogram(input_shape: Shape, classes: Classes) -> keras.Model:
    """A linear layer on how many pixels each colour has in five equal steps of brightness."""
    images = keras.Input(input_shape, name="image")
    steps = ops.minimum(
        ops.floor(ops.cast(images, "float32") / 51), 4
    )  # edges 0, 51, ... 255, the last inside
    shares = ops.mean(ops.one_hot(ops.cast(steps, "int32"), 5), axis=(1, 2))
    x = layers.Flatten(name="histogram")(shares)
    return keras.Model(images, heads.logits(x, classes), name="histogram")


@register(
    chapter="noisy_cifar",
    report="001",
    figure="0.456 on 2,000 clean labels",
    forms=[Form(319_178, 319_178, 8.23)],
)
def cnn1(input_shape: Shape, classes: Classes) -> keras.Model:
    """Three 3×3 convolutions, two max poolings and a dense layer of 64."""
    return _three_convolutions("cnn1", input_shape, classes, normalized=False)


@register(
    chapter="noisy_cifar",
    report="001",
    figure="0.542 after self-filtering",
    forms=[Form(335_562, 327_370, 8.23)],
)
def cnn2(input_shape: Shape, classes: Classes) -> keras.Model:
    """The net of `cnn1` with batch normalization of the flattened features."""
    return _three_convolutions("cnn2", input_shape, classes, normalized=True)


def _three_convolutions(name: str, input_shape, classes, *, normalized: bool) -> keras.Model:
    images = keras.Input(input_shape, name="image")
    x = pixels.unit(images)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.Flatten(name="flatten")(x)
    if normalized:
        x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dense(64, activation="relu", name="features")(x)
    return keras.Model(images, heads.logits(x, classes), name=name)


@register(
    chapter="animals",
    report="002",
    input_shape=(100, 100, 3),
    classes=5,
    figure="0.7695",
    as_run="The second pooling is never called, so the head holds 97 % of the parameters.",
    forms=[Form(188_677, 188_677, 49.18), Form(726_277, 726_277, 49.72, {"as_run": True})],
)
def simple(input_shape: Shape, classes: Classes, *, as_run: bool = False) -> keras.Model:
    """Two linear convolutions with max pooling as the only nonlinearity."""
    images = keras.Input(input_shape, name="image")
    x = layers.Conv2D(32, 3, name="conv1")(pixels.unit(images))
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Conv2D(64, 3, name="conv2")(x)
    if not as_run:
        x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(images, heads.logits(x, classes), name="simple")


@register(
    chapter="animals",
    report="002",
    input_shape=(100, 100, 3),
    classes=5,
    figure="0.8764",
    forms=[Form(1_614_885, 1_614_885, 282.20)],
)
def mid(input_shape: Shape, classes: Classes) -> keras.Model:
    """Three pairs of unpadded 3×3 convolutions (32, 64, 128) and a dense layer of 128."""
    images = keras.Input(input_shape, name="image")
    x = pixels.unit(images)
    for block, width in enumerate((32, 64, 128), start=1):
        x = layers.Conv2D(width, 3, activation="relu", name=f"block{block}_conv1")(x)
        x = layers.Conv2D(width, 3, activation="relu", name=f"block{block}_conv2")(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        if block == 1:
            x = layers.Dropout(0.25, name="dropout")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="features")(x)
    return keras.Model(images, heads.logits(x, classes), name="mid")


@register(
    chapter="dual_cifar",
    report="003",
    classes={"first": 5, "second": 5},
    figure="0.1984, untrained",
    forms=[Form(30_730, 30_730, 0.03)],
)
def dual_linear(input_shape: Shape, classes: Classes) -> keras.Model:
    """One linear layer for each head: what chance, or a linear model, scores."""
    images = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(pixels.unit(images))
    return keras.Model(images, heads.logits(x, classes), name="dual_linear")


@register(
    chapter="cifar100",
    report="004",
    classes=100,
    figure="0.2102 on validation images",
    forms=[Form(439_275, 439_268, 0.44)],
)
def mlp(input_shape: Shape, classes: Classes) -> keras.Model:
    """Three dense layers of 128 on the flattened image: the chapter's baseline."""
    images = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(pixels.standard(images))
    for layer in (1, 2, 3):
        x = layers.Dense(128, activation="relu", name=f"dense{layer}")(x)
    return keras.Model(images, heads.logits(x, classes), name="mlp")


@register(
    chapter="cifar100",
    report="004",
    classes=100,
    figure="0.3158 on validation images",
    forms=[Form(818_283, 818_276, 2.70)],
)
def conv2d(input_shape: Shape, classes: Classes) -> keras.Model:
    """One 5×5 convolution, one max pooling and a dense layer of 128."""
    images = keras.Input(input_shape, name="image")
    x = layers.Conv2D(32, 5, activation="relu", name="conv")(pixels.standard(images))
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="features")(x)
    return keras.Model(images, heads.logits(x, classes), name="conv2d")
