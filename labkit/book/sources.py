"""Which files decide what: the results of a chapter, or only how the pages look."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from labkit import chapters
from labkit.errors import ParameterError, nearest

CONSTRAINTS = "constraints.txt"
REPORTS = ("book/published.csv", "book/defects.toml")  # what chapters show of the reports
SPEED = "bench/RESULTS.md"


def package() -> list[str]:
    """Modules that can change a result: not what lays out pages or runs sweeps."""
    found = Path("labkit").rglob("*.py")
    others = {"book", "sweeps"}
    return sorted(str(path) for path in found if not others & {*path.parts} or path.name == "execute.py")


def layout() -> list[str]:
    """Modules that lay out the pages."""
    return sorted(str(path) for path in Path("labkit/book").glob("*.py"))


def prose() -> list[str]:
    """Everything of the book but the chapters."""
    pages = (str(path) for path in Path("book").rglob("*") if path.is_file())
    return ["_config.yml", "_toc.yml", "CHANGELOG.md", SPEED, *sorted(pages)]


def records() -> list[str]:
    """The recorded runs of all chapters."""
    return sorted(str(path) for path in Path("results").rglob("*.json"))


def of(chapter: str) -> list[str]:
    """Every file that can change the result of a chapter; each foretells times by the records of all."""
    return [f"notebooks/{chapter}.ipynb", *package(), CONSTRAINTS, *REPORTS, *records()]


def of_run(name: str) -> list[str]:
    """Every file that can change the result of an experiment, or of a chapter."""
    return [*package(), CONSTRAINTS] if "/" in name else of(name)


def parameters(config: Mapping[str, Any], chapter: str) -> str:
    """One line of JSON: what papermill gives a chapter."""
    return json.dumps(parameters_of(config, chapter), sort_keys=True)


def parameters_of(config: Mapping[str, Any], chapter: str) -> dict[str, Any]:
    """What workflow.yaml gives a chapter."""
    own = config["chapters"][chapter] or {}
    return of_chapter({**config["parameters"], **own}, chapter)


def of_chapter(values: Mapping[str, Any], chapter: str) -> dict[str, Any]:
    """What a chapter takes of values for all; `animals.data` is `data` for that chapter alone."""
    common = {name: value for name, value in values.items() if "." not in name}
    own = {name.split(".", 1)[1]: value for name, value in values.items() if name.startswith(f"{chapter}.")}
    return common | own


def typed(pairs: Iterable[str]) -> dict[str, Any]:
    """Names and values as typed after PARAMS=; a name may begin with the chapter that alone it is for."""
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ParameterError(f"{pair!r} is no parameter.", expected="NAME=VALUE, such as profile=quick")
        chapter, dot, _ = name.partition(".")
        if dot and chapter not in chapters.CHAPTERS:
            mend = nearest(chapter, chapters.CHAPTERS)
            known = ", ".join(chapters.CHAPTERS)
            raise ParameterError(f"{name!r} is for no chapter.", expected=f"one of {known}", mend=mend)
        values[name] = chapters.typed(value)
    return values


def digest(given: Mapping[str, Any]) -> str:
    """A SHA-256 over all that the executed chapters depend on: equal digests, nothing to execute."""
    config = yaml.safe_load(Path("workflow.yaml").read_text(encoding="utf-8"))
    config["parameters"].update(given)
    total = hashlib.sha256()
    for chapter in sorted(config["chapters"]):
        total.update(f"{chapter} {parameters(config, chapter)}\n".encode())
    for name in sorted({name for chapter in config["chapters"] for name in of(chapter)}):
        total.update(f"{name} {hashlib.sha256(Path(name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
