"""Bring the book up to date through Snakemake, one build at a time."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from labkit import chapters
from labkit.book import FAILED, sources
from labkit.errors import RunError
from labkit.runs.record import write

LOCK = Path("_build/lock")
GIVEN = Path("_build/given.json")  # beside workflow.yaml: numbers would turn into text on a command line
PROFILES = Path("profiles")


def build(target: str, parameters: Mapping[str, Any], *, cores: int | None = None, profile: str = "") -> None:
    """Make a target of the Snakefile; what is up to date is left alone."""
    given = {"parameters": dict(parameters)} | ({"needs": _needs(parameters)} if profile else {})
    options = ("--quiet", "all", "--configfile", "workflow.yaml", str(GIVEN))
    command = snakemake(target, *options, cores=cores, profile=profile)
    with alone(LOCK, "another build is running in this folder: waiting for it") as lock:
        write(GIVEN, given)
        for left in _reports():
            left.unlink()
        running = subprocess.Popen(command, pass_fds=[lock])
        with ended_with_this(running):
            running.wait()
        said = [report.read_text(encoding="utf-8").rstrip() for report in _reports()]
    if running.returncode:
        raise RunError("\n\n".join(["the book was not built.", *said]))


def _needs(parameters: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What each chapter asks of the machine that a profile finds for it."""
    from labkit.sweeps import needs  # loads Keras
    from labkit.sweeps.declared import Cell

    declared = yaml.safe_load(Path("workflow.yaml").read_text(encoding="utf-8"))
    declared["parameters"].update(parameters)
    return {
        chapter: needs.of(Cell(chapter, chapter, sources.parameters_of(declared, chapter), {}))
        for chapter in declared["chapters"]
    }


def _reports() -> list[Path]:
    """What chapters that failed have left; those of sweeps and variants lie beside them."""
    return [file for chapter in chapters.CHAPTERS if (file := FAILED / f"{chapter}.txt").exists()]


def snakemake(target: str, *options: str, cores: int | None = None, profile: str = "") -> list[str]:
    """The command that makes a target; a profile is a folder, or the name of one under profiles/."""
    command = [sys.executable, "-m", "snakemake", target, "--keep-going"]
    command += ["--rerun-incomplete", "--nolock"]  # `alone` outlives nobody, Snakemake's own lock does
    if cores or not profile:  # where a profile sends jobs away, cores would bound what they ask for together
        command += ["--cores", str(cores or os.cpu_count() or 1)]
    if profile:
        kept = PROFILES / profile
        command += ["--profile", str(kept) if kept.is_dir() else profile]
    return [*command, *options]


@contextmanager
def ended_with_this(running: subprocess.Popen) -> Iterator[None]:
    """End a process and all that it has started where this one is interrupted or told to stop."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if running.poll() is None:
            below = psutil.Process(running.pid).children(recursive=True)
            running.terminate()  # Snakemake starts no job after this,
            running.send_signal(signal.SIGINT)  # and after this takes back those that it sent to a cluster
            for process in below:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            psutil.wait_procs(below)
            running.wait()


@contextmanager
def alone(place: Path, waiting: str) -> Iterator[int]:
    """Wait for another process that holds a lock; the system drops the lock of one that was killed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"{waiting}\n")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()
