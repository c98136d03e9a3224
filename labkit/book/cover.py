"""The four findings on the cover, with their numbers taken from records and published figures."""

import math
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from string import Formatter

from labkit import chapters, scoreboard
from labkit.errors import DataError

FINDINGS = Path("book/findings.toml")


def _recorded(name: str, figure: str = "accuracy") -> float:
    """A figure on test images of an experiment that no report has, as the mean of its longest records."""
    runs = scoreboard.longest(scoreboard.recorded(name))
    return mean(run.metrics["test"][figure] for run in runs) if runs else math.nan


def _validated(name: str) -> float:
    """The accuracy of the kept weights on validation images, as the mean of the longest records."""
    runs = scoreboard.longest(scoreboard.recorded(name))
    return mean(run.validated for run in runs) if runs else math.nan


def _unseen(name: str) -> float:
    """The accuracy on images that no protocol touches, as the mean of the longest records."""
    found = [run.metrics.get("unseen") for run in scoreboard.longest(scoreboard.recorded(name))]
    return mean(part["accuracy"] for part in found) if all(found) and found else math.nan


def _in_bfloat16(name: str) -> float:
    """The figure of the records as meant that computed in bfloat16, to be held against each other."""
    row = scoreboard.row(name)
    runs = scoreboard.longest(run for run in scoreboard.recorded(name) if run.in_fewer_bits)
    return scoreboard.Side(row.metric, tuple(runs)).mean


SOURCES: dict[str, Callable[[str], float]] = {
    "published": lambda name: scoreboard.row(name).published,
    "meant": lambda name: scoreboard.row(name).as_meant.mean,
    "run": lambda name: scoreboard.row(name).as_run.mean,
    "validated": _validated,
    "unseen": _unseen,
    "bfloat16": _in_bfloat16,
    "recorded": _recorded,
    "both": partial(_recorded, figure="both_right"),
}


class _Lookup:
    """What a sentence may name in braces: an experiment of a chapter, as in {meant[accn]}."""

    def __init__(self, take: Callable[[str], float]):
        self.take = take

    def __getitem__(self, name: str) -> str:
        return f"{100 * self.take(name):.1f} %"


def findings() -> str:
    """One sentence a chapter; a chapter whose numbers are not recorded yet says what is still open."""
    with FINDINGS.open("rb") as stream:
        found = tomllib.load(stream)
    return "\n".join(_finding(chapter, found[chapter]) for chapter in chapters.CHAPTERS)


def _finding(chapter: str, texts: dict[str, str]) -> str:
    link = f"[{chapters.CHAPTERS[chapter].title}](../notebooks/{chapter}.ipynb)"
    said = sentence(chapter, texts).replace(" %", "\N{NO-BREAK SPACE}%")
    return f"{link}\n: {said}\n"


def sentence(chapter: str, texts: dict[str, str]) -> str:
    """The finding with its numbers, or its `open` text while one of them is not recorded."""
    missing: list[str] = []

    def looked_up(take: Callable[[str], float]) -> _Lookup:
        def found(experiment: str) -> float:
            number = take(f"{chapter}/{experiment}")
            if math.isnan(number):
                missing.append(experiment)
            return number

        return _Lookup(found)

    lookups = {name: looked_up(take) for name, take in SOURCES.items()}
    try:
        filled = Formatter().vformat(texts["finding"], (), lookups)
    except KeyError as error:
        raise DataError(
            f"{FINDINGS}, {chapter}: {error} is not known.", expected=", ".join(SOURCES)
        ) from None
    if missing:
        lookups = {name: lookup for name, lookup in lookups.items() if name == "published"}
        return Formatter().vformat(texts["open"], (), lookups)
    return filled
