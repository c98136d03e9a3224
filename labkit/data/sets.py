"""The four image sets, each from a drawing, a folder, an archive or its publisher."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import numpy as np

from labkit import labels as noise
from labkit.data import archives, binary, cache, class_folders, course, download
from labkit.data.image_set import ImageSet
from labkit.data.names import CIFAR10_CLASSES, CIFAR100_CLASSES, FINE_TO_COARSE, SUPERCLASSES
from labkit.data.synthetic import synthetic
from labkit.errors import DataError, ParameterError, nearest

_KNOWN_SHARE = 5  # the course knows the true labels of one image in five
_DRAWN = {"noisy_cifar": 5000, "cifar10": 5000, "cifar100": 10_000, "animals": 1000}
_PUBLISHED = {"train": 50_000, "test": 10_000}
Source = str | Path


def noisy_cifar(
    source: Source = "synthetic",
    *,
    seed: int = 0,
    n: int | None = None,
    noise_rate: float = 0.606,
    noise_kind: str = "symmetric",
) -> ImageSet:
    """Give CIFAR-10's training images with noisy labels; the first fifth or so have true labels too.

    A folder or archive of the course brings its own noise. Noise of `noise_rate` and `noise_kind`
    ("symmetric" or "pair_flip") is drawn into synthetic and downloaded images.
    """
    if source not in ("synthetic", "download"):
        with _opened(source) as folder:
            images, noisy, truth = course.read_course(folder, k=10)
            full = ImageSet(images, noisy, CIFAR10_CLASSES, _called(source), true_labels=truth)
        return _first_of_each(full, n)
    if source == "synthetic":
        clean = synthetic("noisy_cifar", _DRAWN["noisy_cifar"] if n is None else _checked(n), seed)
    else:
        clean = _cut(cifar10("download")[0], n)
    noisy = noise.corrupt(clean.labels, noise_kind, rate=noise_rate, classes=10, seed=seed)
    truth = np.where(np.arange(len(clean)) < -(-len(clean) // _KNOWN_SHARE), clean.labels, -1)
    drawn = f"{clean.source}, {noise_rate:.1%} {noise_kind} noise"
    if source == "download":
        drawn += f", seed {seed}"
    return ImageSet(clean.images, noisy, clean.classes, drawn, true_labels=truth)


def noisy_cifar_test(source: Source = "synthetic", *, seed: int = 0, n: int | None = None) -> ImageSet:
    """Give the test images with true labels: the folder's test part, or CIFAR-10's own."""
    if source == "synthetic":
        n = _DRAWN["noisy_cifar"] // 5 if n is None else _checked(n)
        return synthetic("noisy_cifar", n, seed, part="test")
    if source == "download":
        return _cut(cifar10("download")[1], n)
    with _opened(source) as folder:
        images, labels = course.read_course_test(folder, k=10)
        return _cut(ImageSet(images, labels, CIFAR10_CLASSES, f"{_called(source)}, test part"), n)


def cifar10(
    source: Source = "synthetic", *, seed: int = 0, n: int | None = None
) -> tuple[ImageSet, ImageSet]:
    """Give CIFAR-10's train and test part; n cuts train to its first n images and test to a fifth of that."""
    if source == "synthetic":
        return _drawn("cifar10", n, seed)
    archive = download.CIFAR10
    parts = _cifar(source, archive, binary.CIFAR10_FILES, (10,), "cifar-10-batches-bin")
    return _cut_parts(
        [ImageSet(images, labels[:, 0], CIFAR10_CLASSES, name) for images, labels, name in parts], n
    )


def cifar100(
    source: Source = "synthetic", *, labels: str = "fine", seed: int = 0, n: int | None = None
) -> tuple[ImageSet, ImageSet]:
    """Give CIFAR-100's train and test part with its 100 classes or its 20 superclasses; n as in cifar10."""
    if labels not in ("fine", "coarse"):
        raise ParameterError(
            f"there are no {labels!r} labels",
            expected="'fine' or 'coarse'",
            mend=nearest(labels, ("fine", "coarse")),
        )
    if source == "synthetic":
        parts = _drawn("cifar100", n, seed)
        return parts if labels == "fine" else tuple(coarse(part) for part in parts)
    parts = _cifar(source, download.CIFAR100, binary.CIFAR100_FILES, (20, 100), "cifar-100-binary")
    for (file,), (_, both, _) in zip(binary.CIFAR100_FILES.values(), parts, strict=True):
        if (wrong := np.flatnonzero(FINE_TO_COARSE[both[:, 1]] != both[:, 0])).size:
            raise DataError(
                f"{file}, record {wrong[0]}: class {CIFAR100_CLASSES[both[wrong[0], 1]]!r} under superclass "
                f"{SUPERCLASSES[both[wrong[0], 0]]!r}",
                expected=f"superclass {SUPERCLASSES[FINE_TO_COARSE[both[wrong[0], 1]]]!r}",
                mend="copy or download the file again; it is damaged or of another layout",
            )
    column, classes = (1, CIFAR100_CLASSES) if labels == "fine" else (0, SUPERCLASSES)
    return _cut_parts([ImageSet(images, both[:, column], classes, name) for images, both, name in parts], n)


def coarse(fine: ImageSet) -> ImageSet:
    """Label CIFAR-100 images with their superclasses."""
    return ImageSet(fine.images, FINE_TO_COARSE[fine.labels], SUPERCLASSES, fine.source)


def animals(
    source: Source = "synthetic", *, size: int = 100, seed: int = 0, n: int | None = None
) -> tuple[ImageSet, ImageSet]:
    """Give photos of animals, or of anything sorted into class folders: train and test (the folder's valid).

    Every photo is resized to a square of `size`. The seed draws synthetic images, the n photos to keep,
    and the test part of a folder that has none.
    """
    if not isinstance(size, Integral) or not 8 <= size <= 1024:
        raise ParameterError(f"size={size}", expected="a height and width from 8 to 1024 pixels")
    if source == "synthetic":
        return _drawn("animals", n, seed, size=size)
    if source == "download":
        raise DataError(
            "the animals cannot be downloaded: their photos have no publisher's archive",
            expected=f"a folder with {class_folders.LAYOUT}, or 'synthetic'",
        )
    with _opened(source) as folder:
        parts = class_folders.read_parts(folder, size=size, source=_called(source), seed=seed)
    if n is None:
        return parts
    sizes = (min(n, len(parts[0])), min(_test_size(n), len(parts[1])))
    kept = zip(parts, sizes, strict=True)
    return tuple(part.split(wanted, seed=seed, stratify=True)[0] for part, wanted in kept)


def _drawn(kind: str, n: int | None, seed: int, **options: int) -> tuple[ImageSet, ImageSet]:
    n = _DRAWN[kind] if n is None else _checked(n)
    return (
        synthetic(kind, n, seed, **options),
        synthetic(kind, _test_size(n), seed, part="test", **options),
    )


@contextmanager
def _permitted() -> Iterator[None]:
    """Name the folder that this user may not look into."""
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"{error.filename} may not be read",
            expected="folders and files that you may read",
            mend="ask its owner, or change its permissions",
        ) from None


@_permitted()
def _cifar(
    source: Source,
    archive: download.Published,
    files: dict[str, tuple[str, ...]],
    ranges: tuple[int, ...],
    usual: str,
) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Read both parts: images, label columns, and what to call them."""
    path = download.fetch(archive) if source == "download" else _existing(source)
    name = "download" if source == "download" else _called(source)

    def read(folder: Path) -> dict[str, np.ndarray]:
        binary.check_place(folder, files, f"{archive.name} ({usual})")
        read = {part: binary.read_records(folder, names, ranges) for part, names in files.items()}
        return {
            f"{part}_{what}": values
            for part in read
            for what, values in zip(("images", "labels"), read[part], strict=True)
        }

    def unpack() -> dict[str, np.ndarray]:
        with archives.unpacked(path) as folder:
            return read(folder)

    # A folder in this layout is as quick to read as a cache of it would be.
    arrays = read(path) if path.is_dir() else cache.arrays(usual, path, cache.listing([path]), unpack)
    return [
        (
            arrays[f"{part}_images"],
            arrays[f"{part}_labels"],
            _partial(name, part, len(arrays[f"{part}_images"])),
        )
        for part in files
    ]


def _partial(name: str, part: str, n: int) -> str:
    """Say in the source's name when a part does not hold all published images."""
    whole = _PUBLISHED[part]
    return name if n == whole else f"{name} ({n:,} of {whole:,} {part} images)"


@contextmanager
def _opened(source: Source) -> Iterator[Path]:
    """Give the folder that a folder's or an archive's path means."""
    with _permitted():
        path = _existing(source)
        if path.is_dir():
            yield path
        else:
            with archives.unpacked(path) as folder:
                yield folder


def _existing(source: Source) -> Path:
    """Check that a given path is there, since nothing falls back to synthetic images."""
    path = Path(source).expanduser()
    if not path.exists():
        words = ("synthetic", "download")
        guess = nearest(str(source), words) if len(path.parts) == 1 else None
        raise DataError(
            f"{source} does not exist",
            expected="'synthetic', 'download', or the path of a folder or an archive",
            mend=guess or "check the path; nothing is replaced by synthetic images unasked",
        )
    if not path.is_dir() and not path.name.lower().endswith(archives.SUFFIXES):
        raise DataError(
            f"{source} is a file, not a folder",
            expected=f"a folder, or an archive ({', '.join(archives.SUFFIXES)})",
            mend="give the folder that it lies in",
        )
    return path


def _called(source: Source) -> str:
    """Name a source by its last part, never by a path of this machine."""
    path = Path(source).expanduser()
    return f"{'folder' if path.is_dir() else 'archive'} {path.resolve().name}"


def _cut(part: ImageSet, n: int | None) -> ImageSet:
    return part if n is None or n >= len(part) else part.take(slice(_checked(n)))


def _cut_parts(parts: list[ImageSet], n: int | None) -> tuple[ImageSet, ImageSet]:
    if n is None:
        return parts[0], parts[1]
    return _cut(parts[0], n), _cut(parts[1], _test_size(n))


def _test_size(n: int) -> int:
    return -(-_checked(n) // 5)


def _checked(n: int) -> int:
    if not isinstance(n, Integral) or n < 1:
        raise ParameterError(f"n={n}", expected="at least one image")
    return n


def _first_of_each(full: ImageSet, n: int | None) -> ImageSet:
    """Keep n images, with true labels known for the same share of them as of all."""
    if n is None or n >= len(full):
        return full
    known = np.flatnonzero(full.true_labels >= 0)
    unknown = np.flatnonzero(full.true_labels < 0)
    first = min(-(-_checked(n) * len(known) // len(full)), n)
    return full.take(np.concatenate([known[:first], unknown[: n - first]]))
