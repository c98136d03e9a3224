"""The publishers' archives: from more than one place, resumed where cut, checked before use."""

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from labkit import __version__
from labkit.data import cache
from labkit.errors import DataError

_BLOCK = 1 << 20
_TRIES = 3  # at one mirror, each going on where the last one stopped
_SECONDS = 30  # without a byte before a mirror counts as dead


@dataclass(frozen=True)
class Published:
    """An archive as its publisher describes it, and where copies of it lie."""

    name: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]  # folders that hold the archive under its name


_TORONTO = "https://www.cs.toronto.edu/~kriz/"  # the publisher; the others are tried after it
_MINDSPORE = "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/"
_SWIFT = "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/"

CIFAR10 = Published(
    "cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    (_TORONTO, _SWIFT, _MINDSPORE),
)
CIFAR100 = Published(
    "cifar-100-binary.tar.gz",
    168_513_733,
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    (_TORONTO, _MINDSPORE),
)


class _Failed(Exception):
    """One attempt at one mirror came to nothing."""


def fetch(archive: Published) -> Path:
    """Give the archive's place in the cache, after downloading it where it is not there yet."""
    target = cache.folder() / "downloads" / archive.name
    with cache.locked(target):
        if target.exists() and target.stat().st_size == archive.size and _sha256(target) == archive.sha256:
            return target
        part = target.with_name(target.name + ".part")
        failures = []
        for mirror in _mirrors(archive):
            for _ in range(_TRIES):
                try:
                    with cache.writing_to(target.parent):
                        _continue(mirror + archive.name, part, archive)
                        os.replace(part, target)  # noqa: PTH105 - replaces on every platform
                    return target
                except _Failed as failure:
                    failures.append(f"{mirror}: {failure}")
        tried = "\n".join(f"  {failure}" for failure in dict.fromkeys(failures))
        raise DataError(
            f"{archive.name} could not be downloaded:\n{tried}",
            expected=f"{archive.size:,} bytes with sha-256 {archive.sha256}",
            mend="run the same command again, which goes on where this stopped; or download the archive by "
            "other means and give its path instead of 'download'; or use 'synthetic'",
        )


def _mirrors(archive: Published) -> tuple[str, ...]:
    """List where to look, a mirror of the user's own first."""
    own = os.environ.get("LABKIT_MIRROR")
    return ((own.rstrip("/") + "/",) if own else ()) + archive.mirrors


def _continue(url: str, part: Path, archive: Published) -> None:
    """Download what is missing of the archive, then check all of it."""
    have = part.stat().st_size if part.exists() else 0
    if have > archive.size:
        part.unlink()
        have = 0
    if have < archive.size:
        _transfer(url, part, have, archive)
    if (have := part.stat().st_size) < archive.size:
        raise _Failed(f"the connection ended after {have:,} of {archive.size:,} bytes")
    if have > archive.size or _sha256(part) != archive.sha256:
        part.unlink()
        raise _Failed("what came is not the published archive (wrong checksum)")


def _transfer(url: str, part: Path, have: int, archive: Published) -> None:
    """Append to the part file, or start it again where the server cannot go on from the middle."""
    headers = {"User-Agent": f"labkit/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    with _reached():
        request = urllib.request.Request(url, headers=headers)
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    with answer:
        span = answer.headers.get("Content-Range", "")
        resumed = answer.status == 206 and span.startswith(f"bytes {have}-")
        if not resumed:
            have = 0
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(
                desc=archive.name,
                total=archive.size,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=not sys.stderr.isatty(),
            ) as bar,
        ):
            while have <= archive.size and (block := _read(answer)):
                file.write(block)
                have += len(block)
                bar.update(len(block))


def _read(answer: http.client.HTTPResponse) -> bytes:
    """Read the next block, apart from writing it: a full disk is no fault of a mirror."""
    with _reached():
        return answer.read(_BLOCK)


@contextmanager
def _reached() -> Iterator[None]:
    """Turn whatever a network does wrong into one attempt that came to nothing."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise _Failed(f"the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _Failed(f"no connection ({error.reason})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise _Failed(f"the connection broke ({why})") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
