"""Run one cell, and leave its records where it succeeded, or a note that says why it did not."""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labkit import chapters
from labkit.errors import LabkitError, RunError
from labkit.runs.record import load, write
from labkit.sweeps.declared import Cell

PASSING = (OSError, MemoryError, RunError)  # errors that need not come again
SILENT = "It ended without a word: killed, or out of memory, or its machine failed."
FAILED = "failed"  # the folder for notebooks that a cell has stopped, in that of the sweep
STOPPED = "It was told to stop: over its time limit, or by a person, or because its machine goes down."


class Stopped(BaseException):
    """The signal that a scheduler sends before it kills."""


def run(cell: Cell, folder: Path, attempt: int = 1) -> Path:
    """Train what the cell says; what was trained already, also by a cell that was killed, is kept."""
    done, note = folder / "cells" / f"{cell.name}.json", folder / "unfinished" / f"{cell.name}.json"
    if attempt > 1 and note.exists() and not json.loads(note.read_text(encoding="utf-8"))["again"]:
        raise RunError(f"{cell.name} is not tried again: it would fail as before.")
    note.parent.mkdir(parents=True, exist_ok=True)
    _note(note, SILENT, attempt, again=True, ended=False)
    signal.signal(signal.SIGTERM, _stop)
    started = time.monotonic()
    try:
        records = _chapter(cell, folder, attempt) if cell.is_chapter else _experiment(cell)
    except Stopped:
        _note(note, STOPPED, attempt, again=True)
        raise RunError(f"{cell.name}: {STOPPED}") from None
    except Exception as error:
        said = str(error) if isinstance(error, LabkitError) else f"{type(error).__name__}: {error}"
        _note(note, said, attempt, again=_may_pass(cell, folder, error))
        raise
    write(done, {"cell": asdict(cell), "seconds": time.monotonic() - started, "records": records})
    note.unlink()
    return done


def _experiment(cell: Cell) -> list[Mapping[str, Any]]:
    from labkit import experiments

    given = {name: value for name, value in cell.parameters.items() if value is not None}
    options = given | ({"devices": cell.devices} if cell.devices > 1 else {})
    words = [word for name, value in options.items() for word in (f"--{name}", chapters.spell(value))]
    os.environ["LABKIT_COMMAND"] = shlex.join(["python", "-m", "labkit", "run", cell.run, *words])
    return [experiments.run(cell.run, **options).record]


def _chapter(cell: Cell, folder: Path, attempt: int) -> list[Mapping[str, Any]]:
    """Execute the notebook with a folder of runs of its own, and give those that it trained or loaded."""
    from labkit.book.execute import execute

    runs, used = folder / "runs" / cell.name, folder / "logs" / f"{cell.name}.used.txt"
    parameters = {**cell.parameters, "runs": str(runs.resolve())}
    log = folder / "logs" / f"{cell.name}.notebook.log"
    used.parent.mkdir(parents=True, exist_ok=True)
    used.write_text("", encoding="utf-8")
    os.environ["LABKIT_USED"] = str(used.resolve())  # other runs in the folder are of earlier executions
    done = folder / "notebooks" / f"{cell.name}.ipynb"
    execute(cell.run, parameters, log, attempt, done, failed=folder / FAILED)
    files = map(Path, sorted(set(used.read_text(encoding="utf-8").splitlines())))
    return [load(file).record for file in files if file.exists()]  # a damaged one was moved aside


def _may_pass(cell: Cell, folder: Path, error: Exception) -> bool:
    """Whether another attempt can end otherwise; an error in a notebook or a lost loss would come again."""
    from labkit.training.callbacks import Diverged

    if cell.is_chapter:
        return not (folder / FAILED / f"{cell.name}.txt").exists()
    return isinstance(error, PASSING) and not isinstance(error, Diverged)


def _stop(number: int, frame: Any) -> None:
    raise Stopped


def _note(file: Path, why: str, attempt: int, *, again: bool, ended: bool = True) -> None:
    write(file, {"why": why.strip(), "attempt": attempt, "again": again, "ended": ended})
    if ended:
        sys.stderr.write(f"{why}\n")
