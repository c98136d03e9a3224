"""The whole book as one PDF: all pages in one, printed by Chromium."""

import subprocess
import sys
from pathlib import Path

from labkit.book import STAGE, browser
from labkit.book.build import alone
from labkit.book.pages import LOCK, WAITING
from labkit.errors import RunError

PDF = Path("_build/pdf/image-labs.pdf")


def pdf() -> Path:
    """Print the book as it was staged last."""
    if not (STAGE / "_toc.yml").exists():
        raise RunError("there is no book to print yet.", mend="make book")
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(STAGE), "--builder", "custom"]
    command += ["--custom-builder", "singlehtml", "--path-output", "_build/pdf", "-q"]
    with alone(LOCK, WAITING):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    page = next(Path("_build/pdf").rglob("singlehtml/book/intro.html"), None)
    if made.returncode or page is None:
        raise RunError(f"the pages could not be joined:\n{(made.stdout + made.stderr)[-2000:]}")
    # Written for the folder above the one it lies in, and linking to itself by name.
    joined = page.parents[1] / "book.html"
    text = page.read_text(encoding="utf-8").replace('href="book/intro.html#', 'href="#')
    joined.write_text(text, encoding="utf-8")
    return browser.print_pdf(joined, PDF)
