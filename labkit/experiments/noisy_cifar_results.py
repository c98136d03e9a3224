"""What chapter 1 reads out of its runs: agreement with given labels, corrections, the leak, costs."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from labkit import labels, models, protocols, scoreboard
from labkit.augment import smooth
from labkit.chapters import CHAPTERS, Settings
from labkit.data import CIFAR10_CLASSES, ImageSet
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
MODEL2 = tuple(f"{name}_model2" for name in lab.CLASSIFIERS)
COSTED = (
    "histogram_baseline",
    *lab.MODEL1,
    *(f"{name}_filter" for name in lab.FILTERED),
    *(f"{name}_{stage}" for name in lab.CLASSIFIERS for stage in lab.STAGES),
)
LOSSES = tuple(f"{name}_{loss}" for name in lab.CLASSIFIERS for loss in ("gce", "forward"))
JUDGED = (*TOUCHING, *LOSSES, *MODEL2, *(f"{name}_mixup" for name in lab.CLASSIFIERS))
ENOUGH = 100  # test images from which on an accuracy is worth printing
ENOUGH_SEEN = 4_000  # images seen in training, over all epochs, from which on it is worth printing
COURSE = (50_000, 10_000)  # images of the course, and how many of them, from the first on, have a true label
ANSWERS = tuple(f"{lab.CLASSIFIERS[0]}_{answer}" for answer in lab.ANSWERS)
COMPARED = (
    "training, given labels",
    "test, given labels",
    "expected of it",
    "test, true labels",
    "by heart",
)
PUBLISHED = {
    "published: training, given labels": "train_accuracy",
    "published: test, true labels": "test_accuracy",
}
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
    runs = {name: scoreboard.longest(found.get(f"noisy_cifar/{name}-{protocol}", [])) for name in names}
    return {name: several[0] for name, several in runs.items() if several}


def seeds(name: str, protocol: str) -> list[Run]:
    """The committed records of one experiment under a protocol, the longest alone."""
    return scoreboard.longest(_on_record(protocol).get(f"noisy_cifar/{name}-{protocol}", []))


def _on_record(protocol: str) -> dict[str, list[Run]]:
    """Every record under a protocol, by name."""
    found: dict[str, list[Run]] = {}
    for run in scoreboard.recorded(f"noisy_cifar/*-{protocol}"):
        found.setdefault(run.name, []).append(run)
    return found


def to_show(names: Iterable[str], here: Runs, protocol: str) -> tuple[dict[str, Run], str]:
    """The runs of some experiments that a figure is drawn from, and where they come from in words.

    Those of this execution if it had real images. Otherwise of each experiment the record, under the
    chapter's protocol where there is one; and what ran on synthetic images where nothing is recorded.
    """
    names = list(names)
    made = {name: here[name] for name in names if name in here}
    if mine := scoreboard.of_the_reader(in_earnest(made)):
        return mine, "this execution"
    found = {}
    for split in dict.fromkeys((protocol, *NOISY_PROTOCOLS)):
        for name, run in recorded(names, split).items():
            if not any(shown.partition(" ")[0] == name for shown in found):
                found[name if split == protocol else f"{name} ({split})"] = run
    if found:
        return found, (
            "records on the course's data, of several seeds the first, "
            f"under the protocol `{protocol}` or the one in brackets"
        )
    return in_earnest(made) or made, "this execution"


def in_earnest(runs: Runs) -> dict[str, Run]:
    """The runs that learnt from enough images, and were tested on enough, to say something."""
    return {name: run for name, run in runs.items() if _says_something(run)}


def _says_something(run: Run) -> bool:
    seen = run.record["data"]["train"]["n"] * max(1, run.record["recipe"]["epochs"])
    return run.metrics["test"]["n"] >= ENOUGH and seen >= ENOUGH_SEEN


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


def course_table(table: pd.DataFrame) -> pd.DataFrame:
    """The course's table for the page: three digits, and nothing where a row has no such number."""
    figures = table.map("{:.3f}".format, na_action="ignore").fillna("")
    return figures.assign(support=table["support"])


def accuracy(run: Run, part: str = "test") -> float:
    """The accuracy on a part; not a number where it was not scored."""
    return run.metrics[part]["accuracy"] if part in run.metrics else math.nan


def spoken(run: Run) -> str:
    """The test accuracy with its interval, as a table shows it; of a run on few images only that it ran."""
    if not _says_something(run):
        return f"ran on {run.record['data']['train']['n']:,} images"
    tested = run.metrics["test"]
    low, high = tested["interval"]
    bits = ", bfloat16" if run.in_fewer_bits else ""
    return f"{tested['accuracy']:.3f} ({low:.2f}–{high:.2f}){bits}"


def spoken_seeds(runs: list[Run]) -> str:
    """What a table shows of the records of one experiment: the only one, or a mean with its spread."""
    if len(runs) < 2:
        return spoken(runs[0]) if runs else NONE
    side = scoreboard.Side("test_accuracy", tuple(runs))
    return f"{side.mean:.3f} ± {side.deviation:.3f} ({len(runs)} seeds)"


def beside(names: Iterable[str], here: Runs) -> pd.DataFrame:
    """Test accuracies side by side: published, recorded on real data in two ways, and in this execution."""
    names = list(names)
    published = {row.experiment: row for row in scoreboard.rows("noisy_cifar")}
    reports = {name: published[name].report if name in published else "000" for name in names}
    rows = []
    for name in names:
        rows.append(
            {
                "experiment": name,
                "published": f"{published[name].published:.3f}" if name in published else NONE,
                "recorded as the report split": spoken_seeds(seeds(name, f"report{reports[name]}")),
                "recorded, honest split": spoken_seeds(seeds(name, "honest")),
                "this execution": spoken(here[name]) if name in here else NONE,
            }
        )
    return pd.DataFrame(rows).set_index("experiment")


def sizes(parts: NoisySplit) -> pd.DataFrame:
    """How many images of a split do what, and which labels they carry."""
    rows = {name: (len(part), *_USES[name]) for name, part in parts.parts().items()}
    if parts.leaks:
        rows["valid"] = (len(parts.valid), "given", "stop and select Model I")
    columns = ["images", "labels", "what for"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("part")


def course_sizes(protocol: str) -> dict[str, int]:
    """How many of the course's images each part of a protocol holds."""
    total, known = COURSE
    none = np.zeros(total, int)
    blank = np.zeros((total, 1, 1, 3), np.uint8)
    truth = np.where(np.arange(total) < known, 0, -1)
    images = ImageSet(blank, none, CIFAR10_CLASSES, "the course", true_labels=truth)
    return {name: len(part) for name, part in protocols.noisy_cifar(images, protocol).parts().items()}


@dataclass(frozen=True, eq=False)
class Frequencies:
    """How many labels name each class: as much of an image set as the figure of class shares reads."""

    classes: tuple[str, ...]
    numbers: np.ndarray

    def counts(self) -> np.ndarray:
        """The number of labels of each class."""
        return self.numbers


def frequencies(noise: Transition) -> dict[str, Frequencies]:
    """How often each class is named by labels as given and by true ones, as a noise matrix counts them."""
    given, true = noise.counts.sum(axis=0), noise.counts.sum(axis=1)
    return {
        "labels as given": Frequencies(CIFAR10_CLASSES, given),
        "true labels": Frequencies(CIFAR10_CLASSES, true),
    }


def noise_to_draw(settings: Settings, here: Transition) -> tuple[Transition, str]:
    """The noise that section 1 draws, and where it comes from in words.

    Drawn images have drawn noise: unless the reader chose its kind or rate, that of the record is shown.
    """
    usual = {parameter.name: parameter.default for parameter in CHAPTERS["noisy_cifar"].own}
    chosen = any(settings.own[name] != usual[name] for name in ("noise_rate", "noise_kind"))
    real = None if chosen or settings.data != "synthetic" else real_noise()
    if real is None:
        return here, "the labels of this page"
    return real, "a record on the course's data, since those of this page were made by labkit"


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
    """Accuracies by given and by true labels, ours and published.

    `by heart` is how much better a network knows the given labels of images that it was trained on.
    """
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
    without_run = [name for name in lab.MODEL1 if name not in {shown.partition(" ")[0] for shown in rows}]
    table = pd.DataFrame(rows, index=COMPARED).T.reindex([*rows, *without_run]).rename_axis("Model I")
    names = table.index.str.partition(" ").get_level_values(0)
    for title, metric in PUBLISHED.items():
        table[title] = published(metric).reindex(names).to_numpy()
    return table


def published(metric: str) -> pd.Series:
    """What the reports print under one name, by experiment."""
    figures = scoreboard.published("noisy_cifar")
    wanted = (figures["metric"] == metric) & figures["report"].str.isdigit()
    return figures[wanted].set_index("experiment")["value"]


def corrections(runs: Runs) -> pd.DataFrame:
    """How well each method judged labels whose truth it did not know, and what was trained on the outcome.

    A loss that touches no label has nothing to be judged by but that accuracy.
    """
    shares = ("precision", "recall", "residual_noise", "kept")
    rows = {}
    for name, run in runs.items():
        judged = run.metrics.get("corrections", {})
        if judged or name.partition(" ")[0] in LOSSES:
            numbers = {key: judged.get(key, math.nan) for key in shares}
            rows[name] = {"judged": judged.get("n", math.nan), **numbers, **_trained_on_it(name, runs)}
    columns = ["judged", *shares, "test accuracy", "with mixup"]
    table = pd.DataFrame(rows, index=columns).T.astype(float)
    return table.rename(columns={"residual_noise": "residual noise"}).rename_axis("method")


def _trained_on_it(name: str, runs: Runs) -> dict[str, float]:
    """The test accuracies of the networks that were trained on the labels a method gave."""
    trained = {"test accuracy": name}
    if "_cleaner" in name:
        stages = {"test accuracy": "_model2", "with mixup": "_mixup"}
        trained = {title: name.replace("_cleaner", stage) for title, stage in stages.items()}
    return {title: accuracy(runs[other]) for title, other in trained.items() if other in runs}


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
    columns = ["test images", "unseen images", "test minus unseen"]
    return pd.DataFrame(rows, index=columns).T.rename_axis("network")


def before(name: str) -> str:
    """The Model I that a Model II started from, or whose labels it trained on."""
    return name.replace("_filter", "_stage1") if name.endswith("_filter") else lab.network(name)


def both_ways(settings: Settings) -> dict[str, Run]:
    """Models II with the leak and without: all on record, and the first chosen that is not brief here.

    Before each that leaks comes its Model I, tested on the same images while no label of theirs had leaked.
    """
    ways = {"test labels leak": "report000", "images kept apart": "honest"}
    runs = {
        f"{name}, {way}, on record": run
        for way, split in ways.items()
        for name, run in recorded(MODEL2, split).items()
    }
    first = recorded(map(before, recorded(MODEL2, "report000")), "report000")
    runs |= {
        f"{name}, before the leak, on record": run for name, run in first.items() if "unseen" in run.metrics
    }
    chosen = [name for name in lab.plan(settings).cleaned if name in MODEL2]
    for name in [name for name in chosen if not lab.is_brief(settings, lab.network(name))][:1]:
        for way, split in ways.items():
            runs[f"{name}, {way}, here"] = lab.run(lab.under(settings, split), name)
    return in_earnest(dict(sorted(runs.items(), key=lambda found: found[0].partition(",")[0])))


def luck(*runs: Run, parts: Iterable[str] = ("test", "unseen")) -> float:
    """How far test and unseen accuracy, two such gaps, or two runs on a part lie apart in 19 of 20 draws."""
    scored = [run.metrics[part] for run in runs for part in parts]
    return 1.96 * math.sqrt(sum(part["accuracy"] * (1 - part["accuracy"]) / part["n"] for part in scored))


def lowest_loss(classes: int, smoothing: float, low: float, high: float) -> float:
    """The smallest cross-entropy that outputs between `low` and `high`, taken as logits, can reach."""
    target = smooth(np.eye(classes)[0], smoothing)
    outputs = np.where(target == target.max(), high, low)
    return float(np.log(np.exp(outputs).sum()) - (target * outputs).sum())


def floors() -> pd.DataFrame:
    """The smallest loss the cleaner's outputs can reach with smoothed labels, and the smallest on record."""
    smoothing = RECIPES["report000_cleaner"].label_smoothing
    target = smooth(np.eye(10)[0], smoothing)
    rows = {
        "clipped to 0–1 and taken for logits": (lowest_loss(10, smoothing, 0, 1), _least("report000")),
        "logits without bounds": (float(-(target * np.log(target)).sum()), _least("honest")),
    }
    columns = ["smallest loss possible", "smallest training loss of a cleaner on record"]
    return pd.DataFrame(rows, index=columns).T.rename_axis("outputs")


def _least(protocol: str) -> float:
    cleaners = recorded([f"{name}_cleaner" for name in lab.CLASSIFIERS], protocol)
    return min((min(run.record["history"]["loss"]) for run in cleaners.values()), default=math.nan)


def decays() -> pd.DataFrame:
    """How fast report 000's weight decay halves a weight that no gradient holds up, in three readings."""
    recipe = RECIPES["report000_model1"]
    per_step = recipe.lr * recipe.weight_decay  # what tensorflow-addons subtracts, whatever the rate
    copied = recipe.lr * per_step  # what Keras makes of the same number
    steps = math.ceil(course_sizes("report000")["noisy"] / recipe.batch_size)
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


def best(runs: Runs, valid: ImageSet | None, default: str) -> str:
    """The run with the highest accuracy on the validation images, by the same labels for all.

    Where no run was validated on them, those that were validated as the first was are compared; where
    nothing validates, the first is taken.
    """
    seen = {name: (run.record["data"]["valid"] or {}).get("fingerprint") for name, run in runs.items()}
    wanted = None if valid is None else valid.fingerprint()
    if wanted not in seen.values():
        wanted = next(iter(seen.values()), None)
    scores = {name: run.validated or 0.0 for name, run in runs.items() if seen[name] == wanted}
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
    """Size of each experiment's network, and seconds an epoch: published, our fastest on record, and here."""
    names = list(names)
    seconds = published("seconds_per_epoch")
    on_record = recorded(names, "report001") | recorded(names, "report000") | recorded(names, "honest")
    made = in_earnest({name: here[name] for name in names if name in here})
    rows = {}
    for name in names:
        parameters, macs = size(name)
        rows[name] = {
            "parameters": parameters,
            "million MACs": f"{macs / 1e6:,.1f}" if macs >= 1e5 else "under 0.1",
            "s an epoch, published": seconds.get(name, math.nan),
            "recorded (images)": _seconds(on_record.get(name)),
            "here (images)": _seconds(made.get(name)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("experiment")


def size(name: str) -> tuple[int, float]:
    """Parameters, and multiply-adds for one image, of what an experiment trains."""
    network = lab.network(name)
    if name.endswith("_cleaner"):
        forms = models.card("label_cleaner").forms
        form = next(form for form in forms if form.options.get("classifier", lab.CLASSIFIERS[0]) == network)
        return form.total, 1e6 * form.millions
    return models.card(network).counts.total, models.card(network).macs


def _seconds(run: Run | None) -> str:
    if run is None or not run.epochs:
        return NONE
    return f"{run.fastest_epoch:.1f} ({run.record['data']['train']['n']:,})"
