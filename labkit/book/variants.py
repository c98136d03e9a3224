"""Pages of a chapter run with other parameters, each with a table of what differs from the published page."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from labkit import chapters
from labkit.book import VARIANTS, markdown

RECORD = "application/papermill.record/text/plain"  # where glue keeps a text
_LABEL = re.compile(r"^\(([\w-]+)\)=\s*$", re.MULTILINE)


def name(chapter: str, parameters: Mapping[str, Any]) -> str:
    """The name of a variant's files: the same parameters give the same name."""
    text = json.dumps(dict(parameters), sort_keys=True)
    return f"{chapter}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def present() -> dict[str, list[str]]:
    """The variants that were executed, by chapter."""
    names = sorted(path.stem for path in VARIANTS.glob("*.ipynb"))
    found = {
        chapter: [name for name in names if name.rpartition("-")[0] == chapter]
        for chapter in chapters.CHAPTERS
    }
    return {chapter: variants for chapter, variants in found.items() if variants}


def place(variant: str) -> Path:
    """The executed notebook of a variant."""
    return VARIANTS / f"{variant}.ipynb"


def given(notebook: NotebookNode) -> dict[str, Any]:
    """The parameters that papermill gave a notebook, as it recorded them."""
    return dict(notebook.metadata.get("papermill", {}).get("parameters", {}))


def renamed(notebook: NotebookNode, published: NotebookNode, variant: str) -> NotebookNode:
    """The variant with its own labels, a title that says what is different, and the table of differences."""
    labels = {label for cell in notebook.cells for label in _LABEL.findall(cell.source)}
    for cell in notebook.cells:
        if "name" in cell.metadata:
            labels.add(cell.metadata["name"])
            cell.metadata["name"] = f"{variant}-{cell.metadata['name']}"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _relabelled(cell.source, labels, variant)
    changed = _changed(given(published), given(notebook))
    said = ", ".join(f"{name} {_text(new)}" for name, (_, new) in changed.items()) or "run again"
    table = differences(changed, _changed(glued(published), glued(notebook)))
    title = notebook.cells[0]
    title.source = re.sub(
        r"^# (.*)$",
        lambda found: f"# {found[1]}: {said}\n\n{table}",
        title.source,
        count=1,
        flags=re.MULTILINE,
    )
    return notebook


def differences(*changes: Mapping[str, tuple[Any, Any]]) -> str:
    """What differs from the published page, parameters first."""
    lines = [
        (f"`{key}`", f"`{_text(old)}`", f"`{_text(new)}`")
        for changed in changes
        for key, (old, new) in changed.items()
    ]
    table = markdown.table(("what", "published page", "this page"), lines)
    return f"This page is a variant. It differs from the published one in:\n\n{table}"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Values that differ, `–` where there is none."""
    keys = [*new, *(key for key in old if key not in new)]
    pairs = {key: (old.get(key, "–"), new.get(key, "–")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def glued(notebook: NotebookNode) -> dict[str, str]:
    """Every text or number that a chapter hands to its prose, by name."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            key = output.get("metadata", {}).get("scrapbook", {}).get("name")
            text = output.get("data", {}).get(RECORD)
            if key and text is not None:
                found[key] = text
    return found


def _relabelled(source: str, labels: set[str], variant: str) -> str:
    """Labels defined on the page, and references to them, get the variant's name in front."""
    for label in labels:
        known = re.escape(label)
        source = re.sub(rf"^\({known}\)=", f"({variant}-{label})=", source, flags=re.MULTILINE)
        source = re.sub(
            rf"(\{{(?:ref|numref|eq)\}}`(?:[^`<]*<)?){known}(?=[>`])", rf"\g<1>{variant}-{label}", source
        )
        source = re.sub(rf"\]\(#?{known}\)", f"](#{variant}-{label})", source)
    return source


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
