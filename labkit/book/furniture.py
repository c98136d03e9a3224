"""What every chapter's page has around the chapter: how it was run, how to run it again, what it cost."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

from labkit import chapters
from labkit.book import markdown, models_page, status_page
from labkit.book.gallery import Gallery
from labkit.book.score_page import duration
from labkit.book.stamps import Stamp
from labkit.errors import RunError

LONG = 12  # lines of code from which on a cell is folded
LOCAL_LAB = "http://localhost:8888/lab/tree"  # where `make lab` serves the notebooks
PICTURES = ("image/png", "image/jpeg", "image/webp", "image/svg+xml", "image/gif")


@dataclass(frozen=True)
class Repository:
    """Where the project lives, from the one setting in _config.yml; empty until it is published."""

    url: str
    branch: str

    @property
    def path(self) -> str:
        """Owner and name."""
        return "/".join(self.url.rstrip("/").split("/")[-2:])

    def colab(self, chapter: str) -> str:
        """The address that opens a chapter in Colab."""
        return f"https://colab.research.google.com/github/{self.path}/blob/{self.branch}/notebooks/{chapter}.ipynb"

    def binder(self, chapter: str) -> str:
        """The address that opens a chapter in JupyterLab on Binder."""
        return (
            f"https://mybinder.org/v2/gh/{self.path}/{self.branch}?urlpath=lab/tree/notebooks/{chapter}.ipynb"
        )


def repository() -> Repository:
    """The repository that the book's settings name."""
    found = yaml.safe_load(Path("_config.yml").read_text(encoding="utf-8")).get("repository", {})
    return Repository(found.get("url") or "", found.get("branch") or "main")


def top(chapter: str, page: str, stamp: Stamp | None, place: Repository) -> str:
    """Below the title: where to open the chapter, how this page came about, whether it is stale."""
    links = [
        f"[JupyterLab]({LOCAL_LAB}/{chapter}.ipynb)",
        f"{{download}}`Notebook (.ipynb) <../downloads/{chapter}.ipynb>`",
        f"{{download}}`Text (.md) <../downloads/{chapter}.md>`",
        f"{{download}}`As executed <../downloads/{page}-executed.ipynb>`",
    ]
    if place.url:
        links[1:1] = [f"[Colab]({place.colab(chapter)})", f"[Binder]({place.binder(chapter)})"]
    row = ":::{div} page-actions\n" + " ".join(links) + "\n:::\n"
    return "\n".join([row, *_facts(stamp)])


def _facts(stamp: Stamp | None) -> list[str]:
    if stamp is None:
        return []
    ran = (
        f":::{{div}} page-facts\nExecuted {stamp.when:%d %B %Y} in {duration(stamp.seconds)} with labkit "
        f"{stamp.labkit} on {stamp.hardware}: {status_page.given(stamp)}. [](../book/status.md)\n:::\n"
    )
    if not stamp.changed():
        return [ran]
    return [
        ran,
        markdown.admonition("warning", "This page is stale: what it was made from has changed since."),
    ]


def run_with(chapter: str, values: Mapping[str, Any]) -> str:
    """The collapsed table of every parameter, and the command that runs the page again."""
    lines = [
        (
            f"`{parameter.name}`",
            parameter.type,
            _shown(parameter.default),
            _shown(values.get(parameter.name, parameter.default)),
            f"{parameter.meaning} Allowed: {_allowed(parameter.allowed)}.",
        )
        for parameter in chapters.parameters(chapter)
    ]
    table = markdown.table(("parameter", "type", "default", "this page", "meaning"), lines)
    command = markdown.code(chapters.command(chapter, values))
    return markdown.dropdown("This page was run with", table, command)


def bottom(stamp: Stamp | None, models: tuple[str, ...], gallery: Gallery) -> str:
    """At the end: time and memory of this execution, and the size of each model in it."""
    parts = [models_page.costs(gallery, models)]
    if stamp is not None:
        took = f"{duration(stamp.seconds)} and {stamp.peak_mb:,} MB of memory at most, on {stamp.hardware}."
        parts.insert(0, took)
    return markdown.dropdown("What this page cost", *parts)


def fold(cell: NotebookNode) -> set[str]:
    """The tag that folds a long cell of code, unless the chapter says otherwise itself."""
    tags = set(cell.metadata.get("tags", ()))
    own = any(tag.startswith(("hide-", "remove-")) for tag in tags)
    is_long = cell.cell_type == "code" and len(cell.source.splitlines()) > LONG
    return {"hide-input"} if is_long and not own else set()


def check_pictures(chapter: str, notebook: NotebookNode) -> None:
    """Raise where a picture cannot be heard, or has no number, caption and label to refer to it by."""
    showing = [cell for cell in notebook.cells if pictures(cell)]
    silent = [
        cell.source for cell in showing if not cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
    ]
    if silent:
        raise RunError(
            f"{chapter} shows pictures without alt text, after:\n" + "\n".join(silent),
            mend="draw with labkit.plots, or set mystnb.image.alt in the cell's metadata",
        )
    bare = [cell.source for cell in showing if len(_figure(cell)) < 2 or pictures(cell) > 1]
    if bare:
        raise RunError(
            f"{chapter} shows pictures without a caption and a name of their own, after:\n" + "\n".join(bare),
            expected="one picture a cell, with `caption` and `name` in the cell's metadata",
        )


def pictures(cell: NotebookNode) -> int:
    """How many pictures a cell shows."""
    return sum(map(is_picture, cell.get("outputs", ())))


def is_picture(output: NotebookNode) -> bool:
    """Whether an output is shown as a picture."""
    return any(kind in output.get("data", {}) for kind in PICTURES)


def _figure(cell: NotebookNode) -> Mapping[str, str]:
    return cell.metadata.get("mystnb", {}).get("figure", {})


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _allowed(allowed: tuple[str, ...] | str) -> str:
    return allowed if isinstance(allowed, str) else ", ".join(allowed)
