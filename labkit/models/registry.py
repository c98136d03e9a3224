"""The register of models: one decorator to enter it, `build` and `card` to read it."""

import inspect
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from labkit.errors import ModelError, nearest

HEADS = ("first", "second")
Shape = tuple[int, int, int]  # height, width, channels
Classes = int | dict[str, int]  # of one head, or of each
_FROM_NO_REPORT = "own"


@dataclass(frozen=True)
class Counts:
    """How many numbers a model's weights hold; the states of random generators are not weights."""

    total: int
    trainable: int
    non_trainable: int


@dataclass(frozen=True)
class Form:
    """The size of a model built with some options; `millions` of multiply-adds for one image."""

    total: int
    trainable: int
    millions: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> Counts:
        return Counts(self.total, self.trainable, self.total - self.trainable)


@dataclass(frozen=True)
class Card:
    """What is known of a model without building it."""

    name: str
    sentence: str
    chapter: str
    report: str
    paper: str
    input_shape: Shape
    classes: Classes
    options: dict[str, Any]  # name -> default
    figure: str  # what the report scored with it
    as_run: str  # what the report's code did otherwise than its text, or an empty string
    forms: tuple[Form, ...]  # the default first
    builder: Callable[..., keras.Model] = field(repr=False, compare=False)

    @property
    def counts(self) -> Counts:
        return self.forms[0].counts

    @property
    def macs(self) -> int:
        return round(self.forms[0].millions * 1e6)

    @property
    def family(self) -> str:
        """The module of the builder: models of one family are alike in how they compute."""
        return self.builder.__module__.rpartition(".")[2]


_CARDS: dict[str, Card] = {}


def register(
    *,
    chapter: str,
    forms: list[Form],
    report: str = _FROM_NO_REPORT,
    paper: str = "",
    input_shape: Shape = (32, 32, 3),
    classes: Classes = 10,
    figure: str = "",
    as_run: str = "",
) -> Callable[[Callable[..., keras.Model]], Callable[..., keras.Model]]:
    """Enter a builder `(input_shape, classes, **options) -> keras.Model` under its own name."""

    def enter(builder: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
        parameters = list(inspect.signature(builder).parameters.values())[2:]
        _CARDS[builder.__name__] = Card(
            name=builder.__name__,
            sentence=inspect.getdoc(builder).splitlines()[0],
            chapter=chapter,
            report=report,
            paper=paper,
            input_shape=input_shape,
            classes=classes,
            options={parameter.name: parameter.default for parameter in parameters},
            figure=figure,
            as_run=as_run,
            forms=tuple(forms),
            builder=builder,
        )
        return builder

    return enter


def names(pattern: str = "*") -> tuple[str, ...]:
    """The names that match a shell-style pattern, in the order of the reports."""
    by_report = sorted(_CARDS, key=lambda name: _CARDS[name].report)
    return tuple(name for name in by_report if fnmatchcase(name, pattern))


def card(name: str) -> Card:
    """What is known of a model without building it: sentence, source, size, input."""
    if name not in _CARDS:
        raise ModelError(
            f"There is no model {name!r}.", expected=", ".join(_CARDS), mend=nearest(name, _CARDS)
        )
    return _CARDS[name]


def cards(pattern: str = "*") -> pd.DataFrame:
    """The cards of all models that match a pattern, one row each."""
    rows = [
        {
            "name": name,
            "what it is": card(name).sentence,
            "chapter": card(name).chapter,
            "report": card(name).report,
            "paper": card(name).paper,
            "input": "×".join(map(str, card(name).input_shape)),
            "parameters": card(name).counts.total,
            "trainable": card(name).counts.trainable,
            "million MACs": card(name).forms[0].millions,
            "report's figure": card(name).figure,
            "as the report ran it": card(name).as_run,
        }
        for name in names(pattern)
    ]
    return pd.DataFrame(rows).set_index("name")


def overview(names: Iterable[str]) -> pd.DataFrame:
    """What some models are and how large, one row each, as a page shows it."""
    rows = [
        {
            "network": name,
            "what it is": card(name).sentence.replace("`", ""),
            "parameters": f"{card(name).counts.total:,}",
            "million MACs": f"{card(name).forms[0].millions:,.1f}",
        }
        for name in names
    ]
    return pd.DataFrame(rows).set_index("network")


def build(
    name: str,
    *,
    input_shape: Shape | None = None,
    classes: int | Mapping[str, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> keras.Model:
    """A new model by name: images 0-255 in, logits out; weights are a function of name, options and seed."""
    found = card(name)
    options = _checked_options(found, options)
    input_shape = _checked_shape(found, input_shape or _implied_shape(options))
    classes = _checked_classes(found, classes or _implied_classes(options), joint=options.get("joint"))
    with _own_randomness(f"{name}/{seed}"):
        try:
            model = found.builder(input_shape, classes, **options)
        except ValueError as error:
            raise _does_not_fit(found, input_shape, str(error).splitlines()[0]) from error
    _refuse_empty_maps(found, input_shape, model)
    record = {"name": name, "input_shape": input_shape, "classes": classes, "seed": seed}
    # a string, since Keras wraps any container it is given
    model.labkit_spec = json.dumps(record | {"options": _recorded(options)})
    return model


def spec(model: keras.Model) -> dict[str, Any]:
    """What `build` was given for this model, as plain JSON types."""
    record = getattr(model, "labkit_spec", None)
    if record is None:
        raise ModelError(
            f"Nothing is known of how the model {model.name!r} was built.",
            expected="a model that labkit.models.build returned",
            mend="build it by name and load its weights into that.",
        )
    return json.loads(record)


def _checked_options(found: Card, options: dict[str, Any]) -> dict[str, Any]:
    """Options the builder takes; `as_run` passes for every report's model, also where it changes nothing."""
    for option in options:
        if option not in found.options and not (option == "as_run" and found.report != _FROM_NO_REPORT):
            raise ModelError(
                f"{found.name!r} has no option {option!r}.",
                expected=", ".join(found.options) or "no options",
                mend=nearest(option, found.options),
            )
    if not isinstance(options.get("as_run", False), bool):
        raise ModelError(f"as_run is {options['as_run']!r}.", expected="True or False")
    return {option: value for option, value in options.items() if option in found.options}


def _checked_shape(found: Card, shape: Shape | None) -> Shape:
    if shape is None:
        return found.input_shape
    if len(shape) != 3 or not all(isinstance(side, Integral) and side > 0 for side in shape):
        raise ModelError(
            f"input_shape is {shape!r}.", expected=f"height, width, channels such as {found.input_shape}"
        )
    return tuple(int(side) for side in shape)


def _implied_shape(options: dict[str, Any]) -> tuple[int, ...] | None:
    """A cleaner sees what its classifier sees."""
    classifier = options.get("classifier")
    return tuple(classifier.input_shape[1:]) if isinstance(classifier, keras.Model) else None


def _implied_classes(options: dict[str, Any]) -> Classes | None:
    """A cleaner tells the classes of its classifier, and joint heads those of their pairs."""
    classifier, joint = options.get("classifier"), options.get("joint")
    if isinstance(classifier, keras.Model) and not isinstance(classifier.output, dict):
        return classifier.output_shape[-1]
    return dict(zip(HEADS, joint, strict=True)) if joint else None


def _checked_classes(
    found: Card, classes: int | Mapping[str, int] | None, *, joint: tuple[int, int] | None
) -> Classes:
    """One number for one head; a number per head, or one for both, where the model has two."""
    if classes is None:
        classes = found.classes
    counted = classes.values() if isinstance(classes, Mapping) else [classes]
    if not all(isinstance(count, Integral) and count > 1 for count in counted):
        raise ModelError(f"classes is {classes!r}.", expected="2 or more")
    two_headed = isinstance(found.classes, dict) or joint
    if not isinstance(classes, Mapping):
        return dict.fromkeys(HEADS, int(classes)) if two_headed else int(classes)
    if not (two_headed or "joint" in found.options):
        raise ModelError(
            f"{found.name!r} has one head, not {dict(classes)!r}.", expected="classes as one number"
        )
    if set(classes) != set(HEADS):
        raise ModelError(f"classes is {dict(classes)!r}.", expected=f"a number for each of {HEADS}")
    return {head: int(classes[head]) for head in HEADS}


@contextmanager
def _own_randomness(seed: str) -> Iterator[None]:
    """Seed Python's generator, where Keras draws the seeds it is not given, and give it back as it was."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _refuse_empty_maps(found: Card, shape: Shape, model: keras.Model) -> None:
    """Refuse images so small that pooling leaves nothing of them."""
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.output):
            if 0 in tensor.shape:
                raise _does_not_fit(found, shape, f"nothing is left of them after {layer.name!r}")


def _does_not_fit(found: Card, shape: Shape, reason: str) -> ModelError:
    if shape == found.input_shape:
        return ModelError(f"{found.name!r} cannot be built: {reason}")
    return ModelError(
        f"{found.name!r} cannot be built for images of {'×'.join(map(str, shape))}: {reason}",
        mend=f"give larger images, or the report's own {'×'.join(map(str, found.input_shape))}.",
    )


def _recorded(options: dict[str, Any]) -> dict[str, Any]:
    """Options as a record may keep them: a model as its own spec, a weights file by its name alone."""
    kept = {name: spec(value) if isinstance(value, keras.Model) else value for name, value in options.items()}
    if kept.get("weights") is not None:
        kept["weights"] = Path(kept["weights"]).name
    return kept
