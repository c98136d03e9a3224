"""What labkit says when something is wrong: what happened, what was expected, how to mend it."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral


class LabkitError(Exception):
    """A mistake that the person at the keyboard can mend."""

    def __init__(self, happened: str, *, expected: str | None = None, mend: str | None = None):
        self.happened, self.expected, self.mend = happened, expected, mend
        parts = [happened, expected and f"Expected: {expected}", mend and f"To mend it: {mend}"]
        super().__init__("\n".join(part for part in parts if part))

    def __reduce__(self):
        """Survive the trip between worker processes, keyword arguments included."""
        return _rebuild, (type(self), self.happened, self.expected, self.mend)


class DataError(LabkitError):
    """Images, labels, archives or caches that are not what they should be."""


class ModelError(LabkitError):
    """A model name, option or weights file that does not fit."""


class RecipeError(LabkitError):
    """A training recipe that contradicts itself."""


class ParameterError(LabkitError):
    """A chapter's parameter with a wrong name, type or value."""


class RunError(LabkitError):
    """A run or record that failed, was cut short, or cannot be trusted."""


def _rebuild(kind: type[LabkitError], happened: str, expected: str | None, mend: str | None) -> LabkitError:
    return kind(happened, expected=expected, mend=mend)


def check_seed(seed: int) -> None:
    """Refuse what no random number generator can start from."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ParameterError(f"seed={seed!r}", expected="a whole number from 0")


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The question "Did you mean ...?" about the closest choice, or None when none is close."""
    close = get_close_matches(str(word).lower(), list(choices), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else None
