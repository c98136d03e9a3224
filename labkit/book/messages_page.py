"""The page of what labkit says when something is wrong: mistakes made on purpose, and their answers."""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path

from labkit import chapters, runs
from labkit.book import markdown, mistakes
from labkit.book.gallery import Gallery
from labkit.book.mistakes import Row
from labkit.errors import LabkitError, RunError


def full(gallery: Gallery) -> str:
    """One section a kind of mistake."""
    said = [
        *mistakes.rows(),
        *_parameters(),
        *(Row("Models", *pair) for pair in gallery.messages),
        *_records(),
    ]
    sections = (_section(group, list(rows)) for group, rows in groupby(said, lambda row: row.group))
    return "\n".join(sections)


def _section(group: str, rows: list[Row]) -> str:
    entries = [f"**{row.mistake}**\n\n{markdown.code(row.message, 'text')}\n" for row in rows]
    return "\n".join([f"## {group}\n", *entries])


def _parameters() -> list[Row]:
    wrong = {
        "a name that the chapter does not know": {"epoch": 3},
        "text where a number belongs": {"epochs": "three"},
        "a profile that does not exist": {"profile": "fast"},
        "a model that is misspelt": {"models": "accn, acnl"},
        "a folder that is not there": {"data": "cifar"},
        "groups that share a class": {"groups": "01234/45678"},
        "a share above one": {"weight": 1.5},
    }
    return [
        Row("Parameters of a chapter", mistake, _said(partial(chapters.checked, "dual_cifar", given)))
        for mistake, given in wrong.items()
    ]


def _records() -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        record = Path(place) / "accn-seed0.json"
        missing = _said(lambda: runs.load(record))
        record.write_text('{"schema": 1, "name": "dual_cifar/ac', encoding="utf-8")
        cut = _said(lambda: runs.load(record))
        record.write_text('{"schema": 99}', encoding="utf-8")
        newer = _said(lambda: runs.load(record))
    rows = {
        "a record that is not there": missing,
        "a record that was cut short": cut,
        "a record of another version": newer,
    }
    return [Row("Records", mistake, text.replace(place, "results")) for mistake, text in rows.items()]


def _said(make: Callable[[], object]) -> str:
    try:
        make()
    except LabkitError as error:
        return str(error)
    raise RunError("a mistake that the page of messages shows is not refused any more.")
