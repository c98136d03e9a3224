import io
import itertools
import os
import re
import shutil
import tarfile
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from labkit import data
from labkit.book import mistakes
from labkit.data import cache, course, label_files
from labkit.errors import DataError

ROWS = mistakes.rows()

# A word that tells each mistake from the others, and the file, row, record or member it must name.
NAMED = {
    "The course's folder": {
        "a folder that is not there": "nowhere does not exist",
        "the folder above": "give the folder inside it, ~/noisy_cifar",
        "the folder below": "give the folder above it, ~/noisy_cifar",
        "a file": "noisy_labels.csv is a file",
        "no label file": "has no noisy_labels.csv",
        "no test part": "no test part",
    },
    "Numbered images": {
        "an image is missing": "00003.png is missing",
        "the last image is missing": "too long: 6 labels",
        "an extra image": "too short: 6 labels",
        "a stranger among the images": "'00003 (copy).png'",
        "an image is misnumbered": "00003.png is missing",
        "a number with too few digits": "'3.png'",
        "numbers of six digits": "000001.png is misnumbered",
        "a number of millions": "00003.png is missing, and 99,999,999,992 more",
        "numbers from zero": "00000.png is misnumbered",
        "no image": "images/ is empty",
    },
    "An image of the course": {
        "an empty file": "00003.png is empty",
        "text in a .png": "00003.png is not an image",
        "a truncated image": "00003.png is truncated",
        "one flipped bit": "00003.png is damaged",
        "a JPEG called .png": "00003.png is a JPEG",
        "a folder called .png": "00003.png cannot be read (Is a directory)",
        "a link that leads nowhere": "No such file or directory: 00003.png",
        "a 16-bit image": "00003.png is 16-bit",
        "an interlaced image": "00003.png is interlaced",
        "a grey image": "00003.png is grey",
        "an RGBA image": "00003.png is RGB with transparency",
        "a palette image": "00003.png is a palette",
        "a CMYK image": "00003.png is a JPEG",
        "an animated image": "00003.png is animated",
        "a 1x1 image": "00003.png has 1x1",
        "an image of 40,000x3 pixels": "00003.png has 40000x3",
        "an image that claims 200,000x200,000 pixels": "00003.png is too large: 40,000,000,000 pixels",
    },
    "Label files": {
        "one row too few": "noisy_labels.csv is too short",
        "one row too many": "noisy_labels.csv is too long",
        "more true labels than images": "clean_labels.csv is too long",
        "text": "row 3: 'cat' is text",
        "NaN": "row 3: 'nan' is not a number",
        "a huge number": "row 3: '1e9'",
        "a number too large": "row 3: label 10",
        "a negative number": "row 3: '-1' is negative",
        "a float": "row 3: '3.0' is not written as a whole number",
        "a blank line": "row 3: a blank line",
        "quotes": "row 3: '\"3\"' is in quotes",
        "two columns": "row 1: '0,8' has more than one column",
        "a header": "remove the header",
        "a byte-order mark": "byte-order mark",
        "Windows line ends": "Windows line ends",
        "an empty file": "noisy_labels.csv is empty",
        "a file that is no text": "not a text file",
    },
    "CIFAR-10 in binary": {
        "the folder above": "give the folder inside it, ~/cifar-10-batches-bin",
        "a batch is missing": "has no data_batch_3.bin",
        "the Python version": "pickles",
        "a truncated file": "data_batch_2.bin has",
        "a padded file": "test_batch.bin has 6,148 bytes, 2 more",
        "an empty file": "data_batch_2.bin has 0 bytes\n",
        "a label byte out of range": "data_batch_2.bin, record 1: label byte 10",
    },
    "CIFAR-100 in binary": {
        "a superclass that does not fit the class": "train.bin, record 0: class 'apple' under superclass",
        "CIFAR-10 instead": "train.bin has 3,073 bytes",
    },
    "Archives": {
        "a member with ..": "'../outside.bin' points outside",
        "a member with an absolute path": "'/outside.bin' has an absolute path",
        "a symbolic link": "'link.bin' is a link",
        "a hard link": "'link.bin' is a link",
        "a device": "'null' is a device",
        "an encrypted member": "'data_batch_1.bin' is encrypted",
        "a member of a million MB": "packed.tar is damaged or cut short",
        "cut short": "cut short",
        "no archive": "not an archive",
        "other contents": "cifar-10-batches-bin.tar.gz has no data_batch_1.bin",
    },
    "Photos in class folders": {
        "the folder above": "give the folder inside it, ~/animals",
        "the folder below": "give the folder above it, ~/animals",
        "two folders below": "two levels above it, ~/animals",
        "the folder above, with no train and valid": "give the folder inside it, ~/animals",
        "no valid": "has no valid/",
        "an empty class": "train/cat is empty",
        "one class only": "one class only, 'dog'",
        "other classes in valid": "train/ has no 'horse'",
        "a class name that cannot be shown": r"'cat\x07'",
        "one name in two ways of Unicode": "two ways of Unicode",
        "a file between the class folders": "train/notes.txt",
        "a folder in a class folder": "train/cat/more is a folder",
        "a file that is no photo": "train/cat/notes.txt",
        "text in a .jpg": "train/cat/0.jpg is not an image",
        "an empty file": "train/cat/0.jpg is empty",
        "a truncated photo": "train/cat/0.jpg is truncated",
        "a 16-bit photo": "train/cat/0.jpg is 16-bit",
        "a link that leads nowhere": "train/cat cannot be listed (No such file or directory: 0.jpg)",
        "a CMYK photo": "train/cat/0.jpg is CMYK",
        "an RGBA photo": "train/cat/1.png is RGB with transparency",
        "an animated photo": "train/cat/1.webp is animated",
        "a GIF called .jpg": "train/cat/0.jpg is a GIF",
        "a 1x1 photo": "train/cat/0.jpg has 1x1",
        "damaged EXIF data": "train/cat/1.png has EXIF data that cannot be read",
        "a photo that claims 60,000x60,000 pixels": "train/cat/0.jpg is too large: 3,600,000,000 pixels",
    },
    "The cache": {
        "one flipped bit": "do not match their checksum",
        "cut short": "cut short",
        "a record cut short": "cut short",
        "a file is missing": "images.npy is missing",
        "from another version": "another version",
        "the cache's folder is a file": "is a file, not a folder",
    },
    "A full disk": {"no space left for the cache": "no space left"},
    "The network": {"no connection to any mirror": "127.0.0.1:9/: no connection"},
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.group}: {row.mistake}")
def test_every_mistake_gets_a_clear_message(row):
    assert row.message != "nothing"
    if row.group in NAMED:
        assert NAMED[row.group][row.mistake] in row.message
    said = set(re.findall("^(Expected|To mend it): .", row.message, re.MULTILINE))
    if row.group == "Calls":
        assert "Expected" in said  # what to type instead
    elif "it is built again" not in row.message:  # a warning, with nothing left to do
        assert said == {"Expected", "To mend it"}
    assert "Traceback" not in row.message and "/tmp" not in row.message


def test_every_named_mistake_is_made():
    made = {(row.group, row.mistake) for row in ROWS}
    assert {(group, name) for group, names in NAMED.items() for name in names} <= made
    assert len(made) == len(ROWS) >= 100


# Generated mistakes: each strategy gives a way to spoil a good source, and the loader that must refuse it.

TALLY = Counter()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    place = tmp_path_factory.mktemp("good")
    return {
        "course": (mistakes.course_folder(place), data.noisy_cifar),
        "cifar10": (mistakes.cifar10_folder(place), data.cifar10),
        "cifar100": (mistakes.cifar100_folder(place), data.cifar100),
        "photos": (mistakes.photo_folder(place), lambda folder: data.animals(folder, size=16)),
        "archive": (mistakes.cifar100_folder(place / "packed"), data.cifar100),
    }


def rewritten(path, change):
    path.write_bytes(change(path.read_bytes()))


def bad_labels():
    bad_row = st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\0\n"), max_size=12).filter(
            lambda text: not re.fullmatch("[0-9]", text)
        ),
        st.integers().filter(lambda number: not 0 <= number <= 9).map(str),
        st.floats().map(str),
        st.sampled_from(
            ["0x3", "1_0", "+3", " 3", "3 ", "٣", "3;4", "3\t4", "1e0", "NaN", "-0", "three", "３"]
        ),
    )

    def spoil(row, place, name):
        def change(folder):
            rows = (folder / name).read_text().splitlines()
            rows[place % len(rows)] = row
            (folder / name).write_bytes("".join(f"{each}\n" for each in rows).encode())

        return change

    rows = st.builds(
        spoil, bad_row, st.integers(0, 5), st.sampled_from(["noisy_labels.csv", "clean_labels.csv"])
    )
    # Bytes with no digit at all cannot be a list of labels.
    noise = st.binary(max_size=40).filter(lambda raw: not re.fullmatch(rb"([0-9]\n?)*", raw))
    whole = noise.map(lambda raw: lambda folder: (folder / "noisy_labels.csv").write_bytes(raw))
    counts = st.integers(0, 12).filter(lambda n: n != 6)
    wrong = counts.map(lambda n: lambda folder: (folder / "noisy_labels.csv").write_text("1\n" * n))
    return st.tuples(st.just("course"), st.one_of(rows, whole, wrong))


def bad_files():
    """Damage one file: cut it, lengthen it, flip bits of it, or replace it."""
    tile = st.integers(1, 6).map(lambda number: f"images/{number:05d}.png")
    flips = st.builds(
        lambda name, place, bit: (
            lambda folder: rewritten(folder / name, lambda raw: _with_flip(raw, int(place * len(raw)), bit))
        ),
        tile,
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 7),
    )
    cuts = st.builds(
        lambda name, share: lambda folder: rewritten(folder / name, lambda raw: raw[: int(share * len(raw))]),
        tile,
        st.floats(0, 1, exclude_max=True),
    )
    more = st.builds(
        lambda name, extra: lambda folder: rewritten(folder / name, lambda raw: raw + extra),
        tile,
        st.binary(min_size=1, max_size=20),
    )
    other = st.builds(
        lambda name, content: lambda folder: (folder / name).write_bytes(content),
        tile,
        st.binary(max_size=60),
    )
    sizes = st.tuples(st.integers(1, 70), st.integers(1, 70)).filter(lambda size: size != (32, 32))
    images = st.builds(
        lambda name, mode, size: lambda folder: Image.new(mode, size).save(folder / name),
        tile,
        st.sampled_from(["RGB", "L", "RGBA", "P", "1", "LA", "I;16"]),
        sizes,
    )
    names = st.text(
        st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12
    ).filter(
        lambda name: "/" not in name and not name.startswith(".") and not re.fullmatch(r"\d{5,}\.png", name)
    )
    strangers = names.map(lambda name: lambda folder: (folder / "images" / name).write_bytes(b"x"))
    lost = tile.map(lambda name: lambda folder: (folder / name).unlink())
    digits = st.one_of(
        st.text("0123456789٣", min_size=5, max_size=12),
        st.builds("{:0{}d}".format, st.integers(0, 10**6), st.integers(5, 8)),
    ).filter(lambda number: number not in {f"{good:05d}" for good in range(1, 7)})
    renamed = st.builds(
        lambda name, number: lambda folder: (folder / name).rename(folder / f"images/{number}.png"),
        tile,
        digits,
    )
    return st.tuples(st.just("course"), st.one_of(flips, cuts, more, other, images, strangers, lost, renamed))


def _with_flip(raw, place, bit):
    return raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]


def bad_records():
    def layout(kind, names, record, heads):
        name = st.sampled_from(names)
        cut = st.builds(
            lambda name, lost: lambda folder: rewritten(folder / name, lambda raw: raw[:-lost]),
            name,
            st.integers(1, record - 1),
        )
        more = st.builds(
            lambda name, extra: lambda folder: rewritten(folder / name, lambda raw: raw + bytes(extra)),
            name,
            st.integers(1, record - 1),
        )
        lost = name.map(lambda name: lambda folder: (folder / name).unlink())
        byte = st.builds(
            lambda name, index, value, head: (
                lambda folder: rewritten(
                    folder / name,
                    lambda raw: (
                        (at := index * record + head[0]) is not None
                        and raw[:at] + bytes([max(value, head[1])]) + raw[at + 1 :]
                    ),
                )
            ),
            name,
            st.integers(0, 1),
            st.integers(0, 255),
            st.sampled_from(heads),
        )
        return st.tuples(st.just(kind), st.one_of(cut, more, lost, byte))

    ten = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    return st.one_of(
        layout("cifar10", ten, 3073, [(0, 10)]),
        layout("cifar100", ["train.bin", "test.bin"], 3074, [(0, 20), (1, 100)]),
    )


def bad_photos():
    photo = st.builds(
        lambda part, name, number: f"{part}/{name}/{number}.jpg",
        st.sampled_from(["train", "valid"]),
        st.sampled_from(["cat", "dog"]),
        st.integers(0, 1),
    )
    content = st.builds(
        lambda name, raw: lambda folder: (folder / name).write_bytes(raw), photo, st.binary(max_size=80)
    )
    cut = st.builds(
        lambda name, share: lambda folder: rewritten(folder / name, lambda raw: raw[: int(share * len(raw))]),
        photo,
        st.floats(0, 0.9),
    )
    mode = st.builds(
        lambda name, mode: lambda folder: Image.new(mode, (20, 20)).save(folder / name, format="TIFF"),
        photo,
        st.sampled_from(["RGB", "CMYK", "RGBA", "I;16", "F"]),
    )
    suffix = st.sampled_from([".txt", ".gif", ".tiff", ".jpg.part", "", ".mp4"])
    stranger = suffix.map(lambda end: lambda folder: (folder / f"train/cat/more{end}").write_bytes(b"x"))
    extra = st.sampled_from(["train", "valid"]).map(
        lambda part: lambda folder: (folder / part / "emu").mkdir()
    )
    gone = st.sampled_from(["train", "valid", "train/cat", "valid/dog"]).map(
        lambda name: lambda folder: shutil.rmtree(folder / name)
    )
    return st.tuples(st.just("photos"), st.one_of(content, cut, mode, stranger, extra, gone))


def bad_archives():
    def packed(change):
        def spoil(folder):
            path = mistakes.archive_of(folder)
            rewritten(path, change)
            return path

        return spoil

    def member(name, kind):
        def spoil(folder):
            path = folder.with_name("packed.tar")
            with tarfile.open(path, "w") as archive:
                archive.add(folder, arcname=folder.name)
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "train.bin"
                archive.addfile(info, io.BytesIO())
            return path

        return spoil

    up = st.lists(st.sampled_from(["..", "a", "b", "."]), min_size=1, max_size=4).filter(
        lambda parts: ".." in parts
    )
    rooted = st.text("ab/", min_size=1, max_size=6).map(lambda name: f"/{name}")
    outside = st.one_of(
        up.map("/".join), rooted, st.just("C:\\a"), st.just("\\\\host\\a"), st.just("a\\..\\b")
    )
    plain = st.text("abc", min_size=1, max_size=5)
    special = st.sampled_from(
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    )
    cut = st.floats(0, 0.95).map(lambda share: packed(lambda raw: raw[: int(share * len(raw))]))
    flip = st.builds(
        # Past the ten bytes of the header, where nothing that matters is kept.
        lambda place, bit: packed(lambda raw: _with_flip(raw, 40 + int(place * (len(raw) - 40)), bit)),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 7),
    )
    members = st.one_of(
        st.builds(member, outside, st.just(tarfile.REGTYPE)), st.builds(member, plain, special)
    )
    return st.tuples(st.just("archive"), st.one_of(cut, flip, members))


BAD = st.one_of(bad_labels(), bad_files(), bad_records(), bad_photos(), bad_archives())
_COUNT = itertools.count()


def check_refused(good, tmp_path_factory, monkeypatch, case):
    """Spoil a copy of a good source and load it: only a clear error will do, and nothing is left behind."""
    kind, spoil = case
    source, load = good[kind]
    place = Path(tmp_path_factory.getbasetemp()) / f"bad{next(_COUNT)}"
    folder = place / source.name
    shutil.copytree(source, folder)
    monkeypatch.setenv("LABKIT_CACHE", str(place / "cache"))
    try:
        given_path = spoil(folder)
        TALLY["cases"] += 1
        with pytest.raises(DataError) as caught:
            load(given_path if isinstance(given_path, Path) and given_path.is_file() else folder)
        assert caught.value.happened and (caught.value.expected or caught.value.mend)
        left = [path for path in (place / "cache").glob("*") if path.is_dir()]
        assert all((path / "entry.json").exists() and not path.name.startswith(".") for path in left)
        TALLY["clear"] += 1
    finally:
        shutil.rmtree(place)


QUIET = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


def report():
    print(f"\n{TALLY['cases']} bad cases, {TALLY['cases'] - TALLY['clear']} without a clear error")


def test_a_hundred_generated_mistakes_get_a_clear_error(good, tmp_path_factory, monkeypatch):
    @settings(max_examples=100, **QUIET)
    @given(BAD)
    def refuse(case):
        check_refused(good, tmp_path_factory, monkeypatch, case)

    TALLY.clear()
    refuse()
    report()
    assert TALLY["cases"] == TALLY["clear"] >= 100


@pytest.mark.long
@pytest.mark.parametrize("cases", [bad_labels, bad_files, bad_records, bad_photos, bad_archives])
def test_a_thousand_generated_mistakes_get_a_clear_error(cases, good, tmp_path_factory, monkeypatch):
    @settings(max_examples=300, **QUIET)
    @given(cases())
    def refuse(case):
        check_refused(good, tmp_path_factory, monkeypatch, case)

    TALLY.clear()
    refuse()
    report()
    assert TALLY["cases"] == TALLY["clear"] >= 200


@settings(max_examples=200, **QUIET)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.booleans())
def test_good_label_files_are_read_as_they_are(tmp_path_factory, rows, last_end):
    path = Path(tmp_path_factory.getbasetemp()) / "labels.csv"
    path.write_text("\n".join(map(str, rows)) + ("\n" if last_end else ""))
    assert label_files.read_labels(path, k=10).tolist() == rows


def test_a_loader_leaves_a_refused_source_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    folder = mistakes.course_folder(tmp_path)
    (folder / "images/00002.png").write_bytes(b"")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(DataError), warnings.catch_warnings():
        warnings.simplefilter("error")
        data.noisy_cifar(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.fixture
def powerless(monkeypatch):
    """Lend a folder to a user who may not read everything: root becomes nobody for the test."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "cache").mkdir()
        monkeypatch.setenv("LABKIT_CACHE", str(place / "cache"))
        sources = {
            "course": mistakes.course_folder(place),
            "photos": mistakes.photo_folder(place),
            "binary": mistakes.cifar10_folder(place),
        }
        mistakes.archive_of(sources["binary"])
        for path in (place, *place.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        if user == 0:
            os.seteuid(65534)
        try:
            yield place, sources
        finally:
            os.seteuid(user)
            for path in (place, *place.iterdir()):
                path.chmod(0o700)


@pytest.mark.parametrize(
    ("kind", "shut", "words"),
    [
        ("course", "noisy_cifar", "noisy_cifar/images may not be read"),
        ("course", "noisy_cifar/images", "images cannot be listed"),
        ("course", "noisy_cifar/images/00003.png", "images/00003.png cannot be read"),
        ("course", "noisy_cifar/clean_labels.csv", "clean_labels.csv cannot be read"),
        ("course", "cache", "no permission to write to"),
        ("photos", "animals", "animals/train may not be read"),
        ("photos", "animals/train", "animals/train may not be read"),
        ("photos", "animals/train/cat", "train/cat cannot be listed"),
        ("photos", "animals/valid/dog/1.jpg", "valid/dog/1.jpg cannot be read"),
        ("binary", "cifar-10-batches-bin", "data_batch_1.bin may not be read"),
        ("binary", "cifar-10-batches-bin/test_batch.bin", "test_batch.bin cannot be read"),
    ],
)
def test_what_may_not_be_read_or_written_is_named(kind, shut, words, powerless):
    place, sources = powerless
    load = {"course": data.noisy_cifar, "photos": data.animals, "binary": data.cifar10}[kind]
    load(sources[kind])
    shutil.rmtree(place / "cache", ignore_errors=True)
    (place / "cache").mkdir(exist_ok=True)
    _shut(place / shut)
    with pytest.raises(DataError, match=words) as caught:
        load(sources[kind])
    assert caught.value.expected and caught.value.mend


def test_an_archive_that_may_not_be_read_is_named(powerless):
    place, _ = powerless
    _shut(place / "cifar-10-batches-bin.tar.gz")
    with pytest.raises(DataError, match=r"bin\.tar\.gz cannot be read"):
        data.cifar10(place / "cifar-10-batches-bin.tar.gz")


def _shut(path):
    """Take all rights on a path away, as its owner or as root."""
    user, owner = os.geteuid(), path.stat().st_uid
    os.seteuid(owner)
    path.chmod(0)
    os.seteuid(user)


def test_numbering_goes_on_beyond_five_digits(monkeypatch):
    names = sorted(f"{number:05d}.png" for number in range(1, 100_003))
    monkeypatch.setattr(cache, "scan", lambda folder: [(name, 1, 1) for name in names])
    files = course.numbered(Path("images"))
    assert [files[place][0] for place in (0, 99_998, 100_001)] == ["00001.png", "99999.png", "100002.png"]


def test_a_test_part_numbered_in_two_ways_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    folder = mistakes.course_folder(tmp_path)
    (folder / "images").rename(folder / "test_images")
    (folder / "noisy_labels.csv").rename(folder / "test_labels.csv")
    (folder / "test_images/00002.png").rename(folder / "test_images/test00002.png")
    with pytest.raises(DataError, match=r"holds '00001\.png' beside 'test00002\.png'"):
        data.noisy_cifar_test(folder)


def test_a_wide_photo_set_reports_the_first_bad_file_whatever_the_threads_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    folder = mistakes.course_folder(tmp_path, n=450)
    for number in (449, 230, 204):
        (folder / f"images/{number:05d}.png").write_bytes(np.random.default_rng(0).bytes(40))
    for _ in range(3):
        with pytest.raises(DataError, match=r"00204\.png"):
            data.noisy_cifar(folder)
