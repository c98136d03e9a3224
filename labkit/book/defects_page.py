"""The Defects page: what the reports got wrong, from book/defects.toml."""

from itertools import groupby

from labkit import chapters, scoreboard
from labkit.book import markdown
from labkit.scoreboard import Defect

CHAPTER = {
    "000": "noisy_cifar",
    "001": "noisy_cifar",
    "002": "animals",
    "003": "dual_cifar",
    "004": "cifar100",
}


def full() -> str:
    """One section a report, one heading a defect, so that each can be linked to."""
    found = scoreboard.defects()
    sections = [
        _section(report, list(group)) for report, group in groupby(found, lambda defect: defect.report)
    ]
    return "\n".join([_overview(found), *sections])


def _overview(found: tuple[Defect, ...]) -> str:
    grave = [defect for defect in found if defect.invalidates]
    lines = [
        (f"[{defect.name}](#{_anchor(defect)})", defect.what, _experiments(defect.invalidates))
        for defect in grave
    ]
    table = markdown.table(("defect", "what", "figures that it makes invalid"), lines)
    lead = f"The reports hold {len(found)} defects. {len(grave)} of them make published figures invalid:"
    return f"{lead}\n\n{table}"


def _section(report: str, found: list[Defect]) -> str:
    chapter = CHAPTER[report]
    title = f"## Report {report}"
    lead = f"Chapter: [{chapters.CHAPTERS[chapter].title}](../notebooks/{chapter}.ipynb)"
    return "\n\n".join([title, lead, *map(_entry, found)]) + "\n"


def _entry(defect: Defect) -> str:
    fields = {
        "Where": defect.where,
        "How found": defect.found,
        "What it changed": defect.changed,
        "In labkit": defect.mended,
    }
    if defect.invalidates:
        fields["Invalid"] = f"{_experiments(defect.invalidates)}: {defect.because}"
    body = "\n".join(f":{name}: {text}" for name, text in fields.items())
    return f"({_anchor(defect)})=\n### {defect.name}: {defect.what}\n\n{body}"


def _anchor(defect: Defect) -> str:
    return f"defect-{defect.name}"


def _experiments(patterns: tuple[str, ...]) -> str:
    return ", ".join(f"`{pattern}`" for pattern in patterns)
