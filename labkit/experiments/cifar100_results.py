"""What chapter 4 shows of its experiments: tables and choices made from runs and committed records."""

import contextlib
import html
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd
from IPython.display import HTML, Code, Markdown

from labkit import chapters, evaluation, models, reasons, scoreboard
from labkit.data import CIFAR100_CLASSES, FINE_TO_COARSE, SUPERCLASSES, ImageSet
from labkit.errors import RunError
from labkit.experiments.cifar100 import (
    AS_RUN,
    COARSE,
    CUT_DOWN,
    GRID,
    TUNED,
    Cell,
    Outcome,
    Searched,
    as_meant,
    searched_model,
)
from labkit.plots.look import SHADES
from labkit.predictions import Predictions
from labkit.runs import Run, load

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

GRID_NAMES = tuple(cell.name for cell in GRID)
CELLS = {cell.name: cell for cell in (*GRID, TUNED, *AS_RUN, *CUT_DOWN)}
FIGURES = ("epochs", "training", "validation", "gap", "fastest epoch, s")
PARAMETERS = ["weight_decay", "lr"]  # what the report searched over
NUMBERS = [*PARAMETERS, "score", "epochs", "seconds"]
RECORDED = "a record of a hundred classes"  # as a table says where a figure is from
TRIAL = ["space", "network", *NUMBERS, "status", "why", "source"]
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
        found.setdefault(short_name(run), run)
    return {name: found[name] for name in (names or found) if name in found}


def shown(outcomes: Iterable[Outcome], *names: str) -> Shown:
    """Runs of this execution if it had real images, else recorded ones where there are any of these names."""
    done = [outcome for outcome in outcomes if outcome.run is not None]
    made = {one.cell.name: one.run for one in done if not names or one.cell.name in names}
    if mine := scoreboard.of_the_reader(made):
        return Shown(mine, "this execution")
    if any(is_coarse(run) for run in made.values()):  # records of a hundred classes are no stand-in
        return Shown(made, "this execution, on synthetic images")
    found = recorded(*names)
    if found:
        return Shown(found, f"{len(found)} recorded runs on real data")
    return Shown(made, "this execution, since no such run on real data is recorded yet")


def superclasses() -> "Styler":
    """The twenty superclasses and their five classes."""
    names = np.array(CIFAR100_CLASSES)
    rows = {
        _words(name): ", ".join(map(_words, names[k == FINE_TO_COARSE]))
        for k, name in enumerate(SUPERCLASSES)
    }
    return pd.DataFrame({"classes": rows}).style  # which, unlike a plain table, shortens no text


def pixels(**sets: ImageSet) -> pd.DataFrame:
    """Mean and standard deviation of each colour channel, in steps of 0 to 255."""
    rows = {}
    for name, images in sets.items():
        flat = images.images.reshape(-1, 3)
        for what, values in (("mean", flat.mean(0)), ("deviation", flat.std(0))):
            rows[f"{what}, {name}"] = dict(zip(("red", "green", "blue"), values, strict=True))
    return pd.DataFrame(rows).T.round(1)


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
        known = name in published.index and not (run and is_coarse(run))
        report = published.loc[name] if known else {}
        kept = figures(run) if run else dict.fromkeys(FIGURES)
        kept |= {"report: epochs": report.get("epochs"), "report: training": report.get("train_accuracy")}
        kept |= {"report: validation": report.get("valid_accuracy")}
        augmentation = cell.augmentation.replace("_", " ") + (", as run" if cell.as_run else "")
        rows.append({"model": cell.model, "augmentation": augmentation, **kept, "note": note or unlike(run)})
    table = pd.DataFrame(rows).set_index(["model", "augmentation"])
    return table if table["note"].any() else table.drop(columns="note")


def recorded_grid() -> pd.DataFrame:
    """The grid filled from committed records, empty where there is none."""
    runs = recorded(*CELLS)
    return grid(runs) if runs else pd.DataFrame()


def figures(run: Run) -> dict[str, float]:
    """What the grid says of a run, as numbers."""
    training, validation = run.kept("accuracy"), run.validated
    numbers = (run.epochs, training, validation, training - validation, run.fastest_epoch)
    return dict(zip(FIGURES, numbers, strict=True))


def unlike(run: Run) -> str:
    """A word on a network that did not start where the report's did, or computed in fewer bits."""
    built = run.record["model"]
    bare = "weights" in models.card(built["name"]).options and not built["options"].get("weights")
    said = ["starts from random weights"] * bare + ["in bfloat16"] * run.in_fewer_bits
    return ", ".join(said)


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
    formats = {**dict.fromkeys(shares, "{:.4f}"), "gap": "{:+.4f}", "fastest epoch, s": "{:.1f}"}
    formats |= dict.fromkeys(("epochs", "report: epochs"), "{:.0f}")
    formats["model"] = lambda name: name.replace("_", "_<wbr>")  # where a long name may break
    styled = table.reset_index().style.format(formats, na_rep="–").hide(axis="index")
    # Two thirds of the colour map: black figures stay readable on all of it.
    styled = styled.background_gradient(
        SHADES, subset=shares, vmin=0, vmax=1.5, axis=None, text_color_threshold=0
    )
    blank = "background: none; color: inherit"
    styled = styled.map(lambda value: blank if pd.isna(value) else "", subset=shares)
    styled = styled.relabel_index([_SHORT.get(name, name) for name in styled.columns], axis="columns")
    narrow = [
        {"selector": "th, td", "props": "font-size: 0.75rem; padding: 0.3rem 0.15rem"},
        {"selector": "td:first-child", "props": "min-width: 4.9rem"},  # a short name in one line
        {"selector": "td:nth-child(11)", "props": "min-width: 4.5rem"},  # the note, where there is one
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


def by_size(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Parameters and both accuracies of runs, for a plot of their gap."""
    rows = {name: figures(run) | {"parameters": _parameters(run)} for name, run in runs.items()}
    table = pd.DataFrame(rows).T.astype(float)
    return table.rename(columns={"training": "accuracy", "validation": "val_accuracy"})


def _parameters(run: Run) -> int:
    return run.record["model"]["parameters"]["total"]


def code_of(function: Callable) -> Code:
    """The text of a function, for a reader who wants to see what it does."""
    return Code(inspect.getsource(function), language="python")


def slips(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """Validation accuracy of networks trained as meant and with the report's slips, means over seeds."""
    rows = []
    for cell in (*AS_RUN, *CUT_DOWN):
        meant = as_meant(cell)
        if runs.get(cell.name) and runs.get(meant.name):
            right, wrong = (fmean(run.validated for run in runs[name]) for name in (meant.name, cell.name))
            seeds = f"{len(runs[meant.name])} and {len(runs[cell.name])}"
            rows.append((cell.model, cell.slip, right, wrong, right - wrong, seeds))
    columns = ["network", "slip", "as meant", "as run", "cost", "seeds"]
    return pd.DataFrame(rows, columns=columns).set_index("network")


def cost_of_slips(here: Mapping[str, Run]) -> Any:
    """What the slips cost on real images: the reader's own, else those of the records, else a sentence."""
    for source, runs in {
        "this execution": {name: [run] for name, run in scoreboard.of_the_reader(here).items()},
        RECORDED: {name: scoreboard.longest(scoreboard.recorded(f"cifar100/{name}")) for name in CELLS},
    }.items():
        if len(table := slips(runs)):
            return table.assign(source=source).style.format(precision=4)  # a plain table cuts long texts
    return Markdown(
        "*What the slips cost takes real images to measure; no network is recorded both ways on them yet. "
        "What was trained above shows that the code runs, and nothing of the cost.*"
    )


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
        model = searched_model(chapters.checked("cifar100", {"profile": "full"}), as_run)
        name = f"{model}_search" + ("_as_run" if as_run else "")
        for run in scoreboard.recorded(f"cifar100/{name}.trial*"):
            decay = run.record["model"]["options"]["dense_l2" if as_run else "l2"]
            numbers = (
                decay,
                run.record["recipe"]["lr"],
                run.validated,
                run.epochs,
                run.seconds,
            )
            told = {"space": _space(as_run), "network": model, "status": "completed", "why": ""}
            rows.append(dict(zip(NUMBERS, numbers, strict=True)) | told | {"source": RECORDED})
    return rows


def _space(as_run: bool) -> str:
    return "as run" if as_run else "as meant"


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
            "network": f"{short_name(one)}, seed {one.seed}",
            "run": where,
            "images": one.metrics["test"]["source"],
            "validation": one.validated,
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
        run for run in found if "test" in run.metrics and _may_be_chosen(short_name(run).removesuffix(COARSE))
    ]


def _may_be_chosen(name: str) -> bool:
    return name in CELLS or name.endswith(AGAIN)


def shown_test(run: Run) -> Run:
    """The run whose test is shown: this execution's on real images, else the record that validates best.

    Without either it is the step past the report, which is no candidate, rather than drawn images.
    """
    if scoreboard.is_real(run) or is_coarse(run):
        return run
    found = [one for one in _ever_tested(scoreboard.recorded("cifar100/*")) if not is_coarse(one)]
    if found:
        return max(found, key=lambda run: run.validated)
    return next(iter(_past_the_report()), run)


def _past_the_report() -> list[Run]:
    """The recorded tests of the step past the report."""
    return [one for one in scoreboard.recorded(f"cifar100/{BETTER}") if "test" in one.metrics]


def in_earnest(run: Run, shown: Any) -> Any:
    """What a network tells of real images; of drawn ones it would tell nothing, and is left out."""
    if scoreboard.is_real(run):
        return shown
    return Markdown("*Left out: it takes a network that was trained on real images.*")


def tally(run: Run) -> Any:
    """How often the report's reasons hold for mistakes and right answers of a network's test."""
    if "test_reasons" not in run.metrics:
        return Markdown(f"*The record of `{short_name(run)}` does not hold this.*")
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


def rebuilt(run: Run) -> keras.Model:
    """The network of a run, without its weights."""
    built = run.record["model"]
    options = {name: value for name, value in built["options"].items() if name != "weights"}
    return models.build(built["name"], classes=built["classes"], seed=built["seed"], **options)


def elsewhere(run: Run) -> Any:
    """Test accuracies from the literature, the report's, and ours among them where they saw real images."""
    if is_coarse(run):
        return Markdown("*Published figures are of a hundred classes; this network names superclasses.*")
    outside = scoreboard.published("cifar100").query("report == 'outside'")
    rows = [
        (*where.split("; "), value) for where, value in zip(outside["where"], outside["value"], strict=True)
    ]
    rows.append(("guessing", "one class of all", 1 / len(CIFAR100_CLASSES)))
    rows.append(("tuned custom_vgg16", "report 004", scoreboard.row(f"cifar100/{TUNED.name}").published))
    ours = {short_name(one): one for one in (*_past_the_report()[:1], run) if scoreboard.is_real(one)}
    for name, one in ours.items():
        where = "this execution" if one.folder is not None else "recorded here"
        test = one.metrics["test"]
        rows.append((f"{name}, ours", f"{where}: {test['source']}", test["accuracy"]))
    table = pd.DataFrame(rows, columns=["network", "from", "test accuracy"]).sort_values("test accuracy")
    return table.set_index("network").rename_axis(None)[["test accuracy", "from"]]


def short_name(run: Run) -> str:
    """A run's name without its chapter."""
    return run.name.removeprefix("cifar100/")


def is_coarse(run: Run) -> bool:
    """Whether a run names superclasses."""
    return run.name.endswith(COARSE)


def hardware(run: Run) -> str:
    """What a run was trained on."""
    return run.record["hardware"]["gpu"] or run.record["hardware"]["cpu"]


def _words(name: str) -> str:
    return name.replace("_", " ")
