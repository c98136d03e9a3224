"""Archives, unpacked into a temporary folder after a look at every member's name."""

import errno
import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from labkit.data import cache
from labkit.errors import DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_DISK = (*cache.FULL, errno.EACCES, errno.EPERM, errno.EROFS)  # the cache is to blame, not the archive
_MOST_BYTES = 50 * 2**30


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack an archive for as long as it is read; where all lies in one folder, give that."""
    try:
        archive.open("rb").close()
    except OSError as error:
        raise DataError(
            f"{archive.name} cannot be read ({error.strerror})",
            expected="an archive that you may read",
            mend="check its permissions",
        ) from None
    with cache.scratch(cache.folder() / archive.name) as place:
        try:
            _unpack(archive, place)
        except DataError:
            raise
        except Exception as error:  # unpackers raise anything on damaged archives
            if isinstance(error, OSError) and error.errno in _DISK:
                raise
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{archive.name} is damaged or cut short ({reason})",
                expected=f"a whole archive ({', '.join(SUFFIXES)})",
                mend="download it again",
            ) from None
        inner = [path for path in place.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        folder = inner[0] if len(inner) == 1 and inner[0].is_dir() else place
        try:
            yield folder
        except DataError as error:  # the temporary folder is gone when the message is read
            said = (
                part and part.replace(str(folder), archive.name)
                for part in (error.happened, error.expected, error.mend)
            )
            happened, expected, mend = said
            raise DataError(happened, expected=expected, mend=mend) from None


def _unpack(archive: Path, place: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
                is_locked = member.flag_bits & 1
                special = "a link" if is_link else "encrypted" if is_locked else None
                _check_member(archive, member.filename, special)
            _check_size(archive, sum(member.file_size for member in opened.infolist()))
            opened.extractall(place)
        return
    try:
        opened = tarfile.open(archive)  # noqa: SIM115 - only opening it tells whether it is a tar file
    except tarfile.ReadError:
        raise DataError(
            f"{archive.name} is not an archive, or is damaged",
            expected=f"an archive ({', '.join(SUFFIXES)}) or a folder",
            mend="download or copy it again",
        ) from None
    with opened:
        members = opened.getmembers()
        for member in members:
            special = None if member.isfile() or member.isdir() else _SPECIAL.get(member.type, "no file")
            _check_member(archive, member.name, special)
        _check_size(archive, sum(member.size for member in members))
        opened.extractall(place, filter="data")
        while opened.fileobj.read(1 << 20):  # the packer's checksum comes last, behind tar's own end
            pass


_SPECIAL = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
}


def _check_member(archive: Path, name: str, special: str | None) -> None:
    """Refuse a member that would land outside the folder, or is not a plain file."""
    if special:
        problem = f"is {special}"
    elif PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or name.startswith("\\"):
        problem = "has an absolute path"
    elif ".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts:
        problem = "points outside the archive"
    else:
        return
    raise DataError(
        f"{archive.name}: member {name!r} {problem}; nothing was unpacked",
        expected="plain files in plain folders",
        mend="download the archive again from its publisher",
    )


def _check_size(archive: Path, size: int) -> None:
    status = os.statvfs(cache.folder()) if hasattr(os, "statvfs") else None
    room = status.f_bavail * status.f_frsize if status else _MOST_BYTES
    if size > min(room, _MOST_BYTES):
        raise DataError(
            f"no space left in {cache.folder()} for the {size / 2**20:,.0f} MiB in {archive.name}",
            expected=f"room for it there, and no more than {_MOST_BYTES // 2**30} GiB",
            mend="set LABKIT_CACHE to a folder with room",
        )
