"""Run trained models on images: predictions in batches, one image at a time, and as the course asks."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from sklearn.metrics import classification_report

from labkit.errors import DataError, ModelError
from labkit.labels import whole_numbers
from labkit.predictions import (
    Heads,
    Predictions,
    Sides,
    Spread,
    confused_pairs,
    merge,
    pair_interval,
    per_class_table,
    spread,
    superclass_accuracy,
    wilson,
)

if TYPE_CHECKING:
    import keras

    from labkit.data import ImageSet

Arrays: TypeAlias = np.ndarray | dict[str, np.ndarray]  # of one input or head, or by name

__all__ = [
    "Heads",
    "Predictions",
    "Predictor",
    "Spread",
    "confused_pairs",
    "evaluation",
    "label_predictions",
    "merge",
    "outputs",
    "outputs_of_each",
    "pair_interval",
    "per_class_table",
    "predict",
    "predict_each",
    "predict_random_passes",
    "predictor",
    "spread",
    "superclass_accuracy",
    "wilson",
]


def predict(
    model: "keras.Model",
    images: "ImageSet",
    *,
    batch_size: int = 256,
    flip: bool = False,
    sides: Sides | None = None,
) -> Predictions | Heads:
    """Class probabilities of labelled images, by head where it has two; `flip` adds mirror images.

    For pairs, `sides` says which images met in each, as `PairStream.plan(0).sides` does, for the interval.
    """
    inputs = _inputs(model, images)
    probabilities = _probabilities(model, inputs, batch_size)
    if flip:
        mirrored = _probabilities(model, _mirrored(inputs), batch_size)
        probabilities = {head: (probabilities[head] + mirrored[head]) / 2 for head in probabilities}
    return _scored(probabilities, images, sides)


def predict_each(
    model: "keras.Model", parts: Mapping[str, "ImageSet"], *, batch_size: int = 256
) -> dict[str, Predictions | Heads]:
    """`predict` for several sets of labelled images, by their names."""
    inputs = [_inputs(model, images) for images in parts.values()]
    logits = outputs_of_each(model, inputs, batch_size)
    return {
        part: _scored(_shares(found), images, None)
        for (part, images), found in zip(parts.items(), logits, strict=True)
    }


def predict_random_passes(
    model: "keras.Model",
    images: "ImageSet",
    counts: Sequence[int],
    *,
    seed: int = 0,
    batch_size: int = 256,
    sides: Sides | None = None,
) -> dict[int, Predictions | Heads]:
    """Probabilities averaged over so many passes with pooling drawn at random (Graham 2014, arXiv:1412.6071).

    Several counts share their passes: the mean over 3 begins with the one pass of 1.
    """
    if not counts or min(counts) < 1:
        raise ModelError(f"Cannot average over {list(counts)} passes.", expected="counts of 1 or more")
    inputs = _inputs(model, images)
    answers, sums = {}, {}
    with _random_pooling(model, seed):
        for done in range(1, max(counts) + 1):
            for head, found in _probabilities(model, inputs, batch_size).items():
                sums[head] = sums.get(head, 0) + found.astype(float)
            if done in counts:
                means = {head: (total / done).astype("float32") for head, total in sums.items()}
                answers[done] = _scored(means, images, sides)
    return answers


@dataclass(frozen=True)
class Predictor:
    """A function from one image to its label, which also takes many images in one call."""

    model: "keras.Model"
    classes: tuple[str, ...]
    batch_size: int = 256

    def __call__(self, image: np.ndarray) -> int:
        """The label of one image."""
        return int(self.many(np.asarray(image)[None])[0])

    def many(self, images: np.ndarray) -> np.ndarray:
        """The labels of a stack of images, in batches."""
        return _one_head(_probabilities(self.model, np.asarray(images), self.batch_size)).argmax(1)

    def name(self, image: np.ndarray) -> str:
        """The name of the class of one image."""
        return self.classes[self(image)]


def predictor(model: "keras.Model", classes: Sequence[str], *, batch_size: int = 256) -> Predictor:
    """A plain function from image to label around a one-headed model."""
    return Predictor(model, tuple(classes), batch_size)


def evaluation(
    model: Callable[[np.ndarray], int], test_labels: np.ndarray, test_images: np.ndarray
) -> pd.DataFrame:
    """The report of the course's own `evaluation`: precision, recall, F1 of a function from image to label.

    A function with a method `many`, as `predictor` gives, sees all images in one call.
    """
    if len(test_labels) != len(test_images):
        raise DataError(f"{len(test_labels)} labels came with {len(test_images)} images.")
    predicted = _labels_of(model, test_images)
    report = classification_report(test_labels, predicted, output_dict=True, zero_division=0)
    accuracy = report.pop("accuracy", np.mean(np.asarray(test_labels) == predicted))
    table = pd.DataFrame(report).T.astype({"support": int})
    table.loc["accuracy"] = [np.nan, np.nan, accuracy, len(predicted)]
    return table.astype({"support": int}).rename(columns={"f1-score": "f1"})


def label_predictions(
    path: str | os.PathLike, *, baseline: Sequence[int], model_1: Sequence[int], model_2: Sequence[int]
) -> pd.DataFrame:
    """Write the predicted labels of three models to label_prediction.csv, as the course asks for."""
    columns = {"Baseline": baseline, "Model I": model_1, "Model II": model_2}
    lengths = {name: len(labels) for name, labels in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"The models labelled different numbers of images: {lengths}.", expected="one label an image"
        )
    labels = {name: whole_numbers(name, values) for name, values in columns.items()}
    table = pd.DataFrame(labels, index=pd.RangeIndex(1, lengths["Baseline"] + 1, name="Index"))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # a reader never finds half a table
    table.to_csv(part)
    part.replace(path)
    return table


@contextmanager
def _random_pooling(model: "keras.Model", seed: int) -> Iterator[None]:
    """Let pooling draw its regions at inference from a seed, and put the model back as it was."""
    import keras

    pooling = [layer for layer in model.layers if hasattr(layer, "inference")]
    if not pooling:
        raise ModelError(
            f"Every pass of {model.name} is the same.", expected="a model with fractional pooling"
        )
    before = [(layer.inference, keras.ops.convert_to_numpy(layer.seed_generator.state)) for layer in pooling]
    for place, layer in enumerate(pooling):
        layer.inference = "random"
        layer.seed_generator.state.assign(np.array([seed, place], "uint32"))
    model.make_predict_function(force=True)  # the compiled one keeps what it saw
    try:
        yield
    finally:
        for layer, (inference, state) in zip(pooling, before, strict=True):
            layer.inference = inference
            layer.seed_generator.state.assign(state)
        model.make_predict_function(force=True)


def _labels_of(model: Callable[[np.ndarray], int], images: np.ndarray) -> np.ndarray:
    many = getattr(model, "many", None)
    return np.asarray(many(images) if many else [model(image) for image in images])


def _inputs(model: "keras.Model", images: "ImageSet") -> Arrays:
    """The images alone, or with one-hot hints for a model that sees a label beside each image."""
    if not len(images):
        raise DataError(f"There is no image to predict in {images.source}.", expected="one or more")
    if len(model.inputs) == 1:
        return images.images
    if images.hints is None:
        raise DataError(
            "The model sees a label beside each image, and these images carry none.",
            mend="give it `images.with_hints(labels)`",
        )
    return {"image": images.images, "label": np.eye(len(images.classes), dtype=np.float32)[images.hints]}


def _mirrored(inputs: Arrays) -> Arrays:
    if isinstance(inputs, dict):
        return {**inputs, "image": inputs["image"][:, :, ::-1]}
    return inputs[:, :, ::-1]


def outputs(model: "keras.Model", inputs: Arrays, batch_size: int = 256) -> Arrays:
    """What a model makes of its inputs, batch by batch; Keras' own `predict` may wait a second at the end."""
    import keras

    count = _count(inputs)
    if count <= batch_size:  # compiling a deep network takes far longer than one batch without
        return keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs, training=False))
    spans = [slice(start, start + batch_size) for start in range(0, count, batch_size)]
    parts = [
        model.predict_on_batch(keras.tree.map_structure(lambda values, span=span: values[span], inputs))
        for span in spans
    ]
    return keras.tree.map_structure(lambda *pieces: np.concatenate(pieces), *parts)


def outputs_of_each(model: "keras.Model", parts: Sequence[Arrays], batch_size: int = 256) -> Iterator[Arrays]:
    """`outputs` of several inputs, one after the other, or at once where they are alike and fit one batch."""
    import keras

    counts = [_count(inputs) for inputs in parts]
    shapes = [keras.tree.map_structure(lambda values: values.shape[1:], inputs) for inputs in parts]
    if len(parts) < 2 or sum(counts) > batch_size or any(shape != shapes[0] for shape in shapes):
        yield from (outputs(model, inputs, batch_size) for inputs in parts)
        return
    together = keras.tree.map_structure(lambda *pieces: np.concatenate(pieces), *parts)
    joined = outputs(model, together, batch_size)
    for end, count in zip(np.cumsum(counts), counts, strict=True):
        yield keras.tree.map_structure(lambda values, part=slice(end - count, end): values[part], joined)


def _count(inputs: Arrays) -> int:
    return len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)


def _probabilities(model: "keras.Model", inputs: Arrays, batch_size: int) -> dict[str | None, np.ndarray]:
    return _shares(outputs(model, inputs, batch_size))


def _shares(logits: Arrays) -> dict[str | None, np.ndarray]:
    """Probabilities by head; a single head goes by the name None."""
    heads = logits if isinstance(logits, dict) else {None: logits}
    return {head: _softmax(values) for head, values in heads.items()}


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _one_head(probabilities: dict[str | None, np.ndarray]) -> np.ndarray:
    if None not in probabilities:
        raise ModelError(
            f"The model has {len(probabilities)} heads: {', '.join(probabilities)}.",
            expected="one head, so that an image has one label",
            mend="use `evaluation.predict` for two",
        )
    return probabilities[None]


def _scored(
    probabilities: dict[str | None, np.ndarray], images: "ImageSet", sides: Sides | None
) -> Predictions | Heads:
    labels, classes, origin = images.labels, images.classes, (images.source, images.fingerprint())
    if not isinstance(labels, dict):
        return Predictions(_one_head(probabilities), labels, classes, *origin)
    if set(probabilities) != set(labels):
        raise ModelError(
            f"The images have labels for {', '.join(labels)}, the model has {len(probabilities)} head(s).",
            expected="one head for each",
        )
    heads = {head: Predictions(probabilities[head], labels[head], classes[head], *origin) for head in labels}
    return Heads(heads, sides)
