"""Records for the repository: written from a run, and checked by running again."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from labkit.errors import RunError
from labkit.runs.record import Run, load, plain, write
from labkit.runs.schema import validate
from labkit.runs.table import published_folder


def publish(run: Run, results: str | Path | None = None, *, variant: str | None = None) -> Path:
    """Write a finished run's numbers to <chapter>/<name>-seed<k>[-variant].json in the project's `results`.

    A record there is replaced only by a run of as many epochs of the same images in the same precision.
    """
    if run.status != "done":
        raise RunError(
            f"{run.name} is {run.status}: {run.record['why'] or 'it has not ended'}.",
            expected="a finished run",
        )
    if not run.record["command"]:
        raise RunError(
            f"the record of {run.name} does not say what makes it again.",
            expected="a run of `python -m labkit run`, which keeps its command",
        )
    if variant is not None and not re.fullmatch(r"[A-Za-z0-9_.]+", variant):
        raise RunError(f"A record cannot end in {variant!r}.", expected="one word, such as bfloat16")
    record = rounded(plain({name: value for name, value in run.record.items() if name != "weights"}))
    validate(record, name=run.name)
    chapter, name = run.name.split("/")
    ending = f"-{variant}" if variant else ""
    place = Path(results) if results else published_folder()
    file = place / chapter / f"{name}-seed{run.seed}{ending}.json"
    if file.exists() and not _alike(earlier := load(file).record, record):
        raise RunError(
            f"{file.name} is of a run that was given {_given(earlier)}; this one was given {_given(record)}"
            f"{', other images' * (_given(earlier) == _given(record))}.",
            expected="a name of its own",
            mend="publish it as a variant, or remove the file",
        )
    write(file, record)
    return file


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    images = [record["data"]["train"]["fingerprint"] for record in (one, other)]
    return _given(one) == _given(other) and images[0] == images[1]


def _given(record: Mapping[str, Any]) -> str:
    recipe, images = record["recipe"], record["data"]["train"]
    return (
        f"{recipe['epochs']} epochs of {images['n']:,} images ({images['source']}) in {recipe['precision']}"
    )


def rounded(value: Any) -> Any:
    """Numbers to seven digits: what a figure needs, in half the bytes."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class Verdict:
    """What running again gave, beside what was recorded."""

    name: str
    number: str  # "test accuracy", or "val_accuracy after 3 epochs"
    recorded: float
    measured: float
    allowed: float
    basis: str  # where the allowance comes from

    @property
    def agrees(self) -> bool:
        """Whether the two differ by no more than allowed."""
        return abs(self.measured - self.recorded) <= self.allowed

    def __str__(self) -> str:
        says = "agrees" if self.agrees else "DISAGREES"
        return (
            f"{self.name} {says}: {self.number} {self.measured:.4f}, recorded {self.recorded:.4f}, "
            f"allowed ±{self.allowed:.4f} ({self.basis})"
        )


def verify(
    record: Mapping[str, Any],
    rerun: Callable[[Mapping[str, Any]], Run],
    *,
    tolerance: float | None = None,
    seeds: Iterable[Mapping[str, Any]] = (),
) -> Verdict:
    """Train a record again by `rerun(record)` and compare: test accuracy, or of a shorter run its last epoch.

    `rerun` must use an empty folder of runs: elsewhere the same training is loaded, and agrees with itself.
    Allowed is `tolerance` where given. Else it is three standard errors of a difference between `seeds`,
    records that differ in their seed alone, where there are three or more, plus half a point for another
    machine's arithmetic; with fewer seeds, three standard errors of the images, plus two points.
    """
    validate(record)
    again = rerun(record)
    if again.record["model"]["name"] != record["model"]["name"]:
        raise RunError(
            f"{record['name']} trained {record['model']['name']!r}, running again trained "
            f"{again.record['model']['name']!r}.",
            mend="rerun the record's own command",
        )
    short = again.epochs < len(record["history"]["epoch"]) and not again.record["stopped_early"]
    part = None if short else _shared_part(record, again)
    read = _last_epoch(again.epochs) if part is None else (f"{part} accuracy", lambda one: _scored(one, part))
    number, take = read
    recorded, measured = take(record), take(again.record)
    others = [take(other) for other in seeds if _but_seed(other) == _but_seed(record)]
    allowed, basis = _allowance(recorded, _images(record, part), tolerance, others)
    return Verdict(record["name"], number, recorded, measured, allowed, basis)


def _but_seed(record: Mapping[str, Any]) -> tuple:
    """What two records share that differ in their seed alone; an older one lacks fields that say nothing."""
    return record["name"], _seedless(record["model"].get("options")), _seedless(record["recipe"])


def _seedless(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _seedless(item) for name, item in value.items() if name != "seed" and item is not None}


def _shared_part(record: Mapping[str, Any], again: Run) -> str | None:
    shared = [part for part in record["metrics"] if part in again.metrics]
    return "test" if "test" in shared else next(iter(shared), None)


def _scored(record: Mapping[str, Any], part: str) -> float:
    return record["metrics"][part]["accuracy"]


def _last_epoch(epochs: int) -> tuple[str, Callable[[Mapping[str, Any]], float]]:
    def take(record: Mapping[str, Any]) -> float:
        history = record["history"]
        values = history.get("val_accuracy") or history.get("accuracy") or []
        if not epochs or len(values) < epochs:
            raise RunError(f"{record['name']} has no accuracy after {epochs} epochs to compare.")
        return values[epochs - 1]

    return f"accuracy after {epochs} epochs", take


def _images(record: Mapping[str, Any], part: str | None) -> int:
    if part is not None:
        return record["metrics"][part]["n"]
    return (record["data"]["valid"] or record["data"]["train"])["n"]


def _allowance(share: float, n: int, tolerance: float | None, others: list[float]) -> tuple[float, str]:
    if tolerance is not None:
        return tolerance, "as asked"
    if len(others) < 3:
        return 3 * math.sqrt(share * (1 - share) / max(n, 1)) + 0.02, (
            f"3 standard errors of {n:,} images, plus 0.02"
        )
    return 3 * math.sqrt(2) * stdev(others) + 0.005, f"3 standard errors of {len(others)} seeds, plus 0.005"
