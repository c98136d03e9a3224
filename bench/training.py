"""What `training.fit`, augmentation and predicting one by one cost, and what sixteen bits save.

    python bench/training.py
    python bench/training.py --images 12800 --repeats 5

Each comparison runs in one process, its sides in turn, and keeps the fastest of the repeats: on a machine
that does other work as well, the ratios hold where the seconds do not. CPU seconds are those of all threads.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from tempfile import TemporaryDirectory

os.environ.setdefault("LABKIT_PROGRESS", "none")

import keras
import numpy as np
import pandas as pd
from _ratio import ratio

from labkit import data, evaluation, models, training
from labkit.augment import NAMES, Batches
from labkit.recipes import PRECISIONS, RECIPES, Recipe
from labkit.training.compiling import compile_model, precision

RECIPE = RECIPES["report000_model1"].but(patience=None)
EPOCHS = 3
# Networks that train by a step at a time in both precisions, and the recipe whose batch they take.
STEPPED = {
    "mlp": "report004",
    "custom_vgg": "report004",
    "vgg": "report000_model1",
    "resnet8": "report000_model1",
    "accn": "report003_accn",
    "whitened": "better_cifar100",
}
STEPS = 4
MOST = 0.05  # that `fit` may add to an epoch, and an augmentation to the processor's time for one


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=3840)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    images = data.synthetic("cifar10", given.images, 0)
    print(
        f"VGG, {given.images} images of 32x32, batch {RECIPE.batch_size}, Keras on {keras.backend.backend()}"
    )
    bare = fit_against_bare_loop(images, given.repeats)
    augmentation(images, bare, given.repeats)
    one_call_against_many(given.repeats)
    precisions(given.repeats)


def show(rows: list[dict[str, str | float]], digits: int = 3) -> None:
    print(pd.DataFrame(rows).to_string(index=False, float_format=f"{{:.{digits}f}}".format))


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and seconds of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def fastest(repeats: int, *functions: Callable[[], object]) -> list[tuple[float, float]]:
    """The least clock and processor seconds of each function; all of them run once a round."""
    rounds = [[timed(function) for function in functions] for _ in range(repeats)]
    return [tuple(map(min, zip(*column, strict=True))) for column in zip(*rounds, strict=True)]


def fit_against_bare_loop(images: data.ImageSet, repeats: int) -> float:
    """Time an epoch of `fit`, which saves its state, and of `train_on_batch`, whose CPU seconds it gives."""
    valid = images.take(slice(len(images) // 10))
    model = models.build("vgg")
    compile_model(model, RECIPE, len(images) // RECIPE.batch_size)
    bare_epochs(model, images.take(slice(256)), valid, 1)  # compiles
    with TemporaryDirectory() as folder:
        short, long, loop = fastest(
            repeats,
            lambda: fitted(images, valid, 1, folder),
            lambda: fitted(images, valid, 1 + EPOCHS, folder),
            lambda: bare_epochs(model, images, valid, EPOCHS),
        )
    fit = [(more - less) / EPOCHS for more, less in zip(long, short, strict=True)]
    bare = [seconds / EPOCHS for seconds in loop]
    sides = {"train_on_batch": bare, "fit": fit}
    show([{"an epoch": name, "seconds": clock, "CPU seconds": cpu} for name, (clock, cpu) in sides.items()])
    longer = fit[0] / bare[0]
    beside = "a bare loop over `train_on_batch`"
    ratio("an epoch of `training.fit`", beside, "time", longer, goal=f"≤ {1 + MOST}×", met=longer <= 1 + MOST)
    return bare[1]


def fitted(images: data.ImageSet, valid: data.ImageSet, epochs: int, folder: str) -> None:
    """Train a fresh model; the clock in its name makes a run that is not there yet."""
    name = f"bench/run{time.monotonic_ns()}"
    recipe = RECIPE.but(epochs=epochs)
    training.fit(models.build("vgg"), images, valid, recipe, run=name, runs=folder, save_every=0)


def bare_epochs(model: keras.Model, images: data.ImageSet, valid: data.ImageSet, epochs: int) -> None:
    """Train as one would without anything around it."""
    rows = np.eye(len(images.classes), dtype="float32")
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(images))
        for start in range(0, len(images), RECIPE.batch_size):
            index = order[start : start + RECIPE.batch_size]
            model.train_on_batch(images.images[index], rows[images.labels[index]])
        model.evaluate(valid.images, rows[valid.labels], batch_size=RECIPE.batch_size, verbose=0)


def augmentation(images: data.ImageSet, epoch: float, repeats: int) -> None:
    """Time to feed an epoch, and what each augmentation adds as a share of a VGG epoch."""

    def feed(name: str | None) -> Callable[[], object]:
        batches = Batches(images, RECIPE.batch_size, seed=0, augment=name)
        return lambda: [batches[index] for index in range(len(batches))]

    plain, *others = (seconds[1] for seconds in fastest(repeats, *map(feed, (None, *NAMES))))
    costs = dict(zip(("none", *NAMES), (plain, *others), strict=True))
    adds = {name: (seconds - plain) / epoch for name, seconds in costs.items()}
    columns = {"CPU seconds": costs, "adds to an epoch": adds}
    show([{"augmentation": name} | {what: of[name] for what, of in columns.items()} for name in costs], 4)
    dearest = max(adds, key=adds.get)
    more = adds[dearest]
    what = f"what augmentation adds, `{dearest}` most"
    ratio(what, "an epoch of `vgg`", "processor time", more, goal=f"≤ {MOST}×", met=more <= MOST)


def one_call_against_many(repeats: int, n: int = 2000, sample: int = 50) -> None:
    """Time to predict n images in one call, and one call an image, as report 001 did (from a sample)."""
    model = models.build("cnn1")
    images = data.synthetic("cifar10", n, 1)
    evaluation.predict(model, images)

    def one_by_one() -> None:
        for index in range(sample):
            model.predict(images.images[index : index + 1], verbose=0)

    (together, _), (alone, _) = fastest(repeats, lambda: evaluation.predict(model, images), one_by_one)
    alone *= n / sample
    sides = {"one call": together, "one call an image": alone}
    show([{f"prediction of {n:,} images": name, "seconds": seconds} for name, seconds in sides.items()])
    what, beside = f"{n:,} images predicted in one call", "a call an image, as in report 001"
    ratio(what, beside, "speed", alone / together, goal="≥ 80×", met=alone >= 80 * together)


def precisions(repeats: int) -> None:
    """Time a training step in thirty-two and in sixteen bits."""
    rows = []
    for name, recipe in STEPPED.items():
        with ExitStack() as both:
            steps = [stepping(both, name, RECIPES[recipe], bits) for bits in PRECISIONS]
            whole, half = (seconds / STEPS for seconds, _ in fastest(repeats, *steps))
        batch = RECIPES[recipe].batch_size
        rows.append({"a step of": name, "batch": batch, "float32": whole, "bfloat16": half})
        ratio(f"a step of `{name}` in bfloat16", "in float32", "speed", whole / half)
    show(rows)


def stepping(stack: ExitStack, name: str, recipe: Recipe, bits: str) -> Callable[[], object]:
    """A function that takes some training steps of a fresh model, which has taken one."""
    model = models.build(name)
    stack.enter_context(precision(model, bits))
    compile_model(model, recipe.but(precision=bits), STEPS)
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(recipe.batch_size, *model.input_shape[1:]), dtype="uint8")
    answers = keras.tree.map_structure(
        lambda logits: np.eye(logits.shape[-1], dtype="float32")[
            rng.integers(logits.shape[-1], size=len(images))
        ],
        model.output,
    )
    model.train_on_batch(images, answers)
    return lambda: [model.train_on_batch(images, answers) for _ in range(STEPS)]


if __name__ == "__main__":
    main()
