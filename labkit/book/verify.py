"""Run a committed record again and say whether the two agree."""

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit import chapters, runs, scoreboard
from labkit.errors import RunError
from labkit.runs import Run, Verdict
from labkit.runs.record import RECORD
from labkit.sweeps.needs import BEFORE


def verify(chapter: str, *, name: str = "*", data: str = "", epochs: int | None = None) -> Verdict:
    """Run the cheapest matching record of a chapter again that trains, in full or for its first epochs."""
    found = [run for run in scoreboard.recorded(f"{chapter}/{name}") if run.record["command"]]
    if not found:
        raise RunError(
            f"there is no record of {chapter}/{name} that can be run again.",
            expected="a record in results/ that holds its command",
        )
    found = _telling(found)
    if epochs is not None:
        found = [run for run in found if _starts_alike(run)]
    if not found:
        raise RunError(
            f"the first epochs of {chapter}/{name} are others when there are no more of them.",
            expected="a record whose rate is not planned over all epochs, with no training before it",
            mend="leave EPOCHS out, or name another record",
        )
    chosen = min(found, key=lambda run: run.seconds)
    changes: dict[str, Any] = {"epochs": epochs, "data": data or None}
    with tempfile.TemporaryDirectory() as folder:
        given = {key: value for key, value in changes.items() if value is not None} | {"runs": folder}
        others = [run.record for run in found if run.name == chosen.name]
        return runs.verify(chosen.record, lambda record: _again(record, given), seeds=others)


def _telling(found: list[Run]) -> list[Run]:
    """The runs that learnt something, where there are any: none untrained, none with a report's slips."""
    trained = [run for run in found if run.epochs]
    return [run for run in trained if not run.name.endswith("_as_run")] or trained or found


def _starts_alike(run: Run) -> bool:
    """Whether the first epochs of a run are the same when it is told to train for these alone.

    The stages before it, which its command trains too, would be cut as well.
    """
    goes_on = run.name.partition("-")[0].removesuffix("_as_run").endswith((*BEFORE, "_confident"))
    return not goes_on and run.record["recipe"]["schedule"] in ("constant", "plateau")


def command(record: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The experiment and the parameters in a record's command."""
    words = shlex.split(record["command"])
    start = words.index("run") + 1
    return words[start], chapters.options(words[start + 1 :])


def _again(record: Mapping[str, Any], changes: Mapping[str, Any]) -> Run:
    """The run of a record's name that its command makes; an experiment of several stages makes several."""
    from labkit import experiments

    experiment, parameters = command(record)
    made = experiments.run(experiment, **(parameters | dict(changes)))
    if made.name == record["name"]:
        return made
    kept = map(runs.load, Path(changes["runs"]).glob(f"{record['name']}-*/{RECORD}"))
    return next(stage for stage in kept if stage.name == record["name"])
