"""Run a committed record again and say whether the two agree."""

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from labkit import runs, scoreboard
from labkit.errors import RunError
from labkit.runs import Run, Verdict
from labkit.runs.record import RECORD


def verify(chapter: str, *, name: str = "*", data: str = "", epochs: int | None = None) -> Verdict:
    """Train the cheapest matching record of a chapter again, in full or for its first epochs."""
    found = [run for run in scoreboard.recorded(f"{chapter}/{name}") if run.record["command"]]
    if not found:
        raise RunError(
            f"there is no record of {chapter}/{name} that can be run again.",
            expected="a record in results/ that holds its command",
        )
    chosen = min(found, key=lambda run: run.seconds)
    changes: dict[str, Any] = {"epochs": epochs, "data": data or None}
    with tempfile.TemporaryDirectory() as folder:
        given = {key: value for key, value in changes.items() if value is not None} | {"runs": folder}
        others = [run.record for run in found if run.name == chosen.name]
        return runs.verify(chosen.record, lambda record: _again(record, given), seeds=others)


def command(record: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The experiment and the parameters in a record's command."""
    words = shlex.split(record["command"])
    start = words.index("run") + 1
    names, values = words[start + 1 :: 2], words[start + 2 :: 2]
    named = zip(names, values, strict=True)
    return words[start], {key.lstrip("-").replace("-", "_"): yaml.safe_load(value) for key, value in named}


def _again(record: Mapping[str, Any], changes: Mapping[str, Any]) -> Run:
    """The run of a record's name that its command makes; an experiment of several stages makes several."""
    from labkit import experiments

    experiment, parameters = command(record)
    made = experiments.run(experiment, **(parameters | dict(changes)))
    if made.name == record["name"]:
        return made
    kept = map(runs.load, Path(changes["runs"]).glob(f"{record['name']}-*/{RECORD}"))
    return next(stage for stage in kept if stage.name == record["name"])
