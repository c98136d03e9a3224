"""A first step past the reports: what was aimed at, what the runs reached, and how."""

from statistics import mean

from labkit import chapters, scoreboard
from labkit.book import markdown
from labkit.runs import Run

GOALS = {"noisy_cifar": 0.89, "dual_cifar": 0.82, "cifar100": 0.70}  # set before anything was run
BUDGET = 60  # minutes on two cores
TRIED = {"cifar100/tried_cutmix": "CutMix on top of the shifts"}  # changes of "cifar100/better"
BITS = {"float32": "32 bits", "mixed_bfloat16": "16 bits (bfloat16)"}


def full() -> str:
    """One table over the chapters, in as many bits as were computed in, and the command of every run."""
    header = ("chapter", "goal", "reached", "bits", f"minutes, {BUDGET} meant", "parameters", "images seen")
    lines = [line for chapter in GOALS for line in _lines(chapter)]
    runs = [run for chapter in GOALS for run in _runs(_stages(chapter))]
    return "\n".join([markdown.table(header, lines), *_teachers(), *map(_how, runs)])


def tried() -> str:
    """What changes of the network for a hundred classes did on validation images; none of them was tested."""
    header = ("network and recipe", "validation accuracy", "difference in points", "minutes")
    (base, *_) = trials = [_longest(name) for name in ("cifar100/better", *TRIED)]
    lines = [
        _trial(what, runs, base) for what, runs in zip(("as above", *TRIED.values()), trials, strict=True)
    ]
    hows = [_command(run) for runs in trials[1:] for run in runs]
    return "\n".join([markdown.table(header, lines), *hows])


def _trial(what: str, runs: list[Run], base: list[Run]) -> tuple[str, ...]:
    """One change beside the network as it is, both trained as long."""
    if not runs:
        return (what, "not run yet", "–", "–")
    reached = _validated(runs)
    more = "–" if runs is base or not base else f"{100 * (reached - _validated(base)):+.1f}"
    return (what, f"{reached:.4f}", more, f"{mean(run.seconds for run in runs) / 60:.0f}")


def _longest(name: str) -> list[Run]:
    return scoreboard.longest(scoreboard.recorded(name))


def _validated(runs: list[Run]) -> float:
    """The accuracy on validation images after the last epoch, over seeds."""
    return mean(run.record["history"]["val_accuracy"][-1] for run in runs)


def _stages(chapter: str) -> list[Run]:
    return scoreboard.recorded(f"{chapter}/better*")


def _runs(stages: list[Run]) -> list[Run]:
    """Those of the runs that are the end of their chapter's way."""
    return [run for run in stages if "teacher" not in run.name.split("/")[1]]


def _teachers() -> list[str]:
    """What each teacher reached by itself."""
    teachers = [stage for chapter in GOALS for stage in _stages(chapter) if "teacher" in stage.name]
    says = (
        "A teacher by itself (`{}`, seed {}) reaches {:.4f} on the same images, after {:.0f} of the minutes."
    )
    told = ((run.name, run.seed, run.metrics["test"]["accuracy"], run.seconds / 60) for run in teachers)
    return [f"\n{says.format(*facts)}\n" for facts in told]


def _lines(chapter: str) -> list[tuple[str, ...]]:
    """What a chapter's runs reached, a line for those in 32 bits and one for those in fewer."""
    title = f"[{chapters.CHAPTERS[chapter].title}](../notebooks/{chapter}.ipynb)"
    start = (title, f"{GOALS[chapter]:.2f}")
    alike = {bits: [run for run in _stages(chapter) if _bits(run) == bits] for bits in BITS}
    lines = [(*start, *_reached(bits, stages)) for bits, stages in alike.items() if _runs(stages)]
    return lines or [(*start, "not run yet", "–", "–", "–", "–")]


def _reached(bits: str, stages: list[Run]) -> tuple[str, ...]:
    runs = _runs(stages)
    seen = sum(stage.record["data"]["train"]["n"] * stage.record["recipe"]["epochs"] for stage in stages)
    return (
        str(scoreboard.Side("test_accuracy", tuple(runs))),
        BITS[bits].partition(" ")[0],
        f"{sum(stage.seconds for stage in stages) / len(runs) / 60:.0f}",
        f"{runs[0].record['model']['parameters']['total']:,}",
        f"{seen // len(runs):,}",
    )


def _bits(run: Run) -> str:
    return run.record["recipe"]["precision"]


def _how(run: Run) -> str:
    test = run.metrics["test"]
    return _command(run, f"Tested on {test['n']:,} images of {test['source']}.")


def _command(run: Run, *says: str) -> str:
    title = f"`{run.name}`, seed {run.seed}, in {BITS[_bits(run)]}"
    return markdown.dropdown(title, *says, markdown.code(run.record["command"]))
