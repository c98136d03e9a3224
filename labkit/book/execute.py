"""Execute one chapter with papermill; a failure names the cell, the error and the partial notebook."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from labkit.book import EXECUTED, FAILED, stamps
from labkit.errors import RunError


@dataclass(frozen=True)
class Failure:
    """What a person needs to know about a chapter that did not run to its end."""

    chapter: str
    cell: str
    error: str
    notebook: Path
    log: Path

    def __str__(self) -> str:
        """The block that the terminal shows."""
        lines = [f"The chapter {self.chapter} failed{self.cell}", self.error.strip()]
        lines.append(f"The notebook as far as it came: {self.notebook}")
        lines.append(f"Its log: {self.log}")
        return "\n".join(lines)


def execute(
    chapter: str,
    parameters: Mapping[str, Any],
    log: Path,
    attempt: int = 1,
    done: Path | None = None,
    failed: Path = FAILED,
) -> Path:
    """Run notebooks/<chapter>.ipynb and leave the executed copy at `done` only when every cell passed.

    One that did not get so far lies in the folder `failed`, with a report where a cell was the reason.
    """
    done = done or EXECUTED / f"{chapter}.ipynb"
    partial, report = failed / done.name, failed / f"{done.stem}.txt"
    if attempt > 1 and report.exists():
        raise RunError(f"{chapter} is not tried again: the same cell would fail again.")
    for path in (done, partial, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    _say(f"{chapter}: executing")
    started, files = time.monotonic(), stamps.hashes(chapter)
    try:
        with log.open("w", encoding="utf-8") as stream, _logged(stream):
            _run(chapter, parameters, partial)
    except PapermillExecutionError as error:
        failure = _in_cell(chapter, error, partial, log)
        report.write_text(f"{failure}\n", encoding="utf-8")
        raise RunError(str(failure)) from None
    except RuntimeError as error:  # a kernel that died or never answered
        raise RunError(str(Failure(chapter, ":", str(error), partial, log))) from None
    partial.replace(done)
    seconds = time.monotonic() - started
    stamps.write(chapter, done, parameters, seconds, files)
    _say(f"{chapter}: done in {seconds:.0f} s")
    return done


def _run(chapter: str, parameters: Mapping[str, Any], partial: Path) -> None:
    with TemporaryDirectory(prefix="kernel-") as sockets:
        # Sockets in a folder of its own: no port that others could reach, no file that two kernels share.
        transport = {"transport": "ipc", "ip": f"{sockets}/kernel"}
        papermill.execute_notebook(
            f"notebooks/{chapter}.ipynb",
            str(partial),
            parameters=dict(parameters),
            progress_bar=False,
            log_output=True,
            start_timeout=120,
            config=Config({"KernelManager": transport}),
        )


@contextmanager
def _logged(stream: TextIO) -> Iterator[None]:
    """Send what papermill reports, every cell's output included, and our standard error to a file."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("papermill")
    logger.addHandler(handler)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    terminal = os.dup(2)
    os.dup2(stream.fileno(), 2)  # the kernel inherits it, for what it says before and after the notebook
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _in_cell(chapter: str, error: PapermillExecutionError, partial: Path, log: Path) -> Failure:
    source = "\n".join(f"    {line}" for line in error.source.strip().splitlines())
    cell = f" in cell [{error.exec_count}]:\n{source}"
    return Failure(chapter, cell, f"{error.ename}: {error.evalue}", partial, log)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
