"""What chapter 1 says of its figures: sentences whose numbers come from records, or from its own runs."""

import math
from collections.abc import Iterable

import pandas as pd

from labkit import chapters, scoreboard
from labkit.chapters import Settings
from labkit.experiments import noisy_cifar as lab
from labkit.experiments.noisy_cifar_results import Runs, accuracy, in_earnest, real_noise, recorded, worth
from labkit.labels import Transition

LIMITS = {"smoke": "a minute on two cores, beyond starting up", "quick": "half an hour on a laptop"}
_SHOWS = {
    "smoke": "that everything runs: two small networks learn a little, the others take a few steps",
    "quick": "the order of the methods: small networks train for some epochs, deep ones on few images",
}
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
REPORT000_VALIDATION = 4_500  # of the course's images, with labels as given
HONEST_VALIDATION = 1_000  # with true ones


def profiles() -> str:
    """What each profile shows, how long that takes, and the command that runs it, as a list."""
    done = recorded(lab.EXPERIMENTS, "honest")
    scores = [accuracy(run) for run in done.values() if "test" in run.metrics]
    hours = sum(run.seconds for run in done.values()) / 3600
    rows = [(name, f"meant to stay within {LIMITS[name]}", shows) for name, shows in _SHOWS.items()]
    time = f"{hours:.1f} h for the {len(done)} runs on record" if done else "not measured yet"
    expect = f"test accuracies from {min(scores):.2f} to {max(scores):.2f}" if scores else "no record yet"
    rows.append(("full", time, f"the recipes of the reports; {expect}"))
    return "\n".join(
        f"- **{name}** ({time}): {shows}\n  ```bash\n  {chapters.command('noisy_cifar', _asked(name))}\n  ```"
        for name, time, shows in rows
    )


def _asked(profile: str) -> dict[str, str]:
    return {"profile": profile} | ({} if profile == "smoke" else {"data": "noisy_cifar"})


def missing(names: Iterable[str], protocol: str) -> str:
    """A sentence about the experiments that have no record yet, and what they would take."""
    names = list(names)
    found = recorded(names, protocol)
    left = [f"`{name}` ({scoreboard.cost(f'noisy_cifar/{name}')})" for name in names if name not in found]
    if not left:
        return f"All of them have a record under the protocol `{protocol}`."
    return f"Without a record under the protocol `{protocol}` yet: {', '.join(left)}."


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
    return " ".join(lines)


def arithmetic(table: pd.DataFrame, source: str) -> str:
    """What the table of agreement shows, in words."""
    table = table.dropna()
    if not len(table):
        return f"Nothing to compare in {source}."
    off = (table["test, given labels"] - table["expected of it"]).abs().max()
    top = table["test, true labels"].idxmax()
    hearts = table["by heart"].idxmax()
    by_true, by_given = table["test, true labels"][top], table["test, given labels"][top]
    return (
        f"The table comes from {source}. `{top}` names the true class of {by_true:.3f} of the test images, "
        f"and the given label of {by_given:.3f} of them; over all networks the arithmetic is off by at most "
        f"{off:.3f}. The last column says how much oftener a network names the given label of an image that "
        f"it has trained on: that part it has learnt by heart. It is largest for `{hearts}`, "
        f"{table['by heart'][hearts]:+.3f}."
    )


def judged(table: pd.DataFrame, here: Transition, source: str) -> str:
    """What the table of corrections shows, in words."""
    table = table.dropna()
    if not len(table):
        return "No method that touches labels was run."
    real = real_noise() if source.startswith("records") else None
    before = (real or here).rate
    left, kept = table["residual noise"], table["kept"]
    least, most = left.idxmin(), kept.idxmax()
    return (
        f"The table comes from {source}. Before any correction {before:.1%} of the labels are wrong. The "
        f"least noise is left by `{least}`, {left[least]:.1%}, with {kept[least]:.0%} of the labels kept; "
        f"most labels are left by `{most}`, {kept[most]:.0%}, of which {left[most]:.1%} are wrong. Dropping "
        "labels and changing them are different trades: a method that changes labels keeps every image, "
        "right or wrong."
    )


def leaked(name: str) -> str:
    """What the leak is worth on the course's data, in words, or which record is missing."""
    published = scoreboard.row(f"noisy_cifar/{name}").published
    as_run, honest = (recorded([name], split).get(name) for split in ("report000", "honest"))
    first = f"Report 000 prints {published:.4f} for `{name}`."
    if as_run is None or honest is None:
        absent = [key for key, run in (("report000", as_run), ("honest", honest)) if run is None]
        under = " and ".join(f"`{protocol}`" for protocol in absent)
        return f"{first} On the course's data there is no record of it yet under the protocol {under}."
    difference = accuracy(as_run) - accuracy(honest)
    words = (
        f"{first} On the course's data, run as the report did, it scores {accuracy(as_run):.4f} here, and "
        f"{accuracy(honest):.4f} with the images kept apart: {100 * difference:.1f} points of difference."
    )
    if "unseen" not in as_run.metrics:
        return words
    unseen = accuracy(as_run, "unseen")
    return (
        f"{words} Of images that it had never seen in any form, the leaky model names {unseen:.4f}: "
        f"{100 * (accuracy(as_run) - unseen):.1f} points of its test accuracy come from having seen the "
        "answers."
    )


def validated(here: Transition) -> str:
    """What validation on given labels is worth in true ones, in words."""
    rate = (real_noise() or here).rate
    score = scoreboard.row("noisy_cifar/vgg").published
    true = worth(REPORT000_VALIDATION, rate, score, 10)
    return (
        f"At the published accuracy of the VGG, {score:.4f}, and with {rate:.1%} of the labels wrong, the "
        f"{REPORT000_VALIDATION:,} labels that report 000 validates on tell as much as {true:,.0f} true ones "
        f"would. The protocol `honest` sets {HONEST_VALIDATION:,} true labels aside for this."
    )


def summary(settings: Settings, here: Runs) -> str:
    """The best of each kind of method: from records on real data where there are any, else from here."""
    done = recorded(lab.EXPERIMENTS, "honest")
    runs = in_earnest({name: run for name, run in (done or here).items() if "test" in run.metrics})
    place = (
        "On the course's data, by the honest protocol"
        if done
        else f"In this execution ({settings.data} data)"
    )
    lines = []
    for title, names in FAMILIES.items():
        found = {name: accuracy(runs[name]) for name in names if name in runs}
        if found:
            top = max(found, key=found.__getitem__)
            others = f", the best of {len(found)}" if len(found) > 1 else ""
            lines.append(f"- {title}: {found[top]:.3f} with `{top}`{others}")
    return "\n".join([f"{place}, on true test labels:", "", *lines])
