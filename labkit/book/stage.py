"""Lay out prose, settings and executed chapters in one folder that Jupyter Book can build."""

import re
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from labkit import chapters
from labkit.book import EXECUTED, STAGE, furniture, generated, prose, stamps, variants
from labkit.book.gallery import Gallery, gallery
from labkit.errors import RunError

MATHJAX = "static/mathjax/tex-svg.js"  # MathJax 3 in one file, fonts included; Apache-2.0
# In the HTML of a DataFrame: an empty corner, the columns, and a second row with only the index's name.
TWO_HEADERS = re.compile(
    r"(<thead>\s*<tr[^>]*>\s*<th[^>]*>)(?:&nbsp;)?(</th>(?:\s*<th[^>]*>[^<]*</th>)+\s*</tr>)"
    r"\s*<tr[^>]*>\s*<th[^>]*>([^<]+)</th>(?:\s*<th[^>]*>(?:&nbsp;)?</th>)+\s*</tr>"
)
WIDGETS = "application/vnd.jupyter.widget-view+json"


def stage(target: Path = STAGE) -> Path:
    """Fill the folder anew: what a page once had and no longer has is gone."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree("book", target / "book")
    for name in ("_config.yml", "_toc.yml", "CHANGELOG.md"):
        shutil.copy(name, target / name)
    _copy_mathjax(target / "book" / "assets" / "mathjax")
    for folder in ("notebooks", "downloads"):
        (target / folder).mkdir()
    found = gallery()
    for chapter in chapters.CHAPTERS:
        _lay_out_chapter(chapter, target, found)
    generated.write(target, found)
    return target


def _lay_out_chapter(chapter: str, target: Path, found: Gallery) -> None:
    """The chapter's page, then its variants, and what can be downloaded from them."""
    source = EXECUTED / f"{chapter}.ipynb"
    _write(laid_out(chapter, source, executed(source), found), source, target)
    for ending in ("ipynb", "md"):
        shutil.copy(f"notebooks/{chapter}.{ending}", target / "downloads")
    for variant in variants.present().get(chapter, ()):
        source = variants.place(variant)
        page = variants.renamed(executed(source), executed(EXECUTED / f"{chapter}.ipynb"), variant)
        _write(laid_out(chapter, source, page, found), source, target)


def _write(page: NotebookNode, source: Path, target: Path) -> None:
    nbformat.write(page, target / "notebooks" / source.name)
    shutil.copy(source, target / "downloads" / f"{source.stem}-executed.ipynb")


def executed(path: Path) -> NotebookNode:
    """An executed notebook."""
    if not path.exists():
        raise RunError(f"{path} is missing.", expected="every chapter executed", mend="Run make book.")
    return nbformat.read(path, as_version=4)


def laid_out(chapter: str, source: Path, notebook: NotebookNode, found: Gallery) -> NotebookNode:
    """The chapter as a page: with what surrounds it, without widgets, standard error and papermill."""
    values = variants.given(notebook)
    stamp = stamps.read(source)
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    prose.check(chapter, notebook.cells)
    title, *cells = [part for cell in notebook.cells for part in _laid_out_cell(chapter, cell, values)]
    lead, heading, rest = title.source.partition("\n## ")
    around = {
        "page-title": lead,
        "page-top": furniture.top(chapter, source.stem, stamp, furniture.repository()),
        "page-first-section": heading + rest,
        "page-bottom": furniture.bottom(stamp, chapters.checked(chapter, values).models, found),
    }
    *start, end = (new_markdown_cell(text, id=name) for name, text in around.items())
    notebook.cells = [*start, *cells, end]
    furniture.check_pictures(chapter, notebook)
    return notebook


def _laid_out_cell(chapter: str, cell: NotebookNode, values: Mapping[str, Any]) -> list[NotebookNode]:
    """A cell as the page shows it, with what follows it; nothing for papermill's own cell."""
    tags = set(cell.metadata.get("tags", ())) | furniture.fold(cell)
    for key in ("papermill", "execution", "tags"):
        cell.metadata.pop(key, None)
    if "injected-parameters" in tags:
        return []
    if cell.cell_type == "code":
        cell.outputs = [output for output in cell.outputs if _belongs_on_a_page(output)]
        _join_headers(cell)
        _speak(cell)
    if "parameters" not in tags:
        return _captioned(cell, tags)
    shown, hidden = "Show the parameters", "Hide them"
    cell.metadata["mystnb"] = {"code_prompt_show": shown, "code_prompt_hide": hidden}
    table = new_markdown_cell(furniture.run_with(chapter, values), id="run-with")
    return [_tagged(cell, tags | {"hide-input"}), table]


def _tagged(cell: NotebookNode, tags: set[str]) -> NotebookNode:
    if tags:
        cell.metadata["tags"] = sorted(tags)
    return cell


def _belongs_on_a_page(output: NotebookNode) -> bool:
    is_stderr = output.get("name") == "stderr"
    is_progress = output.get("metadata", {}).get("labkit") == "progress"
    return not is_stderr and not is_progress and WIDGETS not in output.get("data", {})


def _join_headers(cell: NotebookNode) -> None:
    """Write the name of a table's index beside the names of its columns, where pandas takes another row."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/html" in data:
            data["text/html"] = TWO_HEADERS.sub(r"\1\3\2", data["text/html"])


def _speak(cell: NotebookNode) -> None:
    """Hand the alt text that labkit.plots leaves beside a figure to MyST-NB, which reads it from the cell."""
    kinds = [kind for output in cell.outputs for kind in output.get("metadata", {}).values()]
    spoken = [kind["alt"] for kind in kinds if isinstance(kind, dict) and kind.get("alt")]
    if spoken:
        image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
        image.setdefault("alt", " ".join(spoken))


def _captioned(cell: NotebookNode, tags: set[str]) -> list[NotebookNode]:
    """The cell, whose picture becomes a numbered figure by the cell's caption and name.

    MyST-NB makes a figure of every output of such a cell, so that a picture beside a table gets its own cell.
    """
    figure = {key: cell.metadata.pop(key) for key in ("caption", "name") if key in cell.metadata}
    if not figure or not furniture.pictures(cell):
        return [_tagged(cell, tags)]
    drawn = [output for output in cell.outputs if furniture.is_picture(output)]
    others = [output for output in cell.outputs if not furniture.is_picture(output)]
    metadata = {"mystnb": {**cell.metadata.pop("mystnb", {}), "figure": figure}}
    if not others:
        cell.metadata |= metadata
        return [_tagged(cell, tags)]
    cell.outputs = others
    apart = new_code_cell(cell.source, outputs=drawn, metadata=metadata)  # without source it is left out
    return [_tagged(cell, tags), _tagged(apart, tags & {"hide-output"} | {"remove-input"})]


def _copy_mathjax(target: Path) -> None:
    """MathJax comes with a Python package, so that pages need no network and no file of it is kept here."""
    package = find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise RunError("MathJax is not installed.", mend="pip install sphinx-mathjax-offline")
    target.mkdir(parents=True)
    shutil.copy(Path(package.origin).parent / MATHJAX, target)
