"""Arrays kept between runs: memory-mapped, checked against their source, written in one step."""

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from labkit.errors import DataError

Listing = list[tuple[str, int, int]]  # name, size and modification time of every file of a source
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORMAT = 1


def folder() -> Path:
    """Give the folder that caches live in: LABKIT_CACHE, or labkit in the user's cache folder."""
    if chosen := os.environ.get("LABKIT_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labkit"


def listing(paths: Iterable[Path]) -> Listing:
    """List name, size and modification time of single files."""
    return [(path.name, stat.st_size, stat.st_mtime_ns) for path in paths for stat in (path.stat(),)]


def scan(place: Path) -> Listing:
    """List the visible files of a folder by name, with size and modification time."""
    try:
        with os.scandir(place) as entries:
            return sorted(
                (entry.name, stat.st_size, stat.st_mtime_ns)
                for entry in entries
                if not entry.name.startswith(".")
                for stat in (entry.stat(),)
            )
    except OSError as error:
        raise DataError(
            f"{place} cannot be listed ({error.strerror}: {Path(error.filename).name})",
            expected="a folder of files that you may read",
            mend="check its permissions, and remove links that lead nowhere",
        ) from None


def arrays(
    kind: str, source: Path, files: Listing, build: Callable[[], dict[str, np.ndarray]], **options: object
) -> dict[str, np.ndarray]:
    """Give the arrays kept for these files, after building them where none are kept or they do not fit."""
    if folder().resolve() in source.resolve().parents:
        return build()  # unpacked from an archive for this one reading
    state = _state(files)
    where = json.dumps([kind, str(source.resolve()), options], sort_keys=True)
    entry = folder() / f"{kind}-{hashlib.sha256(where.encode()).hexdigest()[:16]}"
    if kept := _load(entry, state):
        return kept
    with locked(entry):
        if kept := _load(entry, state, warn=True):  # another process was faster
            return kept
        built = build()
        _store(entry, state, built)
        return _load(entry, state) or built


def _state(files: Listing) -> str:
    """Sum a listing up; any file added, removed, renamed or written to changes it."""
    names, sizes, times = zip(*files, strict=True)
    digest = hashlib.sha256("/".join(names).encode("utf-8", "surrogateescape"))
    digest.update(np.array([sizes, times], "<i8"))
    return digest.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time work on a path of the cache; a dead process holds nothing."""
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Turn a full or closed disk into advice."""
    try:
        yield
    except OSError as error:
        # NumPy says that it wrote less than it was asked to, and gives no number.
        if error.errno in FULL or (error.errno is None and str(error).endswith(" written")):
            happened = f"no space left while writing to {place}"
        elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
            happened = f"no permission to write to {place}"
        elif isinstance(error, (FileExistsError, NotADirectoryError)):
            happened = f"{place} is a file, not a folder"
        elif error.errno and not place.is_dir():
            happened = f"{place} cannot be made ({error.strerror})"
        else:
            raise
        raise DataError(
            happened,
            expected="a folder with room for a copy of the images",
            mend="set LABKIT_CACHE to a folder you can write to, or make room",
        ) from None


@contextmanager
def scratch(near: Path) -> Iterator[Path]:
    """Lend a temporary folder beside a path, gone afterwards, or when the next one is lent for that path."""
    with locked(near.parent / "scratch"), writing_to(near.parent):  # none is swept before it holds its lock
        _sweep(near)
        place = Path(tempfile.mkdtemp(prefix=f".{near.name}.", dir=near.parent))
        lock = FileLock(place / "lock")
        lock.acquire()
    try:
        with writing_to(near.parent):
            inside = place / "inside"
            inside.mkdir()
            yield inside
    finally:
        lock.release()
        shutil.rmtree(place, ignore_errors=True)


def _sweep(near: Path) -> None:
    """Clear away the temporary folders of killed processes, whose locks nobody holds any more."""
    for leftover in near.parent.glob(f".{glob.escape(near.name)}.*"):
        lock = FileLock(leftover / "lock", timeout=0)
        with suppress(Timeout, OSError):
            lock.acquire()
            lock.release()
            shutil.rmtree(leftover, ignore_errors=True)


def _store(entry: Path, state: str, values: dict[str, np.ndarray]) -> None:
    """Write an entry under a temporary name and rename it when it is whole."""
    with scratch(entry) as place:
        fresh = place / "new"
        fresh.mkdir()
        record = {"format": _FORMAT, "source": state, "arrays": {}}
        for name, array in values.items():
            np.save(fresh / f"{name}.npy", array, allow_pickle=False)
            record["arrays"][name] = _sum(array)
        (fresh / "entry.json").write_text(json.dumps(record))
        if entry.exists():
            entry.rename(place / "old")
        fresh.rename(entry)


def _load(entry: Path, state: str, *, warn: bool = False) -> dict[str, np.ndarray] | None:
    """Open an entry if it is whole and made from exactly these files."""
    try:
        record = json.loads((entry / "entry.json").read_text())
        if record["source"] != state and record["format"] == _FORMAT:
            return None
        kept = {name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in record["arrays"]}
        if record["format"] != _FORMAT:
            reason = "it is from another version of labkit"
        elif all(_sum(array) == record["arrays"][name] for name, array in kept.items()):
            return kept
        else:
            reason = "its contents do not match their checksum"
    except FileNotFoundError as error:
        if not entry.exists():
            return None
        reason = f"{Path(error.filename).name} is missing"
    except Exception:  # damage makes readers of JSON and .npy raise anything
        reason = "it was cut short or written by something else"
    if warn:
        warnings.warn(
            f"labkit: cache entry {entry.name} is not used: {reason}; it is built again", stacklevel=2
        )
    return None


def _sum(array: np.ndarray) -> str:
    """Sum an array up so that any flipped bit shows."""
    layout = f"{array.dtype.str}{array.shape}".encode()
    return f"{zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), zlib.crc32(layout)):08x}"
