"""Networks of keras.applications under heads of our own."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers

from labkit.errors import ModelError, nearest
from labkit.models import heads, pixels
from labkit.models.layers import SettledNormalization
from labkit.models.registry import Classes, Form, Shape, register

_FREEZES = ("all", "below_top", "none")
_INVERTED = ("resnet50v2", "mobilenetv2", "xception")  # whose report froze the top where it said the opposite


def _freezing_forms(total: int, millions: float, **trainable: int) -> list[Form]:
    """The sizes of the three ways of freezing, and of the report's inverted one."""
    return [
        Form(total, trainable["all"], millions),
        Form(total, trainable["none"], millions, {"freeze": "none"}),
        Form(total, trainable["below_top"], millions, {"freeze": "below_top"}),
        Form(total, trainable["all"], millions, {"as_run": True}),
        Form(total, trainable["none"], millions, {"freeze": "none", "as_run": True}),
        Form(total, trainable["inverted"], millions, {"freeze": "below_top", "as_run": True}),
    ]


_FREEZING_AS_RUN = (
    'Pixels are 0-1 instead of -1 to 1, freeze="below_top" freezes the top and trains the rest, and batch '
    "normalization goes back to training mode where it is not frozen."
)


@register(
    chapter="animals",
    report="002",
    paper="He 2016, arXiv:1603.05027",
    input_shape=(100, 100, 3),
    classes=5,
    figure="0.9446 frozen, 0.9212 fine-tuned, 0.9279 partly frozen",
    as_run=_FREEZING_AS_RUN,
    forms=_freezing_forms(
        56_338_805, 902.25, all=32_774_005, none=56_293_365, below_top=36_190_069, inverted=52_877_301
    ),
)
def resnet50v2(
    input_shape: Shape,
    classes: Classes,
    *,
    weights: str | Path | None = None,
    freeze: str = "all",
    top: int = 10,
    as_run: bool = False,
) -> keras.Model:
    """ResNet50V2 under a dense layer of 1000."""
    return _animals_backbone(
        keras.applications.ResNet50V2, "resnet50v2", input_shape, classes, weights, freeze, top, as_run
    )


@register(
    chapter="animals",
    report="002",
    paper="Sandler 2018, arXiv:1801.04381",
    input_shape=(100, 100, 3),
    classes=5,
    figure="0.9519 frozen, 0.9352 fine-tuned, 0.9359 partly frozen",
    as_run=_FREEZING_AS_RUN,
    forms=_freezing_forms(
        22_743_989, 95.91, all=20_486_005, none=22_709_877, below_top=21_218_485, inverted=21_977_397
    ),
)
def mobilenetv2(
    input_shape: Shape,
    classes: Classes,
    *,
    weights: str | Path | None = None,
    freeze: str = "all",
    top: int = 10,
    as_run: bool = False,
) -> keras.Model:
    """MobileNetV2 under a dense layer of 1000."""
    return _animals_backbone(
        keras.applications.MobileNetV2, "mobilenetv2", input_shape, classes, weights, freeze, top, as_run
    )


@register(
    chapter="animals",
    report="002",
    paper="Chollet 2016, arXiv:1610.02357",
    input_shape=(100, 100, 3),
    classes=5,
    figure="0.9432 frozen, 0.9486 partly frozen",
    as_run=_FREEZING_AS_RUN,
    forms=_freezing_forms(
        39_299_485, 857.86, all=18_438_005, none=39_244_957, below_top=23_934_325, inverted=33_748_637
    ),
)
def xception(
    input_shape: Shape,
    classes: Classes,
    *,
    weights: str | Path | None = None,
    freeze: str = "all",
    top: int = 10,
    as_run: bool = False,
) -> keras.Model:
    """Xception under a dense layer of 1000."""
    return _animals_backbone(
        keras.applications.Xception, "xception", input_shape, classes, weights, freeze, top, as_run
    )


def _animals_backbone(application, name, input_shape, classes, weights, freeze, top, as_run) -> keras.Model:
    images = keras.Input(input_shape, name="image")
    _refuse_unknown(freeze)
    backbone = _backbone(application, input_shape, weights, settled=not as_run)
    _freeze(backbone, freeze, top, inverted=as_run)
    x = pixels.unit(images) if as_run else pixels.signed(images)
    x = layers.Flatten(name="flatten")(backbone(x))
    x = layers.Dense(1000, activation="relu", name="features")(x)
    return keras.Model(images, heads.logits(x, classes), name=name)


@register(
    chapter="noisy_cifar",
    report="001",
    paper="Szegedy 2015, arXiv:1512.00567",
    figure="0.69 from noisy labels, 0.75 after self-filtering",
    as_run="Pixels are 0-1 instead of -1 to 1.",
    forms=[
        Form(30_784_170, 8_981_386, 739.63),
        Form(30_784_170, 8_981_386, 739.63, {"as_run": True}),
    ],
)
def inception_transfer(
    input_shape: Shape,
    classes: Classes,
    *,
    weights: str | Path | None = None,
    freeze: str = "all",
    top: int = 10,
    as_run: bool = False,
) -> keras.Model:
    """InceptionV3 on images enlarged four times, under dense layers of 1024, 512 and 128."""
    _refuse_unknown(freeze)
    height, width, channels = input_shape
    images = keras.Input(input_shape, name="image")
    backbone = _backbone(keras.applications.InceptionV3, (4 * height, 4 * width, channels), weights)
    _freeze(backbone, freeze, top)
    x = pixels.unit(images) if as_run else pixels.signed(images)
    x = layers.UpSampling2D(name="enlarge1")(x)
    x = layers.UpSampling2D(name="enlarge2")(x)
    x = layers.Flatten(name="flatten")(backbone(x))
    x = layers.Dense(1024, activation="relu", name="dense1")(x)
    x = layers.Dense(512, activation="relu", name="dense2")(x)
    x = layers.Dropout(0.3, name="dropout")(x)
    x = layers.Dense(128, activation="relu", name="features")(x)
    return keras.Model(images, heads.logits(x, classes), name="inception_transfer")


@register(
    chapter="cifar100",
    report="004",
    paper="Tan 2021, arXiv:2104.00298",
    classes=100,
    figure="0.5782 on validation images",
    as_run=(
        "Pixels are standardized by the training images instead of by ImageNet's numbers, and batch "
        "normalization is in training mode while fine-tuning."
    ),
    forms=[
        Form(6_047_412, 5_986_804, 15.77),
        Form(6_047_419, 5_986_804, 15.77, {"as_run": True}),
    ],
)
def efficientnetv2b0(
    input_shape: Shape,
    classes: Classes,
    *,
    weights: str | Path | None = None,
    freeze: str = "none",
    top: int = 10,
    as_run: bool = False,
) -> keras.Model:
    """EfficientNetV2B0, all of it trained, under a linear layer."""
    images = keras.Input(input_shape, name="image")
    _refuse_unknown(freeze)
    options = {"include_preprocessing": False, "pooling": "max"}
    backbone = _backbone(
        keras.applications.EfficientNetV2B0, input_shape, weights, settled=not as_run, **options
    )
    _freeze(backbone, freeze, top)
    x = backbone(pixels.standard(images) if as_run else pixels.imagenet(images))
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(images, heads.logits(x, classes), name="efficientnetv2b0")


def refreeze(model: keras.Model, freeze: str) -> keras.Model:
    """Freeze other layers of the backbone under a model of this file, and give the model back."""
    _refuse_unknown(freeze)
    built = json.loads(model.labkit_spec)
    options = built["options"]
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    backbone.trainable = True
    inverted = options.get("as_run", False) and model.name in _INVERTED
    _freeze(backbone, freeze, options.get("top", 10), inverted=inverted)
    model.labkit_spec = json.dumps(built | {"options": options | {"freeze": freeze}})
    return model


def _refuse_unknown(freeze: str) -> None:
    if freeze not in _FREEZES:
        raise ModelError(
            f"freeze is {freeze!r}.",
            expected=", ".join(map(repr, _FREEZES)),
            mend=nearest(freeze, _FREEZES),
        )


def _freeze(backbone: keras.Model, freeze: str, top: int, *, inverted: bool = False) -> None:
    """Freeze all layers, none, or all below the last `top`; inverted, the last `top` and none below."""
    if not isinstance(top, int) or not 0 < top < len(backbone.layers):
        raise ModelError(
            f"top is {top!r}.", expected=f"a number of layers from 1 to {len(backbone.layers) - 1}"
        )
    if freeze == "all":
        backbone.trainable = False
    elif freeze == "below_top":
        frozen = backbone.layers[-top:] if inverted else backbone.layers[:-top]
        for layer in frozen:
            layer.trainable = False


def _backbone(
    application: Callable[..., keras.Model],
    shape: Shape,
    weights: str | Path | None,
    *,
    settled: bool = True,
    **options: Any,
) -> keras.Model:
    """A network without its top: new, with weights of ImageNet, or with those of a file.

    Settled, batch normalization that was trained before stays in inference mode, frozen or not: otherwise the
    statistics of a few small batches would replace those it was trained with.
    """
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise _no_weights(application, f"There is no weights file {str(weights)!r}.")
    pixels_in = keras.Input(shape, name="pixels")
    download = "imagenet" if weights == "imagenet" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of sizes other than those trained on, which are meant
        try:
            backbone = application(
                include_top=False, weights=download, input_tensor=pixels_in, input_shape=shape, **options
            )
        except ValueError:
            raise
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise _no_weights(application, f"The ImageNet weights could not be fetched: {error}") from error
    if weights not in (None, "imagenet"):
        _load(application, backbone, Path(weights))
    return _adopted(backbone, settled and weights is not None)


def _load(application: Callable[..., keras.Model], backbone: keras.Model, file: Path) -> None:
    try:
        backbone.load_weights(file)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise _no_weights(application, f"{file.name!r} does not fit {backbone.name!r}: {reason}") from error


def _no_weights(application: Callable[..., keras.Model], happened: str) -> ModelError:
    return ModelError(
        happened,
        expected=f"a weights file of keras.applications.{application.__name__} without its top",
        mend="fetch the file named ..._notop.h5 where there is a network and give its path as weights=, "
        "or start from random weights with weights=None.",
    )


def _adopted(backbone: keras.Model, settled: bool) -> keras.Model:
    """The same network with layers named alike in every process: Keras numbers some by what was built before.

    It is changed in place: a copy would take as long to build as the network itself.
    """
    seen = Counter()
    for layer in backbone.layers:
        kind = re.sub(r"_\d+$", "", layer.name)
        if kind.replace("_", "") == type(layer).__name__.lower():
            seen[kind] += 1
            layer.name = f"{kind}_{seen[kind]}"
        if settled and type(layer) is layers.BatchNormalization:
            layer.__class__ = SettledNormalization
    return backbone
