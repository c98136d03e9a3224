"""The four findings on the cover, with their numbers taken from records and published figures."""

import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from string import Formatter

from labkit import chapters, scoreboard
from labkit.errors import DataError

FINDINGS = Path("book/findings.toml")


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
    return f"{link}\n: {sentence(chapter, texts)}\n"


def sentence(chapter: str, texts: dict[str, str]) -> str:
    """The finding with its numbers, or its `open` text while one of them is not recorded."""
    missing: list[str] = []

    def value(side: str) -> Callable[[str], float]:
        def take(experiment: str) -> float:
            row = scoreboard.row(f"{chapter}/{experiment}")
            number = row.published if side == "published" else getattr(row, side).mean
            if math.isnan(number):
                missing.append(experiment)
            return number

        return take

    names = {"published": "published", "meant": "as_meant", "run": "as_run"}
    lookups = {name: _Lookup(value(side)) for name, side in names.items()}
    try:
        filled = Formatter().vformat(texts["finding"], (), lookups)
    except KeyError as error:
        raise DataError(f"{FINDINGS}, {chapter}: {error} is not known.", expected=", ".join(names)) from None
    if missing:
        lookups = {name: lookup for name, lookup in lookups.items() if name == "published"}
        return Formatter().vformat(texts["open"], (), lookups)
    return filled
