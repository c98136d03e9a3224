"""The command line behind `make sweep` and the Snakefile's rule for a cell."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.book import sources
from labkit.errors import LabkitError


def main(arguments: list[str] | None = None) -> int:
    """Run a sweep, or one of its cells; a mistake or a failure is one message and a non-zero exit."""
    given = _parser().parse_args(arguments)
    try:
        given.step(given)
    except LabkitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m labkit.sweeps", description=__doc__)
    steps = parser.add_subparsers(required=True)

    run = steps.add_parser("run", help="run what is left of a sweep")
    run.add_argument("--name", default="")
    run.add_argument("--cores", type=int, help="of this machine, where cells run on it")
    run.add_argument("--profile", default="", help="a Snakemake profile, such as slurm")
    run.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="given to every cell")
    run.set_defaults(step=_run)

    cell = steps.add_parser("cell", help="run one cell")
    cell.add_argument("folder", type=Path)
    cell.add_argument("--does", type=json.loads, required=True, help="a JSON object")
    cell.add_argument("--attempt", type=int, default=1)
    cell.set_defaults(step=_cell)
    return parser


def _run(given: argparse.Namespace) -> None:
    with _silence():
        from labkit.sweeps.driver import sweep

    folder = sweep(given.name, sources.typed(given.parameters), cores=given.cores, profile=given.profile)
    sys.stdout.write(f"The results: {(folder / 'results.md').resolve()}\n")


def _cell(given: argparse.Namespace) -> None:
    from labkit.sweeps.cell import run
    from labkit.sweeps.declared import Cell

    run(Cell(**given.does), given.folder, given.attempt)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what TensorFlow says when it is loaded, which asks nobody for anything, off the terminal."""
    terminal = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


if __name__ == "__main__":
    sys.exit(main())
