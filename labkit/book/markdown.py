"""Tables and other pieces of MyST Markdown for generated pages."""

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, classes: str = "") -> str:
    """A table; `classes` such as "sortable" go to the page's style and script."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    mark = "{" + " ".join(f".{name}" for name in classes.split()) + "}\n" if classes else ""
    return mark + "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """A value that stays inside its cell."""
    return re.sub(r"[ \t\n]+", " ", str(value)).strip(" ").replace("|", "\\|")  # a no-break space stays


def dropdown(title: str, *content: str, open: bool = False) -> str:
    """Something that is folded away until it is asked for."""
    options = ":open:\n" if open else ""
    body = "\n\n".join(part.strip("\n") for part in content)
    # Tildes, since a fence of backticks takes none in its title.
    return f"~~~~~{{dropdown}} {title}\n{options}\n{body}\n~~~~~\n"


def code(text: str, language: str = "bash") -> str:
    """A block of code with a button that copies it."""
    return f"```{language}\n{text}\n```"


def admonition(kind: str, text: str) -> str:
    """A box such as a note or a warning."""
    return f"````{{{kind}}}\n{text}\n````\n"
