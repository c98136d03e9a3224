"""Times the whole book: built anew, unchanged, after an edit of prose, of one chapter, and a kernel's start.

    python bench/book.py

A copy of the project is built with the packages that are installed: what an installation takes is not here.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _ratio import ratio

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "_build", "__pycache__", "*.egg-info", "*.out.ipynb")
CHAPTER = "dual_cifar"
FIRST_CELL = "from labkit import chapters"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Path(shutil.copytree(ROOT, Path(folder) / "project", ignore=LEFT_OUT))
        anew = show("built anew", build(project), None)
        show("nothing changed", build(project), anew)
        append(project / "book" / "glossary.md", "\nOne more sentence.\n")
        show("a sentence of prose changed", build(project), anew)
        edit(project / "notebooks" / f"{CHAPTER}.ipynb")
        show(f"a cell of {CHAPTER} changed, its networks trained", build(project), anew)
        shutil.rmtree(project / "_build" / "runs")
        append(project / "labkit" / "labels.py", "\n# Changed.\n")
        show("the package changed, nothing trained", build(project), anew)
        show("a chapter's start, until it refuses a misspelt parameter", refused(project), anew)


def build(project: Path) -> float:
    """Seconds that a build takes."""
    command = [sys.executable, "-m", "labkit.book", "build"]
    environment = os.environ | {"PYTHONPATH": str(project)}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - start


def refused(project: Path) -> float:
    """Seconds until papermill ends with labkit's error about a parameter that there is not."""
    notebook = project / "notebooks" / f"{CHAPTER}.ipynb"
    command = [sys.executable, "-m", "papermill", notebook, project / "out.ipynb", "-p", "epoch", "5"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if "Did you mean 'epochs'?" not in done.stderr:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def edit(notebook: Path) -> None:
    """Change a cell of code so that its result stays."""
    text = notebook.read_text(encoding="utf-8")
    changed = re.sub(f'"{FIRST_CELL}', f'"# A comment.\\\\n",\n    "{FIRST_CELL}', text, count=1)
    if changed == text:
        sys.exit(f"{notebook.name} has no cell that starts with {FIRST_CELL!r}.")
    notebook.write_text(changed, encoding="utf-8")


def show(what: str, seconds: float, whole: float | None) -> float:
    print(f"{what:<58}{seconds:7.1f} s")
    if whole is not None:
        ratio(what, "the book built anew", "time", seconds / whole)
    return seconds


if __name__ == "__main__":
    main()
