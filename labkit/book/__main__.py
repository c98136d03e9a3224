"""The command line behind the Makefile and the Snakefile."""

import argparse
import json
import sys
from pathlib import Path

from labkit import chapters
from labkit.book import EXECUTED, HTML, sources
from labkit.errors import LabkitError, RunError


def main(arguments: list[str] | None = None) -> int:
    """Run one step; a mistake or a failure is one message and a non-zero exit."""
    given = _parser().parse_args(arguments)
    try:
        given.step(given)
    except LabkitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m labkit.book", description=__doc__)
    steps = parser.add_subparsers(required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "parameters",
        nargs="*",
        metavar="NAME=VALUE",
        help="given to every chapter; CHAPTER.NAME=VALUE to one",
    )

    build = steps.add_parser("build", parents=[common], help="execute what is out of date and build the book")
    build.add_argument("--only-execute", action="store_true", help="build no page")
    build.add_argument("--cores", type=int)
    build.add_argument("--profile", default="", help="a Snakemake profile, such as one for a cluster")
    build.set_defaults(step=_build)

    execute = steps.add_parser("execute", help="execute one chapter")
    execute.add_argument("chapter", choices=chapters.CHAPTERS)
    execute.add_argument("--parameters", type=json.loads, default={}, help="a JSON object")
    execute.add_argument("--log", type=Path, required=True)
    execute.add_argument("--attempt", type=int, default=1)
    execute.set_defaults(step=_execute)

    digest = steps.add_parser("digest", parents=[common], help="print a digest of what can change a result")
    digest.set_defaults(step=_digest)

    pairs = steps.add_parser("pairs", help="compare the two halves of every notebook")
    pairs.set_defaults(step=_pairs)

    pages = steps.add_parser("pages", help="build the book from the chapters as last executed")
    pages.add_argument("--log", type=Path, default=Path("_build/logs/pages.log"))
    pages.set_defaults(step=_pages)

    variant = steps.add_parser("variant", help="execute a chapter with other parameters for a page beside it")
    variant.add_argument("chapter", choices=chapters.CHAPTERS)
    variant.add_argument("parameters", nargs="+", metavar="NAME=VALUE")
    variant.set_defaults(step=_variant)

    verify = steps.add_parser("verify", help="train a committed record again and compare")
    verify.add_argument("chapter", choices=chapters.CHAPTERS)
    verify.add_argument("--name", default="*", help="a shell pattern; the cheapest match is trained")
    verify.add_argument("--data", default="", help="where the images are, if not where the record says")
    verify.add_argument("--epochs", type=int, help="train this many only, and compare there")
    verify.set_defaults(step=_verify)

    tidy = steps.add_parser("tidy", help="write the headers of notebooks as JupyterLab does")
    tidy.add_argument("folder", type=Path)
    tidy.set_defaults(step=_tidy)

    check = steps.add_parser("check", help="visit every page of the built book in Chromium")
    check.set_defaults(step=_check)

    pdf = steps.add_parser("pdf", help="print the book as last staged through Chromium")
    pdf.set_defaults(step=_pdf)
    return parser


# Each step imports what it needs: the Snakefile starts this program often, and papermill takes a second.
def _build(given: argparse.Namespace) -> None:
    from labkit.book.build import build

    target = "executed" if given.only_execute else "book"
    build(target, _parameters(given.parameters), cores=given.cores, profile=given.profile)
    if not given.only_execute:
        sys.stdout.write(f"The book: {(HTML / 'index.html').resolve()}\n")


def _execute(given: argparse.Namespace) -> None:
    from labkit.book.execute import execute

    execute(given.chapter, given.parameters, given.log, given.attempt)


def _digest(given: argparse.Namespace) -> None:
    sys.stdout.write(sources.digest(_parameters(given.parameters)) + "\n")


def _pairs(given: argparse.Namespace) -> None:
    from labkit.book.pairs import check

    check()


def _tidy(given: argparse.Namespace) -> None:
    from labkit.book.pairs import tidy

    tidy(given.folder)


def _pages(given: argparse.Namespace) -> None:
    from labkit.book.pages import pages

    pages(given.log)


def _variant(given: argparse.Namespace) -> None:
    from labkit.book import variants
    from labkit.book.execute import execute

    values = sources.typed(given.parameters)
    chapters.checked(given.chapter, values)
    place = variants.place(variants.name(given.chapter, values))
    if missing := [name for name in chapters.CHAPTERS if not (EXECUTED / f"{name}.ipynb").exists()]:
        raise RunError(
            f"{', '.join(missing)} was never executed, and the other pages come from there.",
            expected="a book that this page is added to",
            mend="run make book once before",
        )
    execute(given.chapter, values, Path("_build/logs", f"{place.stem}.log"), done=place)
    _pages(argparse.Namespace(log=Path("_build/logs/pages.log")))
    sys.stdout.write(f"The page: {(HTML / 'notebooks' / f'{place.stem}.html').resolve()}\n")


def _verify(given: argparse.Namespace) -> None:
    from labkit.book.verify import verify

    verdict = verify(given.chapter, name=given.name, data=given.data, epochs=given.epochs)
    sys.stdout.write(f"{verdict}\n")
    if not verdict.agrees:
        raise RunError("the record was not reproduced.")


def _check(given: argparse.Namespace) -> None:
    from labkit.book import browser

    sys.stdout.write(browser.report(HTML) + "\n")


def _pdf(given: argparse.Namespace) -> None:
    from labkit.book.pdf import pdf

    sys.stdout.write(f"The book as a PDF: {pdf().resolve()}\n")


def _parameters(pairs: list[str]) -> dict[str, object]:
    """Names and values as typed after `make book PARAMS=`; each must be one that the chapters know."""
    values = sources.typed(pairs)
    for chapter in chapters.CHAPTERS:
        chapters.checked(chapter, sources.of_chapter(values, chapter))
    return values


if __name__ == "__main__":
    sys.exit(main())
