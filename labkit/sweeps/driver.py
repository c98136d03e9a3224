"""Run a sweep through Snakemake: plan it, wait for its cells and tell of each, then write what came out."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labkit.book.build import alone, ended_with_this, snakemake
from labkit.errors import RunError
from labkit.runs.record import write
from labkit.sweeps import needs, outcome
from labkit.sweeps.declared import Sweep, read

LOOK = 0.5  # seconds between two looks at what is done


def sweep(name: str, given: Mapping[str, Any], *, cores: int | None = None, profile: str = "") -> Path:
    """Run what is left of a sweep; cells that failed are an error once the results are written."""
    found = read(name, given)
    plan = found.folder / "plan.json"
    with alone(found.folder / "lock", "another process runs this sweep: waiting for it") as lock:
        write(plan, {"plan": _plan(found)})
        outcome.forget(found)
        command = snakemake("cells", "--configfile", "workflow.yaml", str(plan), cores=cores, profile=profile)
        before = sum(outcome.done(found, cell) for cell in found.cells)
        say(f"{name}: {len(found.cells)} cells, {before} of them done before")
        log = found.folder / "snakemake.log"
        with log.open("w", encoding="utf-8") as stream:
            running = subprocess.Popen(command, pass_fds=[lock], stdout=stream, stderr=subprocess.STDOUT)
            try:
                with ended_with_this(running):
                    _tell(found, running)
            finally:
                outcome.write(found)
    _report(found, log)
    return found.folder


def _report(found: Sweep, log: Path) -> None:
    """Raise an error that names every cell that failed, and where to look."""
    failed = {cell.name: why for cell in found.cells if (why := outcome.failure(found, cell))}
    if not failed:
        return
    if set(failed.values()) == {outcome.NOT_STARTED}:
        raise RunError(f"no cell of the sweep was started. The end of {log}:\n{_end_of(log)}")
    lines = [f"{name}: {why.splitlines()[0]}" for name, why in failed.items()]
    raise RunError(
        "\n".join([f"{len(failed)} of {len(found.cells)} cells failed.", *lines]),
        mend=f"read their logs in {found.folder / 'logs'}; the same command tries these cells again",
    )


def _plan(found: Sweep) -> dict[str, Any]:
    """What the Snakefile needs to know, without asking labkit for it in every job."""
    cells = {cell.name: {"does": asdict(cell), "needs": needs.of(cell)} for cell in found.cells}
    return {"sweep": found.name, "cells": cells}


def _tell(found: Sweep, running: subprocess.Popen) -> None:
    """One line for each cell that ends, until Snakemake does."""
    told = {cell.name: outcome.state(found, cell) for cell in found.cells}
    while True:
        ended = running.poll() is not None
        for cell in found.cells:
            state = outcome.state(found, cell)
            if state != told[cell.name] and state is not None:
                count = sum(outcome.done(found, other) for other in found.cells)
                say(f"{found.name}: {count} of {len(found.cells)} done; {cell.name} {state}")
            told[cell.name] = state
        if ended:
            return
        time.sleep(LOOK)


def say(line: str) -> None:
    """Tell the person at the terminal."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _end_of(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
