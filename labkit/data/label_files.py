"""Label files: one whole number a line, and nothing that needs guessing."""

import re
from pathlib import Path

import numpy as np

from labkit.errors import DataError

_CLEAN = re.compile(rb"(?:[0-9]{1,4}\n)*[0-9]{1,4}\n?")
_EXPECTED = "plain text with one class number a line and nothing else"
_ROW = "correct that row; row n belongs to image n"


def read_labels(path: Path, *, k: int) -> np.ndarray:
    """Read labels from 0 to k - 1, or name the first row that is none."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be read ({error.strerror})",
            expected=_EXPECTED,
            mend="check the file and its permissions",
        ) from None
    if not raw.strip():
        raise DataError(f"{path.name} is empty", expected=_EXPECTED, mend="put the label file back")
    if not _CLEAN.fullmatch(raw):
        raise _why_not(path.name, raw)
    labels = np.array(list(map(int, raw.split())), np.int64)
    if (wrong := np.flatnonzero(labels >= k)).size:
        raise DataError(
            f"{path.name}, row {wrong[0] + 1}: label {labels[wrong[0]]}",
            expected=f"whole numbers from 0 to {k - 1}",
            mend=_ROW,
        )
    return labels


def _why_not(name: str, raw: bytes) -> DataError:
    """Find what is wrong with a label file, the whole file first, then the first bad row."""
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return DataError(
            f"{name} starts with a byte-order mark", expected=_EXPECTED, mend="save it as UTF-8 without BOM"
        )
    if b"\0" in raw:
        return DataError(f"{name} is not a text file", expected=_EXPECTED, mend="put the label file back")
    if b"\r" in raw:
        return DataError(
            f"{name} has Windows line ends", expected=_EXPECTED, mend="save it with Unix line ends (dos2unix)"
        )
    text = raw.decode("utf-8", "replace").removesuffix("\n")
    for number, row in enumerate(text.split("\n"), start=1):
        if not re.fullmatch(r"[0-9]{1,4}", row):
            return DataError(
                f"{name}, row {number}: {_fault(row)}", expected=_EXPECTED, mend=_mend(number, row)
            )
    return DataError(f"{name} is not a list of labels", expected=_EXPECTED, mend="put the label file back")


def _fault(row: str) -> str:
    shown = repr(row if len(row) <= 30 else row[:30] + "...")
    if not row.strip():
        return "a blank line"
    if '"' in row or "'" in row:
        return f"{shown} is in quotes"
    if re.search(r"[,;\t]", row.strip()) or re.fullmatch(r"\s*\d+\s+\d+\s*", row):
        return f"{shown} has more than one column"
    try:
        value = float(row)
    except ValueError:
        return f"{shown} is text, not a number"
    if value != value:
        return f"{shown} is not a number"
    if value < 0:
        return f"{shown} is negative"
    if "." in row or "e" in row.lower() or value == float("inf"):
        return f"{shown} is not written as a whole number"
    if len(row) != len(row.strip()):
        return f"{shown} has spaces around it"
    return f"{shown} is not a class number"


def _mend(number: int, row: str) -> str:
    if number == 1 and re.search(r"[A-Za-z]", row) and row.strip().lower() not in ("nan", "inf"):
        return "remove the header"
    return _ROW
