"""From image files to pixels, in threads, with every broken file called by its name."""

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from labkit.errors import DataError

_TILE = 32
# What follows the signature of an 8-bit RGB tile that is not interlaced: length and name, sizes, format.
_TILE_HEAD = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", _TILE, _TILE, 8, 2, 0, 0, 0)
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_LENGTH = struct.Struct(">I")
_CHUNK = 200
_AGAIN = "copy the file again from where you got it"
_MOST_PIXELS = 100_000_000
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def read_tiles(paths: Sequence[str]) -> np.ndarray:
    """Read 32x32 RGB PNG files, strictly."""
    images = np.empty((len(paths), _TILE, _TILE, 3), np.uint8)

    def read(number: int) -> None:
        raw = _bytes(paths[number])
        decoded = None
        if _is_tile(raw):
            decoded = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR_RGB)
        if decoded is None:
            raise _bad_tile(paths[number], raw)
        images[number] = decoded

    _in_threads(read, len(paths))
    return images


def _is_tile(raw: bytes) -> bool:
    """Check format and checksums first, since the decoder itself complains to the terminal."""
    if not raw.startswith(_TILE_HEAD) or not raw.endswith(_PNG_END):
        return False
    start = 8
    while start < len(raw):
        (length,) = _LENGTH.unpack_from(raw, start)
        end = start + 12 + length
        if end > len(raw) or raw[start + 4 : start + 8] == b"acTL":
            return False
        if zlib.crc32(raw[start + 4 : end - 4]) != _LENGTH.unpack_from(raw, end - 4)[0]:
            return False
        start = end
    return True


def read_photos(paths: Sequence[str], *, size: int) -> np.ndarray:
    """Read photos of any size and format, as RGB squares of the size asked for."""
    images = np.empty((len(paths), size, size, 3), np.uint8)

    def read(number: int) -> None:
        images[number] = _photo(paths[number], _bytes(paths[number]), size)

    _in_threads(read, len(paths))
    return images


def _in_threads(read: Callable[[int], None], n: int) -> None:
    """Call read for every number; the error of the lowest number wins."""

    def stretch(start: int) -> None:
        for number in range(start, min(start + _CHUNK, n)):
            read(number)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        jobs = [pool.submit(stretch, start) for start in range(0, n, _CHUNK)]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - half the time of Path.read_bytes
            return file.readall()
    except OSError as error:
        raise DataError(
            f"{called(path)} cannot be read ({error.strerror})",
            expected="an image file that you may read",
            mend="check the file and its permissions",
        ) from None


def called(path: str | Path) -> str:
    """Call a file by its folder and name, and by the part of the set that it lies in."""
    *_, part, folder, name = Path("/", path).parts
    return f"{part}/{folder}/{name}" if part in ("train", "valid") else f"{folder}/{name}"


def _bad_tile(path: str, raw: bytes) -> DataError:
    """Say why a file is not a 32x32 RGB PNG."""
    try:
        with _opened(path, raw) as image:
            fault = _fault(image, raw)
            if fault is None:
                _decoded(path, image)
                fault = "is damaged: it is not the plain file it says it is"
        happened = f"{called(path)} {fault}"
    except DataError as error:
        happened = error.happened
    return DataError(happened, expected=f"an 8-bit RGB PNG of {_TILE}x{_TILE} pixels", mend=_AGAIN)


def _fault(image: Image.Image, raw: bytes) -> str | None:
    """Say in what a whole image differs from a tile."""
    if image.format != "PNG":
        return f"is a {image.format} file"
    if image.size != (_TILE, _TILE):
        return f"has {image.width}x{image.height} pixels"
    if (mode := _mode(image, raw)) != "RGB":
        return f"is {_MODES.get(mode, mode)}"
    if getattr(image, "is_animated", False):
        return "is animated"
    return "is interlaced" if image.info.get("interlace") else None


_MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "a palette image",
    "RGBA": "RGB with transparency (RGBA)",
    "CMYK": "CMYK",
    "16": "16-bit",
}


def _mode(image: Image.Image, raw: bytes) -> str:
    """Name an image's colours; Pillow shows 16-bit RGB as if it were 8-bit."""
    if (image.format == "PNG" and raw[24:25] == b"\x10") or image.mode.startswith("I"):
        return "16"
    return image.mode


def _opened(path: str, raw: bytes) -> Image.Image:
    """Open an image as far as its header."""
    if not raw:
        raise DataError(
            f"{called(path)} is empty (0 bytes)", expected="a photo", mend=f"{_AGAIN}, or remove it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(raw), formats=["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise _too_large(path, int(re.search(r"\((\d+) pixels\)", str(error))[1])) from None
        raise DataError(
            f"{called(path)} is not an image that can be read",
            expected="JPEG, PNG, WebP or BMP",
            mend=f"{_AGAIN}, or remove it",
        ) from None
    if image.width * image.height > _MOST_PIXELS:
        raise _too_large(path, image.width * image.height)
    return image


def _too_large(path: str, pixels: int) -> DataError:
    return DataError(
        f"{called(path)} is too large: {pixels:,} pixels",
        expected=f"at most {_MOST_PIXELS:,} pixels",
        mend="save it smaller, or remove it",
    )


def _decoded(path: str, image: Image.Image) -> None:
    """Decode an image in place, or tell that it cannot be."""
    try:
        image.load()
    except Exception as error:  # decoders raise whatever they like on damaged files
        reason = "is truncated" if "truncated" in str(error).lower() else "is damaged"
        raise DataError(
            f"{called(path)} {reason}", expected="a whole photo", mend=f"{_AGAIN}, or remove it"
        ) from None


def _photo(path: str, raw: bytes, size: int) -> np.ndarray:
    """Turn one file into a square RGB photo: upright, grey and palette images converted."""
    expected = "an 8-bit grey, palette or RGB photo"
    with _opened(path, raw) as image:
        mode = _mode(image, raw)
        if image.format not in ("PNG", "JPEG", "WEBP", "BMP"):
            raise DataError(
                f"{called(path)} is a {image.format} file",
                expected="JPEG, PNG, WebP or BMP",
                mend="save it as one of these, or remove it",
            )
        if getattr(image, "is_animated", False):
            raise DataError(f"{called(path)} is animated", expected=expected, mend="save one frame of it")
        if mode not in ("1", "L", "P", "RGB"):
            raise DataError(
                f"{called(path)} is {_MODES.get(mode, mode)}", expected=expected, mend="save it as 8-bit RGB"
            )
        if min(image.size) < 2:
            raise DataError(
                f"{called(path)} has {image.width}x{image.height} pixels",
                expected="a photo, at least 2x2 pixels",
                mend="put the photo in its place, or remove it",
            )
        _decoded(path, image)
        upright = _upright(path, image).convert("RGB")
        return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(path: str, image: Image.Image) -> Image.Image:
    """Turn a photo as its EXIF data ask; Pillow's own function fails where any other number there is odd."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # readers of EXIF data raise whatever they like on damaged ones
        raise DataError(
            f"{called(path)} has EXIF data that cannot be read",
            expected="a whole photo",
            mend="save it without them, or remove it",
        ) from None
    return image if turn is None else image.transpose(turn)
