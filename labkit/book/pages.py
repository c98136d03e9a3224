"""Build the staged book with Jupyter Book, check that every page is there, and put it in its place."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from labkit.book import HTML
from labkit.book.build import alone
from labkit.book.stage import stage
from labkit.book.status_page import stale
from labkit.errors import RunError

LOCK = Path("_build/pages.lock")  # not the build's, which is held while Snakemake asks for the pages
WAITING = "another process builds the pages in this folder: waiting for it"


def pages(log: Path) -> Path:
    """Stage and build the book, alone; the old one is replaced only by a complete new one."""
    with alone(LOCK, WAITING):
        return _pages(log)


def _pages(log: Path) -> Path:
    for chapter, changed in stale().items():
        sys.stderr.write(
            f"{chapter} is stale, make book executes it again; changed: {', '.join(changed[:3])}\n"
        )
    staged = stage()
    built = _jupyter_book(staged, log)
    missing = missing_pages(staged / "_toc.yml", built)
    if missing:
        raise RunError(f"the book was built without {', '.join(missing)}.", mend=f"The log says more: {log}")
    replaced = HTML.with_name("html.old")
    shutil.rmtree(replaced, ignore_errors=True)
    if HTML.exists():
        HTML.rename(replaced)
    built.rename(HTML)
    shutil.rmtree(replaced, ignore_errors=True)
    return HTML / "index.html"


def missing_pages(toc: Path, html: Path) -> list[str]:
    """Pages that the table of contents names and the built book lacks."""
    wanted = ["index", *_files(yaml.safe_load(toc.read_text(encoding="utf-8")))]
    return [f"{name}.html" for name in wanted if not (html / f"{name}.html").exists()]


def _files(node: object) -> list[str]:
    """Every page named under a node of the table of contents, in reading order."""
    if isinstance(node, list):
        return [name for item in node for name in _files(item)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("root", "file") if key in node]
    return own + [name for value in node.values() for name in _files(value)]


def _jupyter_book(staged: Path, log: Path) -> Path:
    log.parent.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(staged), "-W", "-n", "--keep-going"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    log.write_text(shown.stdout, encoding="utf-8")
    if shown.returncode:
        said = [line for line in shown.stdout.splitlines() if "WARNING" in line or "ERROR" in line]
        raise RunError("\n".join(["the book could not be built.", *said, f"The log says more: {log}"]))
    return staged / "_build" / "html"
