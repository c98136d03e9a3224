"""The Status page: when, where and how every chapter was executed, and whether that still holds."""

from labkit import chapters
from labkit.book import EXECUTED, markdown, stamps
from labkit.book.score_page import duration
from labkit.book.stamps import Stamp

SHOWN = 12  # changed files that are named


def full() -> str:
    """A table of all chapters, and for each the libraries and what has changed since."""
    known = ("chapter", "state", "executed", "age when built", "parameters")
    header = (*known, "time", "memory", "labkit", "hardware")
    found = _stamps()
    table = markdown.table(header, [_line(chapter, stamp) for chapter, stamp in found.items()])
    return "\n".join([table, *(_details(chapter, stamp) for chapter, stamp in found.items() if stamp)])


def stale() -> dict[str, list[str]]:
    """Chapters whose page no longer matches what it was made from, with what has changed."""
    changed = {chapter: stamp.changed() for chapter, stamp in _stamps().items() if stamp is not None}
    return {chapter: names for chapter, names in changed.items() if names}


def _stamps() -> dict[str, Stamp | None]:
    return {chapter: stamps.read(EXECUTED / f"{chapter}.ipynb") for chapter in chapters.CHAPTERS}


def state(stamp: Stamp | None) -> str:
    """The state of a page: current, stale, or unknown where it was executed without a stamp."""
    if stamp is None:
        return "unknown"
    return "stale" if stamp.changed() else "current"


def given(stamp: Stamp) -> str:
    """The parameters of an execution in one line."""
    return ", ".join(f"{name} {value}" for name, value in stamp.parameters.items())


def _line(chapter: str, stamp: Stamp | None) -> tuple[str, ...]:
    link = f"[{chapters.CHAPTERS[chapter].title}](../notebooks/{chapter}.ipynb)"
    mark = f"[{state(stamp)}]{{.verdict .verdict-{state(stamp)}}}"
    if stamp is None:
        return (link, mark, *["–"] * 7)
    return (
        link,
        mark,
        f"{stamp.when:%Y-%m-%d %H:%M} UTC",
        stamp.age(),
        given(stamp),
        duration(stamp.seconds),
        f"{stamp.peak_mb:,} MB",
        stamp.labkit,
        stamp.hardware,
    )


def _details(chapter: str, stamp: Stamp) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in stamp.libraries.items())
    lines = [f"Python {stamp.python}; {libraries}."]
    changed = stamp.changed()
    if changed:
        names = ", ".join(f"`{name}`" for name in changed[:SHOWN])
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        lines.append(
            f"**Stale**: changed since it was executed: {names}{more}. `make book` executes it again."
        )
    return markdown.dropdown(chapters.CHAPTERS[chapter].title, *lines, open=bool(changed))
