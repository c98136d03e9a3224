"""Errors of the backends in words that help."""

from labkit.errors import RunError
from labkit.recipes import Recipe
from labkit.training.machine import peak_memory

_SIGNS = ("RESOURCE_EXHAUSTED", "out of memory", "OOM when allocating")


class OutOfMemory(RunError):
    """A batch that did not fit into memory."""


def explained(error: Exception, recipe: Recipe) -> Exception:
    """An error that says batch size, memory and what to do where memory ran out; other errors as they are."""
    if not ran_out(error):
        return error
    peak = peak_memory()
    smaller = recipe.batch_size // 2
    return OutOfMemory(
        f"Memory ran out with batches of {recipe.batch_size}"
        + (f"; {peak / 2**30:.1f} GiB were in use at the peak." if peak else "."),
        mend=f"recipe.but(batch_size={smaller})" if smaller else "smaller images or a smaller model",
    )


def ran_out(error: BaseException) -> bool:
    """Whether a backend, or Python, says that memory ran out."""
    text = str(error)
    return isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)
