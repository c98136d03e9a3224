"""Photos sorted into one folder a class, with or without train/ and valid/ above."""

import unicodedata
from pathlib import Path

import numpy as np

from labkit.data import cache
from labkit.data.decode import PHOTO_SUFFIXES, called, read_photos
from labkit.data.image_set import ImageSet
from labkit.errors import DataError

LAYOUT = "train/<class>/*.jpg and valid/<class>/*.jpg, or <class>/*.jpg"
_WINDOWS_LEFTOVERS = {"thumbs.db", "desktop.ini"}


def read_parts(folder: Path, *, size: int, source: str, seed: int) -> tuple[ImageSet, ImageSet]:
    """Read train and valid; of a folder without them, a fifth of each class becomes the test part."""
    if not any((folder / part).is_dir() for part in ("train", "valid")):
        _check_place(folder)
        test, train = _read(folder, size=size, source=source).split(0.2, 0.8, seed=seed, stratify=True)
        return train, test
    for part in ("train", "valid"):
        if not (folder / part).is_dir():
            raise DataError(
                f"{folder} has no {part}/",
                expected=f"a folder with {LAYOUT}",
                mend=f"name the folder of the other photos {part}, or give a folder of class folders only",
            )
    listings = {part: _classes(folder / part) for part in ("train", "valid")}
    _check_same({part: set(classes) for part, classes in listings.items()})
    return tuple(_read(folder / part, size=size, source=source) for part in ("train", "valid"))


def _read(folder: Path, *, size: int, source: str) -> ImageSet:
    classes = _classes(folder)
    files = {name: _photos(path) for name, path in classes.items()}
    listing = [
        (f"{classes[name].name}/{file}", length, time) for name in files for file, length, time in files[name]
    ]

    def read() -> dict[str, np.ndarray]:
        return {"images": read_photos([f"{folder}/{name}" for name, _, _ in listing], size=size)}

    images = cache.arrays("photos", folder, listing, read, size=size)["images"]
    labels = np.repeat(np.arange(len(files)), [len(names) for names in files.values()])
    return ImageSet(images, labels, tuple(files), source)


def _classes(folder: Path) -> dict[str, Path]:
    """Map each class to its folder, in alphabetical order."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: unicodedata.normalize("NFC", path.name)):
        if _ignored(path.name):
            continue
        if not path.is_dir():
            raise DataError(
                f"{folder.name}/{path.name} lies between the class folders",
                expected="one folder a class and nothing else",
                mend="move the file into its class's folder, or elsewhere",
            )
        name = unicodedata.normalize("NFC", path.name)
        if (
            not name.isprintable()
            or name != name.strip()
            or not name.encode("utf-8", "ignore").decode() == name
        ):
            raise DataError(
                f"class folder {path.name!r} in {folder.name}/ has a name that cannot be shown",
                expected="a name of printable characters, without spaces around it",
                mend="rename the folder",
            )
        if name in found:
            raise DataError(
                f"two folders in {folder.name}/ are both called {name!r}, written in two ways of Unicode",
                expected="one folder a class",
                mend="put the photos of both into one",
            )
        found[name] = path
    if len(found) < 2:
        raise DataError(
            f"{folder.name}/ holds {'one class only, ' + repr(next(iter(found))) if found else 'no class'}",
            expected="at least two class folders",
            mend="put another class beside it, or give the folder that holds the class folders",
        )
    return found


def _above_classes(folder: Path) -> Path | None:
    """The one folder inside that has folders of its own, where none has photos, so that none is a class."""
    inside = _folders(folder)
    holders = [path for path in inside if _folders(path)]
    photos = any(file.suffix.lower() in PHOTO_SUFFIXES for path in inside for file in path.iterdir())
    return holders[0] if len(holders) == 1 and not photos else None


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not _ignored(path.name)]


def _photos(folder: Path) -> cache.Listing:
    photos = [entry for entry in cache.scan(folder) if not _ignored(entry[0])]
    for name, _, _ in photos:
        if (folder / name).is_dir():
            raise DataError(
                f"{called(folder / name)} is a folder",
                expected="photos only, in one level",
                mend="move its photos up into the class's folder",
            )
        if not name.lower().endswith(PHOTO_SUFFIXES):
            raise DataError(
                f"{called(folder / name)} is not a photo",
                expected=f"files ending in {', '.join(PHOTO_SUFFIXES)}",
                mend="save it as one of these, or move it elsewhere",
            )
    if not photos:
        raise DataError(
            f"class folder {folder.parent.name}/{folder.name} is empty",
            expected="at least one photo a class",
            mend="remove the folder, or put photos into it",
        )
    return photos


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _WINDOWS_LEFTOVERS


def _check_same(classes: dict[str, set[str]]) -> None:
    """Refuse parts that do not show the same classes."""
    for part, other in (("train", "valid"), ("valid", "train")):
        if lacking := sorted(classes[other] - classes[part]):
            raise DataError(
                f"{part}/ has no {', '.join(map(repr, lacking))}, and {other}/ has",
                expected="the same classes in both",
                mend=f"add or rename the class folder in {part}/, or remove it from {other}/",
            )


def _check_place(folder: Path) -> None:
    """Say which folder is meant where the one given lies one level off."""
    inner = [
        path for path in sorted(folder.iterdir()) if (path / "train").is_dir() and (path / "valid").is_dir()
    ]
    if inner:
        mend = f"give the folder inside it, {inner[0]}"
    elif folder.name in ("train", "valid") and any(
        (folder.parent / part).is_dir() for part in {"train", "valid"} - {folder.name}
    ):
        mend = f"give the folder above it, {folder.parent}"
    elif above := _above_classes(folder):
        mend = f"give the folder inside it, {above}"
    elif (folder.parent.parent / "train").is_dir() and (folder.parent.parent / "valid").is_dir():
        mend = f"give the folder two levels above it, {folder.parent.parent}"
    else:
        return
    raise DataError(
        f"{folder} is not where the photos' folders begin", expected=f"a folder with {LAYOUT}", mend=mend
    )
