"""What frozen layers make of images, computed once and kept: it never changes while a head trains."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from labkit import evaluation
from labkit.data import ImageSet
from labkit.data.image_set import Classes, Labels
from labkit.errors import ModelError
from labkit.training.keys import architecture_digest, array_digest, key, libraries, weights_digest


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Outputs of frozen layers in the place of images, with the images' labels; feeds like an ImageSet."""

    images: np.ndarray
    labels: Labels
    classes: Classes

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    @property
    def two_headed(self) -> bool:
        """Tell whether each image carries two labels."""
        return isinstance(self.labels, Mapping)


def features(
    model: keras.Model,
    images: ImageSet | np.ndarray,
    layer: str | None = None,
    *,
    cache: str | os.PathLike | None = None,
    batch_size: int = 128,
) -> np.ndarray:
    """Outputs of a layer, by default the last frozen one, for images; kept in the folder `cache` if given."""
    return features_of_each(model, [images], layer, cache=cache, batch_size=batch_size)[0]


def features_of_each(
    model: keras.Model,
    sets: Sequence[ImageSet | np.ndarray],
    layer: str | None = None,
    *,
    cache: str | os.PathLike | None = None,
    batch_size: int = 128,
) -> list[np.ndarray]:
    """`features` of several sets of images."""
    extractor = keras.Model(model.input, model.get_layer(layer or last_frozen(model)).output)
    pixels = [images.images if isinstance(images, ImageSet) else np.asarray(images) for images in sets]
    if cache is None:
        return list(evaluation.outputs_of_each(extractor, pixels, batch_size))
    frozen = _frozen(extractor)
    files = [Path(cache) / f"{key(frozen | {'images': _contents(images)})}.npy" for images in sets]
    missing = {file: values for file, values in zip(files, pixels, strict=True) if not file.exists()}
    computed = evaluation.outputs_of_each(extractor, list(missing.values()), batch_size)
    for file, values in zip(missing, computed, strict=True):
        _keep(file, values)
    return [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]


def _keep(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with part.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)
    part.replace(file)


def _contents(images: ImageSet | np.ndarray) -> str:
    return images.fingerprint() if isinstance(images, ImageSet) else array_digest(images)


def _frozen(extractor: keras.Model) -> dict[str, Any]:
    """The part of a file's key that the layers decide."""
    return {
        "architecture": architecture_digest(extractor),
        "weights": weights_digest(extractor),
        "versions": libraries(),
        "backend": keras.backend.backend(),
    }


def last_frozen(model: keras.Model) -> str:
    """The name of the layer before the first one that trains."""
    layers = model.layers
    first = next((place for place, layer in enumerate(layers) if layer.trainable_weights), len(layers))
    frozen = [layer for layer in layers[:first] if layer.weights]
    if not frozen:
        raise ModelError(
            f"No layer of {model.name!r} is frozen before the first that trains.",
            expected="a frozen backbone under a head",
            mend="build the model with its backbone frozen, or name a layer",
        )
    return layers[first - 1].name


def split_at_frozen(model: keras.Model) -> tuple[str, keras.Model]:
    """The name of the last frozen layer, and the model from there on, with shared layers."""
    name = last_frozen(model)
    output = model.get_layer(name).output
    below = keras.Model(model.inputs, output)
    if len(model.inputs) > 1 or any(variable.name == "seed_generator_state" for variable in below.variables):
        raise ModelError(
            f"The frozen part of {model.name!r} is random in training, or has several inputs.",
            expected="one input, and neither dropout nor augmentation before the first layer that trains",
        )
    try:
        return name, keras.Model(output, model.output)
    except ValueError as error:
        raise ModelError(
            f"The head of {model.name!r} takes more than the output of the layer {name!r}.",
            expected="a model that can be cut in two",
        ) from error
