"""What chapter 4 shows of its experiments: tables and sentences made from runs and committed records."""

import contextlib
import html
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd
from IPython.display import HTML, Code, Markdown

from labkit import chapters, evaluation, models, reasons, scoreboard
from labkit.chapters import Settings
from labkit.data import CIFAR100_CLASSES, FINE_TO_COARSE, SUPERCLASSES, ImageSet
from labkit.errors import RunError
from labkit.experiments.cifar100 import (
    AS_RUN,
    COARSE,
    CUT_DOWN,
    GRID,
    MODELS,
    SEARCHED,
    TUNED,
    Cell,
    Outcome,
    Searched,
    as_meant,
    cells,
    searched_model,
    spaces,
)
from labkit.plots.look import SHADES
from labkit.predictions import Predictions
from labkit.runs import Run, load
from labkit.scoreboard import Side

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

GRID_NAMES = tuple(cell.name for cell in GRID)
CELLS = {cell.name: cell for cell in (*GRID, TUNED, *AS_RUN, *CUT_DOWN)}
CHECKED = ("mlp", "conv2d", "custom_vgg")  # whose published figures without augmentation are sound
NEAR = 0.015  # how close ours must come to them
FIGURES = ("epochs", "training", "validation", "gap", "s / epoch")
KNOWN_ERRORS = 0.0585  # of the test labels, found by five people each (Northcutt 2021, arXiv:2103.14749)
PARAMETERS = ["weight_decay", "lr"]  # what the report searched over
NUMBERS = [*PARAMETERS, "score", "epochs", "seconds"]
RECORDED = "a record of a hundred classes"  # as a table says where a figure is from
TRIAL = ["space", "network", *NUMBERS, "status", "why", "source"]
PLAIN, MIXED = "custom_vgg", "custom_vgg_cutmix"  # whose difference the summary tells
BETTER = "better"  # the step past the report, tested on a page of its own
AGAIN = "_search_again"  # ends the name of a search's best trial, trained once more


@dataclass(frozen=True)
class Shown:
    """The runs that a figure is drawn from, by their short names, and where they come from."""

    runs: dict[str, Run]
    says: str


def recorded(*names: str) -> dict[str, Run]:
    """The committed runs on real data by short name, the first seed of each; all of them, or those named."""
    found: dict[str, Run] = {}
    for run in scoreboard.recorded("cifar100/*"):
        found.setdefault(_short(run), run)
    return {name: found[name] for name in (names or found) if name in found}


def shown(outcomes: Iterable[Outcome], *names: str) -> Shown:
    """Runs of this execution if it had real images, else recorded ones where there are any of these names."""
    done = [outcome for outcome in outcomes if outcome.run is not None]
    made = {one.cell.name: one.run for one in done if not names or one.cell.name in names}
    if mine := scoreboard.of_the_reader(made):
        return Shown(mine, "this execution")
    if any(_coarse(run) for run in made.values()):  # records of a hundred classes are no stand-in
        return Shown(made, "this execution, on synthetic images")
    found = recorded(*names)
    if found:
        return Shown(found, f"{len(found)} recorded runs on real data")
    return Shown(made, "this execution, since no such run on real data is recorded yet")


def to_expect() -> Markdown:
    """What each profile costs and gives, from the size of the networks and the records."""
    return Markdown(
        f"The grid is {_arithmetic('quick')} of arithmetic on two cores in the `quick` profile and "
        f"{_arithmetic('full')} in the `full` one. The search adds {_searching('quick')} and "
        f"{_searching('full')} at most; a trial that stops early takes less. {_expected()}"
    )


def _arithmetic(profile: str) -> str:
    """How long the multiplications of a profile's grid take, by the rate that plain networks reach."""
    given = chapters.settings("cifar100", {"profile": profile})
    images = (given.n or 50_000) * 4 // 5
    macs = {name: models.card(name).macs for name in given.models}
    works = [
        scoreboard.work(f"cifar100/{cell.name}", macs, images=images, epochs=given.epochs)
        for cell in cells(given)
    ]
    total = sum(work.total for work in works)
    return _spoken(total / scoreboard.THROUGHPUT)


def _searching(profile: str) -> str:
    """How long the multiplications of a profile's search take, every trial trained to its last epoch."""
    given = chapters.settings("cifar100", {"profile": profile})
    images, total = (given.n or 50_000) * 4 // 5, 0.0
    for as_run in spaces(given):
        model = searched_model(given, as_run)
        epochs = given.epochs or replace(TUNED, as_run=as_run).recipe.epochs
        macs = {model: models.card(model).macs}
        trial = scoreboard.work(f"cifar100/{model}", macs, images=images, epochs=epochs)
        total += trial.total * (given.trials or SEARCHED[profile][1])
    return _spoken(total / scoreboard.THROUGHPUT)


def _expected() -> str:
    found = recorded(*(cell.name for cell in (*GRID, TUNED)))
    if not found:
        return "No run of it on real data is recorded yet."
    name = max(found, key=lambda name: _valid(found[name]))
    hours = sum(run.seconds for run in found.values()) / 3600
    return (
        f"On real data {len(found)} of its {len(GRID)} cells are recorded, which took {hours:.1f} h in all; "
        f"the best of them is `{name}` with a validation accuracy of {_valid(found[name]):.4f}."
    )


def _spoken(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return "about a minute" if seconds > 20 else "seconds"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.0f} h"


def superclasses() -> "Styler":
    """The twenty superclasses and their five classes."""
    names = np.array(CIFAR100_CLASSES)
    rows = {
        _words(name): ", ".join(map(_words, names[k == FINE_TO_COARSE]))
        for k, name in enumerate(SUPERCLASSES)
    }
    return pd.DataFrame({"classes": rows}).style  # which, unlike a plain table, shortens no text


def balance(train: ImageSet) -> Markdown:
    """The fewest and the most training images that a class has."""
    fewest, most = train.counts().min(), train.counts().max()
    if fewest == most:
        return Markdown(f"Every class has {most:,} training images.")
    return Markdown(f"A class has between {fewest:,} and {most:,} training images.")


def pixels(**sets: ImageSet) -> pd.DataFrame:
    """Mean and standard deviation of each colour channel, in steps of 0 to 255."""
    rows = {}
    for name, images in sets.items():
        flat = images.images.reshape(-1, 3)
        for what, values in (("mean", flat.mean(0)), ("deviation", flat.std(0))):
            rows[f"{what}, {name}"] = dict(zip(("red", "green", "blue"), values, strict=True))
    return pd.DataFrame(rows).T.round(1)


def nearest_average(train: ImageSet, valid: ImageSet) -> Markdown:
    """How often the nearest average image names the class; of synthetic images that tells little."""
    said = (
        f"The nearest average names {100 * by_average(train, valid):.1f} % of {len(valid):,} validation "
        f"images; guessing names {100 / len(train.classes):.0f} %."
    )
    if train.source.startswith("synthetic"):
        said += " These images are synthetic, and that figure says nothing of photos."
    return Markdown(said)


def by_average(train: ImageSet, valid: ImageSet) -> float:
    """Accuracy of naming each image after the nearest average image of a class."""
    average = np.zeros((len(train.classes), train.images[0].size))
    np.add.at(average, train.labels, train.images.reshape(len(train), -1))
    average /= np.maximum(train.counts(), 1)[:, None]
    flat = valid.images.reshape(len(valid), -1).astype(np.float64)
    distance = (average**2).sum(1) - 2 * flat @ average.T
    distance[:, train.counts() == 0] = np.inf
    return float((distance.argmin(1) == valid.labels).mean())


def slips_in_numbers(train: ImageSet) -> "Styler":
    """What the report's three slips leave of the training images, in numbers."""
    mean, deviation = train.images.mean((0, 1, 2)), train.images.std((0, 1, 2))
    black, one, white = ((value - mean) / deviation for value in (0, 1, 255))
    rows = {
        "augmented once, before training": {
            "as meant": "a new version of every image in every epoch",
            "as the report ran it": "one version of every image, about half of them the original",
        },
        "CutMix images divided by 255": {
            "as meant": f"inputs from {black.min():.2f} to {white.max():.2f}",
            "as the report ran it": f"inputs from {black.min():.2f} to {one.max():.2f}, "
            f"in each colour a range of {(one - black).max():.3f} at most",
        },
        "the CutMix set replaced by its first batch": {
            "as meant": f"{len(train):,} images",
            "as the report ran it": f"{min(64, len(train))} images, "
            f"{np.count_nonzero(np.bincount(train.labels[:64]))} of {len(train.classes)} classes",
        },
    }
    return pd.DataFrame(rows).T.style


def grid(runs: Mapping[str, Run], why: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Runs in the rows and columns of the report's table, the report's own figures beside them."""
    published = scoreboard.published("cifar100").pivot(index="experiment", columns="metric", values="value")
    rows = []
    for cell in CELLS.values():
        run, note = runs.get(cell.name), (why or {}).get(cell.name, "")
        if run is None and not note:
            continue
        name = as_meant(cell).name
        known = name in published.index and not (run and _coarse(run))
        report = published.loc[name] if known else {}
        kept = _figures(run) if run else dict.fromkeys(FIGURES)
        kept |= {"report: epochs": report.get("epochs"), "report: training": report.get("train_accuracy")}
        kept |= {"report: validation": report.get("valid_accuracy")}
        augmentation = cell.augmentation.replace("_", " ") + (", as run" if cell.as_run else "")
        rows.append({"model": cell.model, "augmentation": augmentation, **kept, "note": note or _start(run)})
    table = pd.DataFrame(rows).set_index(["model", "augmentation"])
    return table if table["note"].any() else table.drop(columns="note")


def recorded_grid() -> pd.DataFrame:
    """The grid filled from committed records, empty where there is none."""
    runs = recorded(*CELLS)
    return grid(runs) if runs else pd.DataFrame()


def _figures(run: Run) -> dict[str, float]:
    training, validation = _at_best(run)["accuracy"], _valid(run)
    numbers = (run.epochs, training, validation, training - validation, run.record["seconds_per_epoch"])
    return dict(zip(FIGURES, numbers, strict=True))


def _at_best(run: Run) -> pd.Series:
    """The row of a run's history whose weights were kept."""
    return run.history.set_index("epoch").loc[run.best_epoch or run.epochs]


def _start(run: Run) -> str:
    """A word on a network that did not start where the report's did."""
    built = run.record["model"]
    if "weights" not in models.card(built["name"]).options or built["options"].get("weights"):
        return ""
    return "starts from random weights"


# Headers that leave room for the report's figures on a page.
_SHORT = {
    "augmentation": "augment",
    "training": "train",
    "validation": "valid",
    "report: training": "report: train",
    "report: validation": "report: valid",
}


def coloured(table: pd.DataFrame) -> "Styler":
    """A table of the grid with accuracies shaded, darker the higher."""
    shares = [name for name in table if name.endswith(("training", "validation"))]
    formats = {**dict.fromkeys(shares, "{:.4f}"), "gap": "{:+.4f}", "s / epoch": "{:.1f}"}
    formats |= dict.fromkeys(("epochs", "report: epochs"), "{:.0f}")
    styled = table.reset_index().style.format(formats, na_rep="–").hide(axis="index")
    # Two thirds of the colour map: black figures stay readable on all of it.
    styled = styled.background_gradient(
        SHADES, subset=shares, vmin=0, vmax=1.5, axis=None, text_color_threshold=0
    )
    blank = "background: none; color: inherit"
    styled = styled.map(lambda value: blank if pd.isna(value) else "", subset=shares)
    styled = styled.relabel_index([_SHORT.get(name, name) for name in styled.columns], axis="columns")
    narrow = [
        {"selector": "th, td", "props": "font-size: 0.75rem; padding: 0.3rem"},
        {"selector": "td:nth-child(11)", "props": "min-width: 8rem"},  # the note, where there is one
    ]
    return styled.set_table_styles(narrow).set_table_attributes('class="table sortable"')


def or_nothing(table: pd.DataFrame, what: str) -> Any:
    """A table, or where it is empty a sentence that says what is missing."""
    if not len(table):
        return Markdown(f"*There is no record of {what} yet. What each takes stands on the Scoreboard.*")
    if "validation" in table:
        return coloured(table)
    formats = {**dict.fromkeys(PARAMETERS, "{:.2g}"), "score": "{:.4f}", "seconds": "{:,.0f}"}
    return table.style.format(formats, na_rep="–").hide(axis="index")  # a plain table cuts long texts


def plan(chosen: Iterable[Cell]) -> pd.DataFrame:
    """Models against augmentations, with a mark where a cell is trained."""
    rows = [{"model": cell.model, "augmentation": cell.augmentation, "trained": "●"} for cell in chosen]
    table = pd.DataFrame(rows).pivot(index="model", columns="augmentation", values="trained")
    order = list(dict.fromkeys(row["model"] for row in rows))
    columns = [name for name in ("none", "basic", "cutmix") if name in table]
    table = table.loc[order, columns].fillna("")
    sizes = [f"{models.card(name).counts.total:,}" for name in order]
    return table.assign(parameters=sizes).rename_axis(index=None, columns=None)


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


def by_size(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Parameters and both accuracies of runs, for a plot of their gap."""
    rows = {name: _figures(run) | {"parameters": _parameters(run)} for name, run in runs.items()}
    table = pd.DataFrame(rows).T.astype(float)
    return table.rename(columns={"training": "accuracy", "validation": "val_accuracy"})


def _parameters(run: Run) -> int:
    return run.record["model"]["parameters"]["total"]


def code_of(function: Callable) -> Code:
    """The text of a function, for a reader who wants to see what it does."""
    return Code(inspect.getsource(function), language="python")


def answers(runs: Mapping[str, Run]) -> Markdown:
    """What the runs say about the report's claims, one sentence each."""
    changes = [line for line in (_augmented(runs, model) for model in CHECKED) if line]
    if changes:
        luck = 300 * math.hypot(scoreboard.LUCK, scoreboard.LUCK)
        changes.append(f"These are single runs, whose difference may be luck up to {luck:.1f} points.")
    return Markdown("\n".join(f"- {line}" for line in (_near(runs), *changes)))


def verdict(here: Mapping[str, Run]) -> str:
    """Whether CutMix, done right, beats no augmentation for the report's own convolutional network."""
    own = [run for name, run in scoreboard.of_the_reader(here).items() if name in (PLAIN, MIXED)]
    past = [run for run in scoreboard.recorded("cifar100/*") if _short(run) in (PLAIN, MIXED)]
    told = {"In this execution": _beats(own), "By the records": _beats(scoreboard.longest(past))}
    said = [f"{where}, {sentence}" for where, sentence in told.items() if sentence]
    return " ".join(said) or (
        f"Whether CutMix, done right, beats no augmentation for `{PLAIN}` is not recorded yet: without it "
        f"training takes {_hours(PLAIN)}, with it {_hours(MIXED)}, if neither stops early."
    )


def _hours(name: str) -> str:
    """What the multiplications of a cell take on two cores, trained to its last epoch."""
    cell = CELLS[name]
    macs = {cell.model: models.card(cell.model).macs}
    work = scoreboard.work(f"cifar100/{name}", macs, epochs=cell.recipe.epochs)
    return scoreboard.spoken_hours(work.total / scoreboard.THROUGHPUT / 3600)


def _beats(runs: Iterable[Run]) -> str:
    """What runs of both ways say, three standard errors allowed for luck; empty without one of either."""
    runs = list(runs)
    none, cutmix = (
        Side("valid_accuracy", tuple(run for run in runs if _short(run).removesuffix(COARSE) == name))
        for name in (PLAIN, MIXED)
    )
    if not none.values or not cutmix.values:
        return ""
    gain, luck = cutmix.mean - none.mean, 3 * math.hypot(none.error, cutmix.error)
    says = "beats" if gain > luck else "loses to" if gain < -luck else "cannot be told from"
    sentence = (
        f"CutMix, done right, {says} no augmentation for `{PLAIN}`: {100 * gain:+.1f} points of validation "
        f"accuracy on real images, where luck alone may give {100 * luck:.1f} "
        f"(seeds: {len(cutmix.values)} with it, {len(none.values)} without)."
    )
    return sentence if gain > luck else f"{sentence} {_how_far(cutmix.runs[0], none.runs[0])}"


def _how_far(cutmix: Run, none: Run) -> str:
    """How long both were trained, and their gaps: what may explain that CutMix does not win."""
    first, second = (
        f"{run.epochs} of at most {run.record['recipe']['epochs']} epochs, and training accuracy lies "
        f"{_figures(run)['gap']:+.3f} from validation accuracy"
        for run in (cutmix, none)
    )
    return f"With CutMix it takes {first}; without, it takes {second}."


def _near(runs: Mapping[str, Run]) -> str:
    published = (
        scoreboard.published("cifar100").query("metric == 'valid_accuracy'").set_index("experiment")["value"]
    )
    far = {name: _valid(runs[name]) - published[name] for name in CHECKED if name in runs}
    missing = ", ".join(f"`{name}`" for name in CHECKED if name not in runs)
    if not far:
        return f"Without augmentation: none of {missing} is recorded on real data yet."
    said = ", ".join(f"`{name}` {_valid(runs[name]):.4f} ({value:+.4f})" for name, value in far.items())
    outside = [f"`{name}`" for name, value in far.items() if abs(value) > NEAR]
    judged = f"{', '.join(outside)} further than {NEAR} from it" if outside else f"within {NEAR} of it"
    left = f"; {missing} not recorded yet" if missing else ""
    return f"Without augmentation, and how far from report 004: {said}; {judged}{left}."


def _augmented(runs: Mapping[str, Run], model: str) -> str:
    names = {augmentation: Cell(model, augmentation).name for augmentation in ("none", "basic", "cutmix")}
    if not all(name in runs for name in names.values()):
        return ""
    none, basic, cutmix = (100 * _valid(runs[name]) for name in names.values())
    gaps = [_figures(runs[names[augmentation]])["gap"] for augmentation in ("none", "cutmix")]
    return (
        f"`{model}`: validation accuracy changes by {basic - none:+.1f} points with basic augmentation, "
        f"by {cutmix - none:+.1f} with CutMix, which takes the gap between training and validation accuracy "
        f"from {gaps[0]:.3f} to {gaps[1]:.3f}."
    )


def slips(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Validation accuracy of networks trained as meant and with the report's slips."""
    rows = {}
    for cell in (*AS_RUN, *CUT_DOWN):
        meant = as_meant(cell)
        if cell.name in runs and meant.name in runs:
            right, wrong = _valid(runs[meant.name]), _valid(runs[cell.name])
            rows[cell.says.rstrip(".")] = {"as meant": right, "as run": wrong, "cost": right - wrong}
    return pd.DataFrame(rows, index=["as meant", "as run", "cost"]).T


def cost_of_slips(here: Mapping[str, Run]) -> Any:
    """What the slips cost on real images: the reader's own, else those of the records, else a sentence."""
    for source, runs in {
        "this execution": scoreboard.of_the_reader(here),
        RECORDED: recorded(*CELLS),
    }.items():
        if len(table := slips(runs)):
            return table.assign(source=source).style.format(precision=4)  # a plain table cuts long texts
    return Markdown(
        "*What the slips cost takes real images to measure; no network is recorded both ways on them yet. "
        "What was trained above shows that the code runs, and nothing of the cost.*"
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


def trials(searches: Iterable[Searched]) -> pd.DataFrame:
    """All trials: the reader's on real images, else recorded ones, else those of this execution."""
    searches = list(searches)
    rows = [row for one in searches if one.real for row in _trials_here(one)]
    rows = rows or _recorded_trials()
    rows = rows or [row for one in searches for row in _trials_here(one)]
    return pd.DataFrame(rows, columns=TRIAL).astype({"epochs": "Int64"}).fillna({"why": ""})


def _trials_here(one: Searched) -> list[dict[str, Any]]:
    told = {"space": _space(one.as_run), "network": one.model, "source": "this execution"}
    if one.found is None:
        return [{**told, "status": "failed", "why": one.why}]
    kept = [name for name in TRIAL if name in one.found.trials]
    return [{**told, **row} for row in one.found.trials[kept].to_dict("records")]


def _recorded_trials() -> list[dict[str, Any]]:
    rows = []
    for as_run in (False, True):
        model = searched_model(chapters.settings("cifar100", {"profile": "full"}), as_run)
        name = f"{model}_search" + ("_as_run" if as_run else "")
        for run in scoreboard.recorded(f"cifar100/{name}.trial*"):
            decay = run.record["model"]["options"]["dense_l2" if as_run else "l2"]
            numbers = (
                decay,
                run.record["recipe"]["lr"],
                _at_best(run)["val_accuracy"],
                run.epochs,
                run.seconds,
            )
            told = {"space": _space(as_run), "network": model, "status": "completed", "why": ""}
            rows.append(dict(zip(NUMBERS, numbers, strict=True)) | told | {"source": RECORDED})
    return rows


def _space(as_run: bool) -> str:
    return "as run" if as_run else "as meant"


def after_tuning(searches: Iterable[Searched], added: Iterable[Outcome]) -> Markdown:
    """What the candidates beyond the grid validate at, and a search's best trial beside its first score."""
    first = {one.model: one.found.best["score"] for one in searches if one.found and not one.as_run}
    lines = []
    for one in added:
        if one.run is None:
            lines.append(f"`{one.cell.name}`: {one.why}")
        elif one.cell == TUNED:
            lines.append(f"`{one.cell.name}`, with the report's numbers: {_valid(one.run):.4f}.")
        else:
            lines.append(f"`{one.cell.name}`: first {first[one.cell.model]:.4f}, then {_valid(one.run):.4f}.")
    return Markdown("\n".join(f"- {line}" for line in lines) or "*Nothing was tuned here.*")


def reach() -> float:
    """The share of all penalised weights that the report's search tuned: those of its dense layer."""
    model = models.build("custom_vgg16", l2=1.0, dense_l2=2.0)
    penalised = [layer for layer in model.layers if getattr(layer, "kernel_regularizer", None)]
    sizes = {layer.name: math.prod(layer.kernel.shape) for layer in penalised}
    tuned = [layer.name for layer in penalised if float(layer.kernel_regularizer.l2) == 2.0]
    return sum(sizes[name] for name in tuned) / sum(sizes.values())


def rates(epochs: int = 60, last: int = 50) -> dict[str, pd.DataFrame]:
    """The learning rate over the epochs of the tuned run, as the report ran it and as meant."""
    epoch = np.arange(1, epochs + 1)
    start = TUNED.recipe.lr
    curves = {"as the report ran it": last, "as meant": epochs}
    return {
        name: pd.DataFrame(
            {"epoch": epoch, "learning rate": start * (1 + np.cos(np.pi * np.minimum(epoch / end, 1))) / 2}
        )
        for name, end in curves.items()
    }


def ledger(run: Run, folder: Path) -> pd.DataFrame:
    """Each of the chapter's networks that saw the test images, by the records and a folder of runs."""
    found = [(one, "recorded") for one in _ever_tested(scoreboard.recorded("cifar100/*"))]
    known = {(one.name, one.key) for one, _ in found} | {(run.name, run.key)}
    kept = [
        one
        for one in _ever_tested(_kept(folder))
        if scoreboard.is_real(one) and (one.name, one.key) not in known
    ]
    rows = [*found, *((one, "earlier, kept here") for one in kept)]
    if run.folder is not None:
        rows.append((run, "this execution"))
    table = pd.DataFrame(
        {
            "network": f"{_short(one)}, seed {one.seed}",
            "run": where,
            "images": one.metrics["test"]["source"],
            "validation": _valid(one),
            "test": one.metrics["test"]["accuracy"],
            "scored": one.metrics["test"]["scored"],
        }
        for one, where in rows
    )
    return table.set_index("network").rename_axis(None).round(4)


def _kept(folder: Path) -> list[Run]:
    """The chapter's runs in a folder; a damaged one is left to `labkit` to complain of when it is used."""
    found = []
    for file in sorted((folder / "cifar100").glob("*/run.json")):
        with contextlib.suppress(RunError):
            found.append(load(file))
    return found


def _ever_tested(found: Iterable[Run]) -> list[Run]:
    """The runs among them that may be chosen for the test, and were; `better` is none of this chapter's."""
    return [
        run for run in found if "test" in run.metrics and _may_be_chosen(_short(run).removesuffix(COARSE))
    ]


def _may_be_chosen(name: str) -> bool:
    return name in CELLS or name.endswith(AGAIN)


def shown_test(run: Run) -> Run:
    """The run whose test is shown: this execution's on real images, else the record that validates best.

    Without either it is the step past the report, which is no candidate, rather than drawn images.
    """
    if scoreboard.is_real(run) or _coarse(run):
        return run
    found = [one for one in _ever_tested(scoreboard.recorded("cifar100/*")) if not _coarse(one)]
    if found:
        return max(found, key=_valid)
    past = (one for one in scoreboard.recorded(f"cifar100/{BETTER}") if "test" in one.metrics)
    return next(past, run)


def in_earnest(run: Run, shown: Any) -> Any:
    """What a network tells of real images; of drawn ones it would tell nothing, and is left out."""
    if scoreboard.is_real(run):
        return shown
    return Markdown("*Left out: it takes a network that was trained on real images.*")


def scored_line(run: Run) -> Markdown:
    """The test in one paragraph: which network, which images, and the figures."""
    found = run.metrics["test"]
    if not scoreboard.is_real(run):
        return Markdown(
            f"There is no test on real images to show here. **{_short(run)}** was tested on {found['n']} "
            "synthetic images: they prove that the code runs, and nothing else."
        )
    low, high = found["interval"]
    made = "this execution" if run.folder is not None else f"recorded on {_hardware(run)}"
    text = (
        f"**{_short(run)}** ({made}, seed {run.seed}; {found['source']}): accuracy "
        f"**{found['accuracy']:.4f}** on {found['n']:,} test images, 95 % interval {low:.4f} to {high:.4f}"
    )
    if found.get("top5") is not None:
        text += f"; the right class among the five most probable ones for {found['top5']:.4f}"
    if len(found["classes"]) == len(FINE_TO_COARSE):
        right = evaluation.superclass_accuracy(found["confusion"], FINE_TO_COARSE)
        text += f"; the right superclass for {right:.4f}"
    if _short(run) == BETTER:
        text += (
            ". No network of the chapter has been tested on real images yet. This one is a step past the "
            "report and no candidate; its answers are means over an image and its mirror image."
        )
    else:
        text += f". Validation accuracy, by which it was chosen, was {_valid(run):.4f}."
    if run.folder is None:
        text += f" Again: `{run.record['command']}`."
    return Markdown(text)


def tally(run: Run) -> Any:
    """How often the report's reasons hold for mistakes and right answers of a network's test."""
    if "test_reasons" not in run.metrics:
        return Markdown(f"*The record of `{_short(run)}` does not hold this.*")
    return reasons.tally_table(run.metrics["test_reasons"]).round(3)


def groups(summary: Mapping[str, Any]) -> dict[str, Sequence]:
    """How a confusion matrix is ordered: by superclass where it has the hundred classes."""
    if len(summary["classes"]) != len(FINE_TO_COARSE):
        return {}
    return {"groups": FINE_TO_COARSE, "group_names": [_words(name) for name in SUPERCLASSES]}


def by_superclass(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a test with every class counted as its superclass."""
    if len(summary["classes"]) != len(FINE_TO_COARSE):
        return dict(summary)
    merged = evaluation.merge(summary["confusion"], FINE_TO_COARSE)
    accuracy = float(np.trace(merged) / merged.sum())
    names = [_words(name) for name in SUPERCLASSES]
    return {**summary, "confusion": merged.tolist(), "classes": names, "accuracy": accuracy}


def report(summary: Mapping[str, Any]) -> HTML:
    """The report of every class as a table that can be sorted, in a box that scrolls."""
    table = evaluation.per_class_table(summary).reset_index()
    if len(table) == len(FINE_TO_COARSE):
        table.insert(1, "superclass", [SUPERCLASSES[k] for k in FINE_TO_COARSE])
    table = table.map(lambda value: _words(value) if isinstance(value, str) else value)
    styled = table.style.format(precision=3).hide(axis="index")
    text = styled.set_table_attributes('class="table sortable"').to_html()
    label = html.escape(f"Report of {len(table)} classes, scrolls")
    box = f'<div tabindex="0" role="group" aria-label="{label}" style="max-height: 28rem; overflow: auto">'
    return HTML(f"{box}{text}</div>")


def pairs(summary: Mapping[str, Any], n: int = 10) -> pd.DataFrame:
    """The most frequent mistakes, and whether both classes belong to one superclass."""
    table = evaluation.confused_pairs(summary["confusion"], summary["classes"], n)
    if len(summary["classes"]) == len(FINE_TO_COARSE):
        coarse = dict(zip(CIFAR100_CLASSES, FINE_TO_COARSE, strict=True))
        same = [coarse[a] == coarse[b] for a, b in zip(table["true"], table["predicted"], strict=True)]
        table["one superclass"] = np.where(same, "yes", "no")
    return table.map(lambda value: _words(value) if isinstance(value, str) else value)


def named(worst: pd.DataFrame, why: pd.DataFrame) -> pd.DataFrame:
    """The surest mistakes with the reasons that hold for each."""
    held = why.loc[worst["index"]].drop(columns="right")
    words = [", ".join(held.columns[row]) or "none of them" for row in held.to_numpy()]
    table = worst.drop(columns="index").assign(reasons=words).round(3)
    return table.map(lambda value: _words(value) if isinstance(value, str) else value)


def by_reason(
    predictions: Predictions, images: ImageSet, why: pd.DataFrame, n: int = 6
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """The surest mistakes of each reason as a row of images, filled up with white, and their captions."""
    wrong, rows, captions = predictions.worst(len(predictions)), {}, {}
    for reason in why.columns.drop("right"):
        held = wrong[why.loc[wrong["index"], reason].to_numpy()].head(n)
        if len(held):
            blank = np.full((n - len(held), *images.images.shape[1:]), 255, np.uint8)
            rows[reason] = np.concatenate([images.images[held["index"]], blank])
            said = [f"{_words(row.true)}\nas {_words(row.predicted)}" for row in held.itertuples()]
            captions[reason] = said + [""] * len(blank)
    return rows, captions


def label_check(run: Run) -> Markdown:
    """The share of doubted test labels beside the share that people found wrong, and what that explains."""
    if _coarse(run):
        return Markdown("*What people said of the labels is known of the hundred classes alone.*")
    if "test_doubts" not in run.metrics:
        return Markdown(f"*The record of `{_short(run)}` does not hold which labels it doubts.*")
    found = run.metrics["test_doubts"]
    wrong = 1 - found["accuracy"]
    explained = min(1, KNOWN_ERRORS / wrong) if wrong else 0
    return Markdown(
        f"By what `{_short(run)}` says of the test images, confident learning doubts "
        f"{100 * found['doubted']:.1f} % of their labels. Northcutt 2021 (arXiv:2103.14749) had people look "
        f"at the labels that were doubted there: {100 * KNOWN_ERRORS:.2f} % of all are known to be wrong. "
        f"This network takes {100 * wrong:.1f} % of the images for something else than their label says. "
        f"Even if it saw through each of those wrong labels, they explain {100 * explained:.0f} % of its "
        "mistakes at most."
    )


def rebuilt(run: Run) -> keras.Model:
    """The network of a run, without its weights."""
    built = run.record["model"]
    options = {name: value for name, value in built["options"].items() if name != "weights"}
    return models.build(built["name"], classes=built["classes"], seed=built["seed"], **options)


def elsewhere(run: Run) -> Any:
    """Test accuracies from the literature, the report's, and ours among them where it is of real images."""
    if _coarse(run):
        return Markdown("*Published figures are of a hundred classes; this network names superclasses.*")
    outside = scoreboard.published("cifar100").query("report == 'outside'")
    rows = [
        (*where.split("; "), value) for where, value in zip(outside["where"], outside["value"], strict=True)
    ]
    rows.append(("guessing", "one class of all", 1 / len(CIFAR100_CLASSES)))
    rows.append(("tuned custom_vgg16", "report 004", scoreboard.row(f"cifar100/{TUNED.name}").published))
    if scoreboard.is_real(run):
        where = "this execution" if run.folder is not None else "recorded here"
        test = run.metrics["test"]
        rows.append((f"{_short(run)}, ours", f"{where}: {test['source']}", test["accuracy"]))
    table = pd.DataFrame(rows, columns=["network", "from", "test accuracy"]).sort_values("test accuracy")
    return table.set_index("network").rename_axis(None)[["test accuracy", "from"]]


def _short(run: Run) -> str:
    return run.name.removeprefix("cifar100/")


def _coarse(run: Run) -> bool:
    return run.name.endswith(COARSE)


def _valid(run: Run) -> float:
    return run.metrics["valid"]["accuracy"]


def _hardware(run: Run) -> str:
    return run.record["hardware"]["gpu"] or run.record["hardware"]["cpu"]


def _words(name: str) -> str:
    return name.replace("_", " ")
