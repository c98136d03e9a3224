"""The Models page: one picture a family, and the card of every model."""

from itertools import groupby

from labkit.book import markdown
from labkit.book.gallery import Gallery

FAMILIES = {
    "plain": "Plain stacks",
    "vgg": "VGG",
    "cct": "Compact convolutional transformer",
    "residual": "Residual networks",
    "inception": "Inception",
    "allconv": "All-convolutional networks",
    "fractional": "Fractional max pooling",
    "backbones": "Pretrained backbones",
    "cleaner": "Label cleaner",
    "whitened": "Whitened patches",
}


def full(gallery: Gallery) -> str:
    """A table of all models, then a section a family."""
    cards = sorted(gallery.cards, key=lambda card: list(FAMILIES).index(card["family"]))
    families = groupby(cards, lambda card: card["family"])
    sections = [_family(family, list(group), gallery) for family, group in families]
    return "\n".join([_overview(gallery), *sections])


def costs(gallery: Gallery, names: tuple[str, ...]) -> str:
    """Parameters and multiply-adds of some models, for the chapter that trains them."""
    lines = [
        (f"[`{card['name']}`](../book/models.md)", f"{card['total']:,}", _millions(card))
        for card in gallery.cards
        if card["name"] in names
    ]
    return markdown.table(("model", "parameters", "million multiply-adds an image"), lines)


def _overview(gallery: Gallery) -> str:
    header = ("model", "report", "input", "parameters", "trainable", "million MACs")
    lines = [
        (
            f"`{card['name']}`",
            card["report"] if card["report"].isdigit() else "–",
            card["input"],
            f"{card['total']:,}",
            f"{card['trainable']:,}",
            _millions(card),
        )
        for card in gallery.cards
    ]
    return "## All models\n\n" + markdown.table(header, lines, classes="sortable")


def _family(family: str, cards: list[dict], gallery: Gallery) -> str:
    picture = next(picture for picture in gallery.pictures if picture["family"] == family)
    figure = (
        f"````{{figure}} generated/models/{picture['file']}\n:alt: {markdown.cell(picture['alt'])}\n"
        f":name: layers-{family}\n\nThe layers of `{picture['model']}`.\n````\n"
    )
    return "\n".join([f"## {FAMILIES[family]}\n", figure, *map(_card, cards)])


def _card(card: dict) -> str:
    fields = {
        "Report's figure": card["figure"],
        "As the report ran it": card["as_run"],
        "Paper": card["paper"],
    }
    said = "\n".join(f":{name}: {text}" for name, text in fields.items() if text)
    return f"**`{card['name']}`** {card['sentence']}\n\n{said}\n"


def _millions(card: dict) -> str:
    return f"{card['macs'] / 1e6:,.2f}"
