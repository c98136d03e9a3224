"""Runs the measured comparisons and keeps what they print in bench/RESULTS.md, their ratios in one table.

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
seconds differ between machines and hours, ratios less, though those of convolutions depend on how wide the
vectors of the processor are. `make bench` measures again. The table holds all ratios; below it is what each
script printed, when and where. A run is marked busy where the machine's load before it was above {CALM:g} for
each core.
"""
HEADER = """\
| what | beside | of | ratio | goal | script |
|---|---|---|---|---|---|
"""


def main() -> None:
    scripts = {path.stem: path for path in sorted(HERE.glob("*.py")) if not path.stem.startswith("_")}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(scripts)}")
    names = parser.parse_args().names or list(scripts)
    if unknown := set(names) - set(scripts):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(scripts)}")
    ratios, sections = kept()
    for name in names:
        print(f"== bench/{name}.py", flush=True)
        ratios[name], sections[name] = measured(scripts[name])
        RESULTS.write_text(written(ratios, sections), encoding="utf-8")


def kept() -> tuple[dict[str, list[str]], dict[str, str]]:
    """The lines of the file's table and its sections, by script."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    start, *parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    ratios = {}
    for line, name in re.findall(r"^(\| .+ \|) (\w+) \|$", start, flags=re.MULTILINE):
        ratios.setdefault(name, []).append(line)
    ratios.pop("script", None)  # the table's head
    return ratios, {re.match(r"## bench/(\w+)\.py", part)[1]: part.rstrip("\n") + "\n" for part in parts}


def written(ratios: dict[str, list[str]], sections: dict[str, str]) -> str:
    """The file: one table of all ratios, then a section a script."""
    lines = [f"{line} {name} |\n" for name in sorted(ratios) for line in ratios[name]]
    return "\n".join([TITLE, HEADER + "".join(lines), *(sections[name] for name in sorted(sections))])


def measured(script: Path) -> tuple[list[str], str]:
    """Run one script, show what it prints as it comes, and give its lines of the table and its section."""
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
    ratios = [line for line in lines if line.startswith("| ")]
    shown = "\n".join(line for line in lines if line not in ratios and not NOISE.match(line))
    return ratios, f"## bench/{script.name}\n\n{purpose(script)}\n\n{where(load)}\n\n```text\n{shown}\n```\n"


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
