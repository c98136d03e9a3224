"""Published beside recorded: every experiment of the reports, our runs of it on real data, and a verdict.

A figure of a report comes from book/published.csv, one of ours from a record in results/. Nothing is typed.
"""

import math
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import pandas as pd

from labkit import costs, runs
from labkit.chapters import CHAPTERS
from labkit.costs import CORES, PASSES, Sizes, Work
from labkit.data.names import ANIMALS
from labkit.errors import DataError, nearest
from labkit.recipes import RECIPES
from labkit.runs import Run

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

PUBLISHED, DEFECTS, RESULTS = Path("book/published.csv"), Path("book/defects.toml"), Path("results")
HEADLINES = ("test_accuracy", "valid_accuracy")  # the figure an experiment is judged by, the first it has
AS_MEANT = ("", "-honest")
RAN_AS = {"dual_cifar/accnrr": "dual_cifar/accn_l2"}  # what the report's code built under another name
BEYOND = {  # what is in no report and named after no model: its model and its recipe
    "noisy_cifar/better_teacher": ("whitened", "better_noisy_teacher"),
    "noisy_cifar/better": ("whitened", "better_noisy_student"),
    "dual_cifar/better": ("whitened", "better_dual"),
    "cifar100/better": ("whitened", "better_cifar100"),
    "cifar100/tried_cutmix": ("whitened", "better_cifar100_cutmix"),
}
TRAINED_ON = {"noisy_cifar": 45_000, "animals": 11_453, "dual_cifar": 44_992, "cifar100": 40_000}
CLEANED = 8_100  # images that train report 000's label cleaner
PRETRAINED = ("resnet50v2", "mobilenetv2", "xception", "inception_transfer", "efficientnetv2b0")
LESS = ("epochs", "pairs_per_epoch", "profile")  # options that cut a recipe short, but a full profile
NEARLY = 0.95  # of the most that a run was given is as much: a filter leaves other images with every seed
FIXED_TEST = ("000",)  # reports whose test images are known one by one: as many of ours are the same ones
LUCK = 0.01  # between seeds, at least, where it was not measured: the reports' own reruns differ by that much


@dataclass(frozen=True)
class Defect:
    """Something that a report got wrong."""

    report: str
    number: int
    what: str
    where: str
    found: str
    changed: str
    mended: str
    invalidates: tuple[str, ...] = ()
    because: str = ""

    @property
    def name(self) -> str:
        """The defect's name in text, such as "000-2"."""
        return f"{self.report}-{self.number}"


@dataclass(frozen=True)
class Side:
    """Our runs of one experiment done one way, and what they say of the figure that is judged."""

    metric: str
    runs: tuple[Run, ...]
    usual: float = LUCK  # standard deviation between seeds, where fewer than three of them were run

    @property
    def values(self) -> tuple[float, ...]:
        """The figure of each run that has it."""
        found = (figure(run, self.metric) for run in self.runs)
        return tuple(value for value in found if value is not None)

    @property
    def mean(self) -> float:
        """The mean over seeds; not a number without a run."""
        return sum(self.values) / len(self.values) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation between seeds; not a number for fewer than two."""
        if len(self.values) < 2:
            return math.nan
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))

    @property
    def luck(self) -> float:
        """The standard deviation between seeds; of fewer than three it is taken as at least the usual one."""
        if len(self.values) > 2:
            return self.deviation
        return max(self.usual, self.deviation) if len(self.values) == 2 else self.usual

    @property
    def error(self) -> float:
        """The standard error of the mean over seeds; not a number without a run."""
        return self.luck / math.sqrt(len(self.values)) if self.values else math.nan

    def apart(self, other: "Side") -> float:
        """How far two means over seeds may lie apart by luck alone: three standard errors."""
        return 3 * math.hypot(self.error, other.error)

    @property
    def images(self) -> float:
        """On how many images the figure was measured."""
        part = self.metric.partition("_")[0]
        sets = [run.metrics.get(part) or (run.record["data"].get(part) or {}) for run in self.runs]
        return min((found["n"] for found in sets if "n" in found), default=math.inf)

    def __str__(self) -> str:
        """Mean, spread and number of seeds, as a table shows them."""
        if not self.values:
            return ""
        if len(self.values) == 1:
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} ± {self.deviation:.4f} ({len(self.values)} seeds)"


@dataclass(frozen=True)
class Row:
    """One experiment of a report beside our runs of it: as its code ran, and as its text meant it."""

    chapter: str
    experiment: str
    report: str
    where: str
    metric: str
    published: float
    images: float  # behind the published figure; infinite where the report does not say
    as_run: Side
    as_meant: Side

    @property
    def name(self) -> str:
        """The experiment's name in records and on the command line."""
        return f"{self.chapter}/{self.experiment}"

    @property
    def judged(self) -> Side:
        """What the published figure is held against: the runs as the report ran, where there are any."""
        return self.as_run if self.as_run.values else self.as_meant

    @property
    def difference(self) -> float:
        """How far ours lies above the published figure."""
        return self.judged.mean - self.published

    @property
    def tolerance(self) -> float:
        """Two standard deviations of what luck alone puts between two such figures.

        Luck is in the seed of training, and in the images that were drawn for testing, theirs and ours,
        unless these are the same.
        """
        side = self.judged
        if not side.values:
            return math.nan
        seeds = side.luck**2 + side.error**2
        if self.report in FIXED_TEST and side.images == self.images:
            return 2 * math.sqrt(seeds)
        theirs = self.published * (1 - self.published) / self.images
        ours = side.mean * (1 - side.mean) / side.images
        return 2 * math.sqrt(theirs + ours + seeds)

    @property
    def bits(self) -> str:
        """What is to be said of the runs that are judged, where they computed in fewer bits."""
        return " computing in bfloat16" if self.judged.runs and self.judged.runs[0].in_fewer_bits else ""

    @property
    def verdict(self) -> str:
        """What became of the published figure, in a few words."""
        defect = invalidating(self.name)
        if defect:
            ours = f"; ours{self.bits}" if self.bits else ""
            return f"report invalid: {defect.because} (defect {defect.name}){ours}"
        if not self.judged.values:
            return "not run yet"
        if any(_other_data(run) for run in self.judged.runs):
            return "not comparable: measured on other images than the report's"
        if any(map(_from_random_weights, self.judged.runs)):
            return "not comparable: started from random weights and not from ImageNet's"
        if budget := cut_short(self.judged.runs[0]):
            return f"not comparable: cut short by {budget}"
        bits = f",{self.bits}" if self.bits else ""
        if abs(self.difference) <= self.tolerance:
            return f"reproduced{bits}"
        way = "above" if self.difference > 0 else "below"
        return f"not reproduced: {100 * abs(self.difference):.1f} points {way}{bits}"


def published(chapter: str = "*") -> pd.DataFrame:
    """The reports' figures, one row each."""
    table = pd.read_csv(project() / PUBLISHED, dtype={"report": str})
    return table[[fnmatchcase(name, chapter) for name in table["chapter"]]].reset_index(drop=True)


def defects() -> tuple[Defect, ...]:
    """What the reports got wrong, in their order."""
    with (project() / DEFECTS).open("rb") as stream:
        entries = tomllib.load(stream)["defect"]
    return tuple(Defect(**entry | {"invalidates": tuple(entry.get("invalidates", ()))}) for entry in entries)


def invalidating(name: str) -> Defect | None:
    """The defect by which an experiment's published figure does not measure what it says, if there is one."""
    patterns = ((defect, pattern) for defect in defects() for pattern in defect.invalidates)
    return next((defect for defect, pattern in patterns if fnmatchcase(name, pattern)), None)


def recorded(name: str = "*") -> list[Run]:
    """The committed records on real data whose name matches a shell pattern.

    They come by name, of one name the longest first, of these those in thirty-two bits, then by seed.
    """
    folder = project() / RESULTS
    found = [_loaded(path, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*.json"))]
    real = [run for run in found if fnmatchcase(run.name, name) and is_real(run)]
    most: dict[str, float] = {}
    for run in real:
        most[run.name] = max(most.get(run.name, 0), NEARLY * _given(run))

    def order(run: Run) -> tuple:
        return (run.name, -min(_given(run), most[run.name]), run.in_fewer_bits, run.seed)

    return sorted(real, key=order)


@lru_cache(maxsize=1024)
def _loaded(path: Path, changed: int) -> Run:
    """A record, read once until its file changes: a chapter asks for all of them many times."""
    return runs.load(path)


def is_real(run: Run) -> bool:
    """Whether a run trained on real images and not on drawn ones."""
    return not run.record["data"]["train"]["source"].removeprefix("pairs of ").startswith("synthetic")


def of_the_reader(made: Mapping[str, Run]) -> dict[str, Run]:
    """The runs of an execution that had real images: whoever made them wants to see them, not a record."""
    return {name: run for name, run in made.items() if is_real(run)}


def longest(found: Iterable[Run]) -> list[Run]:
    """Of runs of one experiment those that were given most, in thirty-two bits where there are such."""
    found = list(found)
    most = max(map(_given, found), default=0)
    alike = [run for run in found if _given(run) >= NEARLY * most]
    return [run for run in alike if not run.in_fewer_bits] or alike


def _given(run: Run) -> int:
    """The images that a run could see, over all epochs."""
    return run.record["recipe"]["epochs"] * run.record["data"]["train"]["n"]


def cut_short(run: Run) -> str:
    """The options of a run's command that gave it less than its recipe; empty where it had all of it."""
    words = shlex.split(run.record.get("command") or "")
    given = {name.removeprefix("--").replace("-", "_"): value for name, value in pairwise(words)}
    less = {name: value for name, value in ({"profile": "smoke"} | given).items() if name in LESS}
    return " ".join(f"`--{name} {value}`" for name, value in less.items() if words and value != "full")


def rows(chapter: str) -> list[Row]:
    """Every experiment of a chapter that a report gives a figure for, in the order of the reports."""
    if chapter not in CHAPTERS:
        raise DataError(
            f"There is no chapter {chapter!r}.", expected=", ".join(CHAPTERS), mend=nearest(chapter, CHAPTERS)
        )
    records = recorded(f"{chapter}/*")
    figures = published(chapter)
    figures = figures[figures["report"].str.isdigit()]
    groups = figures.groupby("experiment", sort=False)
    return _with_usual_luck([_row(chapter, experiment, group, records) for experiment, group in groups])


def _with_usual_luck(rows: list[Row]) -> list[Row]:
    """The rows, where few seeds are taken to lie as far apart as the chapter's of three or more.

    Of those run as the report did and those run as meant, the ones that lie further apart count: how runs
    are selected moves figures, too, and it differs between experiments of either kind.
    """
    luck = max(_usual([getattr(row, way) for row in rows]) for way in ("as_run", "as_meant"))
    return [
        replace(row, as_run=replace(row.as_run, usual=luck), as_meant=replace(row.as_meant, usual=luck))
        for row in rows
    ]


def _usual(sides: Iterable[Side]) -> float:
    """The standard deviation between seeds, over the sides with three or more that trained in full."""
    spreads = [side.deviation**2 for side in sides if len(side.values) > 2 and _in_full(side.runs[0])]
    return max(LUCK, math.sqrt(fmean(spreads))) if spreads else LUCK


def _in_full(run: Run) -> bool:
    return run.record["recipe"]["epochs"] > 0 and not cut_short(run)


def row(name: str) -> Row:
    """One experiment by its name, such as "dual_cifar/accn"."""
    chapter, _, experiment = name.partition("/")
    found = {row.experiment: row for row in rows(chapter)}
    if experiment not in found:
        raise DataError(
            f"No report gives a figure for {name!r}.",
            expected=", ".join(found),
            mend=nearest(experiment, found),
        )
    return found[experiment]


def table(chapter: str) -> pd.DataFrame:
    """The scoreboard of a chapter: one row an experiment, empty where nothing was measured."""
    entries = [
        {
            "experiment": row.experiment,
            "report": row.report,
            "metric": row.metric,
            "published": row.published,
            "as run": row.as_run.mean,
            "as meant": row.as_meant.mean,
            "spread": row.judged.deviation,
            "seeds": len(row.judged.values),
            "difference": row.difference,
            "tolerance": row.tolerance,
            "verdict": row.verdict,
        }
        for row in rows(chapter)
    ]
    return pd.DataFrame(entries).set_index("experiment")


def compare(chapter: str, these: Iterable[Run] = ()) -> "Styler":
    """Published, recorded on real data as meant and as run, and here; `these` are the runs just made."""
    made: dict[str, list[Run]] = {}
    for run in these:
        made.setdefault(run.name, []).append(run)
    entries, sizes = [], costs.sizes()
    for row in rows(chapter):
        ways = {"": _names(row.name, AS_MEANT), "as run ": _names_as_run(row.name, row.report)}
        here = {way: [run for name in names for run in made.get(name, ())] for way, names in ways.items()}
        entries.append(
            {
                "experiment": row.experiment + _unusual(row.metric),
                "published": f"{row.published:.4f}",
                "as run": unbroken(row.as_run),
                "as meant": unbroken(row.as_meant),
                "this execution": _here(row.metric, here),
                "verdict": _with_cost(row, sizes).replace("`", ""),
            }
        )
    style = pd.DataFrame(entries).style.hide(axis="index")  # a plain table would cut long texts
    look = [
        {"selector": "th, td", "props": "font-size: 0.82rem; padding: 0.3rem 0.5rem 0.3rem 0.3rem"},
        {"selector": "td:last-child", "props": "min-width: 14em"},  # verdicts are sentences
    ]
    return style.set_uuid(chapter).set_table_styles(look)


def _with_cost(row: Row, sizes: Sizes) -> str:
    """A verdict, and where nothing was run what that would take."""
    needs = outstanding(row, sizes)
    if not needs:
        return row.verdict
    return f"not run yet: {needs}" if row.verdict == "not run yet" else f"{row.verdict}; {needs}"


def outstanding(row: Row, sizes: Sizes) -> str:
    """What an experiment that was not run yet needs; empty where a run is on record."""
    if row.judged.values:
        return ""
    needs = f"needs {cost(row.name, sizes)}"
    return needs if row.verdict == "not run yet" else f"our run {needs}"


def _unusual(metric: str) -> str:
    """What a figure is, where it is not an accuracy on test images."""
    return "" if metric == "test_accuracy" else f" ({metric.replace('_', ' ')})"


def figure(run: Run, metric: str) -> float | None:
    """A headline of a run by its name in book/published.csv; None where the run has none."""
    if metric == "valid_accuracy":
        return run.validated
    part, _, what = metric.partition("_")
    return run.metrics.get(part, {}).get(what)


def cost(name: str, sizes: Sizes | None = None) -> str:
    """What the last stage of an experiment would take by its recipe, as the committed records foretell it.

    `sizes` are those of all models; without them the models are asked, for which Keras is loaded.
    """
    sizes = sizes or costs.sizes()
    needed = work(name, sizes)
    if needed is None:
        return "less than a minute on two cores"
    weights = " and ImageNet weights" if needed.model in PRETRAINED else ""
    return f"{costs.spoken(on_two_cores([needed], sizes))} on two cores{weights}"


def on_two_cores(works: Iterable[Work], sizes: Sizes | None = None) -> float:
    """The seconds that two cores take for experiments, one after another."""
    return costs.seconds(works, 1, costs.speed(CORES, sizes or costs.sizes(), recorded()))


def work(name: str, sizes: Sizes, *, images: int | None = None, epochs: int | None = None) -> Work | None:
    """What an experiment's last stage computes by its recipe, or otherwise as told; None without a model."""
    chapter, _, experiment = name.partition("/")
    named_after = max((known for known in sizes if experiment.startswith(known)), key=len, default=None)
    model, recipe = BEYOND.get(name, (named_after, None))
    if model not in sizes:
        return None
    cleans = experiment.endswith("_cleaner")  # by a classifier that is frozen
    images = images or (CLEANED if cleans else TRAINED_ON[chapter])
    epochs = epochs or (RECIPES[recipe].epochs if recipe else _reported_epochs(name))
    passes = 1 / epochs if costs.once(name) else 1 if cleans else PASSES
    family = "cleaner" if cleans else sizes[model].family
    return Work(name, model, family, sizes[model].macs * passes, images * epochs)


def _reported_epochs(name: str) -> float:
    """The epochs that a report gives for an experiment, or the most that it gives for any of its chapter."""
    chapter, _, experiment = name.partition("/")
    figures = published(chapter)
    reported = figures[figures["metric"] == "epochs"].set_index("experiment")["value"]
    return reported.get(experiment, reported.max())


def project() -> Path:
    """The folder of the project: the working folder, one above it, or the one the package lies in."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[1]):
        if (folder / PUBLISHED).exists():
            return folder
    raise DataError(
        f"{PUBLISHED} was not found in {Path.cwd()} or above it.",
        expected="a folder inside the project",
        mend="start in the folder that the project was cloned to",
    )


def _row(chapter: str, experiment: str, figures: pd.DataFrame, records: list[Run]) -> Row:
    metrics = figures.set_index("metric")
    metric = next(name for name in HEADLINES if name in metrics.index)
    main = metrics.loc[metric]
    name = f"{chapter}/{experiment}"
    as_run, as_meant = (
        Side(metric, tuple(longest([run for run in records if run.name in names])))
        for names in (_names_as_run(name, main["report"]), _names(name, AS_MEANT))
    )
    images = math.inf if math.isnan(main["images"]) else float(main["images"])
    return Row(
        chapter,
        experiment,
        main["report"],
        main["where"],
        metric,
        float(main["value"]),
        images,
        as_run,
        as_meant,
    )


def _names_as_run(name: str, report: str) -> tuple[str, ...]:
    other = (RAN_AS[name],) if name in RAN_AS else ()
    return (*_names(name, ("_as_run", f"-report{report}")), *other)


def _names(name: str, endings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name + ending for ending in endings)


def _other_data(run: Run) -> bool:
    """Report 002's photos cannot be had; a set of other animals says nothing about its figures."""
    classes = run.metrics.get("test", {}).get("classes", ANIMALS)
    return run.chapter == "animals" and set(classes) != set(ANIMALS)


def _from_random_weights(run: Run) -> bool:
    """Whether a network that the reports took from ImageNet was built without such weights."""
    model = run.record["model"]
    return model["name"] in PRETRAINED and not model.get("options", {}).get("weights")


def unbroken(side: Side) -> str:
    """A mean with its spread for a cell of a table: lines may end before the ± and before the seeds alone."""
    text = str(side).replace("± ", "±\N{NO-BREAK SPACE}")
    return text.replace(" seeds", "\N{NO-BREAK SPACE}seeds") or "–"


def _here(metric: str, made: Mapping[str, list[Run]]) -> str:
    """The figures of this execution; those on images that were drawn are marked as such."""
    runs = [(way, run, figure(run, metric)) for way, several in made.items() for run in several]
    found = [(way, run, value) for way, run, value in runs if value is not None]
    drawn = " on drawn images" if found and not any(is_real(run) for _, run, _ in found) else ""
    return ", ".join(f"{way}{value:.4f}" for way, _, value in found) + drawn
