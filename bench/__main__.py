"""Runs the measured comparisons and keeps what they print in bench/RESULTS.md, a section a script.

python bench                # all of them
python bench data training  # some; the sections of the others stay as they were
"""

import argparse
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from labkit.book.stamps import LIBRARIES

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
CALM = 0.5  # load for each core; a run that starts above it is marked as busy
PATIENCE = 180  # seconds to wait for that
NOISE = re.compile(r"^(WARNING: All log messages|[IWE]\d{4} |To enable the following)")
TITLE = f"""# Speed

What the code costs against the way the reports did the same, as ratios within one run of one machine:
seconds differ between machines and hours, ratios hardly do. `make bench` measures again. A run is marked
busy where the machine's load before it was above {CALM:g} for each core.
"""


def main() -> None:
    scripts = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem != "__main__"}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(scripts)}")
    names = parser.parse_args().names or list(scripts)
    if unknown := set(names) - set(scripts):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(scripts)}")
    sections = kept()
    for name in names:
        print(f"== bench/{name}.py", flush=True)
        sections[name] = measured(scripts[name])
        RESULTS.write_text("\n".join([TITLE, *(sections[key] for key in sorted(sections))]), encoding="utf-8")


def kept() -> dict[str, str]:
    """The sections of the file, by script."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {re.match(r"## bench/(\w+)\.py", part)[1]: part.rstrip("\n") + "\n" for part in parts}


def measured(script: Path) -> str:
    """Run one script, show what it prints as it comes, and give its section."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    load = settled()
    lines = []
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        for line in running.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if running.returncode:
        sys.exit(f"bench/{script.name} failed; {RESULTS.name} keeps what it said before.")
    shown = "\n".join(line for line in lines if not NOISE.match(line))
    return f"## bench/{script.name}\n\n{purpose(script)}\n\n{where(load)}\n\n```text\n{shown}\n```\n"


def purpose(script: Path) -> str:
    """The first sentences of a script's docstring."""
    return script.read_text(encoding="utf-8").split('"""')[1].split("\n\n")[0].replace("\n", " ")


def settled() -> float:
    """The load that other work makes: the script before leaves its own, which takes minutes to fade."""
    end = time.monotonic() + PATIENCE
    while (load := os.getloadavg()[0]) > CALM * os.cpu_count() and time.monotonic() < end:
        time.sleep(5)
    return load


def where(load: float) -> str:
    """Date, machine, how busy it was, and versions of what is installed."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    packages = []
    for name in ("labkit", *LIBRARIES):
        with suppress(PackageNotFoundError):
            packages.append(f"{name} {version(name)}")
    busy = ", busy" if load > CALM * os.cpu_count() else ""
    return (
        f"{datetime.now(UTC):%d %B %Y}, {cpu[1] if cpu else 'unknown processor'}, {os.cpu_count()} cores "
        f"(load before: {load:.1f}{busy}), Python {sys.version.split()[0]}, {', '.join(packages)}."
    )


if __name__ == "__main__":
    main()
