"""What chapter 4 says of its figures: sentences whose numbers come from records, or from its own runs."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean

import pandas as pd
from IPython.display import Markdown

from labkit import chapters, costs, evaluation, scoreboard
from labkit.chapters import Settings
from labkit.data import FINE_TO_COARSE, ImageSet
from labkit.experiments.cifar100 import (
    AUGMENTATIONS,
    GRID,
    MODELS,
    SEARCHED,
    TUNED,
    Cell,
    Outcome,
    Searched,
    cells,
    searched_model,
    spaces,
)
from labkit.experiments.cifar100_results import (
    BETTER,
    CELLS,
    Shown,
    by_average,
    figures,
    hardware,
    is_coarse,
    recorded,
    short_name,
    unlike,
)
from labkit.recipes import PRECISIONS
from labkit.runs import Run
from labkit.scoreboard import Row, Side

CHECKED = ("mlp", "conv2d", "custom_vgg")  # whose published figures without augmentation are sound
NEAR = 0.015  # how close ours must come to them
KNOWN_ERRORS = 0.0585  # of the test labels, found by five people each (Northcutt 2021, arXiv:2103.14749)
PLAIN, MIXED = "custom_vgg", "custom_vgg_cutmix"  # whose difference the summary tells


def to_expect() -> Markdown:
    """What each profile costs and gives, as the records foretell it."""
    return Markdown(
        f"On two cores the grid takes {_training('quick')} in the `quick` profile and "
        f"{_training('full')} in the `full` one. The search adds {_searching('quick')} and "
        f"{_searching('full')} at most; a trial that stops early takes less. {_expected()}"
    )


def _training(profile: str) -> str:
    """How long a profile's grid takes."""
    given = chapters.checked("cifar100", {"profile": profile})
    images = (given.n or 50_000) * 4 // 5
    works = [
        scoreboard.work(f"cifar100/{cell.name}", costs.sizes(), images=images, epochs=given.epochs)
        for cell in cells(given)
    ]
    return costs.spoken(scoreboard.on_two_cores(works))


def _searching(profile: str) -> str:
    """How long a profile's search takes, every trial trained to its last epoch."""
    given = chapters.checked("cifar100", {"profile": profile})
    images, works = (given.n or 50_000) * 4 // 5, []
    for as_run in spaces(given):
        model = searched_model(given, as_run)
        epochs = given.epochs or replace(TUNED, as_run=as_run).recipe.epochs
        trial = scoreboard.work(f"cifar100/{model}", costs.sizes(), images=images, epochs=epochs)
        works += [trial] * (given.trials or SEARCHED[profile][1])
    return costs.spoken(scoreboard.on_two_cores(works))


def _expected() -> str:
    found = recorded(*(cell.name for cell in GRID))
    if not found:
        return "No run of it on real data is recorded yet."
    name = max(found, key=lambda name: found[name].validated)
    hours = sum(run.unhindered_seconds for run in found.values()) / 3600
    return (
        f"On real data {len(found)} of its {len(GRID)} cells are recorded, {hours:.1f} h in all at "
        f"the pace of their fastest epochs; "
        f"the best of them is `{name}` with a validation accuracy of {found[name].validated:.4f}."
    )


def balance(train: ImageSet) -> Markdown:
    """The fewest and the most training images that a class has."""
    fewest, most = train.counts().min(), train.counts().max()
    if fewest == most:
        return Markdown(f"Every class has {most:,} training images.")
    return Markdown(
        f"A class has between {fewest:,} and {most:,} training images: the split goes by the order of the "
        "file and takes no account of classes. No class counts for much less in the accuracy than another."
    )


def nearest_average(train: ImageSet, valid: ImageSet) -> Markdown:
    """How often the nearest average image names the class; of synthetic images that tells little."""
    said = (
        f"The nearest average names {100 * by_average(train, valid):.1f} % of {len(valid):,} validation "
        f"images; guessing names {100 / len(train.classes):.0f} %."
    )
    if train.source.startswith("synthetic"):
        said += " These images are synthetic, and that figure says nothing of photos."
    return Markdown(said)


def report_filled() -> Markdown:
    """How many cells of the grid the report has figures for, and which it lacks."""
    known = set(scoreboard.published("cifar100")["experiment"])
    missing = [f"`{cell.name}`" for cell in GRID if cell.name not in known]
    return Markdown(
        f"The report has figures for {len(GRID) - len(missing)} of the {len(GRID)} cells of the whole grid; "
        f"it has none for {', '.join(missing[:-1])} and {missing[-1]}."
    )


def grid_recipes() -> Markdown:
    """The report's recipe of every network of the grid."""
    found: dict[str, list[str]] = {}
    for model in MODELS:
        found.setdefault(str(Cell(model, "none").recipe), []).append(f"`{model}`")
    return Markdown("\n".join(f"- {', '.join(names)}: {recipe}." for recipe, names in found.items()))


def overfit(table: pd.DataFrame, shown: Shown) -> Markdown:
    """Whether the gap grows with the size of the network, in a sentence; of synthetic images none is said."""
    if not any(scoreboard.is_real(run) for run in shown.runs.values()):
        return Markdown("*Synthetic images cannot tell.*")
    return Markdown(_widest(table))


def _widest(table: pd.DataFrame) -> str:
    gap = table["accuracy"] - table["val_accuracy"]
    widest, largest = gap.idxmax(), table["parameters"].idxmax()
    size = {name: f"{table['parameters'][name]:,.0f} parameters" for name in table.index}
    if widest == largest:
        return (
            f"The largest network, `{largest}` with {size[largest]}, has the widest gap: {gap[largest]:+.3f}."
        )
    return (
        f"The widest gap is that of `{widest}` with {size[widest]}, {gap[widest]:+.3f}; the largest network, "
        f"`{largest}` with {size[largest]}, has {gap[largest]:+.3f}: size alone does not decide."
    )


def answers() -> Markdown:
    """What the records say about the report's claims, one sentence each."""
    changes = [line for line in map(_augmented, CHECKED) if line]
    return Markdown("\n".join(f"- {line}" for line in (_near(_recorded_rows()), *changes)))


def _recorded_rows() -> dict[str, Row]:
    """The rows of the scoreboard that have a record as meant."""
    return {row.experiment: row for row in scoreboard.rows("cifar100") if row.as_meant.values}


def verdict(here: Mapping[str, Run]) -> str:
    """Whether CutMix, done right, beats no augmentation for the report's own convolutional network."""
    own = {name: Side("valid_accuracy", (run,)) for name, run in scoreboard.of_the_reader(here).items()}
    told = {"In this execution": _beats(own), "By the records": _beats(_alike(PLAIN, MIXED))}
    said = [f"{where}, {sentence}" for where, sentence in told.items() if sentence]
    return " ".join(said) or (
        f"Whether CutMix, done right, beats no augmentation for `{PLAIN}` is not recorded yet: without it "
        f"training takes {_hours(PLAIN)}, with it {_hours(MIXED)}, if neither stops early."
    )


def _alike(*names: str) -> dict[str, Side]:
    """The recorded runs of some networks in bits that all of them have, thirty-two before sixteen."""
    found = {name: scoreboard.recorded(f"cifar100/{name}") for name in names}
    for bits in PRECISIONS:
        same = {
            name: [run for run in runs if run.record["recipe"]["precision"] == bits]
            for name, runs in found.items()
        }
        if all(same.values()):
            found = same
            break
    return {
        name: Side("valid_accuracy", tuple(scoreboard.longest(runs))) for name, runs in found.items() if runs
    }


def _hours(name: str) -> str:
    """What a cell takes on two cores, trained to its last epoch."""
    work = scoreboard.work(f"cifar100/{name}", costs.sizes(), epochs=CELLS[name].recipe.epochs)
    return costs.spoken(scoreboard.on_two_cores([work]))


def _beats(sides: Mapping[str, Side]) -> str:
    """What runs of both ways say, luck allowed for; empty without one of either."""
    if PLAIN not in sides or MIXED not in sides:
        return ""
    none, cutmix = sides[PLAIN], sides[MIXED]
    gain, luck = cutmix.mean - none.mean, none.apart(cutmix)
    says = "beats" if gain > luck else "loses to" if gain < -luck else "cannot be told from"
    sentence = (
        f"CutMix, done right, {says} no augmentation for `{PLAIN}`{_bits(sides)}: {100 * gain:+.1f} points "
        f"of validation accuracy on real images, where luck alone may give {100 * luck:.1f} "
        f"(seeds: {len(cutmix.values)} with it, {len(none.values)} without)."
    )
    return sentence if gain > luck else f"{sentence} {_how_far(cutmix.runs[0], none.runs[0])}"


def _how_far(cutmix: Run, none: Run) -> str:
    """How long both were trained, and their gaps: what may explain that CutMix does not win."""
    first, second = (
        f"{run.epochs} of at most {run.record['recipe']['epochs']} epochs, and training accuracy lies "
        f"{figures(run)['gap']:+.3f} from validation accuracy"
        for run in (cutmix, none)
    )
    return f"With CutMix it takes {first}; without, it takes {second}."


def _near(rows: Mapping[str, Row]) -> str:
    sides = {name: rows[name].as_meant for name in CHECKED if name in rows}
    far = {name: side.mean - rows[name].published for name, side in sides.items()}
    missing = ", ".join(f"`{name}`" for name in CHECKED if name not in rows)
    if not far:
        return f"Without augmentation: none of {missing} is recorded on real data yet."
    words = {name: " ".join(filter(None, [f"`{name}`", unlike(sides[name].runs[0])])) for name in far}
    said = ", ".join(
        f"{words[name]} {side} ({far[name]:+.4f}{_aside(name, side)})" for name, side in sides.items()
    )
    outside = [f"`{name}`" for name, value in far.items() if abs(value) > NEAR]
    judged = f"{', '.join(outside)} further than {NEAR} from it" if outside else f"within {NEAR} of it"
    left = f"; {missing} not recorded yet" if missing else ""
    return f"Without augmentation, and how far from report 004: {said}; {judged}{left}."


def _aside(name: str, side: Side) -> str:
    """What records of the same network say that computed in fewer bits, and that its mean leaves out."""
    left = tuple(run for run in scoreboard.recorded(f"cifar100/{name}") if run.in_fewer_bits)
    return f"; in bfloat16 {Side(side.metric, left)}" if left and left[0] not in side.runs else ""


def _bits(sides: Mapping[str, Side]) -> str:
    """In what runs computed that are compared, where any did in fewer bits."""
    narrow = [name for name, side in sides.items() if side.runs[0].in_fewer_bits]
    if len(narrow) == len(sides):
        return " in bfloat16"
    return f" ({', '.join(f'`{name}`' for name in narrow)} in bfloat16)" if narrow else ""


def _augmented(model: str) -> str:
    names = [Cell(model, augmentation).name for augmentation in AUGMENTATIONS]
    sides = _alike(*names)
    if not all(name in sides for name in names):
        return ""
    none, basic, cutmix = (sides[name] for name in names)
    luck = max(none.apart(basic), none.apart(cutmix))
    before, after = (fmean(figures(run)["gap"] for run in side.runs) for side in (none, cutmix))
    more, most = (100 * (side.mean - none.mean) for side in (basic, cutmix))
    return (
        f"`{model}`{_bits(sides)}: validation accuracy changes by {more:+.1f} points with basic "
        f"augmentation, by {most:+.1f} with CutMix; luck alone may give {100 * luck:.1f}. CutMix takes the "
        f"gap between training and validation accuracy from {before:.3f} to {after:.3f}."
    )


def searched(settings: Settings) -> Markdown:
    """Which network this profile searches over, and how often it tries."""
    (model, count), (full, most) = SEARCHED[settings.profile], SEARCHED["full"]
    said = f"The `{settings.profile}` profile makes {settings.trials or count} trials of `{model}`"
    if model != full:
        said += f", a smaller network of the same kind; the `full` one makes {most} of the report's `{full}`"
    if model not in settings.models:
        said += f". `{model}` is not among the models of this execution, so that nothing is searched"
    return Markdown(f"{said}.")


def after_tuning(searches: Iterable[Searched], added: Iterable[Outcome]) -> Markdown:
    """What the candidates beyond the grid validate at, and a search's best trial beside its first score."""
    first = {one.model: one.found.best["score"] for one in searches if one.found and not one.as_run}
    lines = []
    for one in added:
        if one.run is None:
            lines.append(f"`{one.cell.name}`: {one.why}")
        elif one.cell == TUNED:
            lines.append(f"`{one.cell.name}`, with the report's numbers: {one.run.validated:.4f}.")
        else:
            lines.append(
                f"`{one.cell.name}`: first {first[one.cell.model]:.4f}, then {one.run.validated:.4f}."
            )
    return Markdown("\n".join(f"- {line}" for line in lines) or "*Nothing was tuned here.*")


def scored_line(run: Run) -> Markdown:
    """The test in one paragraph: which network, which images, and the figures."""
    found = run.metrics["test"]
    if not scoreboard.is_real(run):
        return Markdown(
            f"There is no test on real images to show here. **{short_name(run)}** was tested on {found['n']} "
            "synthetic images: they prove that the code runs, and nothing else."
        )
    low, high = found["interval"]
    made = "this execution" if run.folder is not None else f"recorded on {hardware(run)}"
    text = (
        f"**{short_name(run)}** ({made}, seed {run.seed}; {found['source']}): accuracy "
        f"**{found['accuracy']:.4f}** on {found['n']:,} test images, 95 % interval {low:.4f} to {high:.4f}"
    )
    if found.get("top5") is not None:
        text += f"; the right class among the five most probable ones for {found['top5']:.4f}"
    if len(found["classes"]) == len(FINE_TO_COARSE):
        right = evaluation.superclass_accuracy(found["confusion"], FINE_TO_COARSE)
        text += f"; the right superclass for {right:.4f}"
    if short_name(run) == BETTER:
        text += (
            ". No network of the chapter has been tested on real images yet. This one is a step past the "
            "report and no candidate; its answers are means over an image and its mirror image."
        )
    else:
        text += f". Validation accuracy, by which it was chosen, was {run.validated:.4f}."
    if run.folder is None:
        text += f" Again: `{run.record['command']}`."
    return Markdown(text)


def label_check(run: Run) -> Markdown:
    """The share of doubted test labels beside the share that people found wrong, and what that explains."""
    if is_coarse(run):
        return Markdown("*What people said of the labels is known of the hundred classes alone.*")
    if "test_doubts" not in run.metrics:
        return Markdown(f"*The record of `{short_name(run)}` does not hold which labels it doubts.*")
    found = run.metrics["test_doubts"]
    wrong = 1 - found["accuracy"]
    explained = min(1, KNOWN_ERRORS / wrong) if wrong else 0
    return Markdown(
        f"By what `{short_name(run)}` says of the test images, confident learning doubts "
        f"{100 * found['doubted']:.1f} % of their labels. Northcutt 2021 (arXiv:2103.14749) had people look "
        f"at the labels that were doubted there: {100 * KNOWN_ERRORS:.2f} % of all are known to be wrong. "
        f"This network takes {100 * wrong:.1f} % of the images for something else than their label says. "
        f"Even if it saw through each of those wrong labels, they explain {100 * explained:.0f} % of its "
        "mistakes at most."
    )
