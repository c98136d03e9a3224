"""A first step past the reports: what was aimed at, what the runs reached, and how."""

import math

from labkit import chapters, evaluation, scoreboard
from labkit.book import markdown
from labkit.runs import Run

GOALS = {"noisy_cifar": 0.89, "dual_cifar": 0.82, "cifar100": 0.70}  # set before anything was run
BUDGET = 60  # minutes on two cores
TRIED = {"cifar100/tried_cutmix": "CutMix on top of the shifts"}  # changes of "cifar100/better"
BITS = {"float32": "32 bits", "mixed_bfloat16": "16 bits (bfloat16)"}


def full() -> str:
    """One table over the chapters, and the command of every run."""
    header = ("chapter", "goal", "reached", f"minutes, {BUDGET} meant", "parameters", "images seen")
    lines = [_line(chapter, _runs(chapter)) for chapter in GOALS]
    runs = [run for chapter in GOALS for run in _runs(chapter)]
    return "\n".join([markdown.table(header, lines), *_teachers(), *map(_how, runs)])


def tried() -> str:
    """What changes of the network for a hundred classes did on validation images; none of them was tested."""
    header = ("network and recipe", "validation accuracy", "points more", "minutes")
    names = {"cifar100/better": "as above", **TRIED}
    lines = [_trial(name, what) for name, what in names.items()]
    hows = [_command(run) for name in TRIED for run in scoreboard.recorded(name)]
    return "\n".join([markdown.table(header, lines), *hows])


def _trial(name: str, what: str) -> tuple[str, ...]:
    """One change beside the network as it is, both trained as long."""
    found = scoreboard.recorded(name)
    if not found:
        return (what, "not run yet", "–", "–")
    reached = _validated(name)
    gain = reached - _validated("cifar100/better")
    more = "–" if name == "cifar100/better" or math.isnan(gain) else f"{100 * gain:+.1f}"
    minutes = sum(run.seconds for run in found) / len(found) / 60
    return (what, f"{reached:.4f}", more, f"{minutes:.0f}")


def _validated(name: str) -> float:
    """The accuracy on validation images after the last epoch, over seeds; not a number without a run."""
    found = [run.record["history"]["val_accuracy"][-1] for run in scoreboard.recorded(name)]
    return sum(found) / len(found) if found else math.nan


def _stages(chapter: str) -> list[Run]:
    return scoreboard.recorded(f"{chapter}/better*")


def _runs(chapter: str) -> list[Run]:
    return [run for run in _stages(chapter) if "teacher" not in run.name.split("/")[1]]


def _teachers() -> list[str]:
    """What each teacher reached by itself."""
    teachers = [stage for chapter in GOALS for stage in _stages(chapter) if "teacher" in stage.name]
    says = (
        "A teacher by itself (`{}`, seed {}) reaches {:.4f} on the same images, after {:.0f} of the minutes."
    )
    told = ((run.name, run.seed, run.metrics["test"]["accuracy"], run.seconds / 60) for run in teachers)
    return [f"\n{says.format(*facts)}\n" for facts in told]


def _line(chapter: str, runs: list[Run]) -> tuple[str, ...]:
    link = f"[{chapters.CHAPTERS[chapter].title}](../notebooks/{chapter}.ipynb)"
    goal = f"{GOALS[chapter]:.2f}"
    if not runs:
        return (link, goal, "not run yet", "–", "–", "–")
    reached = evaluation.spread([run.metrics["test"]["accuracy"] for run in runs])
    stages = [stage.record for stage in _stages(chapter)]
    seen = sum(stage["data"]["train"]["n"] * stage["recipe"]["epochs"] for stage in stages)
    return (
        link,
        goal,
        str(reached),
        f"{sum(stage['seconds'] for stage in stages) / len(runs) / 60:.0f}",
        f"{runs[0].record['model']['parameters']['total']:,}",
        f"{seen // len(runs):,}",
    )


def _how(run: Run) -> str:
    test = run.metrics["test"]
    return _command(run, f"Tested on {test['n']:,} images of {test['source']}. ")


def _command(run: Run, tested: str = "") -> str:
    says = f"{tested}Computed in {BITS[run.record['recipe']['precision']]}."
    return markdown.dropdown(f"`{run.name}`, seed {run.seed}", says, markdown.code(run.record["command"]))
