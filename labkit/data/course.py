"""The course's folder: numbered PNG files and label files, image n with row n."""

import re
from pathlib import Path

import numpy as np

from labkit.data import cache
from labkit.data.decode import read_tiles
from labkit.data.label_files import read_labels
from labkit.errors import DataError

LAYOUT = "images/00001.png, 00002.png and so on, noisy_labels.csv and clean_labels.csv"


def read_course(folder: Path, *, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read images, noisy labels of all, and true labels with -1 beyond the first that are known."""
    check_place(folder)
    files = numbered(folder / "images")
    noisy = read_labels(folder / "noisy_labels.csv", k=k)
    clean = read_labels(folder / "clean_labels.csv", k=k)
    check_rows("noisy_labels.csv", len(noisy), "images/", len(files))
    if len(clean) > len(files):
        check_rows("clean_labels.csv", len(clean), "images/", len(files))
    truth = np.full(len(files), -1)
    truth[: len(clean)] = clean
    return _images(folder, "images", files), noisy, truth


def read_course_test(folder: Path, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the test part, where the folder has one."""
    if not (folder / "test_images").is_dir() or not (folder / "test_labels.csv").is_file():
        raise DataError(
            f"{folder} has no test part",
            expected="test_images/00001.png, 00002.png and so on, and test_labels.csv",
            mend="test on images with known labels instead, as the chapter's split does",
        )
    files = numbered(folder / "test_images", prefix="test")
    labels = read_labels(folder / "test_labels.csv", k=k)
    check_rows("test_labels.csv", len(labels), "test_images/", len(files))
    return _images(folder, "test_images", files), labels


def _images(folder: Path, part: str, files: cache.Listing) -> np.ndarray:
    def read() -> dict[str, np.ndarray]:
        return {"images": read_tiles([f"{folder}/{part}/{name}" for name, _, _ in files])}

    return cache.arrays("course", folder / part, files, read)["images"]


def check_place(folder: Path) -> None:
    """Refuse a folder that is not the course's, and say which one is where that is near."""
    wanted = ("images", "noisy_labels.csv", "clean_labels.csv")
    missing = [name for name in wanted if not (folder / name).exists()]
    if not missing:
        return
    if all((folder.parent / name).exists() for name in wanted):
        mend = f"give the folder above it, {folder.parent}"
    elif inner := [path for path in _subfolders(folder) if all((path / name).exists() for name in wanted)]:
        mend = f"give the folder inside it, {inner[0]}"
    else:
        mend = "copy the folder again, or use 'download' or 'synthetic'"
    raise DataError(f"{folder} has no {', no '.join(missing)}", expected=f"a folder with {LAYOUT}", mend=mend)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def numbered(folder: Path, *, prefix: str = "") -> cache.Listing:
    """List 00001.png, 00002.png and so on with size and time; a gap or a stranger is an error."""
    files = cache.scan(folder)
    if len(files) > 99_999:  # from here on the order of names is not that of numbers
        files.sort(key=lambda file: (len(file[0]), file[0]))
    names = [name for name, _, _ in files]
    if names and names == [f"{number:05d}.png" for number in range(1, len(names) + 1)]:
        return files
    if prefix and names and names == [f"{prefix}{number:05d}.png" for number in range(1, len(names) + 1)]:
        return files
    raise _misnumbered(folder.name, names, prefix)


def _misnumbered(folder: str, names: list[str], prefix: str) -> DataError:
    """Say which name breaks the row: a stranger, one written otherwise, or the first that is missing."""
    expected = "00001.png, 00002.png and so on without a gap, and no other file"
    if not names:
        return DataError(f"{folder}/ is empty", expected=expected, mend="copy the folder again")
    strangers = [name for name in names if not re.fullmatch(rf"(?:{prefix})?[0-9]{{5,}}\.png", name)]
    if strangers:
        others = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        return DataError(
            f"{folder}/ holds {strangers[0]!r}{others}",
            expected=expected,
            mend="move it elsewhere, or name it as expected",
        )
    if prefix and len({name.startswith(prefix) for name in names}) > 1:
        return DataError(
            f"{folder}/ holds {min(names)!r} beside {max(names)!r}",
            expected=expected,
            mend=f"name all files with {prefix!r}, or none",
        )
    digits = [name.removeprefix(prefix).removesuffix(".png") for name in names]
    for name, written in zip(names, digits, strict=True):
        if int(written) == 0 or written != f"{int(written):05d}":
            return DataError(
                f"{folder}/{name} is misnumbered",
                expected=expected,
                mend="number the images from 00001.png on, with five digits",
            )
    numbers = set(map(int, digits))
    first, last = 1, max(numbers)
    while first in numbers:
        first += 1
    missing = last - len(numbers)
    others = f", and {missing - 1:,} more below {last:05d}.png" if missing > 1 else ""
    return DataError(
        f"{folder}/{prefix if names[0].startswith(prefix) else ''}{first:05d}.png is missing{others}",
        expected=expected,
        mend="copy the folder again",
    )


def check_rows(labels: str, rows: int, images: str, files: int) -> None:
    """Refuse labels that are not one an image."""
    if rows != files:
        problem = "short" if rows < files else "long"
        lost, over = ("rows", "images") if rows < files else ("images", "rows")
        raise DataError(
            f"{labels} is too {problem}: {rows:,} labels, and {images} holds {files:,} images",
            expected="one row an image, row n for image n",
            mend=f"put back the {lost} from number {min(rows, files) + 1:,} on, or remove the {over}",
        )
