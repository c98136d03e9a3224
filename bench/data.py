"""Time reading, mixing and augmenting against the reports' ways; print a table of ratios within this run.

    python bench/data.py                   # synthetic copies, smaller
    LABDATA=~/labdata python bench/data.py # the real sets, at the reports' sizes

Every line runs both sides in turn, three times, and compares the best of each. The two reading lines run each
side in a process of its own (without Keras), whose peak memory is reported over what it held before.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from _ratio import ratio

from labkit import data
from labkit.book import mistakes
from labkit.data import cache

RUNS = 3


def course(folder: Path) -> int:
    return len(list((folder / "images").iterdir()))


def read_report_loop(folder: Path) -> np.ndarray:
    """Report 000's loop, as the course hands it out."""
    n = course(folder)
    images = np.empty((n, 32, 32, 3))
    for number in range(n):
        path = f"{folder}/images/{number + 1:05d}.png"
        images[number] = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    return images


def read_labkit(folder: Path) -> np.ndarray:
    return data.noisy_cifar(folder).images


READERS = {"loop": read_report_loop, "labkit": read_labkit}


def read_alone(reader: str, folder: Path, place: Path) -> tuple[float, float]:
    """Read in a fresh process: seconds, and MiB of peak memory over the process's own."""
    command = [sys.executable, __file__, "--reader", reader, "--folder", str(folder)]
    environment = os.environ | {"LABKIT_CACHE": str(place)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], answer["mib"]


def measure_reader(reader: str, folder: Path) -> None:
    before = peak_mib()
    start = time.perf_counter()
    READERS[reader](folder)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "mib": peak_mib() - before}))


def peak_mib() -> float:
    """Give this process's own peak; getrusage would count what its parent held when it started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def best(ours: Callable[[], int], theirs: Callable[[], int]) -> tuple[float, float]:
    """Give images a second of both sides, run in turn; each side tells how many images it made."""
    rates = ([], [])
    for _ in range(RUNS):
        for side, work in enumerate((ours, theirs)):
            start = time.perf_counter()
            n = work()
            rates[side].append(n / (time.perf_counter() - start))
    return max(rates[0]), max(rates[1])


def loop_histograms(images: np.ndarray) -> np.ndarray:
    """Report 000's description, one np.histogram a channel of an image."""
    edges = np.linspace(0, 255, 6)
    return np.array(
        [
            np.concatenate([np.histogram(one[..., channel], bins=edges)[0] for channel in range(3)])
            for one in images
        ]
    )


def count_histograms(images: data.ImageSet) -> tuple[float, float]:
    few = images.take(slice(max(200, len(images) // 10)))
    assert (loop_histograms(few.images) == data.histograms(few)).all()
    return best(lambda: len(data.histograms(images)), lambda: len(loop_histograms(few.images)))


def flip_and_crop(images: data.ImageSet) -> tuple[float, float]:
    """Report 004: half of the images flipped, padded to 36 and cropped to 32, one after the other."""
    import tensorflow as tf

    from labkit import augment

    few = images.images[: max(200, len(images) // 40)]

    def eager() -> int:
        out = []
        for one in few:
            if tf.random.uniform(()) < 0.5:
                flipped = tf.image.random_flip_left_right(one)
                padded = tf.image.resize_with_crop_or_pad(flipped, 36, 36)
                one = tf.image.random_crop(padded, (32, 32, 3))
            out.append(np.asarray(one))
        return len(out)

    rng = np.random.default_rng(0)

    def ours() -> int:
        for start in range(0, len(images), 64):
            augment.basic(images.images[start : start + 64], None, rng)
        return len(images)

    return best(ours, eager)


def report_pairs(first: data.ImageSet, second: data.ImageSet) -> Iterator[tuple]:
    """Report 003's generator: two draws with replacement, the average of scaled images, one-hot labels."""
    images = [(part.images / 255).astype(np.float32) for part in (first, second)]
    targets = [np.eye(5, dtype=np.float32)[part.labels] for part in (first, second)]
    rng = np.random.default_rng(0)
    while True:
        left = rng.integers(len(images[0]), size=64)
        right = rng.integers(len(images[1]), size=64)
        mixed = (images[0][left] + images[1][right]) / 2
        yield mixed, {"output1": targets[0][left], "output2": targets[1][right]}


def mixed_pairs(images: data.ImageSet) -> tuple[float, float]:
    from labkit import augment

    first, second = data.pair_groups(images)
    n = len(images) // 64 * 64
    feed = augment.Batches(data.PairStream(first, second, n, seed=0), 64, seed=0)
    generator = report_pairs(first, second)

    def ours() -> int:
        feed.on_epoch_end()
        return sum(len(feed[index][0]) for index in range(len(feed)))

    return best(ours, lambda: sum(len(next(generator)[0]) for _ in range(n // 64)))


def report_cutmix(images: data.ImageSet, n: int) -> int:
    """Report 004's CutMix: two shuffled copies, each pair of images cut and pasted in a tf.data map."""
    import tensorflow as tf

    pixels = tf.constant(images.images[:n], tf.float32) / 255
    targets = tf.one_hot(images.labels[:n], 10)

    def beta() -> "tf.Tensor":
        one, other = (tf.random.gamma((1,), 0.25) for _ in range(2))
        return (one / (one + other))[0]

    def cut(one: tuple, other: tuple) -> tuple:
        (image, target), (image2, target2) = one, other
        kept = beta()
        side = tf.cast(32 * tf.sqrt(1 - kept), tf.int32)
        x, y = (tf.random.uniform((), 0, 32, tf.int32) for _ in range(2))
        left, top = tf.clip_by_value(x - side // 2, 0, 32), tf.clip_by_value(y - side // 2, 0, 32)
        right, bottom = tf.clip_by_value(x + side // 2, 0, 32), tf.clip_by_value(y + side // 2, 0, 32)
        width, height = tf.maximum(right - left, 1), tf.maximum(bottom - top, 1)
        left, top = tf.minimum(left, 31), tf.minimum(top, 31)
        patches = (tf.image.crop_to_bounding_box(each, top, left, height, width) for each in (image2, image))
        pasted, removed = (tf.image.pad_to_bounding_box(patch, top, left, 32, 32) for patch in patches)
        kept = 1 - tf.cast(width * height, tf.float32) / 1024
        return image - removed + pasted, kept * target + (1 - kept) * target2

    whole = tf.data.Dataset.from_tensor_slices((pixels, targets))
    pairs = tf.data.Dataset.zip((whole.shuffle(1024), whole.shuffle(1024)))
    batches = pairs.map(cut, num_parallel_calls=tf.data.AUTOTUNE).batch(64).prefetch(tf.data.AUTOTUNE)
    return sum(len(x) for x, _ in batches)


def cutmix(images: data.ImageSet) -> tuple[float, float]:
    from labkit import augment

    feed = augment.Batches(images, 64, seed=0, augment="cutmix")

    def ours() -> int:
        feed.on_epoch_end()
        return sum(len(feed[index][0]) for index in range(len(feed)))

    return best(ours, lambda: report_cutmix(images, min(len(images), 10_000)))


def reading(folder: Path) -> None:
    """Time the first and the cached reading of the course's folder, against the loop."""
    read_report_loop(folder)  # both sides find the files in the system's memory
    first, kept, loop = [], [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as place:
            loop.append(read_alone("loop", folder, Path(place)))
            first.append(read_alone("labkit", folder, Path(place)))
            kept.append(read_alone("labkit", folder, Path(place)))
    (loop_s, loop_mib), (first_s, first_mib), (kept_s, kept_mib) = (
        map(min, zip(*runs, strict=True)) for runs in (loop, first, kept)
    )
    n = course(folder)
    beside = "a loop over `cv2.imread`"
    compare(f"{n:,} PNG files, first read", beside, n / first_s, n / loop_s, 4)
    memory(f"{n:,} PNG files, first read", beside, first_mib, loop_mib)
    compare("the same files, cached", beside, n / kept_s, n / loop_s, 40)
    asking = min(timed(lambda: cache.scan(folder / "images")) for _ in range(RUNS))
    print(f"{'  of it size and time of every file':<42}{asking:.2f} s of {kept_s:.2f} s")
    memory("the same files, cached", beside, kept_mib, loop_mib)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(what: str, beside: str, ours: float, theirs: float, goal: float, floor: float = 0) -> None:
    """Print images a second of both sides, and their ratio."""
    print(f"{what:<42}{ours:,.0f}/s against {theirs:,.0f}/s")
    wanted = f"≥ {goal:g}×" + (f" and {floor:,.0f}/s" if floor else "")
    ratio(what, beside, "speed", ours / theirs, goal=wanted, met=ours >= max(goal * theirs, floor))


def memory(what: str, beside: str, ours: float, theirs: float) -> None:
    """Print the peak memory of both sides, and their ratio."""
    print(f"{'  peak memory':<42}{ours:,.0f} of {theirs:,.0f} MiB")
    ratio(what, beside, "peak memory", ours / theirs, goal="≤ 0.25×", met=ours <= theirs / 4)


def report() -> None:
    with tempfile.TemporaryDirectory() as place:
        real = os.environ.get("LABDATA")
        if real:
            folder = Path(real).expanduser() / "noisy_cifar"
            images = data.cifar10(Path(real).expanduser() / "cifar-10-batches-bin")[0]
        else:
            folder = mistakes.course_folder(Path(place), n=5000)
            images = data.synthetic("cifar10", 20_000, 0)
        sets = "real sets" if real else "synthetic copies"
        print(f"{sets}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        reading(folder)
        counted = f"RGB histograms of {len(images):,} images"
        compare(counted, "a loop over `np.histogram`", *count_histograms(images), 5)
        crops = images.take(slice(40_000))
        moved = f"flip and crop, one pass over {len(crops):,}"
        compare(moved, "TensorFlow, an image at a time", *flip_and_crop(crops), 10, 20_000)
        compare("mixed pairs, batches of 64", "report 003's generator", *mixed_pairs(images), 1, 40_000)
        compare("CutMix, batches of 64", "report 004's `tf.data` map", *cutmix(images), 3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.reader:
        measure_reader(chosen.reader, chosen.folder)
    else:
        report()
