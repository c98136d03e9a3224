"""What chapter 3 shows of its runs: curves, answers asked for in other ways, the ablation, costs."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labkit import evaluation, models, plots, saliency, scoreboard
from labkit.costs import sizes
from labkit.data import ImageSet
from labkit.evaluation import Heads
from labkit.experiments import dual_cifar as lab
from labkit.models import allconv
from labkit.runs import Run

Trained = Mapping[str, tuple[keras.Model, Run]]
PAIRS = "thousand training pairs"
HANDFUL = 100  # pairs below which an accuracy says nothing
SHARE = "share of the first image"
SAYS = {"accn": "the report's recipe"} | {change.name: change.says for change in lab.ABLATION}


def table(found: Mapping[str, Heads | Mapping[str, Any]]) -> pd.DataFrame:
    """Accuracy of each head, their mean with its interval, and the share of pairs named in full."""
    rows = {}
    for name, answer in found.items():
        figures = answer.summary() if isinstance(answer, Heads) else answer
        rows[name] = {
            **{head: part["accuracy"] for head, part in figures["heads"].items()},
            "mean": figures["accuracy"],
            "low": figures["interval"][0],
            "high": figures["interval"][1],
            "both right": figures["both_right"],
            "F1": figures["macro_f1"],
        }
    return pd.DataFrame(rows).T.map("{:.4f}".format)


def to_show(trained: Trained, names: Iterable[str], part: str = "test") -> Run | None:
    """Of the runs that have a score of this part the one that validates best.

    It is one of this execution if that had real images, else a record, else one on synthetic images.
    """
    names = tuple(names)
    runs = {name: trained[name][1] for name in names if name in trained}
    here = {name: run for name, run in runs.items() if part in run.metrics}
    on_record = [run for name in names for run in _recorded(name)]
    mine = scoreboard.of_the_reader(here)
    candidates = [*mine.values()] or [run for run in on_record if part in run.metrics] or [*here.values()]
    return max(candidates, key=lambda run: run.validated, default=None)


def _recorded(name: str) -> list[Run]:
    """The longest records of a network, or of what the report's code built under its name, if run in full."""
    found = scoreboard.longest(scoreboard.recorded(f"dual_cifar/{name}"))
    other = scoreboard.RAN_AS.get(f"dual_cifar/{name}", "")
    return found or [
        run for run in scoreboard.longest(scoreboard.recorded(other)) if not scoreboard.cut_short(run)
    ]


def origin(run: Run, *, brief: bool = False) -> str:
    """Which network a run trained, whether in this execution, and on how many pairs of what."""
    made = f"recorded, seed {run.seed}" if run.folder is None else "this execution"
    seen = f": {run.epochs * _pairs(run):,} {run.record['data']['train']['source']}" * (not brief)
    return f"{run.name.partition('/')[2]} ({made}{seen})"


def _pairs(run: Run) -> int:
    return run.record["data"]["train"]["n"]


def by_pairs_seen(run: Run) -> pd.DataFrame:
    """The history of a run with a column of training pairs seen."""
    return run.history.assign(**{PAIRS: run.history["epoch"] * _pairs(run) / 1e3})


def curve(name: str, trained: Trained) -> Figure | Markdown:
    """Accuracy and loss of one network by epoch; the title says where they come from."""
    run = to_show(trained, [name])
    if run is None:
        return Markdown(f"*`{name}` was not trained in this execution, and is not on record.*")
    return plots.loss_and_accuracy(run, name=origin(run))


def curves(trained: Trained) -> Axes | Markdown:
    """Validation accuracy of the report's networks against pairs seen, of this execution or recorded."""
    found = [run for name in lab.COMPARED if (run := to_show(trained, [name])) is not None]
    real = [run for run in found if scoreboard.is_real(run)] or found
    if not real:
        return Markdown("*None of these networks was trained in this execution, and none is on record.*")
    return plots.histories({origin(run, brief=True): by_pairs_seen(run) for run in real}, x=PAIRS)


def ways(trained: Trained, part: str) -> pd.DataFrame | Markdown:
    """The answers that one run gave in several ways; the heading says which run."""
    run = to_show(trained, lab.COMPARED, part)
    if run is None:
        return Markdown("*No network was asked in this execution, and none is on record.*")
    return table(run.metrics[part]["ways"]).rename_axis(origin(run))


def passes_say(trained: Trained) -> str:
    """Whether averaging over random passes names more than one pass on a fixed grid, in a sentence."""
    run = to_show(trained, lab.COMPARED, "test_passes")
    if run is None:
        return ""
    (_, grid), *_, (last, averaged) = run.metrics["test_passes"]["ways"].items()
    gain = 100 * (averaged["accuracy"] - grid["accuracy"])
    low, high = grid["interval"]
    where = "inside" if low <= averaged["accuracy"] <= high else "outside"
    return f"Against the fixed grid, {last} change the mean by {gain:+.1f} points, {where} its interval."


def heat(images: ImageSet, maps: saliency.Maps, name: str, count: int = 6) -> Figure:
    """Where a network looks in the first images, a row for each of its heads, over the true classes."""
    names = [images.classes[head][label] for head in maps for label in images.labels[head][:count]]
    pictures = np.concatenate([images.images[:count]] * len(maps))
    found = np.concatenate([found[:count] for found in maps.values()])
    return plots.heat(pictures, found, captions=names, title=f"{name} of this execution, {images.source}")


def maps_agree(some: saliency.Maps, others: saliency.Maps) -> str:
    """How far two ways to ask where a network looks agree, in a sentence."""
    same, different = saliency.agreement(some, others)
    if np.isnan([same, different]).any():
        return "One of the ways marks nothing here: too little has been learnt to ask where."
    images = len(next(iter(some.values())))
    return (
        f"Over the pixels of {images} images the two ways correlate with {same:.2f}, with {different:.2f} "
        "where the map of one image meets that of another: only the difference speaks of an image itself."
    )


def shares(trained: Trained) -> Axes | Markdown:
    """Accuracy against the share of the first image in the average, for each head and their mean."""
    found = ways(trained, "test_shares")
    if isinstance(found, Markdown):
        return found
    found = found.astype(float).set_index(found.index.astype(float)).sort_index()
    lines = {
        name: pd.DataFrame({SHARE: found.index, "accuracy": found[name]})
        for name in ("first", "second", "mean")
    }
    said = origin(to_show(trained, lab.COMPARED, "test_shares"), brief=True)
    return plots.histories(lines, metric="accuracy", x=SHARE, title=f"Heads of {said}")


def confusion(trained: Trained, head: str) -> Axes | Markdown:
    """Which classes one head of the best network takes for which."""
    run = to_show(trained, lab.COMPARED)
    if run is None:
        return Markdown("*No network was trained in this execution, and none is on record.*")
    return plots.confusion(run.metrics["test"]["heads"][head], name=f"{head} head, {origin(run, brief=True)}")


def ablation(runs: Mapping[str, Run]) -> pd.DataFrame:
    """What each change to `accn` does to the mean accuracy on the test pairs."""
    base = runs["accn"].metrics["test"]["accuracy"]
    rows = {
        SAYS[name]: _pair_figures(run) | {"against accn": run.metrics["test"]["accuracy"] - base}
        for name, run in runs.items()
    }
    return pd.DataFrame(rows).T.rename_axis("accn with").round(4)


def _pair_figures(run: Run) -> dict[str, float]:
    test = run.metrics["test"]
    heads = {head: found["accuracy"] for head, found in test["heads"].items()}
    return {**heads, "mean": test["accuracy"], "both right": test["both_right"]}


def recorded_ablation() -> pd.DataFrame:
    """The ablation on real images over seeds, out of the records that saw as many pairs as `accn`."""
    rows = {}
    for name, equal in _equal_runs().items():
        figures = pd.DataFrame([_pair_figures(run) for run in equal])
        if figures.empty:
            rows[SAYS[name]] = {"mean": "not run yet"}
            continue
        averages = {column: f"{figures[column].mean():.4f}" for column in figures}
        rows[SAYS[name]] = averages | {"mean": str(evaluation.spread(figures["mean"]))}
    return pd.DataFrame(rows).T.rename_axis("accn with").fillna("")


def _equal_runs() -> dict[str, list[Run]]:
    """The recorded runs of the ablation that were given as many pairs as most runs of `accn`."""
    runs = {name: scoreboard.recorded(f"dual_cifar/{name}") for name in SAYS}
    given = Counter(map(_budget, runs["accn"]))
    common = max(given, key=given.get) if given else None
    return {name: [run for run in found if _budget(run) == common] for name, found in runs.items()}


def ablation_says() -> str:
    """Which changes moved the mean accuracy of the recorded runs by more than luck, in three sentences."""
    moved, still, least = _told_from_luck()
    if not moved and not still:
        return "None of it is on record yet."
    runs = _equal_runs()["accn"]
    given = f"Every network was given {runs[0].epochs * _pairs(runs[0]):,} pairs. "
    base = scoreboard.Side("test_accuracy", tuple(runs))
    far = f"More than three standard errors away from `accn` with {base}: {', '.join(moved) or 'none'}."
    small = f"A gain of less than {100 * least:.0f} points could not be told from luck in any row."
    return given + (f"{far} Not told from luck: {', '.join(still)}. {small}" if still else far)


def ablation_in_short() -> str:
    """How many of the changes can be told from luck."""
    moved, still, _ = _told_from_luck()
    if not moved and not still:
        return "No change of the ablation is on record yet."
    told = ", ".join(moved) or "none"
    return f"Of the {len(moved) + len(still)} changes of the ablation, its few epochs tell from luck: {told}."


def _told_from_luck() -> tuple[list[str], list[str], float]:
    """Changes on record with their gains over `accn`: those above luck, the others, and the least luck."""
    found = _equal_runs()
    sides = {name: scoreboard.Side("test_accuracy", tuple(runs)) for name, runs in found.items() if runs}
    base = sides.pop("accn", None)
    moved, still, luck = [], [], []
    for name, side in sorted(sides.items() if base else (), key=lambda item: -item[1].mean):
        gain = side.mean - base.mean
        luck.append(base.apart(side))
        (moved if abs(gain) > luck[-1] else still).append(f"{SAYS[name]} ({100 * gain:+.1f} points)")
    return moved, still, min(luck, default=0.0)


def _mean(run: Run) -> float:
    return run.metrics["test"]["accuracy"]


def _budget(run: Run) -> tuple[int, int]:
    """Epochs at most, and pairs in each."""
    return run.record["recipe"]["epochs"], _pairs(run)


def by_pairs() -> dict[str, pd.DataFrame]:
    """Mean validation accuracy by thousands of training pairs: the records, and what the report prints."""
    printed = _printed()
    printed[PAIRS] = printed["epoch"] * lab.FULL_EPOCH / 1e3
    curves = {
        f"{name}, report": points.rename(columns={"value": "val_accuracy"})
        for name, points in printed.groupby("experiment")
    }
    for name in (*lab.REPORTED, "better"):
        for run in _recorded(name):
            curves[f"{run.name.partition('/')[2]}, seed {run.seed}"] = by_pairs_seen(run)
    return curves


def _printed() -> pd.DataFrame:
    """The validation accuracies that the report prints while it trains, with their epochs."""
    figures = scoreboard.published("dual_cifar")
    epochs = figures["metric"].str.extract(r"^epoch_(\d+)_valid_accuracy$")[0].dropna().astype(int)
    return figures.loc[epochs.index].assign(epoch=epochs)


def at_printed_epochs() -> str:
    """What the recorded runs had after those epochs of which the report prints the accuracy."""
    said = []
    for name, epoch, printed in _printed()[["experiment", "epoch", "value"]].itertuples(index=False):
        for run in _recorded(name):
            if epoch > run.epochs or _pairs(run) != lab.FULL_EPOCH:
                continue
            ours = run.history.set_index("epoch").loc[epoch]
            rate = "still at its first rate" if ours["lr"] == run.history["lr"].iloc[0] else "at a lower rate"
            said.append(
                f"After {epoch} epochs `{name}` validates at {printed:g} in the report, "
                f"and at {ours['val_accuracy']:.3f} here, {rate}."
            )
    return " ".join(said) or "No recorded run has reached an epoch of which the report prints the accuracy."


def costs(names: Iterable[str] = ("fmp3", "accn", "lacnn")) -> pd.DataFrame:
    """What the report's networks cost: one image, and an epoch on two cores as records foretell it."""
    rows = {}
    for name in names:
        card = models.card(name)
        work = scoreboard.work(f"dual_cifar/{name}", sizes(), images=lab.FULL_EPOCH, epochs=1)
        rows[name] = {
            "parameters": f"{card.counts.total:,}",
            "million MACs an image": f"{card.macs / 1e6:,.0f}",
            "hours an epoch on 2 cores": f"{scoreboard.on_two_cores([work]) / 3600:.2g}",
        }
    return pd.DataFrame(rows).T


def large(run: Run) -> str:
    """What came of training one of the largest networks; of a handful of pairs only that it ran."""
    name, test = run.name.partition("/")[2], run.metrics["test"]
    if _pairs(run) < HANDFUL:
        return f"`{name}` was trained on {_pairs(run)} pairs, which proves that it can be and no more."
    return f"`{name}` scores {test['accuracy']:.4f} on {test['n']:,} pairs."


def enlarged(pairs: ImageSet) -> Figure:
    """What the convolutions of `lacnn` see of a few averages, padded and scaled."""
    rows = {}
    for name, padded in (("padded", True), ("scaled", False)):
        seen = keras.ops.convert_to_numpy(allconv.enlarged(pairs.images.astype("float32"), padded=padded))
        rows[name] = np.rint(seen).astype(np.uint8)
    return plots.image_rows(rows, title="Averages as lacnn sees them", source=pairs.source)


def best(trained: Trained) -> str | None:
    """The trained network with the highest mean accuracy on validation pairs; the largest is left aside."""
    scores = {name: run.validated for name, (_, run) in trained.items() if name in lab.COMPARED}
    return max(scores, key=scores.get) if scores else None


def summary(runs: Iterable[Run]) -> str:
    """What each network on record has beside the report's, what the ablation tells, and this execution."""
    beside = [_against(row) for row in scoreboard.rows("dual_cifar") if row.judged.values]
    tests = [(run.metrics["test"]["n"], run.metrics["test"]["accuracy"], run) for run in runs]
    *_, top = max(tests, key=lambda test: test[:2])  # a network shown a handful of pairs is not compared
    here = (
        f"In this execution, on {top.metrics['test']['source']}, the best mean accuracy is "
        f"{top.metrics['test']['accuracy']:.3f}, of {top.name.split('/')[1]}."
    )
    first = (
        "On real test images:" if beside else "No network of the report is on record with real images yet."
    )
    return "\n".join([first, "", *beside, "", f"{ablation_in_short()} {here}"])


def _against(row: scoreboard.Row) -> str:
    """Our figure beside the report's; of a run that was cut short no verdict, but by what it was."""
    run = row.judged.runs[0]
    budget = scoreboard.cut_short(run)
    given, verdict = (f", cut short by {budget}", "") if budget else ("", f"; {row.verdict}")
    name = run.name.partition("/")[2]
    whose = "" if name == row.experiment else f" for `{row.experiment}`"
    return (
        f"- `{name}`{given}: {row.judged.mean:.4f}, where the report has {row.published:.4f}{whose}{verdict}."
    )


def best_known() -> str:
    """The best published figure for this task, and what a recorded step past the reports has."""
    figures = scoreboard.published("dual_cifar").set_index("experiment")
    known = figures.loc["best_published"]
    said = f"The {known['where']}."
    runs = scoreboard.longest(scoreboard.recorded("dual_cifar/better"))
    if not runs:
        return said
    reached = evaluation.spread([_mean(run) for run in runs])
    seen = runs[0].epochs * _pairs(runs[0])
    return (
        f"{said} `better`, {runs[0].record['model']['parameters']['total'] / 1e6:.1f} M parameters and "
        f"{seen / 1e6:.2f} M pairs, has {reached} on our test pairs, which are not those of that figure."
    )
