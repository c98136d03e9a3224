"""The stamp beside every executed chapter: when, where and from what it came, and whether it still holds."""

import hashlib
import json
import os
import platform
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import labkit
from labkit.book import sources
from labkit.runs import record

LIBRARIES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy")


@dataclass(frozen=True)
class Stamp:
    """What is known of one execution."""

    chapter: str
    parameters: dict[str, Any]
    finished: str  # ISO 8601, in UTC
    seconds: float
    peak_mb: float  # of the kernel
    labkit: str
    python: str
    libraries: dict[str, str]
    hardware: str
    files: dict[str, str]  # SHA-256 of each file that can change the result

    @property
    def when(self) -> datetime:
        """When the last cell had run."""
        return datetime.fromisoformat(self.finished)

    def age(self, now: datetime | None = None) -> str:
        """How long ago that was, in words."""
        passed = (now or datetime.now(UTC)) - self.when
        if passed < timedelta(hours=1):
            return "less than an hour"
        if passed < timedelta(days=2):
            return f"{passed.total_seconds() / 3600:.0f} hours"
        return f"{passed.days} days"

    def changed(self) -> list[str]:
        """Files that have changed, come or gone since: with none, the page is what they would give again."""
        now = hashes(self.chapter)
        return sorted(name for name in now.keys() | self.files if now.get(name) != self.files.get(name))


def write(
    chapter: str, notebook: Path, parameters: Mapping[str, Any], seconds: float, files: Mapping[str, str]
) -> Path:
    """Stamp an execution that has just ended in this process; `files` are the hashes from before it began."""
    # The kernel was the only large child of this process.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    stamp = Stamp(
        chapter=chapter,
        parameters=dict(parameters),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        peak_mb=round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
        labkit=labkit.__version__,
        python=platform.python_version(),
        libraries=_libraries(),
        hardware=_hardware(),
        files=dict(files),
    )
    path = notebook.with_suffix(".json")
    record.write(path, asdict(stamp))
    return path


def read(notebook: Path) -> Stamp | None:
    """The stamp of an executed notebook, or None where there is none, or a damaged one."""
    path = notebook.with_suffix(".json")
    if not path.exists():
        return None
    try:
        return Stamp(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # it was cut short, or holds something else
        return None


def hashes(chapter: str) -> dict[str, str]:
    """The files that can change a chapter's result, with the SHA-256 of each."""
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in sources.of(chapter)}


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _hardware() -> str:
    """The processor by the name it gives itself, and its cores."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = next(line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
