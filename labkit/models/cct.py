"""The compact convolutional transformer: Hassani 2021, arXiv:2104.05704."""

import keras
from keras import layers

from labkit.models import heads, pixels
from labkit.models.layers import PositionEmbedding
from labkit.models.registry import Classes, Form, Shape, register

_WIDTH = 128
_BLOCKS = 2
_DEEPEST_DROP = 0.1


@register(
    chapter="noisy_cifar",
    report="000",
    paper="Hassani 2021, arXiv:2104.05704",
    figure="0.6202 from noisy labels, 0.7024 from cleaned ones",
    as_run="The position embedding is a constant that is neither trained nor saved.",
    forms=[Form(645_195, 645_195, 233.72), Form(626_763, 626_763, 233.72, {"as_run": True})],
)
def cct(input_shape: Shape, classes: Classes, *, as_run: bool = False) -> keras.Model:
    """A four-convolution tokenizer, two attention blocks of two heads, and attention pooling."""
    images = keras.Input(input_shape, name="image")
    x = _tokens(pixels.jittered(pixels.unit(images), rotation=0.02, zoom=0.2))
    x = PositionEmbedding(learned=not as_run, name="position")(x)
    for block in range(_BLOCKS):
        x = _attention_block(x, _DEEPEST_DROP * block / (_BLOCKS - 1), f"block{block + 1}")
    x = _pooled_sequence(layers.LayerNormalization(epsilon=1e-5, name="norm")(x))
    x = layers.Dropout(0.1, name="dropout")(x)
    x = layers.Dense(256, activation="relu", kernel_initializer="he_uniform", name="features")(x)
    return keras.Model(images, heads.logits(x, classes), name="cct")


def _tokens(x):
    """Turn an image into a sequence of patches by convolution, so that they overlap."""
    for conv, width in enumerate((64, 64, _WIDTH, _WIDTH), start=1):
        x = layers.Conv2D(
            width,
            3,
            activation="relu",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"tokenizer_conv{conv}",
        )(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="tokenizer_pool")(x)
    return layers.Reshape((-1, _WIDTH), name="tokens")(x)


def _attention_block(x, drop: float, name: str):
    normed = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm1")(x)
    attended = layers.MultiHeadAttention(2, _WIDTH, dropout=0.1, name=f"{name}_attention")(normed, normed)
    x = layers.Add(name=f"{name}_add1")([_dropped_path(attended, drop, f"{name}_drop1"), x])
    y = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm2")(x)
    for dense in (1, 2):
        y = layers.Dense(_WIDTH, activation="gelu", name=f"{name}_dense{dense}")(y)
        y = layers.Dropout(0.1, name=f"{name}_dropout{dense}")(y)
    return layers.Add(name=f"{name}_add2")([_dropped_path(y, drop, f"{name}_drop2"), x])


def _dropped_path(x, drop: float, name: str):
    """Stochastic depth: drop a branch for whole images while training: Huang 2016, arXiv:1603.09382."""
    return layers.Dropout(drop, noise_shape=(None, 1, 1), name=name)(x) if drop else x


def _pooled_sequence(tokens):
    """Average the tokens by weights that a linear layer reads off each of them."""
    weights = layers.Dense(1, name="pool_scores")(tokens)
    weights = layers.Softmax(axis=1, name="pool_weights")(weights)
    pooled = layers.Dot(axes=(1, 1), name="pool")([weights, tokens])
    return layers.Flatten(name="pooled")(pooled)
