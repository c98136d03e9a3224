"""The Scoreboard: published figures beside our runs, and what that says of each report's claim."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from labkit import chapters, scoreboard
from labkit.book import markdown
from labkit.costs import Sizes
from labkit.runs import Run
from labkit.scoreboard import Row


def full(sizes: Sizes) -> str:
    """One section a chapter: the verdicts in a sortable table, and below it where our figures come from."""
    return "\n".join(_section(chapter, sizes) for chapter in chapters.CHAPTERS)


def short() -> str:
    """How many of each chapter's published figures came out, for the cover."""
    header = ("chapter", "figures", "reproduced", "not reproduced", "not comparable", "invalid", "to be run")
    counted = []
    for chapter, about in chapters.CHAPTERS.items():
        kinds = Counter(kind(row.verdict) for row in scoreboard.rows(chapter))
        numbers = [kinds[name] for name in ("yes", "no", "other", "invalid", "open")]
        link = f"[{about.title}](../notebooks/{chapter}.ipynb)"
        counted.append((link, sum(kinds.values()), *(number or "–" for number in numbers)))
    return markdown.table(header, counted)


def kind(verdict: str) -> str:
    """The colour of a verdict: yes, no, other, invalid or open."""
    beginnings = {
        "reproduced": "yes",
        "not reproduced": "no",
        "not comparable": "other",
        "report invalid": "invalid",
        "not run": "open",
    }
    return next(name for beginning, name in beginnings.items() if verdict.startswith(beginning))


def _section(chapter: str, sizes: Sizes) -> str:
    rows = scoreboard.rows(chapter)
    header = ("experiment", "report", "published", "as run", "as meant", "±", "verdict")
    lines = [
        (
            f"`{row.experiment}`",
            row.report,
            f"{row.published:.4f}" + ("" if row.metric == "test_accuracy" else " v"),
            scoreboard.unbroken(row.as_run),
            scoreboard.unbroken(row.as_meant),
            "–" if math.isnan(row.tolerance) else f"{row.tolerance:.3f}",
            _verdict(row, sizes),
        )
        for row in rows
    ]
    parts = [
        f"## {chapters.CHAPTERS[chapter].title}",
        markdown.table(header, lines, classes="sortable scoreboard"),
        _origin(rows),
    ]
    return "\n".join(parts)


def _verdict(row: Row, sizes: Sizes) -> str:
    word, _, reason = row.verdict.partition(": ")
    mark = f"[{word}]{{.verdict .verdict-{kind(row.verdict)}}}"
    if kind(row.verdict) == "open":
        reason = scoreboard.outstanding(row, sizes)
    elif kind(row.verdict) == "invalid":
        defect = scoreboard.invalidating(row.name)
        reason = f"{{ref}}`defect {defect.name} <defect-{defect.name}>`"
        if not math.isnan(row.as_run.mean):
            matches = abs(row.as_run.mean - row.published) <= row.tolerance
            reason += (
                "; run as the report ran it, the figure " + ("comes" if matches else "does not come") + " out"
            )
        elif needs := scoreboard.outstanding(row, sizes):
            reason += f"; {needs}"
        if row.bits:
            reason += f"; ours{row.bits}"
    return f"{mark}: {reason}" if reason else mark


def _origin(rows: list[Row]) -> str:
    """Data, hardware, time, date and command of every record behind a section."""
    made = [(row, run) for row in rows for side in (row.as_run, row.as_meant) for run in side.runs]
    if not made:
        return "No run of this chapter on real data has been recorded yet.\n"
    header = ("run", "seed", "accuracy", "data", "hardware", "time", "date", "command")
    lines = [
        (
            f"`{run.name.partition('/')[2]}`",
            run.seed,
            _figure(scoreboard.figure(run, row.metric)),
            run.record["data"]["train"]["source"],
            hardware(run),
            duration(run.seconds),
            run.record["finished"][:10],
            f"`{run.record['command']}`" if run.record["command"] else "–",
        )
        for row, run in made
    ]
    table = markdown.table(header, lines, classes="sortable")
    return markdown.dropdown("Where our figures come from: data, hardware, time, date, command", table)


def hardware(run: Run) -> str:
    """The machine of a run, and those before it where the run was resumed on another."""
    last = run.record["hardware"]
    return ", before on ".join(map(_machine, (last, *last.get("earlier", ()))))


def _machine(found: Mapping[str, Any]) -> str:
    """A graphics processor, or else a processor and its cores, and their vectors where known."""
    vectors = f", {found['vectors']}" if found.get("vectors") else ""
    return found["gpu"] or f"{found['cpu']}, {found['cores']} cores{vectors}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
