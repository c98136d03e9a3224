"""What chapter 2 says of its figures: sentences whose numbers come from records, or from its own runs."""

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import mean

import keras
import pandas as pd
from IPython.display import Markdown

from labkit import chapters, models, recipes, scoreboard
from labkit.chapters import Settings
from labkit.costs import PASSES, spoken
from labkit.data import ImageSet
from labkit.experiments.animals import BACKBONES, SCRATCH, Start, batch_in_proportion, few, slips
from labkit.experiments.animals_results import (
    PRETRAINED,
    REPORTED_CLASSES,
    REPORTED_SIZE,
    UNTRIED,
    counts_table,
    difference,
    on_two_cores,
    photo_set,
    published,
    recorded,
    stand_in,
    validation_and_test,
)
from labkit.runs import Run

ABOUT = (2.5, 7.5)  # points that still are "about five"
CANNOT_TELL = "these records cannot tell"


def to_expect() -> Markdown:
    """What the networks of the report cost in the longer profiles, and what is recorded of them."""
    cheap = [name for name in SCRATCH if name != "inception"]
    found = scoreboard.recorded("animals/*")
    hours = sum(run.unhindered_seconds for run in found) / 3600
    records = (
        f"Recorded runs so far: {len(found)}, {hours:.1f} h in all at the pace of their fastest epochs."
        if found
        else f"Such a run is {UNTRIED}."
    )
    return Markdown(
        f"For every 1,000 training photos the four smaller networks, each as meant and as the report ran it, "
        f"take {_training('quick', cheap)} on two cores in the `quick` profile and "
        f"{_training('full', cheap)} in the `full` one, where Inception adds "
        f"{_training('full', ['inception'])}. "
        f"{records}"
    )


def _training(profile: str, names: Iterable[str]) -> str:
    """How long some networks train on 1,000 photos, as meant and as run."""
    given, epochs = chapters.checked("animals", {"profile": profile}), published()["epochs"]
    total = 0.0
    for name in names:
        images = 1_000 * (given.epochs or epochs[name])
        forms = (models.card(name).macs, *([_macs_as_run(name)] if name in slips(given) else []))
        total += sum(on_two_cores(name, PASSES * macs, images) for macs in forms)
    return spoken(total)


def _macs_as_run(name: str) -> float:
    forms = models.card(name).forms
    return 1e6 * next((form for form in forms if form.options.get("as_run")), forms[0]).millions


def weights_note(settings: Settings) -> Markdown:
    """What the rows of pretrained networks are worth in this execution."""
    if settings.weights == "none":
        return Markdown(
            "**This execution has no pretrained weights.** Its backbones start from random numbers and see "
            "a handful of photos: all rows about them are architecture checks, which show that every way of "
            "freezing builds and trains, and no results. With `-p weights imagenet`, or a folder that holds "
            "the files, they become results."
        )
    where = "downloaded by Keras" if settings.weights == "imagenet" else "read from the folder given"
    return Markdown(f"The backbones start from ImageNet weights, {where}.")


def records_note() -> Markdown:
    """On what photos the recorded runs were made, and what they can therefore say."""
    runs = scoreboard.recorded("animals/*")
    if not runs:
        return Markdown(f"A run of this chapter on real photos is {UNTRIED}.")
    sets = {photo_set(run): run for run in runs}
    photos = "; ".join(_described(run) for run in sets.values())
    if any(stand_in(run) for run in runs):
        photos += (
            ". **They are stand-in photos and not the report's data set**, which cannot be had: no figure on "
            "them reproduces or refutes one of the report's. What can be compared is how the networks differ "
            "from each other. Some of their labels are wrong, and the classes come from different sources, "
            "so that a network may recognise a source where it should recognise an animal"
        )
    return Markdown(f"Runs on record: {len(runs)}, on {photos}.")


def _described(run: Run) -> str:
    source, n = photo_set(run)
    valid, test = run.record["data"]["valid"]["n"], run.metrics.get("test", {})
    counts = [sum(row) for row in test.get("confusion", ())]  # a row holds the photos of a true class
    classes = ", ".join(
        f"{name} {count:,}" for name, count in zip(test.get("classes", ()), counts, strict=True)
    )
    return (
        f"{n:,} training, {valid:,} validation and {test.get('n', 0):,} test photos of {len(counts)} classes "
        f"({source}; to test on: {classes})"
    )


def batches(train: ImageSet) -> Markdown:
    """Why a batch of 258 is as good as one of 256, and when neither is good."""
    ours = recipes.RECIPES["report002_resnet"].batch_size
    report = scoreboard.TRAINED_ON["animals"]
    usual = 2 ** round(math.log2(ours))
    steps = {n: [math.ceil(n / size) for size in (ours, usual)] for n in (report, len(train))}
    noise = 100 * (math.sqrt(ours / usual) - 1)
    fitting = batch_in_proportion(ours, len(train))
    return Markdown(
        f"The report's batch is {ours}, probably a slip for {usual}. On its {report:,} training photos "
        f"{ours} makes {steps[report][0]} steps an epoch and {usual} makes {steps[report][1]}; on the "
        f"{len(train):,} here it is {steps[len(train)][0]} and {steps[len(train)][1]}. The noise of a "
        f"gradient goes with one over the root of the batch, and changes by {noise:.1f} in a hundred: either "
        "will do. "
        "That a batch is large at all matters more, since few photos then make few steps, "
        "and batch normalization needs hundreds before its averages have caught up: stopped by validation, "
        f"such a network may end before. So the `full` profile keeps {ours} for networks without it, and "
        f"gives the others a batch in proportion to the photos, here {fitting}. `quick` takes "
        f"{chapters.CHAPTERS['animals'].profiles['quick'].batch} for all."
    )


def last_layer(networks: Mapping[str, keras.Model], name: str = "simple") -> Markdown:
    """How many of a network's parameters sit in its last layer."""
    if name not in networks:
        return Markdown(f"*`{name}` is not among the networks of this execution.*")
    held, total = networks[name].layers[-1].count_params(), models.counts(networks[name]).total
    return Markdown(
        f"{held:,} of its {total:,} parameters, {100 * held / total:.0f} in a hundred, sit in the last "
        "layer, between the flattened map and the classes: each place of the photo has weights of its own, "
        "and nothing learnt in one corner serves in another."
    )


def step(name: str, before: str) -> Markdown:
    """By how much one network beats another, in the report and in the records."""
    report = published()["test_accuracy"]
    ours = difference(recorded(name), recorded(before))
    return Markdown(
        f"From `{before}` to `{name}`: {100 * (report[name] - report[before]):+.1f} points in report 002; "
        f"recorded: {ours or UNTRIED}."
    )


def cost_beside(name: str, other: str) -> Markdown:
    """How many photos one network looks at for the cost of one photo in another, at the report's size."""
    times = models.card(name).macs / models.card(other).macs
    return Markdown(
        f"For the multiplications of one photo in `{name}`, `{other}` could look at {times:.0f}, at the "
        f"report's size of {REPORTED_SIZE}×{REPORTED_SIZE} pixels. In the short profiles `{name}` sees a few "
        "photos only, to show that it can be trained."
    )


def gaps(table: pd.DataFrame) -> Markdown:
    """Whether the gap between training and test accuracy follows the size of the networks."""
    if len(table) < 2:
        return Markdown("It takes two networks to see whether the gap follows their size.")
    table = table.sort_values("parameters", kind="stable")
    points = 100 * (table["accuracy"] - table["test_accuracy"])
    orders = points.is_monotonic_increasing or points.is_monotonic_decreasing
    listed = ", ".join(f"`{name}` {gap:.1f}" for name, gap in points.items())
    return Markdown(
        f"From the smallest to the largest, in points: {listed}. "
        f"Size alone {'orders' if orders else 'does not order'} them."
    )


def counts_line(starts: Mapping[str, Start], modes: Iterable[str]) -> Markdown:
    """Which modes give the trainable counts that the report prints."""
    found = counts_table(starts, modes)[""]
    if "other size" in found.to_list():
        return Markdown(
            f"The report's counts are for {REPORTED_SIZE}×{REPORTED_SIZE} pixels and {REPORTED_CLASSES} "
            "classes. Here the head has another size, so that the counts cannot be compared."
        )
    verdicts = (
        f"`{mode}`: {' and '.join(group.unique())}" for mode, group in found.groupby("mode", sort=False)
    )
    return Markdown(f"Beside the report's counts, for all backbones here: {'; '.join(verdicts)}.")


def pretrained_in_report() -> Markdown:
    """How the report's pretrained networks lie among each other and beside its own networks."""
    figures = published()["test_accuracy"].dropna()
    tried, own = figures[figures.index.isin(PRETRAINED)], figures[figures.index.isin(SCRATCH)]
    below = int((own < tried.min()).sum())
    best = [tried[tried.index.str.startswith(name)].idxmax().partition("_") for name in BACKBONES]
    modes = ", ".join(f"{name} with {mode}" for name, _, mode in best)
    return Markdown(
        f"In report 002 the {len(tried)} pretrained accuracies lie between {tried.min():.4f} and "
        f"{tried.max():.4f}. {below} of its {len(own)} networks from scratch lie below all of them. "
        f"Best of each backbone, of what it prints: {modes}."
    )


def validation_line() -> Markdown:
    """How far the report's test figures lie from its validation figures."""
    table = validation_and_test()
    higher = int((table["difference"] > 0).sum())
    return Markdown(
        f"Over {len(table)} networks of report 002 the test accuracy lies "
        f"{100 * table['difference'].mean():+.1f} points from the best validation accuracy on average, from "
        f"{100 * table['difference'].min():+.1f} to {100 * table['difference'].max():+.1f}. "
        f"{higher} of {len(table)} score higher on the test photos."
    )


def claims() -> Markdown:
    """Whether the report's two claims hold in the records, as meant and as run."""
    report = published()["test_accuracy"]
    gain = 100 * (report["resnet_aug"] - report["custom_resnet"])
    lines = [
        f"**Augmentation is worth about five points.** Report 002: {gain:+.1f} from `custom_resnet` to "
        f"`resnet_aug`. {_both(_augmentation_holds)}",
        f"**Deeper beats shallower only with regularisation.** Report 002, against `mid`: `custom_resnet` "
        f"{100 * (report['custom_resnet'] - report['mid']):+.1f}, `inception` "
        f"{100 * (report['inception'] - report['mid']):+.1f}, `resnet_aug` "
        f"{100 * (report['resnet_aug'] - report['mid']):+.1f} points. {_both(_depth_holds)}",
    ]
    return Markdown("\n".join(f"- {line}" for line in lines))


def _both(judge: Callable[[str], str]) -> str:
    return " ".join(
        f"Recorded {says}: {judge(ending)}." for says, ending in (("as meant", ""), ("as run", "_as_run"))
    )


def _augmentation_holds(ending: str) -> str:
    gain = difference(recorded(f"resnet_aug{ending}"), recorded(f"custom_resnet{ending}"))
    if gain is None:
        return UNTRIED
    if gain.points - gain.luck > ABOUT[1]:
        return f"{gain.told}, so it does not hold: it is worth more"
    if gain.points + gain.luck < ABOUT[0]:
        return f"{gain.told}, so it does not hold: it is worth less"
    return f"{gain.told}, so {'it holds' if gain.clear else CANNOT_TELL}"


def _depth_holds(ending: str) -> str:
    mid = recorded(f"mid{ending}") if recorded(f"mid{ending}").values else recorded("mid")
    deeper = {name: difference(recorded(f"{name}{ending}"), mid) for name in ("custom_resnet", "resnet_aug")}
    known = [f"`{name}` {gain.told}" for name, gain in deeper.items() if gain is not None]
    missing = [f"`{name}`" for name, gain in deeper.items() if gain is None]
    if not known:
        return UNTRIED
    told = f"against `mid`, {'; '.join(known)}"
    if missing:
        return f"{told}; {missing[0]} is {UNTRIED}, so it is open"
    plain, regularised = deeper.values()
    between = difference(recorded(f"resnet_aug{ending}"), recorded(f"custom_resnet{ending}"))
    if plain.clear:
        return f"{told}, so it does not hold: depth alone is enough"
    if regularised.points < -regularised.luck:
        return f"{told}, so it does not hold: depth with regularisation is worse"
    return f"{told}, so {'it holds' if regularised.clear and between.clear else CANNOT_TELL}"


def slips_cost() -> Markdown:
    """Whether any network on record does better or worse as the report ran it than luck gives."""
    sides = {name: (recorded(name), recorded(f"{name}_as_run")) for name in (*SCRATCH, *PRETRAINED)}
    apart = {name: found for name, both in sides.items() if (found := difference(*both))}
    if not apart:
        return Markdown("No network is on record both ways yet.")
    clear = [f"`{name}` {found}" for name, found in apart.items() if abs(found.points) > found.luck]
    said = f"Networks on record both ways: {len(apart)}. As meant minus as run is more than luck gives for "
    if clear:
        return Markdown(f"{said}{', '.join(clear)}.")
    return Markdown(f"{said}none of them: what the slips cost together, these photos cannot tell.")


def told(run: Run) -> Markdown:
    """The test of one run in a sentence."""
    test = run.metrics["test"]
    low, high = test["interval"]
    where = f"recorded, seed {run.seed}" if run.folder is None else "this execution"
    return Markdown(
        f"`{run.name.removeprefix('animals/')}` ({where}; {test['source']}) names "
        f"{100 * test['accuracy']:.1f} % of {test['n']:,} test photos rightly, "
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %."
    )


def summary(made: Mapping[str, Run], settings: Settings) -> Markdown:
    """What the records and this execution come to."""
    sides = {name: side for name in SCRATCH if (side := recorded(name)).values}
    said = f"Networks from scratch on record: {', '.join(sides) or 'none yet'}."
    if len(sides) > 1:
        top = max(sides, key=lambda name: mean(run.validated for run in sides[name].runs))
        said += f" Of these `{top}` validates best; its test accuracy is {sides[top]}."
    tried = sum(bool(recorded(name).values) for name in PRETRAINED)
    plain, checked = (sum(name in group for name in made) for group in (SCRATCH, PRETRAINED))
    worth = "as architecture checks" if settings.weights == "none" else "from pretrained weights"
    return Markdown(
        f"{said} Pretrained runs on record: {tried} of {len(PRETRAINED)}. This execution trained "
        f"{plain} networks from scratch and {checked} on backbones, these {worth}."
    )


def pretrained_status(made: Mapping[str, Run], settings: Settings) -> Markdown:
    """Which of the nine pretrained runs are on record, and what this execution's are worth."""
    tried = [name for name in PRETRAINED if recorded(name).values]
    missing = [name for name in PRETRAINED if name not in tried]
    record = f"On record of the {len(PRETRAINED)} pretrained runs: {', '.join(tried) or 'none yet'}."
    if tried and missing:
        record += f" Missing: {', '.join(missing)}."
    here = [name for name in PRETRAINED if name in made]
    if settings.weights == "none" or few(settings, BACKBONES[0]) is not None:
        steps = sum(made[name].epochs for name in here)
        return Markdown(
            f"{record} This execution took {len(here)} of them through {steps} epochs of a few photos each, "
            "which is a check of the code. The dots above are therefore the report's, and those of records."
        )
    return Markdown(f"{record} This execution trained {len(here)} of them.")
