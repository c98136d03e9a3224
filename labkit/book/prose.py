"""Refuse accuracies and times that were typed into a chapter instead of taken from a record."""

import re
from collections.abc import Iterable

from nbformat import NotebookNode

from labkit import scoreboard
from labkit.errors import RunError

# What is no prose: code, roles such as {glue}`name`, formulas, comments, addresses.
_SKIPPED = re.compile(
    r"(```|~~~|:::).*?\1"
    r"|\{[\w:-]+\}`[^`]*`"
    r"|`[^`\n]+`"
    r"|\$\$.*?\$\$|\$[^$\n]+\$"
    r"|^%.*?$|<!--.*?-->"
    r"|\]\([^)]*\)|https?://\S+",
    re.DOTALL | re.MULTILINE,
)
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+(?=\S)|\n\s*\n|\n(?=\s*[-*|#\d])")
_MEASURED = re.compile(
    r"\b(accura\w+|correct\w*|scor\w+|right|reach\w*|top-?5|F1|points?|gain\w*|better|worse|improv\w+|"
    r"chance|test|validat\w+|names?|recall|precision)\b",
    re.IGNORECASE,
)
_SHARE = re.compile(r"(?<![\w.,])(?:\d{1,3}(?:\.\d+)?\s?(?:%|percent|points?\b)|0?\.\d{2,})")
_TIME = re.compile(
    r"(?<![\w.,])(\d[\d,]*(?:\.\d+)?)\s?(?:ms|s|sec|seconds?|min|minutes?|h|hours?|days?)\b(?!-)"
)


def check(chapter: str, cells: Iterable[NotebookNode]) -> None:
    """Raise with every sentence that holds a typed accuracy or time which no report published."""
    found = [line for cell in cells for line in typed(chapter, _words(cell))]
    if found:
        raise RunError(
            f"the prose of {chapter} holds numbers that were typed:\n" + "\n".join(found),
            expected="numbers taken from a record through glue, or a report's published figure, "
            "with the report named in the same sentence as in 'report 003'",
        )


def _words(cell: NotebookNode) -> str:
    """What a reader reads of a cell as prose: its text, or the caption of its picture."""
    return cell.source if cell.cell_type == "markdown" else cell.metadata.get("caption", "")


def typed(chapter: str, text: str) -> list[str]:
    """Sentences with an accuracy or a time that is no quotation of this chapter's published figures."""
    sentences = (" ".join(part.split()) for part in _SENTENCE.split(_SKIPPED.sub(" ", text)))
    return [sentence for sentence in sentences if _is_typed(chapter, sentence)]


def _is_typed(chapter: str, sentence: str) -> bool:
    shares = [_number(match) for match in _SHARE.findall(sentence)] if _MEASURED.search(sentence) else []
    times = [_number(match) for match in _TIME.findall(sentence)]
    if not shares and not times:
        return False
    return not (_names_report(sentence) and all(_is_published(chapter, value) for value in shares + times))


def _number(text: str) -> float:
    return float(re.sub(r"[^\d.]", "", text))


def _names_report(sentence: str) -> bool:
    return re.search(r"\breports? 00[0-4]\b", sentence, re.IGNORECASE) is not None


def _is_published(chapter: str, value: float) -> bool:
    """Whether a report gives the number, as a share or in percent, in full or rounded."""
    figures = scoreboard.published(chapter)["value"]
    spelt = [scaled for figure in figures for scaled in (figure, 100 * figure)]
    return any(round(figure, digits) == value for figure in spelt for digits in range(5))
