"""What chapter 1 reads out of its runs: agreement with given labels, corrections, the leak, costs."""

import math
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np
import pandas as pd

from labkit import labels, models, scoreboard
from labkit.chapters import Settings
from labkit.experiments import noisy_cifar as lab
from labkit.labels import Transition
from labkit.protocols import NOISY_PROTOCOLS, NoisySplit
from labkit.recipes import RECIPES
from labkit.runs import Run

Runs = Mapping[str, Run]
NONE = "–"
TOUCHING = (
    *(f"{name}_filter" for name in lab.FILTERED),
    *(f"{name}_cleaner" for name in lab.CLASSIFIERS),
    *(f"{name}_confident" for name in lab.CLASSIFIERS),
)
ENOUGH = 100  # test images from which on an accuracy is worth printing
ANSWERS = tuple(f"{lab.CLASSIFIERS[0]}_{answer}" for answer in lab.ANSWERS)
_USES = {
    "noisy": ("given", "train Model I"),
    "valid": ("true", "stop and select Models I and II"),
    "unsure": ("given", "are filtered or corrected for Model II"),
    "kept": ("true", "train Model II as they are"),
    "judge_train": ("true beside given", "train what judges labels"),
    "judge_valid": ("true beside given", "stop and select what judges labels"),
    "judge_test": ("true beside given", "measure how well labels are judged"),
    "test": ("true beside given", "measure Models I and II"),
    "unseen": ("true", "check on the protocols"),
}


def recorded(names: Iterable[str], protocol: str) -> dict[str, Run]:
    """The committed records of some experiments under a protocol; of several seeds the first."""
    found = _on_record(protocol)
    wanted = {name: f"noisy_cifar/{name}-{protocol}" for name in names}
    return {name: found[full] for name, full in wanted.items() if full in found}


@cache
def _on_record(protocol: str) -> dict[str, Run]:
    """Every record under a protocol, read once for all the tables of a page."""
    return {run.name: run for run in reversed(scoreboard.recorded(f"noisy_cifar/*-{protocol}"))}


def to_show(names: Iterable[str], here: Runs, protocol: str) -> tuple[dict[str, Run], str]:
    """The runs of some experiments that a figure is drawn from, and where they come from in words.

    Those of this execution if it had real images. Otherwise of each experiment the record, under the
    chapter's protocol where there is one; and what ran on synthetic images where nothing is recorded.
    """
    names = list(names)
    made = in_earnest({name: here[name] for name in names if name in here})
    if mine := scoreboard.of_the_reader(made):
        return mine, "this execution"
    found = {}
    for split in dict.fromkeys((protocol, *NOISY_PROTOCOLS)):
        for name, run in recorded(names, split).items():
            if not any(shown.partition(" ")[0] == name for shown in found):
                found[name if split == protocol else f"{name} ({split})"] = run
    if found:
        return found, f"records on the course's data, under the protocol `{protocol}` or the one in brackets"
    return made, "this execution"


def in_earnest(runs: Runs) -> dict[str, Run]:
    """The runs that were tested on enough images to say something; all of them where none was."""
    enough = {name: run for name, run in runs.items() if run.metrics["test"]["n"] >= ENOUGH}
    return enough or dict(runs)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table for the page: shares to three digits, large numbers with commas, gaps as dashes."""
    return table.map(_cell)


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return NONE
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.0005:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def accuracy(run: Run, part: str = "test") -> float:
    """The accuracy on a part; not a number where it was not scored."""
    return run.metrics[part]["accuracy"] if part in run.metrics else math.nan


def spoken(run: Run) -> str:
    """The test accuracy with its interval, as a table shows it; of a run on few images only that it ran."""
    tested = run.metrics["test"]
    if tested["n"] < ENOUGH:
        return f"ran on {run.record['data']['train']['n']:,} images"
    low, high = tested["interval"]
    return f"{tested['accuracy']:.3f} ({low:.2f}–{high:.2f})"


def beside(names: Iterable[str], here: Runs) -> pd.DataFrame:
    """Test accuracies side by side: published, recorded on real data in two ways, and in this execution."""
    names = list(names)
    published = {row.experiment: row for row in scoreboard.rows("noisy_cifar")}
    reports = {name: published[name].report if name in published else "000" for name in names}
    honest = recorded(names, "honest")
    rows = []
    for name in names:
        as_run = recorded([name], f"report{reports[name]}").get(name)
        rows.append(
            {
                "experiment": name,
                "published": f"{published[name].published:.3f}" if name in published else NONE,
                "recorded as the report split": spoken(as_run) if as_run else NONE,
                "recorded, honest split": spoken(honest[name]) if name in honest else NONE,
                "this execution": spoken(here[name]) if name in here else NONE,
            }
        )
    return pd.DataFrame(rows).set_index("experiment")


def sizes(parts: NoisySplit) -> pd.DataFrame:
    """How many images of a split do what, and which labels they carry."""
    rows = {name: (len(part), *_USES[name]) for name, part in parts.parts().items()}
    if parts.leaks:
        rows["valid"] = (len(parts.valid), "given", _USES["valid"][1])
    columns = ["images", "labels", "what for"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("part")


def real_noise() -> Transition | None:
    """The noise of the course's data, from the baseline's record; None while there is none."""
    for protocol in NOISY_PROTOCOLS:
        for run in recorded(["histogram_baseline"], protocol).values():
            return noise(run)
    return None


def matrix_for(runs: Runs, here: Transition) -> np.ndarray:
    """The noise that some runs were trained under: the course's for records, this page's for others."""
    real = real_noise() if any(run.folder is None for run in runs.values()) else None
    return (real or here).matrix


def noise(run: Run) -> Transition:
    """The noise matrix kept in a baseline's record, which counts given labels by true ones."""
    counts = np.array(run.metrics["given_labels"]["confusion"])
    true, given = np.indices(counts.shape).reshape(2, -1)
    times = counts.ravel()
    return labels.transition(np.repeat(given, times), np.repeat(true, times), len(counts))


def expected_agreement(run: Run, matrix: np.ndarray) -> float:
    """How often a model names the given label when its answers depend on the true one alone."""
    confusion = np.array(run.metrics["test"]["confusion"])
    return float((confusion * matrix).sum() / confusion.sum())


def agreement(runs: Runs, matrix: np.ndarray) -> pd.DataFrame:
    """Accuracies by given and by true labels; `by heart` is how much better known its own labels are."""
    rows = {
        name: {
            "training, given labels": accuracy(run, "train_given"),
            "test, given labels": accuracy(run, "test_given"),
            "expected of it": expected_agreement(run, matrix),
            "test, true labels": accuracy(run),
            "by heart": accuracy(run, "train_given") - accuracy(run, "test_given"),
        }
        for name, run in runs.items()
    }
    return pd.DataFrame(rows).T.rename_axis("Model I")


def corrections(runs: Runs) -> pd.DataFrame:
    """How well each method judged labels whose truth it did not know, and what was trained on the outcome."""
    rows = {}
    for name, run in runs.items():
        judged = run.metrics.get("corrections")
        if judged is None:
            continue
        shares = {key: judged[key] for key in ("precision", "recall", "residual_noise", "kept")}
        rows[name] = {"judged": judged["n"], **shares}
    columns = ["judged", "precision", "recall", "residual_noise", "kept"]
    table = pd.DataFrame(rows, index=columns).T.astype(
        {"judged": "Int64"} | dict.fromkeys(columns[1:], float)
    )
    return table.rename(columns={"residual_noise": "residual noise"}).rename_axis("method")


def first_classifier(settings: Settings) -> str:
    """The first of report 000's networks that the reader chose."""
    return next((name for name in lab.CLASSIFIERS if name in settings.models), lab.CLASSIFIERS[0])


def leak(runs: Runs) -> pd.DataFrame:
    """Accuracy on the test images of the protocol beside that on images no protocol ever touches."""
    rows = {
        name: {
            "test images": accuracy(run),
            "unseen images": accuracy(run, "unseen"),
            "test minus unseen": accuracy(run) - accuracy(run, "unseen"),
        }
        for name, run in runs.items()
    }
    return pd.DataFrame(rows).T.rename_axis("Model II")


def both_ways(settings: Settings) -> dict[str, Run]:
    """A Model II with the leak and without: as recorded, and as trained here."""
    name = f"{first_classifier(settings)}_model2"
    ways = {"test labels leak": "report000", "images kept apart": "honest"}
    on_record = {way: recorded([name], split) for way, split in ways.items()}
    runs = {f"{way}, on record": found[name] for way, found in on_record.items() if found}
    runs |= {f"{way}, here": lab.run(lab.under(settings, split), name) for way, split in ways.items()}
    return in_earnest(runs)


def lowest_loss(classes: int, smoothing: float, low: float, high: float) -> float:
    """The smallest cross-entropy that outputs between `low` and `high`, taken as logits, can reach."""
    target = labels.smooth(np.eye(classes)[0], smoothing)
    outputs = np.where(target == target.max(), high, low)
    return float(np.log(np.exp(outputs).sum()) - (target * outputs).sum())


def floors() -> pd.DataFrame:
    """The smallest loss the cleaner's outputs can reach with smoothed labels, and the smallest on record."""
    smoothing = RECIPES["report000_cleaner"].label_smoothing
    target = labels.smooth(np.eye(10)[0], smoothing)
    name = f"{lab.CLASSIFIERS[0]}_cleaner"
    rows = {
        "clipped to 0–1 and taken for logits": (lowest_loss(10, smoothing, 0, 1), _least(name, "report000")),
        "logits without bounds": (float(-(target * np.log(target)).sum()), _least(name, "honest")),
    }
    columns = ["smallest loss possible", f"smallest training loss of {name} on record"]
    return pd.DataFrame(rows, index=columns).T.rename_axis("outputs")


def _least(name: str, protocol: str) -> float:
    return min(
        (min(run.record["history"]["loss"]) for run in recorded([name], protocol).values()), default=math.nan
    )


def decays() -> pd.DataFrame:
    """How fast report 000's weight decay halves a weight that no gradient holds up, in three readings."""
    recipe = RECIPES["report000_model1"]
    per_step = recipe.lr * recipe.weight_decay  # what tensorflow-addons subtracts, whatever the rate
    copied = recipe.lr * per_step  # what Keras makes of the same number
    steps = math.ceil(scoreboard.TRAINED_ON["noisy_cifar"] / recipe.batch_size)
    rows = {
        "the report, with tensorflow-addons": (per_step, per_step),
        "Keras 3, the number copied": (per_step, copied),
        "Keras 3, the number converted": (recipe.weight_decay, recipe.lr * recipe.weight_decay),
    }
    columns = ["weight_decay", "taken away a step"]
    table = pd.DataFrame(rows, index=columns).T
    return table.assign(**{"epochs to half a weight": math.log(2) / table["taken away a step"] / steps})


def worth(n: int, rate: float, score: float, classes: int) -> float:
    """How many true labels tell as much about an accuracy as n labels with symmetric noise of this rate."""
    by_chance = rate / (classes - 1)
    slope = 1 - rate - by_chance
    agreed = score * slope + by_chance
    return n * slope**2 * score * (1 - score) / (agreed * (1 - agreed))


def best(runs: Runs, default: str) -> str:
    """The run with the highest validation accuracy, of those validated on the most images."""
    counts = {name: (run.record["data"]["valid"] or {"n": 0})["n"] for name, run in runs.items()}
    most = max(counts.values(), default=0)
    scores = {
        name: max(runs[name].record["history"].get("val_accuracy", [-1.0]))
        for name in counts
        if counts[name] == most
    }
    return max(scores, key=scores.__getitem__, default=default)


def final(runs: Runs) -> dict[str, Run]:
    """Model II runs alone, without the cleaners they rest on."""
    return {name: run for name, run in runs.items() if not name.endswith("_cleaner")}


def reports(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy and mean F1 of each function in the reports of the course's evaluation."""
    rows = {
        name: {"accuracy": table.loc["accuracy", "f1"], "mean F1": table.loc["macro avg", "f1"]}
        for name, table in tables.items()
    }
    return pd.DataFrame(rows).T.rename_axis("function")


def costs(names: Iterable[str], here: Runs) -> pd.DataFrame:
    """Size of each experiment's network, and seconds an epoch: published, recorded, here."""
    names = list(names)
    figures = scoreboard.published("noisy_cifar")
    seconds = figures[figures["metric"] == "seconds_per_epoch"].set_index("experiment")["value"]
    on_record = recorded(names, "report001") | recorded(names, "report000") | recorded(names, "honest")
    rows = {}
    for name in names:
        card = models.card(lab.network(name))
        rows[name] = {
            "parameters": card.counts.total,
            "million MACs": card.macs / 1e6,
            "s an epoch, published": seconds.get(name, math.nan),
            "s an epoch, recorded": _seconds(on_record.get(name)),
            "s an epoch, here": _seconds(here.get(name)),
        }
    return pd.DataFrame(rows).T.rename_axis("experiment")


def _seconds(run: Run | None) -> float:
    found = None if run is None else run.record["seconds_per_epoch"]
    return math.nan if found is None else found
