"""The two halves of a notebook: the .md is the source, the .ipynb its pair without outputs."""

import re
from pathlib import Path

import jupytext
from nbformat import NotebookNode

from labkit.errors import RunError

NOTEBOOKS = Path("notebooks")
KERNEL = re.compile(r"^(kernelspec:\n)((?:  (?!name:).+\n)+)(  name: .+\n)", re.MULTILINE)
METADATA = {"jupytext", "kernelspec"}


def check(folder: Path = NOTEBOOKS) -> None:
    """Raise when any notebook of a folder lacks a half, or its halves say different things."""
    names = sorted(
        {path.stem for path in folder.glob("*.md")} | {path.stem for path in folder.glob("*.ipynb")}
    )
    found = [f"{name}: {line}" for name in names for line in differences(folder / name)]
    if found:
        raise RunError(
            "\n".join(["the halves of a notebook are not in step.", *found]),
            mend="Run make sync: the half that was saved last wins, and outputs are dropped.",
        )


def differences(stem: Path) -> list[str]:
    """What the halves do not share, whichever was saved last, and what a committed notebook must not hold."""
    source, pair = stem.with_suffix(".md"), stem.with_suffix(".ipynb")
    missing = [path.name for path in (source, pair) if not path.exists()]
    if missing:
        return [f"{missing[0]} is missing"]
    written, paired = jupytext.read(source), jupytext.read(pair)
    found = [f"cell {number}: {line}" for number, line in _in_cells(written, paired)]
    if len(written.cells) != len(paired.cells):
        found.append(f"{len(written.cells)} cells in {source.name}, {len(paired.cells)} in {pair.name}")
    if written.metadata.get("kernelspec") != paired.metadata.get("kernelspec"):
        found.append("the kernels differ")
    extra = sorted(set(paired.metadata) - METADATA)
    if extra:
        found.append(f"the metadata of {pair.name} hold {', '.join(extra)}")
    return found


def tidy(folder: Path = NOTEBOOKS) -> None:
    """Write the kernel in each header as JupyterLab saves it: its name first, where jupytext sorts."""
    for path in folder.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        tidied = KERNEL.sub(r"\1\3\2", text, count=1)
        if tidied != text:
            path.write_text(tidied, encoding="utf-8")


def _in_cells(written: NotebookNode, paired: NotebookNode) -> list[tuple[int, str]]:
    found = []
    for number, (one, other) in enumerate(zip(written.cells, paired.cells, strict=False), start=1):
        if (one.cell_type, one.source) != (other.cell_type, other.source):
            found.append((number, "the text differs"))
        if one.metadata != other.metadata:
            found.append((number, "the metadata differ"))
        if other.get("outputs") or other.get("execution_count"):
            found.append((number, "holds an output"))
    return found
