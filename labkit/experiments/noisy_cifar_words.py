"""What chapter 1 says of its figures: sentences whose numbers come from records, or from its own runs."""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean

import pandas as pd

from labkit import chapters, models, scoreboard
from labkit.chapters import CHAPTERS, Settings
from labkit.experiments import noisy_cifar as lab
from labkit.experiments.noisy_cifar_results import (
    COMPARED,
    MODEL2,
    Runs,
    accuracy,
    before,
    course_sizes,
    in_earnest,
    luck,
    published,
    real_noise,
    recorded,
    seeds,
    to_show,
    worth,
)
from labkit.labels import Transition
from labkit.protocols import NOISY_PROTOCOLS, NoisySplit
from labkit.runs import Run

_PARTS = {"test": "test images", "unseen": "images that no protocol touches"}
LIMITS = {"smoke": "a minute on two cores, beyond starting up", "quick": "half an hour on a laptop"}
FAMILIES = {
    "Colour histograms and logistic regression": ("histogram_baseline",),
    "Model I, trained on the labels as given": tuple(lab.MODEL1),
    "Model II of report 001, on labels that a first model agrees with": tuple(
        f"{name}_filter" for name in lab.FILTERED
    ),
    "Model II of report 000, on cleaned labels": tuple(f"{name}_model2" for name in lab.CLASSIFIERS),
    "the same with mixup": tuple(f"{name}_mixup" for name in lab.CLASSIFIERS),
    "the field's answers": tuple(f"{name}_{answer}" for name in lab.CLASSIFIERS for answer in lab.ANSWERS),
}


def profiles() -> str:
    """What each profile shows, how long that takes, and the command that runs it, as a list."""
    done = recorded(lab.EXPERIMENTS, "honest")
    scores = [accuracy(run) for name, run in done.items() if not name.endswith("_cleaner")]
    hours = sum(run.unhindered_seconds for run in done.values()) / 3600
    rows = [(name, f"meant to stay within {limit}", _trains(name)) for name, limit in LIMITS.items()]
    time = (
        f"{hours:.1f} h for the {len(done)} runs on record, at the pace of their fastest epochs"
        if done
        else "not measured yet"
    )
    expect = f"test accuracies from {min(scores):.2f} to {max(scores):.2f}" if scores else "no record yet"
    rows.append(("full", time, f"the recipes of the reports; {expect}"))
    return "\n".join(
        f"- **{name}** ({time}): {shows}\n  ```bash\n  {chapters.command('noisy_cifar', _asked(name))}\n  ```"
        for name, time, shows in rows
    )


def _trains(profile: str) -> str:
    """Which networks a short profile trains in earnest, and how little the others get."""
    usual = CHAPTERS["noisy_cifar"].profiles[profile]
    names = [f"`{name}`" for name in lab.IN_EARNEST[profile] if name != "histogram"]
    return (
        f"{', '.join(names[:-1])} and {names[-1]} train for {usual.epochs} epochs at most on a set of "
        f"{usual.n:,} images (`cnn2` in batches of {lab.SMALL_BATCH[profile]}), the other networks for one "
        f"epoch on a set of {lab.BRIEF[profile]:,}; batch normalization that starts anew has a momentum of "
        f"{lab.SHORT_MEMORY}"
    )


def _asked(profile: str) -> dict[str, str]:
    return {"profile": profile} | ({} if profile == "smoke" else {"data": "FOLDER"})


def missing(names: Iterable[str], protocol: str) -> str:
    """A sentence about the experiments that have no record yet, and what they would take."""
    names = list(names)
    found = recorded(names, protocol)
    left = {name: scoreboard.cost(f"noisy_cifar/{name}") for name in names if name not in found}
    if not left:
        return f"All of them have a record under the protocol `{protocol}`."
    listed = ", ".join(f"`{name}` ({cost})" for name, cost in left.items())
    said = f"Without a record under the protocol `{protocol}` yet: {listed}."
    alone = all(lab.network(name) == name for name in left)
    return said if alone else f"{said} Each time is of that stage alone, without those it builds on."


def told(here: Transition, classes: int) -> str:
    """What one given label is worth, on this page and on the course's data."""
    sentence = (
        "{}, {:.1%} of the given labels are wrong. One of them tells {:.2f} bit of the {:.2f} bits that it "
        "takes to name one class of {}."
    )
    lines = [sentence.format("On this page", here.rate, here.bits, math.log2(classes), classes)]
    if real := real_noise():
        lines.append(
            sentence.format("On the course's data", real.rate, real.bits, math.log2(classes), classes)
        )
    return " ".join([*lines, "What labels seem to tell by chance, for being few, is taken off."])


def counted(drawn: Transition) -> str:
    """How far wrong labels move the shares of the classes, in words."""
    given, true = (drawn.counts.sum(axis=axis) / drawn.counts.sum() for axis in (0, 1))
    return (
        f"No class's share of the images changes by more than {100 * abs(given - true).max():.1f} points, "
        f"although {drawn.rate:.1%} of the labels are wrong: where as many labels leave a class as come to "
        "it, counting shows nothing."
    )


def arithmetic(table: pd.DataFrame, shown: Runs, source: str) -> str:
    """What the table of agreement of some runs shows, in words."""
    table = table.dropna(subset=list(COMPARED))
    if not len(table):
        return f"Nothing to compare in {source}."
    off = (table["test, given labels"] - table["expected of it"]).abs().max()
    top = table["test, true labels"].idxmax()
    hearts = table["by heart"]
    chance = max(luck(shown[name], parts=("train_given", "test_given")) for name in table.index)
    by_true, by_given = table["test, true labels"][top], table["test, given labels"][top]
    return (
        f"The table comes from {source}. `{top}` names the true class of {by_true:.3f} of the test images, "
        f"and the given label of {by_given:.3f} of them; over all networks the arithmetic is off by at most "
        f"{off:.3f}. *By heart* says how much oftener a network names the given label of an image that it "
        f"has trained on: that part it has learnt by heart. It goes from {hearts.min():+.3f} "
        f"(`{hearts.idxmin()}`) to {hearts.max():+.3f} (`{hearts.idxmax()}`), where the choice of images "
        f"alone may make up to {chance:.3f}."
    )


def worked() -> str:
    """The published low training and high test accuracy, worked out from the rate of the noise."""
    noise = real_noise()
    if noise is None:
        return "The noise of the course's data is not on record, so the published figures are not worked out."
    train, valid, test = map(published, ("train_accuracy", "valid_accuracy", "test_accuracy"))
    name = test[list(lab.CLASSIFIERS)].idxmax()
    score, by_chance = test[name], noise.rate / (len(noise.counts) - 1)
    expected = score * (1 - noise.rate) + (1 - score) * by_chance
    return (
        f"Report 000 prints {train[name]:.4f} in training and {test[name]:.4f} in the test for `{name}`. "
        f"With {noise.rate:.4f} of the labels wrong, evenly over the other classes, a network that is right "
        f"so often agrees with {score:.4f} × {1 - noise.rate:.4f} + {1 - score:.4f} × {by_chance:.4f} = "
        f"{expected:.4f} of the given labels of images it has not trained on. The report's validation, on "
        f"such images, says {valid[name]:.4f}."
    )


def filtered(here: Runs, protocol: str) -> str:
    """What the first network of a filter kept, and what the second gained by it, in words."""
    shown, source = to_show([f"{name}_filter" for name in lab.FILTERED], here, protocol)
    lines = [_filtered(name, run) for name, run in in_earnest(shown).items() if "corrections" in run.metrics]
    return " ".join([f"From {source}:", *lines]) if lines else "No filter has been run on enough images yet."


def _filtered(name: str, run: Run) -> str:
    judged = run.metrics["corrections"]
    said = (
        f"the first network of `{name}` agrees with {judged['kept']:.1%} of the given labels that it is "
        f"judged by, and {judged['residual_noise']:.1%} of those are wrong; the second names "
        f"{accuracy(run):.3f} of the test images"
    )
    protocol = run.name.rpartition("-")[2]
    stage = name.partition(" ")[0].replace("_filter", "_stage1")
    first = recorded([stage], protocol).get(stage) if run.folder is None else None
    return said + (f", where the first named {accuracy(first):.3f}." if first else ".")


def corrected(here: Runs, protocol: str) -> str:
    """How much of a Model II's gain is its cleaner's, and how much comes of training further, in words."""
    stages = [name + stage for name in lab.CLASSIFIERS for stage in ("", "_uncorrected", "_model2")]
    mine = scoreboard.of_the_reader(in_earnest(here))
    lines = [_corrected(name, protocol, mine) for name in lab.CLASSIFIERS]
    if not any(lines):
        found = {way: recorded(stages, way) for way in NOISY_PROTOCOLS}
        lines = [_corrected(name, way, runs) for way, runs in found.items() for name in lab.CLASSIFIERS]
    return "\n\n".join(filter(None, lines)) or "No Model I has been trained further without its cleaner yet."


def _corrected(name: str, protocol: str, runs: Runs) -> str:
    """What a Model I names, then trained further without a cleaner, and with one; nothing without all three.

    Under a protocol that leaks only images count that it never touches.
    """
    stages = [runs.get(stage) for stage in (name, f"{name}_uncorrected", f"{name}_model2")]
    part = "unseen" if all(run and "unseen" in run.metrics for run in stages) else "test"
    if None in stages or (part, protocol) == ("test", "report000"):
        return ""
    first, further, cleaned = (accuracy(run, part) for run in stages)
    bits = ", in bfloat16" if any(run.in_fewer_bits for run in stages) else ""
    worth, chance = 100 * (cleaned - further), 100 * luck(*stages[1:], parts=(part,))
    says = "more than" if abs(worth) > chance else "within"
    return (
        f"Under the protocol `{protocol}`{bits}, `{name}` names {first:.4f} of the {_PARTS[part]}. Trained "
        f"further on the images of Model II, with no label corrected, it names {further:.4f}, and with a "
        f"cleaner {cleaned:.4f}: {100 * (further - first):+.1f} points come of training further, "
        f"{worth:+.1f} of the cleaner, {says} the {chance:.1f} that the choice of images allows, with one "
        "seed each."
    )


def answered(here: Runs, protocol: str) -> str:
    """How the field's answers compare with the same network trained on the labels as given, in words."""
    names = [f"{name}_{answer}" for name in lab.CLASSIFIERS for answer in lab.ANSWERS]
    shown, source = to_show(names, here, protocol)
    shown = in_earnest(shown)
    if not shown:
        return "None of the three has been run on enough images yet, here or on record, to compare them."
    top = max(shown, key=lambda name: shown[name].validated or 0.0)  # report 001 validates none
    network, *under = top.split(" ")  # a record of another protocol has it in brackets
    plain = " ".join([lab.network(network), *under])
    believing = in_earnest(to_show([lab.network(network)], here, protocol)[0]).get(plain)
    than = (
        f"; trained on every label as given, `{plain}` names {accuracy(believing):.3f}" if believing else ""
    )
    tested = f"{accuracy(shown[top]):.3f} of the test images"
    return f"From {source}: `{top}` validates best, and names {tested}{than}."


def judged(table: pd.DataFrame, here: Transition, source: str) -> str:
    """What the table of corrections shows, in words."""
    table = table.dropna(subset=["residual noise", "kept"])
    if not len(table):
        return "No method that touches labels was run."
    real = real_noise() if source.startswith("records") else None
    before = (real or here).rate
    left, kept = table["residual noise"], table["kept"]
    least = left.idxmin()
    most = left[kept == kept.max()]
    leave = f"`{most.idxmin()}` leaves {most.min():.1%}"
    leave += f" and `{most.idxmax()}` {most.max():.1%}" if len(most) > 1 else ""
    return (
        f"The table comes from {source}. Before any correction {before:.1%} of the labels are wrong. The "
        f"least noise is left by `{least}`, {left[least]:.1%}, with {kept[least]:.0%} of the labels kept; "
        f"of those that keep most labels, {kept.max():.0%}, {leave}. Dropping labels and changing them are "
        "different trades: a method that changes labels keeps every image, right or wrong."
    )


def leaked() -> str:
    """What the leak is worth on the course's data, in words, and which records are missing."""
    lines = [said for name in MODEL2 if (said := _leaked(name))]
    return "\n\n".join([*lines, missing(MODEL2, "report000")])


def _leaked(name: str) -> str:
    """What the records say of one Model II; nothing where it has none."""
    as_run, honest = (recorded([name], split).get(name) for split in ("report000", "honest"))
    if as_run is None and honest is None:
        return ""
    bits = ", in bfloat16" if as_run and as_run.in_fewer_bits else ""
    ours = [f"{accuracy(as_run):.4f} run as the report did{bits}"] if as_run else []
    ours += [f"{accuracy(honest):.4f} with the images kept apart"] if honest else []
    printed = scoreboard.row(f"noisy_cifar/{name}").published
    said = f"Report 000 prints {printed:.4f} for `{name}`; on the course's data we get {', and '.join(ours)}."
    first = recorded([before(name)], "report000").get(before(name))
    return " ".join([said, _grown(as_run, first)]) if as_run and "unseen" in as_run.metrics else said


def _grown(leaky: Run, first: Run | None) -> str:
    """How much better a leaky model does on test images than on unseen ones, and how much Model I did."""
    said = (
        f"The leaky one names {accuracy(leaky, 'unseen'):.4f} of images that it had never seen in any form, "
        f"{_gap(leaky)}"
    )
    if first is None or "unseen" not in first.metrics:
        return f"{said}; what its Model I did there is not on record."
    grown, chance = 100 * (_ahead(leaky) - _ahead(first)), 100 * luck(leaky, first)
    says = "more than" if abs(grown) > chance else "within"
    end = ": that is what the answers were worth that it had seen" if grown > chance else ""
    return (
        f"{said}; Model I, before the leak, had {_gap(first)}. The two gaps differ by {grown:+.1f} points, "
        f"{says} the {chance:.1f} that chance allows{end}."
    )


def _gap(run: Run) -> str:
    points = 100 * _ahead(run)
    return f"{abs(points):.1f} points {'fewer' if points > 0 else 'more'} than of the test images"


def _ahead(run: Run) -> float:
    """How much better a model does on test images than on unseen ones."""
    return accuracy(run) - accuracy(run, "unseen")


def validated(here: Transition, parts: NoisySplit) -> str:
    """What validation on given labels is worth in true ones, in words."""
    rate = (real_noise() or here).rate
    score = scoreboard.row("noisy_cifar/vgg").published
    given, true = (course_sizes(protocol)["valid"] for protocol in ("report000", "honest"))
    ours = "no image validates" if parts.valid is None else f"{len(parts.valid):,} images validate"
    return (
        f"At the published accuracy of the VGG, {score:.4f}, and with {rate:.1%} of the labels wrong, the "
        f"{given:,} labels that report 000 validates on tell as much as {worth(given, rate, score, 10):,.0f} "
        f"true ones would. Of the course's data the protocol `honest` sets {true:,} true labels aside for "
        f"this. On this page, under `{parts.protocol}`, {ours}."
    )


def predicted(table: pd.DataFrame, n: int) -> str:
    """Which of the three functions is right most often, in words."""
    scores = table["accuracy"].astype(float).sort_values(ascending=False)
    first, second, last = scores.index
    return (
        f"Of the {n:,} test images on this page, `{first}` names {scores[first]:.3f}, `{second}` "
        f"{scores[second]:.3f} and `{last}` {scores[last]:.3f}."
    )


def costly() -> str:
    """Why parameters alone do not tell what a network costs, in words."""
    cards = {name: models.card(name) for name in lab.MODEL1}
    small = min(cards, key=lambda name: cards[name].counts.total)
    light = min(cards, key=lambda name: cards[name].macs)
    if small == light:
        return f"`{small}` has both the fewest parameters and the fewest multiply-adds."
    more = cards[light].counts.total / cards[small].counts.total
    busier = cards[small].macs / cards[light].macs
    return (
        f"Few parameters do not make a network cheap: `{light}` has {more:.1f} times as many as `{small}`, "
        f"which takes {busier:.1f} times the multiply-adds, since a convolution uses each of its weights at "
        "every place of an image."
    )


def summary(settings: Settings, here: Runs) -> str:
    """What validates best of each kind of method: here if real images were there, else in the records."""
    scored = in_earnest({name: run for name, run in here.items() if "test" in run.metrics})
    mine = scoreboard.of_the_reader(scored)
    done = {name: found for name in lab.EXPERIMENTS if (found := seeds(name, "honest"))}
    runs = {name: [run] for name, run in (mine or scored).items()}
    where = f"In this execution{', on drawn images' * (not mine)}, under the protocol `{settings.protocol}`"
    if done and not mine:
        runs, where = done, "On the course's data, by the honest protocol"
    lines = []
    if "histogram_baseline" in runs:
        given = accuracy(runs["histogram_baseline"][0], "given_labels")
        lines.append(f"- The labels as given, against true ones: {given:.3f}")
    for title, names in FAMILIES.items():
        found = {name: fmean(run.validated or 0.0 for run in runs[name]) for name in names if name in runs}
        if found:
            top = max(found, key=found.__getitem__)
            tested = fmean(map(accuracy, runs[top]))
            why = "which validates best" if found[top] else "none of them validated; the first"
            others = f", {why} of {len(found)}" if len(found) > 1 else ""
            lines.append(f"- {title}: {tested:.3f} with `{top}`{others}{_beside(top, runs, runs is done)}")
    return "\n".join([f"{where}, on true test labels:", "", *lines])


def _beside(name: str, runs: Mapping[str, list[Run]], on_record: bool) -> str:
    """What the Model I has that a method starts from, or does otherwise; nothing for a Model I."""
    first = before(name)
    found = runs.get(first) or (seeds(first, "honest") if on_record else [])
    return f", where `{first}` has {fmean(map(accuracy, found)):.3f}" if found and first != name else ""
