"""What chapter 4 shows of its experiments: tables and sentences made from runs and committed records."""

import html
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd
from IPython.display import HTML, Code, Markdown

from labkit import chapters, evaluation, models, scoreboard, tuning
from labkit.data import CIFAR100_CLASSES, FINE_TO_COARSE, SUPERCLASSES, ImageSet
from labkit.experiments.cifar100 import (
    AS_RUN,
    CUT_DOWN,
    GRID,
    TUNED,
    Cell,
    Outcome,
    as_meant,
    cells,
)
from labkit.labels import confident
from labkit.plots.look import SHADES
from labkit.predictions import Predictions
from labkit.runs import Run

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

CELLS = {cell.name: cell for cell in (*GRID, TUNED, *AS_RUN, *CUT_DOWN)}
CHECKED = ("mlp", "conv2d", "custom_vgg")  # whose published figures without augmentation are sound
NEAR = 0.015  # how close ours must come to them
KNOWN_ERRORS = 0.0585  # of the test labels, found by five people each (Northcutt 2021, arXiv:2103.14749)
PARAMETERS = ["weight_decay", "lr"]  # what the report searched over
CURVES = tuple(cell.name for cell in GRID if cell.model in CHECKED)
ELSEWHERE = (
    ("guessing", 0.01, "one class in a hundred"),
    ("All-CNN-C, flips and shifts", 0.6629, "Springenberg 2014, arXiv:1412.6806"),
    ("ResNet-18, flips and shifts", 0.7754, "DeVries 2017, arXiv:1708.04552"),
    ("Wide ResNet 28-10, flips and shifts", 0.8115, "Zagoruyko 2016, arXiv:1605.07146"),
    ("PyramidNet-200, flips and shifts", 0.8355, "Yun 2019, arXiv:1905.04899"),
    ("PyramidNet-200 with CutMix", 0.8553, "Yun 2019, arXiv:1905.04899"),
    ("EfficientNet-B7, from ImageNet weights", 0.917, "Tan 2019, arXiv:1905.11946"),
)


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
    made = {_short(outcome.run): outcome.run for outcome in outcomes if outcome.run is not None}
    kept = {name: run for name, run in made.items() if not names or name in names}
    if mine := scoreboard.of_the_reader(kept):
        return Shown(mine, "this execution")
    found = recorded(*names)
    if found:
        return Shown(found, f"{len(found)} recorded runs on real data")
    return Shown(kept, "this execution, since no such run on real data is recorded yet")


def to_expect() -> Markdown:
    """What each profile costs and gives, from the size of the networks and the records."""
    return Markdown(
        f"The grid is {_arithmetic('quick')} of arithmetic on two cores in the `quick` profile and "
        f"{_arithmetic('full')} in the `full` one, the search not counted. {_expected()}"
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
            "as the report ran it": "one version of every image, half of them the original",
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
        note = (why or {}).get(cell.name, "")
        if cell.name not in runs and not note:
            continue
        figures = {} if note else _figures(runs[cell.name])
        kept = {name: figures.get(name) for name in ("epochs", "training", "validation", "s / epoch")}
        name = as_meant(cell).name
        report = published.loc[name] if name in published.index else {}
        kept |= {"report: training": report.get("train_accuracy")}
        kept |= {"report: validation": report.get("valid_accuracy")}
        augmentation = cell.augmentation.replace("_", " ") + (", as run" if cell.as_run else "")
        rows.append({"model": cell.model, "augmentation": augmentation, **kept, "note": note})
    table = pd.DataFrame(rows).set_index(["model", "augmentation"])
    return table if table["note"].any() else table.drop(columns="note")


def recorded_grid() -> pd.DataFrame:
    """The grid filled from committed records, empty where there is none."""
    runs = recorded(*CELLS)
    return grid(runs) if runs else pd.DataFrame()


def _figures(run: Run) -> dict[str, float]:
    at = run.history.set_index("epoch").loc[run.best_epoch or run.epochs]
    return {
        "epochs": run.epochs,
        "training": at["accuracy"],
        "validation": _valid(run),
        "gap": at["accuracy"] - _valid(run),
        "s / epoch": run.record["seconds_per_epoch"],
    }


def coloured(table: pd.DataFrame) -> "Styler":
    """A table of the grid with accuracies shaded, darker the higher."""
    shares = [name for name in table if name.endswith(("training", "validation"))]
    formats = {**dict.fromkeys(shares, "{:.4f}"), "epochs": "{:.0f}", "s / epoch": "{:.1f}"}
    styled = table.reset_index().style.format(formats, na_rep="–").hide(axis="index")
    # Two thirds of the colour map: black figures stay readable on all of it.
    styled = styled.background_gradient(
        SHADES, subset=shares, vmin=0, vmax=1.5, axis=None, text_color_threshold=0
    )
    blank = "background: none; color: inherit"
    styled = styled.map(lambda value: blank if pd.isna(value) else "", subset=shares)
    narrow = [{"selector": "th, td", "props": "font-size: 0.82rem; padding: 0.3rem 0.4rem"}]
    return styled.set_table_styles(narrow).set_table_attributes('class="table sortable"')


def or_nothing(table: pd.DataFrame, what: str) -> Any:
    """A table, or where it is empty a sentence that says what is missing."""
    if not len(table):
        return Markdown(f"*There is no record of {what} yet. What each takes stands on the Scoreboard.*")
    return coloured(table) if "validation" in table else table


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
    lines = [_near(runs), *(_augmented(runs, model) for model in CHECKED)]
    return Markdown("\n".join(f"- {line}" for line in lines if line))


def verdict(runs: Mapping[str, Run]) -> str:
    """Whether CutMix, done right, beats no augmentation for the report's own convolutional network."""
    none, cutmix = (runs.get(name) for name in ("custom_vgg", "custom_vgg_cutmix"))
    if none is None or cutmix is None:
        return "Whether CutMix, done right, beats no augmentation for `custom_vgg` is not recorded yet."
    gain = 100 * (_valid(cutmix) - _valid(none))
    says = "beats" if gain > 0 else "does not beat"
    return f"CutMix, done right, {says} no augmentation for `custom_vgg`: {gain:+.1f} points on real images."


def _near(runs: Mapping[str, Run]) -> str:
    published = (
        scoreboard.published("cifar100").query("metric == 'valid_accuracy'").set_index("experiment")["value"]
    )
    said = [
        f"`{name}` {_valid(runs[name]):.4f} ({_valid(runs[name]) - published[name]:+.4f})"
        for name in CHECKED
        if name in runs
    ]
    if not said:
        return f"Without augmentation: none of {', '.join(CHECKED)} is recorded on real data yet."
    within = all(abs(_valid(runs[name]) - published[name]) <= NEAR for name in CHECKED if name in runs)
    verdict = "all within" if within else "not all within"
    return f"Without augmentation, and how far from report 004: {', '.join(said)}; {verdict} {NEAR} of it."


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


def trials(found: tuning.Search | None) -> pd.DataFrame:
    """The recorded trials of the report's search, or those of this execution while none is recorded."""
    rows = []
    for run in scoreboard.recorded("cifar100/custom_vgg16_search.trial*"):
        decay, rate = run.record["model"]["options"]["l2"], run.record["recipe"]["lr"]
        rows.append({"weight_decay": decay, "lr": rate, "score": _valid(run)})
    if rows or found is None:
        table = pd.DataFrame(rows, columns=[*PARAMETERS, "score"])
        return table.assign(source="recorded on real data")
    return found.trials[[*PARAMETERS, "score"]].assign(source="this execution")


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


def ledger(run: Run) -> pd.DataFrame:
    """Every network that has seen the test images: those of the records, and the one of this execution."""
    rows = [(one, "recorded") for one in scoreboard.recorded("cifar100/*") if "test" in one.metrics]
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


def shown_test(run: Run) -> Run:
    """The run whose test is shown: this execution's on real images, else the record that validates best."""
    if scoreboard.of_the_reader({run.name: run}):
        return run
    found = [one for one in scoreboard.recorded("cifar100/*") if "test" in one.metrics]
    return max(found, key=_valid, default=run)


def scored_line(run: Run) -> Markdown:
    """The test in one paragraph: which network, which images, and the figures."""
    found = run.metrics["test"]
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
    text += f". Validation accuracy, by which it was chosen, was {_valid(run):.4f}."
    if run.folder is None:
        text += f" Again: `{run.record['command']}`."
    return Markdown(text)


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


def label_check(predictions: Predictions) -> Markdown:
    """The share of doubted test labels beside the share that people found wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few images, as in the smoke profile
        kept = confident(predictions.labels, predictions.probabilities)
    return Markdown(
        f"With this network, of accuracy {predictions.accuracy:.3f}, confident learning doubts "
        f"{100 * (1 - kept.mean()):.1f} % of the test labels. People who looked at images doubted in that "
        f"way found {100 * KNOWN_ERRORS:.2f} % of all labels wrong (Northcutt 2021, "
        "arXiv:2103.14749): there a network that sees what is in the picture is counted as mistaken."
    )


def rebuilt(run: Run) -> keras.Model:
    """The network of a run, without its weights."""
    built = run.record["model"]
    options = {name: value for name, value in built["options"].items() if name != "weights"}
    return models.build(built["name"], classes=built["classes"], seed=built["seed"], **options)


def elsewhere(run: Run) -> pd.DataFrame:
    """Test accuracies from the literature, the report's, and ours among them."""
    rows = [{"network": name, "test accuracy": value, "from": source} for name, value, source in ELSEWHERE]
    report = scoreboard.row("cifar100/custom_vgg16_tuned")
    rows.append({"network": "tuned custom_vgg16", "test accuracy": report.published, "from": "report 004"})
    test = run.metrics["test"]
    where = "this execution" if run.folder is not None else "recorded here"
    rows.append(
        {"network": _short(run), "test accuracy": test["accuracy"], "from": f"{where}: {test['source']}"}
    )
    return pd.DataFrame(rows).sort_values("test accuracy").set_index("network").rename_axis(None)


def _short(run: Run) -> str:
    return run.name.removeprefix("cifar100/")


def _valid(run: Run) -> float:
    return run.metrics["valid"]["accuracy"]


def _hardware(run: Run) -> str:
    return run.record["hardware"]["gpu"] or run.record["hardware"]["cpu"]


def _words(name: str) -> str:
    return name.replace("_", " ")
