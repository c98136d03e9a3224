"""What labkit says when data are wrong: every known mistake, made on purpose in a temporary folder."""

import io
import os
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from labkit import labels
from labkit.data import cache, download, sets
from labkit.data.binary import CIFAR10_FILES
from labkit.data.synthetic import synthetic
from labkit.errors import LabkitError

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Row:
    """One mistake: where it belongs, what is wrong, and what labkit says."""

    group: str
    mistake: str
    message: str


def rows() -> list[Row]:
    """Make every mistake once and collect what labkit says."""
    return [row for group, make in GROUPS.items() for row in _group(group, *make)]


def _group(
    group: str, prepare: Callable[[Path], Path], mistakes: dict[str, Spoil], load: Spoil
) -> Iterator[Row]:
    for mistake, spoil in mistakes.items():
        with _sandbox() as place:
            source = prepare(place)
            given = spoil(source)
            yield Row(group, mistake, _said(place, load, given if isinstance(given, (Path, str)) else source))


@contextmanager
def _sandbox() -> Iterator[Path]:
    """Lend a folder with a cache of its own."""
    with tempfile.TemporaryDirectory() as place:
        os.mkdir(f"{place}/cache")  # noqa: PTH102
        with mock.patch.dict(os.environ, {"LABKIT_CACHE": f"{place}/cache"}):
            os.environ.pop("LABKIT_MIRROR", None)
            yield Path(place).resolve()


def _said(place: Path, load: Spoil, source: Path | str) -> str:
    """Load and return the error's or the warning's words, without the folder they came from."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            load(source)
            words = "\n".join(str(warning.message) for warning in heard) or "nothing"
        except LabkitError as error:
            words = str(error)
    return words.replace(str(place), "~")


# Good folders, to be spoilt.


def course_folder(place: Path, n: int = 6) -> Path:
    """Write the course's folder with n small images, a third of them with true labels."""
    folder = place / "noisy_cifar"
    (folder / "images").mkdir(parents=True)
    images = synthetic("noisy_cifar", n, 0)
    for number, pixels in enumerate(images.images, start=1):
        Image.fromarray(pixels).save(folder / f"images/{number:05d}.png")
    for name, values in (("noisy", images.labels[::-1]), ("clean", images.labels[: n // 3])):
        (folder / f"{name}_labels.csv").write_text("".join(f"{label}\n" for label in values))
    return folder


def cifar10_folder(place: Path, n: int = 2) -> Path:
    """Write CIFAR-10's binary layout with n records a file."""
    folder = place / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]):
        _records(folder / name, synthetic("cifar10", n, seed), lambda fine: [fine])
    return folder


def cifar100_folder(place: Path, n: int = 4) -> Path:
    """Write CIFAR-100's binary layout with n records a file."""
    folder = place / "cifar-100-binary"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        _records(
            folder / f"{part}.bin",
            synthetic("cifar100", n, 0, part=part),
            lambda fine: [sets.FINE_TO_COARSE[fine], fine],
        )
    return folder


def _records(path: Path, images: sets.ImageSet, columns: Callable[[np.ndarray], list[np.ndarray]]) -> None:
    planes = images.images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    head = np.stack(columns(images.labels), axis=1).astype(np.uint8)
    np.concatenate([head, planes], axis=1).tofile(path)


def photo_folder(place: Path, n: int = 2) -> Path:
    """Write train and valid with n photos for each of two classes."""
    folder = place / "animals"
    for part in ("train", "valid"):
        pixels = iter(synthetic("animals", 2 * n, 0, size=64).images)
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for number in range(n):
                Image.fromarray(next(pixels)).save(folder / part / name / f"{number}.jpg")
    return folder


def archive_of(folder: Path) -> Path:
    """Pack a folder into an archive beside it."""
    path = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return path


# Ways to spoil them.


def _image(name: str, mode: str = "RGB", size: tuple[int, int] = (32, 32), **options: object) -> Spoil:
    """Put an image of another kind in a file's place."""

    def spoil(folder: Path) -> None:
        Image.new(mode, size).save(folder / name, **options)

    return spoil


def _content(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(name: str, share: float) -> Spoil:
    def spoil(folder: Path) -> None:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * share)])

    return spoil


def _flipped(name: str, at: float = 0.5) -> Spoil:
    """Flip one bit of a file."""

    def spoil(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[int(len(raw) * at)] ^= 1
        (folder / name).write_bytes(raw)

    return spoil


def _moved(*moves: tuple[str, str]) -> Spoil:
    def spoil(folder: Path) -> None:
        for name, to in moves:
            (folder / name).rename(folder / to)

    return spoil


def _padded(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(b"\0\0")

    return spoil


def _without(*names: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for name in names:
            for path in folder.glob(name):
                path.unlink()

    return spoil


def _labels(change: Callable[[list[str]], list[str]], name: str = "noisy_labels.csv") -> Spoil:
    """Change the rows of a label file."""

    def spoil(folder: Path) -> None:
        rows = (folder / name).read_text().split("\n")[:-1]
        (folder / name).write_bytes("".join(f"{row}\n" for row in change(rows)).encode())

    return spoil


def _third(row: str) -> Spoil:
    return _labels(lambda rows: [*rows[:2], row, *rows[3:]])


def _animated(name: str, kind: str) -> Spoil:
    def spoil(folder: Path) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
        frames[0].save(folder / name, format=kind, save_all=True, append_images=frames[1:])

    return spoil


def _drawn_by_hand(name: str, side: int = 32, *, bits: int = 8, interlaced: bool = False) -> Spoil:
    """Write a black RGB PNG such as Pillow itself cannot; a large one is said to be, and lacks its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, interlaced)
    rows = zlib.compress(bytes(32 * (2 + 32 * 6)))
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return _content(name, b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def _said_size(name: str, width: int, height: int) -> Spoil:
    """Claim a size in a BMP's header that its few bytes do not fill."""
    head = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 1, 1, 0, 0)
    return _content(name, head)


def _linked_nowhere(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("nowhere")

    return spoil


def _folder_called(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def _renumbered(style: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for number, path in enumerate(sorted((folder / "images").iterdir()), start=1):
            path.rename(path.with_name(style.format(number)))

    return spoil


def _huge_member(folder: Path) -> Path:
    """Claim more bytes in an archive's table than there are."""
    path = folder.with_name("packed.tar")
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("data_batch_1.bin")
        member.size = 10**12
        archive.addfile(member)
    return path


def _encrypted(folder: Path) -> Path:
    """Mark the member of a zip archive as encrypted, in both places that say so."""
    path = folder.with_name("packed.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data_batch_1.bin", b"")
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\3\4") + 6] |= 1
    raw[raw.find(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE) -> Spoil:
    """Add a member of the given name and kind to an archive of the folder."""

    def spoil(folder: Path) -> Path:
        path = folder.with_name(f"{folder.name}.tar")
        with tarfile.open(path, "w") as archive:
            archive.add(folder, arcname=folder.name)
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO())
        return path

    return spoil


def _packed(spoil_archive: Spoil) -> Spoil:
    def spoil(folder: Path) -> Path:
        path = archive_of(folder)
        spoil_archive(path)
        return path

    return spoil


def _kept(damage: Callable[[Path], object]) -> Spoil:
    """Read the images once, then damage what the cache keeps of them."""

    def spoil(folder: Path) -> None:
        sets.noisy_cifar(folder)
        damage(next(path for path in cache.folder().iterdir() if path.is_dir()))

    return spoil


def _other_version(entry: Path) -> None:
    record = (entry / "entry.json").read_text()
    (entry / "entry.json").write_text(record.replace('"format": 1', '"format": 0'))


def _cache_is_a_file(folder: Path) -> None:
    (folder.parent / "cache").rmdir()
    (folder.parent / "cache").write_text("")


def _load_on_full_disk(folder: Path) -> object:
    # What NumPy says of a disk that fills up while it writes.
    with mock.patch.object(np, "save", side_effect=OSError("18432 requested and 4096 written")):
        return sets.noisy_cifar(folder)


def _fetch(mirror: str) -> object:
    return download.fetch(download.Published("cifar-10-binary.tar.gz", 10, 64 * "0", (mirror,)))


def _both_parts(folder: Path) -> object:
    return sets.noisy_cifar(folder), sets.noisy_cifar_test(folder)


def _call(name: str) -> object:
    return _CALLS[name]()


_DRAWN = synthetic("cifar10", 20, 0)


def _noise(matrix: np.ndarray | str, rate: float | None = None) -> object:
    return labels.corrupt(_DRAWN.labels, matrix, rate=rate, seed=0)


_CALLS: dict[str, Callable[[], object]] = {
    "a source that is misspelt": lambda: sets.cifar10("sintetic"),
    "a kind of synthetic set that is misspelt": lambda: synthetic("cifar_10", 10, 0),
    "labels that are misspelt": lambda: sets.cifar100(labels="corse"),
    "animals from the network": lambda: sets.animals("download"),
    "no image at all": lambda: sets.cifar10(n=0),
    "more images than there are": lambda: _DRAWN.split(15, 10, seed=0),
    "fractions above one": lambda: _DRAWN.split(0.9, 0.2, seed=0),
    "sizes and fractions mixed": lambda: _DRAWN.split(10, 0.5, seed=0),
    "a position that is not there": lambda: _DRAWN.take([3, 20]),
    "a label that is no class": lambda: _DRAWN.relabel(np.full(20, 10)),
    "labels that are no whole numbers": lambda: _DRAWN.relabel(np.full(20, 0.5)),
    "one label too few": lambda: _DRAWN.relabel(np.zeros(19, int)),
    "images that are floats": lambda: sets.ImageSet(np.zeros((1, 8, 8, 3)), np.zeros(1, int), ("a",), "mine"),
    "a kind of label noise that is misspelt": lambda: _noise("symetric", rate=0.5),
    "a noise rate above one": lambda: _noise("symmetric", rate=1.5),
    "a noise matrix whose rows do not sum to one": lambda: _noise(np.eye(10) / 2),
    "probabilities of other images": lambda: labels.self_filter(_DRAWN.labels, np.full((19, 10), 0.1)),
    "no true label known": lambda: labels.transition(_DRAWN.labels, np.full(20, -1), 10),
}  # fmt: skip

_NUMBER = "images/00003.png"
_PLACES: dict[str, Spoil] = {
    "a folder that is not there": lambda folder: folder / "nowhere",
    "the folder above": lambda folder: folder.parent,
    "the folder below": lambda folder: folder / "images",
    "a file": lambda folder: folder / "noisy_labels.csv",
    "no label file": _without("noisy_labels.csv"),
    "no test part": lambda folder: folder,
}
_NUMBERED: dict[str, Spoil] = {
    "an image is missing": _without(_NUMBER),
    "the last image is missing": _without("images/00006.png"),
    "an extra image": _image("images/00007.png"),
    "a stranger among the images": _image("images/00003 (copy).png"),
    "an image is misnumbered": _moved((_NUMBER, "images/00009.png")),
    "a number with too few digits": _moved((_NUMBER, "images/3.png")),
    "numbers of six digits": _renumbered("{:06d}.png"),
    "a number of millions": _moved((_NUMBER, "images/99999999999.png")),
    "numbers from zero": _moved(("images/00006.png", "images/00000.png")),
    "no image": _without("images/*"),
}
_TILES: dict[str, Spoil] = {
    "an empty file": _content(_NUMBER, b""),
    "text in a .png": _content(_NUMBER, b"this is text"),
    "a truncated image": _cut(_NUMBER, 0.7),
    "one flipped bit": _flipped(_NUMBER),
    "a JPEG called .png": _image(_NUMBER, format="JPEG"),
    "a folder called .png": _folder_called(_NUMBER),
    "a link that leads nowhere": _linked_nowhere(_NUMBER),
    "a 16-bit image": _drawn_by_hand(_NUMBER, bits=16),
    "an interlaced image": _drawn_by_hand(_NUMBER, interlaced=True),
    "a grey image": _image(_NUMBER, "L"),
    "an RGBA image": _image(_NUMBER, "RGBA"),
    "a palette image": _image(_NUMBER, "P"),
    "a CMYK image": _image(_NUMBER, "CMYK", format="JPEG"),
    "an animated image": _animated(_NUMBER, "PNG"),
    "a 1x1 image": _image(_NUMBER, size=(1, 1)),
    "an image of 40,000x3 pixels": _image(_NUMBER, size=(40_000, 3)),
    "an image that claims 200,000x200,000 pixels": _drawn_by_hand(_NUMBER, 200_000),
}
_LABEL_FILES: dict[str, Spoil] = {
    "one row too few": _labels(lambda rows: rows[:-1]),
    "one row too many": _labels(lambda rows: [*rows, "1"]),
    "more true labels than images": _labels(lambda rows: rows * 4, "clean_labels.csv"),
    "text": _third("cat"),
    "NaN": _third("nan"),
    "a huge number": _third("1e9"),
    "a number too large": _third("10"),
    "a negative number": _third("-1"),
    "a float": _third("3.0"),
    "a blank line": _third(""),
    "quotes": _third('"3"'),
    "two columns": _labels(lambda rows: [f"{number},{row}" for number, row in enumerate(rows)]),
    "a header": _labels(lambda rows: ["label", *rows]),
    "a byte-order mark": _labels(lambda rows: ["\ufeff" + rows[0], *rows[1:]]),
    "Windows line ends": _labels(lambda rows: [f"{row}\r" for row in rows]),
    "an empty file": _labels(lambda rows: []),
    "a file that is no text": _content("noisy_labels.csv", bytes(range(256))),
}
_BINARY: dict[str, Spoil] = {
    "the folder above": lambda folder: folder.parent,
    "a batch is missing": _without("data_batch_3.bin"),
    "the Python version": _moved(
        *((name, name.removesuffix(".bin")) for names in CIFAR10_FILES.values() for name in names)
    ),
    "a truncated file": _cut("data_batch_2.bin", 0.7),
    "a padded file": _padded("test_batch.bin"),
    "an empty file": _content("data_batch_2.bin", b""),
    "a label byte out of range": _content("data_batch_2.bin", bytes([9, *bytes(3072), 10, *bytes(3072)])),
}
_COARSE: dict[str, Spoil] = {
    "a superclass that does not fit the class": _content("train.bin", bytes([0, 0, *bytes(3072)])),
    "CIFAR-10 instead": _content("train.bin", bytes(3073)),
}
_ARCHIVES: dict[str, Spoil] = {
    "a member with ..": _member("../outside.bin"),
    "a member with an absolute path": _member("/outside.bin"),
    "a symbolic link": _member("link.bin", tarfile.SYMTYPE),
    "a hard link": _member("link.bin", tarfile.LNKTYPE),
    "a device": _member("null", tarfile.CHRTYPE),
    "an encrypted member": _encrypted,
    "a member of a million MB": _huge_member,
    "cut short": _packed(lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])),
    "no archive": _packed(lambda path: path.write_bytes(b"<html>not found</html>")),
    "other contents": lambda folder: _packed(lambda path: None)(_emptied(folder)),
}


def _above_classes(folder: Path) -> Path:
    shutil.rmtree(folder / "valid")
    for path in list((folder / "train").iterdir()):
        path.rename(folder / path.name)
    (folder / "train").rmdir()
    return folder.parent


_PHOTO = "train/cat/0.jpg"
_PHOTOS: dict[str, Spoil] = {
    "the folder above": lambda folder: folder.parent,
    "the folder below": lambda folder: folder / "train",
    "two folders below": lambda folder: folder / "train/cat",
    "the folder above, with no train and valid": _above_classes,
    "no valid": _moved(("valid", "validation")),
    "an empty class": _without("train/cat/*"),
    "one class only": _moved(("train/cat", "train/.cat"), ("valid/cat", "valid/.cat")),
    "other classes in valid": _moved(("valid/dog", "valid/horse")),
    "a class name that cannot be shown": _moved(("train/cat", "train/cat\x07")),
    "one name in two ways of Unicode": lambda folder: _twice(folder / "train"),
    "a file between the class folders": _content("train/notes.txt", b""),
    "a folder in a class folder": lambda folder: (folder / "train/cat/more").mkdir(),
    "a file that is no photo": _content("train/cat/notes.txt", b"notes"),
    "text in a .jpg": _content(_PHOTO, b"this is text"),
    "an empty file": _content(_PHOTO, b""),
    "a truncated photo": _cut(_PHOTO, 0.6),
    "a 16-bit photo": _drawn_by_hand(_PHOTO, bits=16),
    "a link that leads nowhere": _linked_nowhere(_PHOTO),
    "a CMYK photo": _image(_PHOTO, "CMYK"),
    "an RGBA photo": _image("train/cat/1.png", "RGBA"),
    "an animated photo": _animated("train/cat/1.webp", "WEBP"),
    "a GIF called .jpg": _image(_PHOTO, format="GIF"),
    "a 1x1 photo": _image(_PHOTO, size=(1, 1)),
    "damaged EXIF data": _image("train/cat/1.png", exif=b"Exif\0\0MM\0?"),
    "a photo that claims 60,000x60,000 pixels": _said_size(_PHOTO, 60_000, 60_000),
}
_CACHES: dict[str, Spoil] = {
    "one flipped bit": _kept(_flipped("images.npy", 0.9)),
    "cut short": _kept(_cut("images.npy", 0.5)),
    "a record cut short": _kept(_cut("entry.json", 0.5)),
    "a file is missing": _kept(_without("images.npy")),
    "from another version": _kept(_other_version),
    "the cache's folder is a file": _cache_is_a_file,
}


def _emptied(folder: Path) -> Path:
    _without("*")(folder)
    (folder / "readme.txt").write_text("moved")
    return folder


def _twice(folder: Path) -> None:
    """Write one name as one character and as two."""
    for name in ("p\u00e9", "pe\u0301"):
        (folder / name).mkdir()


GROUPS: dict[str, tuple[Callable[[Path], Path], dict[str, Spoil], Spoil]] = {
    "The course's folder": (course_folder, _PLACES, _both_parts),
    "Numbered images": (course_folder, _NUMBERED, sets.noisy_cifar),
    "An image of the course": (course_folder, _TILES, sets.noisy_cifar),
    "Label files": (course_folder, _LABEL_FILES, sets.noisy_cifar),
    "CIFAR-10 in binary": (cifar10_folder, _BINARY, sets.cifar10),
    "CIFAR-100 in binary": (cifar100_folder, _COARSE, sets.cifar100),
    "Archives": (cifar10_folder, _ARCHIVES, sets.cifar10),
    "Photos in class folders": (photo_folder, _PHOTOS, lambda path: sets.animals(path, size=16)),
    "The cache": (course_folder, _CACHES, sets.noisy_cifar),
    "A full disk": (course_folder, {"no space left for the cache": lambda folder: None}, _load_on_full_disk),
    "The network": (Path, {"no connection to any mirror": lambda place: "http://127.0.0.1:9/"}, _fetch),
    "Calls": (Path, {name: (lambda place, name=name: name) for name in _CALLS}, _call),
}  # fmt: skip
