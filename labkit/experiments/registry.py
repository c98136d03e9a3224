"""The table of experiments that the chapter modules fill."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from labkit import chapters
from labkit.data import ImageSet
from labkit.errors import ParameterError, nearest
from labkit.runs import Run


@dataclass(frozen=True)
class Experiment:
    """One row of the scoreboard: a function of a chapter's settings that returns a scored run."""

    name: str  # "noisy_cifar/vgg_model2"
    says: str  # one sentence
    function: Callable[[chapters.Settings], Run]

    @property
    def chapter(self) -> str:
        """The chapter that shows it."""
        return self.name.split("/")[0]


REGISTRY: dict[str, Experiment] = {}


def register(name: str, says: str, function: Callable[[chapters.Settings], Run]) -> None:
    """Add an experiment under a name that is not taken."""
    if name in REGISTRY:
        raise ValueError(f"experiment {name!r} is registered twice")
    REGISTRY[name] = Experiment(name, says, function)


def names(pattern: str = "*") -> list[str]:
    """The experiments that match a shell pattern, in the order of the book."""
    return [name for name in REGISTRY if fnmatch(name, pattern)]


def get(name: str) -> Experiment:
    """One experiment, or an error that names the nearest."""
    if name not in REGISTRY:
        raise ParameterError(
            f"There is no experiment {name!r}.",
            expected="one of those that `python -m labkit list` prints",
            mend=nearest(name, REGISTRY),
        )
    return REGISTRY[name]


def run(name: str, /, *, devices: int | None = None, member: str | None = None, **parameters) -> Run:
    """Train and score one experiment; a finished one is loaded. Parameters are those of its chapter.

    - `devices`: how many devices share each batch; $LABKIT_DEVICES or 1 by default.
    - `member`: this process's part in a search that several share, as `tuning.search` takes it.
    """
    experiment = get(name)
    settings = chapters.checked(experiment.chapter, parameters, beside=("devices", "member"))
    with _told(LABKIT_DEVICES=devices, LABKIT_MEMBER=member):
        return experiment.function(settings)


@contextmanager
def _told(**variables: int | str | None) -> Iterator[None]:
    """Set environment variables for a while, which reach every training run of an experiment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: str(value) for name, value in variables.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def share(settings: chapters.Settings, images: ImageSet) -> float:
    """The part of an image set that the profile uses: all of it, or as many images as the profile says."""
    return 1 if settings.n is None else min(1, settings.n / len(images))


def place(settings: chapters.Settings, usual: str) -> str:
    """Where the images come from; a folder that holds several sets means the one of the usual name in it."""
    inside = Path(settings.data) / usual
    return str(inside) if inside.is_dir() else settings.data
