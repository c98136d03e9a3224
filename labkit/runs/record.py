"""A run: what was trained on what, how it went, and what it scored, as one JSON file beside the weights."""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from labkit.errors import RunError
from labkit.runs.schema import REQUIRED, VERSION

RECORD = "run.json"
LOCK = "lock"


@dataclass(frozen=True, eq=False)
class Run:
    """One training run by name and key; `folder` is None for a run that was not kept or was published."""

    name: str
    key: str
    folder: Path | None
    record: Mapping[str, Any]

    @property
    def chapter(self) -> str:
        """The first part of the name."""
        return self.name.split("/")[0]

    @property
    def status(self) -> str:
        """`running`, `done` or `failed`."""
        return self.record["status"]

    @property
    def seed(self) -> int:
        """The seed of order, augmentation and dropout."""
        return self.record["seed"]

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: losses, accuracies, learning rate, seconds."""
        return pd.DataFrame(self.record["history"]).astype({"epoch": int})

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return len(self.record["history"]["epoch"])

    @property
    def best_epoch(self) -> int | None:
        """The epoch, counted from 1, whose monitored number is the best."""
        return self.record["best_epoch"]

    @property
    def kept_epoch(self) -> int | None:
        """The epoch whose weights were kept: the best one, or the last where the recipe goes on from it."""
        restored = self.record["recipe"].get("restore_best", True)
        return (self.best_epoch if restored else None) or self.epochs or None

    def kept(self, column: str) -> float | None:
        """A number of the history in the epoch whose weights were kept; None where it was not measured."""
        values = self.record["history"].get(column)
        return values[self.kept_epoch - 1] if values else None

    @property
    def validated(self) -> float | None:
        """The accuracy of the kept weights on validation images, by which runs are chosen.

        Where they were scored after training it is that score; the history may have been taken in fewer bits.
        """
        scored = self.metrics.get("valid")
        return scored["accuracy"] if scored else self.kept("val_accuracy")

    @property
    def seconds(self) -> float:
        """Time spent in epochs, over all resumptions."""
        return self.record["seconds"]

    @property
    def fastest_epoch(self) -> float:
        """Seconds of the fastest epoch: whatever else a machine had to do made the others slower."""
        return min(self.record["history"]["seconds"])

    @property
    def unhindered_seconds(self) -> float:
        """The time that all epochs would have taken at the pace of the fastest."""
        return self.fastest_epoch * self.epochs if self.epochs else 0.0

    @property
    def in_fewer_bits(self) -> bool:
        """Whether training computed in bfloat16, which is faster and which no report did."""
        return self.record["recipe"]["precision"] != "float32"

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What `score` stored, by part."""
        return self.record["metrics"]

    def has_scored(self, part: str, images: Any) -> bool:
        """Whether a part holds the score of these very images."""
        return self.metrics.get(part, {}).get("fingerprint") == images.fingerprint()

    def score(self, part: str, predictions: Any) -> "Run":
        """Store the summary of predictions on a part, such as "test", and when it was first scored."""
        summary = plain(predictions.summary())
        if self.folder is None:
            metrics = {**self.metrics, part: _dated(summary, self.metrics.get(part))}
            return replace(self, record={**self.record, "metrics": metrics})
        with FileLock(self.folder / LOCK):
            record = read(self.folder / RECORD)
            record["metrics"][part] = _dated(summary, record["metrics"].get(part))
            write(self.folder / RECORD, record)
        return replace(self, record=record)

    def __str__(self) -> str:
        scores = [
            f"{part} accuracy {found['accuracy']:.4f}"
            for part, found in self.metrics.items()
            if "ways" not in found  # the same images asked for again in other ways
        ]
        best = [] if self.best_epoch is None else [f"best at epoch {self.best_epoch}"]
        return ", ".join([f"{self.name} [{self.key}] {self.status}", f"{self.epochs} epochs", *best, *scores])

    __repr__ = __str__


def _dated(summary: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """A summary with the moment its images were first scored; scoring them again leaves the date alone."""
    same = earlier is not None and earlier.get("fingerprint") == summary.get("fingerprint")
    first = earlier.get("scored") if same else None
    return {**summary, "scored": first or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def default_folder() -> Path:
    """Where runs are kept when nobody says where: $LABKIT_RUNS, or _build/runs."""
    return Path(os.environ.get("LABKIT_RUNS") or "_build/runs").expanduser()


def load(path: str | os.PathLike) -> Run:
    """Read a run from its folder, its run.json, or a published record."""
    path = Path(path)
    file = path / RECORD if path.is_dir() else path
    record = _read(file)
    return Run(record["name"], record["key"], file.parent if file.name == RECORD else None, record)


def read(file: Path) -> dict[str, Any]:
    """Read the record of a run to go on with; one that is missing, damaged or of another kind is an error."""
    record = _read(file)
    used(file)
    return record


def used(file: Path) -> None:
    """Add a record to the list in $LABKIT_USED of all that a process trained or went on with."""
    if listed := os.environ.get("LABKIT_USED"):
        with Path(listed).open("a", encoding="utf-8") as stream:
            stream.write(f"{file.resolve()}\n")


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"There is no record {file.name} in {file.parent}.", expected="a run's folder or a record"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(
            f"The record {file} was cut short or damaged: {error}.",
            mend="move it away, or delete its folder, and train again",
        ) from None
    if not isinstance(record, dict) or record.get("schema") != VERSION:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise RunError(
            f"The record {file} is of schema {found}.",
            expected=f"schema {VERSION}",
            mend="train again, or use the version of labkit that wrote it",
        )
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise RunError(
            f"The record {file} lacks {', '.join(missing)}.",
            mend="move it away, or delete its folder, and train again",
        )
    return record


def write(file: Path, record: Mapping[str, Any]) -> None:
    """Write a record so that a reader finds the old one or the new one, and never half of one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(dumps(record))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
    if file.name == RECORD:
        used(file)


def dumps(record: Mapping[str, Any]) -> str:
    """Indented JSON with each list of numbers on one line."""
    text = json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False)
    flat = re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", lambda found: f"[{_joined(found[1])}]", text)
    return flat + "\n"


def _joined(lines: str) -> str:
    return re.sub(r",\n\s+", ", ", lines)


def plain(value: Any) -> Any:
    """Turn NumPy numbers, tuples and paths into what JSON knows; what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Path):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
