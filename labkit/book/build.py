"""Bring the book up to date through Snakemake, one build at a time."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labkit.book import FAILED
from labkit.errors import RunError

LOCK = Path("_build/lock")


def build(target: str, parameters: Mapping[str, Any], *, cores: int | None = None, profile: str = "") -> None:
    """Make a target of the Snakefile; what is up to date is left alone."""
    command = [sys.executable, "-m", "snakemake", target, "--quiet", "all", "--keep-going"]
    command += ["--rerun-incomplete", "--nolock"]  # the lock below outlives nobody, Snakemake's own does
    command += ["--cores", str(cores or os.cpu_count() or 1)]
    if parameters:
        command += ["--config", "parameters=" + json.dumps(dict(parameters))]
    if profile:
        command += ["--profile", profile]
    with _alone() as lock:
        finished = subprocess.run(command, pass_fds=[lock], check=False)
    if finished.returncode:
        reports = [path.read_text(encoding="utf-8").rstrip() for path in sorted(FAILED.glob("*.txt"))]
        raise RunError("\n\n".join(["the book was not built.", *reports]))


@contextmanager
def _alone() -> Iterator[int]:
    """Wait for another build in this folder; the system drops the lock of a build that was killed."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("another build is running in this folder: waiting for it\n")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()
