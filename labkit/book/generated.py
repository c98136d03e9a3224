"""What prose pages include from records, data and the package, written when the book is staged."""

import shutil
from pathlib import Path

import yaml

from labkit.book import (
    better_page,
    cost_page,
    cover,
    defects_page,
    messages_page,
    models_page,
    reference,
    score_page,
    sources,
    status_page,
    variants,
)
from labkit.book.gallery import Gallery


def write(stage: Path, gallery: Gallery) -> None:
    """Fill book/generated, whose files the prose pages include, and the pages of the API reference."""
    folder = stage / "book" / "generated"
    folder.mkdir()
    pieces = {
        "better": better_page.full(),
        "tried": better_page.tried(),
        "findings": cover.findings(),
        "score": score_page.short(),
        "scoreboard": score_page.full(gallery.sizes),
        "defects": defects_page.full(),
        "models": models_page.full(gallery),
        "messages": messages_page.full(gallery),
        "status": status_page.full(),
        "costs": cost_page.full(gallery.sizes),
        "api": reference.overview(),
        "speed": Path(sources.SPEED).read_text(encoding="utf-8"),
    }
    for name, text in pieces.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    shutil.copytree(gallery.folder, folder / "models", ignore=shutil.ignore_patterns("*.json"))
    reference.write(stage / "book")
    _list_pages(stage / "_toc.yml")


def _list_pages(toc: Path) -> None:
    """Put module pages below the reference, and variants below their chapter, in the contents."""
    below = {"book/api": [f"book/api/{module}" for module in reference.present()]}
    for chapter, names in variants.present().items():
        below[f"notebooks/{chapter}"] = [f"notebooks/{name}" for name in names]
    contents = yaml.safe_load(toc.read_text(encoding="utf-8"))
    for part in contents["parts"]:
        for page in part["chapters"]:
            if page["file"] in below:
                page["sections"] = [{"file": name} for name in below[page["file"]]]
    toc.write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
