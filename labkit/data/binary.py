"""The binary layouts that CIFAR's publishers chose: label bytes, then a red, a green and a blue plane."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labkit.errors import DataError

_PIXELS = 3 * 32 * 32
CIFAR10_FILES = {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}
CIFAR100_FILES = {"train": ("train.bin",), "test": ("test.bin",)}
_PICKLES = {"data_batch_1", "test_batch", "train", "test"}


def read_records(folder: Path, files: Sequence[str], ranges: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Read images and label columns of some files in a row; `ranges` counts the classes of each column."""
    parts = [_records(folder / name, ranges) for name in files]
    images = np.empty((sum(map(len, parts)), 32, 32, 3), np.uint8)
    pixels = images.reshape(len(images), -1, 3)
    at = 0
    for part in parts:
        for start in range(0, len(part), 100):  # a stretch fits the processor's cache, which is faster
            planes = part[start : start + 100, len(ranges) :].reshape(-1, 3, 32 * 32)
            for colour in range(3):
                pixels[at + start : at + start + len(planes), :, colour] = planes[:, colour]
        at += len(part)
    labels = np.concatenate([part[:, : len(ranges)] for part in parts]).astype(np.int64)
    return images, labels


def _records(path: Path, ranges: Sequence[int]) -> np.ndarray:
    """Read one file's records after checking that they are whole and every label is a class."""
    record = len(ranges) + _PIXELS
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be read ({error.strerror})",
            expected=f"whole records of {record:,} bytes",
            mend="check the file and its permissions",
        ) from None
    if raw.size == 0 or raw.size % record:
        over = f"{raw.size:,} bytes, {raw.size % record:,} more than whole records have"
        raise DataError(
            f"{path.name} has {over if raw.size else '0 bytes'}",
            expected=f"whole records of {record:,} bytes",
            mend="copy or download the file again; it was cut short, padded, or is of another layout",
        )
    records = raw.reshape(-1, record)
    for column, k in enumerate(ranges):
        if (wrong := np.flatnonzero(records[:, column] >= k)).size:
            raise DataError(
                f"{path.name}, record {wrong[0]}: label byte {records[wrong[0], column]}",
                expected=f"a number from 0 to {k - 1}",
                mend="copy or download the file again; it is damaged or of another layout",
            )
    return records


def check_place(folder: Path, files: dict[str, tuple[str, ...]], usual: str) -> None:
    """Refuse a folder without the files, and say which one has them where that is near."""
    wanted = [name for names in files.values() for name in names]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if not missing:
        return
    mend = f"unpack {usual}, or use 'download' or 'synthetic'"
    if all((folder.parent / name).is_file() for name in wanted):
        mend = f"give the folder above it, {folder.parent}"
    elif inner := [
        path for path in sorted(folder.iterdir()) if all((path / name).is_file() for name in wanted)
    ]:
        mend = f"give the folder inside it, {inner[0]}"
    elif _PICKLES & {path.name for path in folder.iterdir()}:
        mend = f"get the binary version, {usual}; this is the Python version, whose pickles can run any code"
    raise DataError(
        f"{folder} has no {', no '.join(missing)}",
        expected=f"a folder with {', '.join(wanted)}",
        mend=mend,
    )
