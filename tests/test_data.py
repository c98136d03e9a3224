import dataclasses
import mmap
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from labkit import data
from labkit.book import mistakes
from labkit.data.decode import read_photos
from labkit.errors import DataError, ParameterError

IMAGES = data.synthetic("cifar10", 60, 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))


# Image sets


def test_a_set_is_frozen_and_its_images_read_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        IMAGES.label = 1
    with pytest.raises(AttributeError):
        _ = IMAGES.lables
    for array in (IMAGES.images, IMAGES.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def a_set_of(images):
    return data.ImageSet(images, np.zeros(len(images), int), ("a",), "mine")


def test_nobody_can_change_a_set_behind_its_back():
    own = np.zeros((4, 8, 8, 3), np.uint8)
    kept = a_set_of(own)
    with pytest.raises(ValueError, match="read-only"):
        own[0] = 9
    with pytest.raises(ValueError, match="WRITEABLE"):
        kept.images.flags.writeable = True
    assert np.shares_memory(own, kept.images)


@pytest.mark.parametrize("shut", [False, True])
@pytest.mark.parametrize(
    "memory",
    [lambda: np.zeros((4, 8, 8, 3), np.uint8), lambda: np.frombuffer(bytearray(4 * 192), np.uint8)],
)
def test_a_set_of_a_part_of_other_memory_is_a_copy(memory, shut):
    whole = memory().reshape(4, 8, 8, 3)
    part = whole[1:]
    part.flags.writeable = not shut
    kept = a_set_of(part)
    before = kept.fingerprint()
    whole += 9
    assert not kept.images.any() and a_set_of(kept.images).fingerprint() == before


def test_memory_that_cannot_change_is_not_copied(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((4, 8, 8, 3), np.uint8))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    fixed = np.frombuffer(bytes(4 * 192), np.uint8).reshape(4, 8, 8, 3)
    for images in (mapped, fixed, a_set_of(mapped).images, IMAGES.take(slice(5)).images):
        assert np.shares_memory(a_set_of(images).images, images)
    assert np.shares_memory(IMAGES.relabel(IMAGES.labels).images, IMAGES.images)
    writable = np.load(tmp_path / "images.npy", mmap_mode="r+")
    assert not np.shares_memory(a_set_of(writable).images, writable)


def test_repr_shows_counts_balance_and_source():
    noisy = data.noisy_cifar(n=50).with_hints()
    assert repr(IMAGES) == "ImageSet(60 images of 32x32x3, 10 classes, 6 a class, source='synthetic, seed 0')"
    assert "true labels known for 10, with hints" in repr(noisy)
    assert "heads of 5 and 5 classes" in repr(data.mix_pairs(*data.pair_groups(IMAGES), n=3, seed=0))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=4), st.integers(0, 5), st.booleans())
def test_parts_of_a_split_are_disjoint_and_as_large_as_asked(sizes, seed, stratify):
    parts = [size for size in np.cumsum(sizes) if size <= 60] and sizes if sum(sizes) <= 60 else [20, 40]
    numbered = IMAGES.with_hints()
    marked = data.ImageSet(
        np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1), numbered.labels, numbered.classes, "numbers"
    )
    split = marked.split(*parts, seed=seed, stratify=stratify)
    assert [len(part) for part in split] == parts
    numbers = np.concatenate([part.images.reshape(-1) for part in split])
    assert len(set(numbers.tolist())) == sum(parts)
    for part in split:
        assert (np.diff(part.images.reshape(-1).astype(int)) > 0).all()
        assert (part.labels == IMAGES.labels[part.images.reshape(-1)]).all()


def test_a_stratified_split_keeps_class_shares_and_fractions_cover_all():
    for seed in range(5):
        parts = IMAGES.split(0.5, 0.3, 0.2, seed=seed, stratify=True)
        assert [len(part) for part in parts] == [30, 18, 12]
        assert all(np.ptp(part.counts()) <= 1 for part in parts)
    assert (IMAGES.split(30, 30, seed=0)[0].images != IMAGES.split(30, 30, seed=1)[0].images).any()
    again = IMAGES.split(0.9, 0.1, seed=3)[1].fingerprint(), IMAGES.split(0.9, 0.1, seed=3)[1].fingerprint()
    assert again[0] == again[1]


def test_parts_that_cannot_be_drawn_are_refused():
    for parts in ((float("nan"), 0.5), (-1,), (0.7, 0.4), (61,), (30, 0.5), ()):
        with pytest.raises(DataError, match="Expected: "):
            IMAGES.split(*parts, seed=0)
    for seed in (-1, 0.5, None):
        with pytest.raises(ParameterError, match="a whole number from 0"):
            IMAGES.split(30, seed=seed)
        with pytest.raises(ParameterError, match="a whole number from 0"):
            data.PairStream(IMAGES, IMAGES, 4, seed=seed)


def test_sizes_that_are_no_numbers_of_images_are_refused():
    for wrong in (10.5, "10", 0):
        with pytest.raises(ParameterError, match="at least one image"):
            data.cifar10(n=wrong)
    with pytest.raises(ParameterError, match="height and width"):
        data.animals(size="100")
    assert [len(part) for part in IMAGES.split(np.float32(0.5), np.float32(0.5), seed=0)] == [30, 30]


def test_take_by_position_slice_and_mask():
    assert (IMAGES.take([5, 5, -1]).labels == IMAGES.labels[[5, 5, -1]]).all()
    assert len(IMAGES.take(slice(10))) == 10 and len(IMAGES.take([])) == 0
    assert (IMAGES.take(IMAGES.labels == 3).labels == 3).all()
    for wrong in ([60], [-61], np.ones(5, bool), [0.5], [[1]]):
        with pytest.raises(DataError):
            IMAGES.take(wrong)


def test_relabelling_remembers_what_was_true():
    wrong = (IMAGES.labels + 1) % 10
    noisy = IMAGES.relabel(wrong)
    assert (noisy.labels == wrong).all() and (noisy.true_labels == IMAGES.labels).all()
    assert (noisy.relabel(IMAGES.labels).true_labels == IMAGES.labels).all()
    assert (noisy.with_hints().relabel(IMAGES.labels).hints == wrong).all()


def test_the_fingerprint_sees_every_part_but_the_source():
    one = data.noisy_cifar(n=20).with_hints()
    same = dataclasses.replace(one, images=one.images.copy(), source="elsewhere")
    assert one.fingerprint() == same.fingerprint() and len(one.fingerprint()) == 64
    pixels = one.images.copy()
    pixels[3, 4, 5, 0] ^= 1
    others = [
        dataclasses.replace(one, images=pixels),
        one.relabel(np.roll(one.labels, 1)),
        dataclasses.replace(one, true_labels=None),
        dataclasses.replace(one, hints=None),
        dataclasses.replace(one, classes=tuple("abcdefghij")),
        one.take(slice(19)),
    ]
    assert len({part.fingerprint() for part in [one, *others]}) == 7
    swapped = dataclasses.replace(one, true_labels=one.labels, labels=np.maximum(one.true_labels, 0))
    assert swapped.fingerprint() != one.fingerprint()


def test_fingerprints_are_equal_in_another_process():
    command = "from labkit import data; print(data.noisy_cifar(n=40, seed=3).fingerprint())"
    other = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert other.stdout.split()[-1] == data.noisy_cifar(n=40, seed=3).fingerprint()


def test_reading_images_imports_no_keras():
    command = (
        "import sys; from labkit import data, labels; data.noisy_cifar(n=9); print('keras' in sys.modules)"
    )
    other = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert other.stdout.split() == ["False"]


def test_wrong_parts_are_refused():
    two = data.mix_pairs(*data.pair_groups(IMAGES), n=3, seed=0)
    for change in (
        {"labels": two.labels["first"]},
        {"classes": {"first": tuple("abcde"), "other": tuple("abcde")}},
        {"hints": np.zeros(3, int)},
    ):
        with pytest.raises(DataError):
            dataclasses.replace(two, **change)


# Pairs


def test_pair_groups_number_their_classes_from_zero():
    first, second = data.pair_groups(IMAGES, ((9, 1), (0, 2, 3)))
    assert first.classes == ("truck", "automobile") and second.classes == ("airplane", "bird", "cat")
    assert (first.images[first.labels == 0] == IMAGES.images[IMAGES.labels == 9]).all()
    assert second.counts().tolist() == [6, 6, 6]
    for wrong in (((0, 1), (1, 2)), ((0,), (10,)), ((0,),)):
        with pytest.raises(DataError):
            data.pair_groups(IMAGES, wrong)


def test_a_pair_is_the_average_of_two_images_with_both_labels():
    first, second = data.pair_groups(IMAGES)
    pairs = data.mix_pairs(first, second, n=200, seed=1)
    assert pairs.two_headed and pairs.images.dtype == np.uint8
    plan = data.PairStream(first, second, 200, seed=1).plan(0)
    exact = (first.images[plan.sides[0]].astype(float) + second.images[plan.sides[1]]) / 2
    assert np.abs(pairs.images - exact).max() <= 0.5
    assert abs((pairs.images - exact).mean()) < 0.01  # halves are rounded up and down alike
    assert (pairs.labels["first"] == first.labels[plan.sides[0]]).all()
    assert (pairs.labels["second"] == second.labels[plan.sides[1]]).all()
    heavy = data.mix_pairs(first, second, n=200, seed=1, weight=0.75)
    exact = 0.75 * first.images[plan.sides[0]] + 0.25 * second.images[plan.sides[1]]
    assert np.abs(heavy.images - exact).max() <= 0.5


def test_averaging_rounds_halves_to_even_for_every_pair_of_levels():
    level = np.arange(256, dtype=np.uint8)
    first, second = np.meshgrid(level, level)
    wanted = np.rint((first.astype(float) + second) / 2)
    assert (data.average(first, second) == wanted).all()


def test_a_stream_draws_fresh_pairs_each_epoch_as_a_function_of_seed_and_epoch():
    first, second = data.pair_groups(IMAGES)
    stream = data.PairStream(first, second, 50, seed=2, augment="basic")
    assert len(stream) == 50 and stream.classes["first"] == first.classes
    again = data.PairStream(first, second, 50, seed=2, augment="basic")
    assert stream.epoch(3).fingerprint() == again.epoch(3).fingerprint()
    assert stream.fingerprint() == again.fingerprint()
    others = [stream.epoch(4), dataclasses.replace(stream, seed=3).epoch(3)]
    assert all(other.fingerprint() != stream.epoch(3).fingerprint() for other in others)
    assert dataclasses.replace(stream, n=49).fingerprint() != stream.fingerprint()
    assert (
        data.mix_pairs(first, second, n=9, seed=2).images == data.mix_pairs(first, second, n=9, seed=2).images
    ).all()


def test_pairs_that_cannot_be_are_refused():
    first, second = data.pair_groups(IMAGES)
    small = data.synthetic("animals", 5, 0, size=16)
    for wrong in (
        lambda: data.PairStream(first.take([]), second, 5),
        lambda: data.PairStream(first, small, 5),
        lambda: data.PairStream(first, second, 5, weight=1.0),
        lambda: data.PairStream(data.mix_pairs(first, second, n=2, seed=0), second, 5),
    ):
        with pytest.raises(DataError):
            wrong()


@pytest.mark.parametrize(("bins", "size"), [(5, 32), (2, 9), (16, 13), (255, 8)])
def test_histograms_count_as_numpy_does(bins, size):
    images = data.synthetic("animals", 130, 0, size=size)
    pixels = images.images.copy()
    pixels[0], pixels[1], pixels[2, 0, 0] = 0, 255, [51, 102, 204]
    images = dataclasses.replace(images, images=pixels)
    edges = np.linspace(0, 255, bins + 1)
    expected = [
        np.concatenate([np.histogram(one[..., channel], bins=edges)[0] for channel in range(3)])
        for one in pixels
    ]
    assert (data.histograms(images, bins=bins) == expected).all()


# Names


def test_fine_classes_fall_into_their_publishers_superclasses():
    # The label numbers of the publisher's table, superclass by superclass.
    published = [
        (4, 30, 55, 72, 95), (1, 32, 67, 73, 91), (54, 62, 70, 82, 92), (9, 10, 16, 28, 61),
        (0, 51, 53, 57, 83), (22, 39, 40, 86, 87), (5, 20, 25, 84, 94), (6, 7, 14, 18, 24),
        (3, 42, 43, 88, 97), (12, 17, 37, 68, 76), (23, 33, 49, 60, 71), (15, 19, 21, 31, 38),
        (34, 63, 64, 66, 75), (26, 45, 77, 79, 99), (2, 11, 35, 46, 98), (27, 29, 44, 78, 93),
        (36, 50, 65, 74, 80), (47, 52, 56, 59, 96), (8, 13, 48, 58, 90), (41, 69, 81, 85, 89),
    ]  # fmt: skip
    assert [tuple(np.flatnonzero(coarse == data.FINE_TO_COARSE)) for coarse in range(20)] == published
    assert len(set(data.CIFAR100_CLASSES)) == 100 and len(set(data.SUPERCLASSES)) == 20
    assert data.CIFAR100_CLASSES[0] == "apple" and data.CIFAR100_CLASSES[99] == "worm"
    assert data.CIFAR10_CLASSES[6] == "frog"


# Loaders


LOADERS = {
    "noisy_cifar": lambda source, **options: (data.noisy_cifar(source, **options),),
    "noisy_cifar_test": lambda source, **options: (data.noisy_cifar_test(source, **options),),
    "cifar10": data.cifar10,
    "cifar100": data.cifar100,
    "cifar100 coarse": lambda source, **options: data.cifar100(source, labels="coarse", **options),
    "animals": data.animals,
}
FOLDERS = {
    "noisy_cifar": mistakes.course_folder,
    "cifar10": mistakes.cifar10_folder,
    "cifar100": mistakes.cifar100_folder,
    "cifar100 coarse": mistakes.cifar100_folder,
    "animals": mistakes.photo_folder,
}


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_gives_synthetic_sets_of_the_size_asked_for(name):
    parts = LOADERS[name]("synthetic", n=25, seed=4)
    assert [len(part) for part in parts] == [25, 5][: len(parts)]
    assert all(part.source.startswith("synthetic, seed 4") for part in parts)
    again = LOADERS[name]("synthetic", n=25, seed=4)
    assert [part.fingerprint() for part in parts] == [part.fingerprint() for part in again]
    assert len({part.fingerprint() for part in parts}) == len(parts)
    for few in (0, -1):
        with pytest.raises((ParameterError, DataError)):
            LOADERS[name]("synthetic", n=few)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_loader_reads_folders_and_archives_alike(name, packed, tmp_path):
    folder = FOLDERS[name](tmp_path)
    read = LOADERS[name](folder)
    if packed:
        from_archive = LOADERS[name](mistakes.archive_of(folder))
        assert [part.fingerprint() for part in from_archive] == [part.fingerprint() for part in read]
        again = LOADERS[name](folder.with_name(folder.name + ".tar.gz"))
        assert [part.fingerprint() for part in again] == [part.fingerprint() for part in read]
        assert from_archive[0].source.startswith(f"archive {folder.name}.tar.gz")
        left = [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]
        assert left == []
    assert all(str(tmp_path) not in repr(part) for part in read)
    assert read[0].source.startswith(f"folder {folder.name}")


def test_the_course_folder_comes_in_its_order(tmp_path):
    folder = mistakes.course_folder(tmp_path, n=9)
    drawn = data.synthetic("noisy_cifar", 9, 0)
    for _ in range(2):  # read, then from the cache
        noisy = data.noisy_cifar(folder)
        assert (noisy.images == drawn.images).all() and (noisy.labels == drawn.labels[::-1]).all()
        assert noisy.true_labels.tolist() == [*drawn.labels[:3], *[-1] * 6]
    few = data.noisy_cifar(folder, n=6)
    assert len(few) == 6 and np.count_nonzero(few.true_labels >= 0) == 2
    assert (few.images[:2] == drawn.images[:2]).all() and (few.images[2:] == drawn.images[3:7]).all()


def test_the_course_test_part_is_read_when_present(tmp_path):
    folder = mistakes.course_folder(tmp_path)
    (folder / "test_images").mkdir()
    for number, pixels in enumerate(IMAGES.images[:3], start=1):
        Image.fromarray(pixels).save(folder / f"test_images/test{number:05d}.png")
    (folder / "test_labels.csv").write_text("3\n1\n4\n")
    test = data.noisy_cifar_test(folder)
    assert (test.images == IMAGES.images[:3]).all() and test.labels.tolist() == [3, 1, 4]
    assert "test part" in test.source


def test_hidden_files_do_not_disturb(tmp_path):
    course, photos = mistakes.course_folder(tmp_path), mistakes.photo_folder(tmp_path)
    before = data.noisy_cifar(course).fingerprint(), data.animals(photos, size=16)[0].fingerprint()
    (course / "images/.DS_Store").write_bytes(b"x")
    (photos / "train/.ipynb_checkpoints").mkdir()
    (photos / "train/cat/Thumbs.db").write_bytes(b"x")
    assert (data.noisy_cifar(course).fingerprint(), data.animals(photos, size=16)[0].fingerprint()) == before


def test_synthetic_noise_is_what_was_asked_for():
    noisy = data.noisy_cifar(n=2000, noise_rate=0.4, noise_kind="pair_flip")
    clean = data.synthetic("noisy_cifar", 2000, 0)
    wrong = noisy.labels != clean.labels
    assert wrong.mean() == pytest.approx(0.4, abs=0.045)
    assert (noisy.labels[wrong] == (clean.labels[wrong] + 1) % 10).all()
    assert (noisy.true_labels[:400] == clean.labels[:400]).all() and (noisy.true_labels[400:] == -1).all()


def test_binary_records_come_out_as_images(tmp_path):
    train, test = data.cifar10(mistakes.cifar10_folder(tmp_path, n=3))
    drawn = [data.synthetic("cifar10", 3, seed) for seed in range(6)]
    assert (train.images == np.concatenate([part.images for part in drawn[:5]])).all()
    assert (test.labels == drawn[5].labels).all()
    assert train.source == "folder cifar-10-batches-bin (15 of 50,000 train images)"
    fine, _ = data.cifar100(mistakes.cifar100_folder(tmp_path))
    coarse, _ = data.cifar100(tmp_path / "cifar-100-binary", labels="coarse")
    assert (data.FINE_TO_COARSE[fine.labels] == coarse.labels).all() and coarse.classes == data.SUPERCLASSES


def test_photos_of_every_kind_become_rgb_squares(tmp_path):
    for name, mode in {
        "a.png": "L",
        "b.png": "P",
        "c.bmp": "RGB",
        "d.webp": "RGB",
        "e.JPG": "RGB",
        "f.png": "1",
    }.items():
        for animal in ("Ñandú", "zebra"):
            (tmp_path / "pets" / animal).mkdir(parents=True, exist_ok=True)
            Image.new(mode, (30, 50), 1).save(tmp_path / "pets" / animal / name)
    train, test = data.animals(tmp_path / "pets", size=20, seed=1)
    assert train.classes == ("zebra", "Ñandú") and train.images.shape[1:] == (20, 20, 3)
    assert (len(train), len(test)) == (10, 2) and test.counts().tolist() == [1, 1]
    assert data.animals(tmp_path / "pets", size=12)[0].images.shape[1:] == (12, 12, 3)
    with pytest.raises(ParameterError):
        data.animals(tmp_path / "pets", size=4)


def _exif(*entries):
    """EXIF data of entries (tag, type, count, value), a type of 2 being text and of 3 a number."""
    rows = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4)


def test_a_photo_is_turned_upright_whatever_else_its_exif_data_say(tmp_path):
    turned, resolution = (0x0112, 3, 1, b"\6\0\0\0"), (0x011A, 2, 2, b"7\0\0\0")
    for animal in ("cat", "dog"):
        (tmp_path / "pets" / animal).mkdir(parents=True)
    sides = np.zeros((30, 40, 3), np.uint8)
    sides[:, :20] = 250
    Image.fromarray(sides).save(tmp_path / "pets/cat/1.jpg", exif=_exif(turned))
    Image.fromarray(sides).save(tmp_path / "pets/cat/2.jpg", exif=_exif(turned, resolution))
    Image.fromarray(sides).save(tmp_path / "pets/dog/1.jpg", exif=_exif(resolution))
    Image.fromarray(sides.transpose(1, 0, 2)).save(tmp_path / "pets/dog/2.jpg")
    plain, odd, untold, upright = (
        read_photos([f"{tmp_path}/pets/{name}"], size=20)[0].astype(int)
        for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    )
    assert (plain == odd).all() and np.abs(plain - upright).max() < 20
    assert np.abs(untold.transpose(1, 0, 2) - upright).max() < 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation, tmp_path):
    photo = Image.fromarray(IMAGES.images[0])
    photo.save(tmp_path / "1.png", exif=_exif((0x0112, 3, 1, bytes([orientation, 0, 0, 0]))))
    with Image.open(tmp_path / "1.png") as kept:
        expected = np.asarray(ImageOps.exif_transpose(kept))
    assert (read_photos([f"{tmp_path}/1.png"], size=32)[0] == expected).all()


def test_photos_keep_their_class_and_their_colours(tmp_path):
    for part in ("train", "valid"):
        for animal, colour in {"cat": (250, 0, 0), "dog": (0, 250, 0), "emu": (0, 0, 250)}.items():
            (tmp_path / part / animal).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (20 + number, 30), colour).save(tmp_path / part / animal / f"{number}.png")
    train, test = data.animals(tmp_path, size=16)
    for part in (train, test):
        assert part.counts().tolist() == [4, 4, 4]
        assert (part.images.mean(axis=(1, 2)).argmax(axis=1) == part.labels).all()
    few, fewer = data.animals(tmp_path, size=16, n=6, seed=2)
    assert few.counts().tolist() == [2, 2, 2] and len(fewer) == 2


def test_an_edited_image_is_seen_despite_the_cache(tmp_path):
    folder = mistakes.course_folder(tmp_path)
    before = data.noisy_cifar(folder).fingerprint()
    Image.fromarray(IMAGES.images[50]).save(folder / "images/00004.png")
    after = data.noisy_cifar(folder)
    assert after.fingerprint() != before and (after.images[3] == IMAGES.images[50]).all()
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_cached_images_are_mapped_not_loaded(tmp_path):
    folder = mistakes.course_folder(tmp_path)
    data.noisy_cifar(folder)
    base = data.noisy_cifar(folder).images
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)
