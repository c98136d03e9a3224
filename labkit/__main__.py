"""The command line: `python -m labkit list | run NAME | publish FOLDER`."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from labkit import chapters
from labkit.errors import LabkitError, ParameterError, nearest
from labkit.runs.record import RECORD


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; a mistake is one message and exit status 2."""
    words = sys.argv[1:] if arguments is None else arguments
    parsed, rest = _parser().parse_known_args(words)
    try:
        if parsed.command is _run and words[:2] != ["run", parsed.name]:
            raise ParameterError(
                f"No experiment stands right after the command in {shlex.join(words)!r}.",
                expected="run NAME, then its parameters, such as run noisy_cifar/vgg --seed 3",
            )
        return parsed.command(parsed, rest)
    except LabkitError as error:
        sys.stderr.write(f"labkit: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m labkit", description="Run the book's experiments.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="print the experiments")
    listing.add_argument("pattern", nargs="?", default="*", help="a shell pattern such as 'dual_cifar/*'")
    listing.set_defaults(command=_list)
    run = commands.add_parser("run", help="train and score one experiment; parameters as --name value")
    run.add_argument("name", help="an experiment, such as noisy_cifar/vgg")
    run.set_defaults(command=_run)
    publish = commands.add_parser("publish", help="write the committed record of finished runs")
    publish.add_argument("folders", nargs="+", help="folders of runs, such as _build/runs/noisy_cifar/*")
    publish.add_argument("--variant", help="what sets these runs apart from others of their names and seeds")
    publish.set_defaults(command=_publish)
    return parser


def _list(parsed: argparse.Namespace, rest: list[str]) -> int:
    _refuse(rest, expected="one pattern at most")
    from labkit import experiments  # loads Keras

    found = experiments.names(parsed.pattern)
    if not found:
        raise ParameterError(
            f"No experiment matches {parsed.pattern!r}.", expected="a shell pattern such as 'dual_cifar/*'"
        )
    for name in found:
        sys.stdout.write(f"{name:44} {experiments.get(name).says}\n")
    return 0


def _run(parsed: argparse.Namespace, rest: list[str]) -> int:
    from labkit import experiments

    given = _parameters(rest)
    # Which part of a search this process takes, and where its chief is, is nothing that makes the run again.
    pairs = [pair for pair in zip(rest[::2], rest[1::2], strict=True) if pair[0] != "--member"]
    words = ["python", "-m", "labkit", "run", parsed.name, *chain.from_iterable(pairs)]
    os.environ["LABKIT_COMMAND"] = shlex.join(words)
    run = experiments.run(parsed.name, **given)
    sys.stdout.write(f"{run}\n")
    return 0


def _publish(parsed: argparse.Namespace, rest: list[str]) -> int:
    from labkit import runs

    _refuse(rest, expected="folders, and --variant with a word", known=["--variant"])
    refused, several = 0, len(parsed.folders) > 1
    if several and not any(map(_holds_a_run, parsed.folders)):
        raise ParameterError("None of these folders holds a run.", expected="such as _build/runs/cifar100/*")
    for folder in parsed.folders:
        if several and not _holds_a_run(folder):
            continue  # a pattern such as _build/runs/noisy_cifar/* finds locks and searches, too
        try:
            sys.stdout.write(f"{runs.publish(runs.load(folder), variant=parsed.variant)}\n")
        except LabkitError as error:  # one run that has not ended keeps no other from being published
            sys.stderr.write(f"labkit: {error}\n")
            refused += 1
    return 2 if refused else 0


def _holds_a_run(folder: str) -> bool:
    return Path(folder, RECORD).is_file() or folder.endswith(".json")


def _refuse(rest: list[str], expected: str, known: Iterable[str] = ()) -> None:
    """Refuse what is left of a command line once all that the command knows is read."""
    if rest:
        mend = nearest(rest[0].partition("=")[0], known)
        raise ParameterError(f"Nothing is known of {rest[0]!r} here.", expected=expected, mend=mend)


def _parameters(words: list[str]) -> dict[str, Any]:
    """Read `--seed 3 --data FOLDER` as the parameters of a chapter, numbers as numbers."""
    names, values = words[::2], words[1::2]
    wrong = [name for name in names if not name.startswith("--")]
    if wrong or len(names) != len(values):
        raise ParameterError(
            f"The arguments {' '.join(words)!r} are not pairs of a name and a value.",
            expected="--name value, such as --seed 3 --profile full",
        )
    return chapters.options(words)


if __name__ == "__main__":
    sys.exit(main())
