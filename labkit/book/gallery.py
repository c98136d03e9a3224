"""What pages say of the models: cards and one picture a family, made in a process of its own and kept.

Only here do pages need Keras. The process keeps Keras' start-up messages away from the terminal, and what it
makes is kept until the models change.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.book import sources
from labkit.costs import Size, Sizes
from labkit.errors import RunError

GALLERY = Path("_build/gallery")


@dataclass(frozen=True)
class Gallery:
    """Cards of all models as plain data, pictures by family, and what labkit says of a misspelt model."""

    cards: tuple[dict[str, Any], ...]
    pictures: tuple[dict[str, str], ...]  # family, model, file, alt
    messages: tuple[tuple[str, str], ...]
    folder: Path

    @property
    def sizes(self) -> Sizes:
        """What each model computes on one image."""
        return {card["name"]: Size(card["macs"], card["family"]) for card in self.cards}


def gallery() -> Gallery:
    """The gallery of the package as it is now, made when there is none yet."""
    folder = GALLERY / _digest()
    if not folder.exists():
        shutil.rmtree(GALLERY, ignore_errors=True)
        part = GALLERY / "part"
        part.mkdir(parents=True)
        command = [sys.executable, "-m", "labkit.book.gallery", str(part)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise RunError(f"the models could not be drawn:\n{made.stderr[-2000:]}")
        part.rename(folder)
    found = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    return Gallery(**{name: tuple(map(_frozen, items)) for name, items in found.items()}, folder=folder)


def make(folder: Path) -> None:
    """Write gallery.json and the pictures."""
    from labkit import models

    cards = [_card(models.card(name)) for name in models.names()]
    families: dict[str, str] = {}
    for card in cards:
        families.setdefault(card["family"], card["name"])
    pictures = [_picture(family, name, folder) for family, name in families.items()]
    found = {"cards": cards, "pictures": pictures, "messages": _messages()}
    (folder / "gallery.json").write_text(json.dumps(found), encoding="utf-8")


def _card(card: Any) -> dict[str, Any]:
    fields = ("name", "sentence", "chapter", "report", "paper", "figure", "as_run", "macs", "family")
    return {
        **{name: getattr(card, name) for name in fields},
        "input": "×".join(map(str, card.input_shape)),
        "total": card.counts.total,
        "trainable": card.counts.trainable,
    }


def _picture(family: str, name: str, folder: Path) -> dict[str, str]:
    from labkit import models, plots

    drawn = plots.model_layers(models.build(name))
    file = f"{family}.webp"
    drawn.figure.savefig(folder / file, dpi=150, bbox_inches="tight")
    return {"family": family, "model": name, "file": file, "alt": plots.alt(drawn)}


def _messages() -> list[tuple[str, str]]:
    from labkit import models
    from labkit.errors import LabkitError, RunError

    mistakes = {
        "a model name that is misspelt": lambda: models.build("vgg_16"),
        "an option that the model does not have": lambda: models.build("accnrr", as_rn=True),
        "images too small for the model": lambda: models.build("accn", input_shape=(8, 8, 3)),
        "a single class": lambda: models.build("vgg", classes=1),
    }
    said = []
    for mistake, make_it in mistakes.items():
        try:
            make_it()
        except LabkitError as error:
            said.append((mistake, str(error)))
        else:
            raise RunError(f"{mistake} is not refused any more.")
    return said


def _frozen(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item


def _digest() -> str:
    total = hashlib.sha256()
    for name in (*sources.package(), __file__):
        if any(word in name for word in ("models", "plots", "gallery", "errors")):
            total.update(Path(name).read_bytes())
    return total.hexdigest()[:16]


if __name__ == "__main__":
    make(Path(sys.argv[1]))
