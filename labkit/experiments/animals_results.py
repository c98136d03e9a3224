"""What chapter 2 shows of its experiments: tables and pictures made from runs and committed records."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib import pyplot as plt
from PIL import Image

from labkit import models, plots, scoreboard
from labkit.chapters import Settings
from labkit.costs import PASSES, Work, spoken
from labkit.data import ImageSet
from labkit.data.decode import PHOTO_SUFFIXES
from labkit.data.names import ANIMALS
from labkit.experiments.animals import BACKBONES, MODES, SCRATCH, Start, is_check
from labkit.experiments.registry import place
from labkit.models import pixels
from labkit.plots import look
from labkit.runs import Run
from labkit.scoreboard import Side

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

REPORTED_SIZE, REPORTED_CLASSES = 100, 5  # what the report's counts are for
LOOKED_AT = 500  # photo files whose headers are read for their sizes
READER = 2_000  # photos of a reader without a GPU
UNTRIED = "not on record yet"
REPORT = "report 002, its photos"  # the column of the report's figures
FLAT = 20  # layers from which on the picture of a network is wider than high
PRETRAINED = tuple(f"{backbone}_{mode}" for backbone in BACKBONES for mode in MODES)


@dataclass(frozen=True)
class Difference:
    """How far one network's test accuracy lies above another's, in points, and how far luck may carry it.

    The luck is that of two sets of test photos. Both networks are tested on the same, and tend to fail on the
    same of them, so that it is an upper bound. The validation photos have a say beside it.
    """

    points: float
    luck: float
    on_validation: float

    @property
    def clear(self) -> bool:
        """Whether the first is better by more than luck gives, and on validation photos, too."""
        return self.points > self.luck and self.on_validation > 0

    @property
    def told(self) -> str:
        """What both sets of photos say."""
        return f"{self} on test photos, {self.on_validation:+.1f} on validation photos"

    def __str__(self) -> str:
        return f"{self.points:+.1f} ± {self.luck:.1f} points"


def published() -> pd.DataFrame:
    """The report's figures, one row an experiment."""
    return scoreboard.published("animals").pivot(index="experiment", columns="metric", values="value")


def recorded(name: str) -> Side:
    """The committed runs of one experiment on real photos: all seeds of the longest, on one set of photos."""
    found = [run for run in _comparable_records() if run.name == f"animals/{name}"]
    return Side("test_accuracy", tuple(scoreboard.longest(found)))


def _comparable_records() -> list[Run]:
    """The chapter's records that were tested on the photos that most of them were tested on."""
    found = scoreboard.recorded("animals/*")
    tested = Counter(map(_tested_on, found))
    return [run for run in found if _tested_on(run) == max(tested, key=tested.__getitem__)]


def _tested_on(run: Run) -> str | None:
    return run.metrics.get("test", {}).get("fingerprint")


def photo_set(run: Run) -> tuple[str, int]:
    """The photos that a run trained on, and how many."""
    return run.record["data"]["train"]["source"], run.record["data"]["train"]["n"]


def stand_in(run: Run) -> bool:
    """Whether a record comes from other photos than the report's."""
    return set(run.metrics.get("test", {}).get("classes", ANIMALS)) != set(ANIMALS)


def sizes(settings: Settings) -> Any:
    """Widths and heights of the photos before they are made square; a sentence where no file is there."""
    folder, side = Path(place(settings, "animals")).expanduser(), settings.image_size
    if settings.data == "synthetic":
        return Markdown(f"These images are drawn as {side}×{side} pixels, and have no other size.")
    if not folder.is_dir():
        return Markdown(f"These photos were packed; they are read as {side}×{side} pixels.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    chosen = (
        [files[k * len(files) // LOOKED_AT] for k in range(LOOKED_AT)] if len(files) > LOOKED_AT else files
    )
    rows = []
    for path in chosen:
        with Image.open(path) as photo:  # reads the head of the file alone
            rows.append({"width": photo.width, "height": photo.height, "mode": photo.mode})
    found = pd.DataFrame(rows)
    table = found[["width", "height"]].quantile([0, 0.25, 0.5, 0.75, 1]).round().astype(int)
    table.index = ["smallest", "a quarter is below", "median", "a quarter is above", "largest"]
    table["width / height"] = (found["width"] / found["height"]).quantile([0, 0.25, 0.5, 0.75, 1]).to_numpy()
    modes = found["mode"].value_counts()
    said = ", ".join(f"{count:,} {mode}" for mode, count in modes.items())
    return table.round(2).rename_axis(f"{len(found):,} of {len(files):,} files ({said})")


def parts_table(train: ImageSet, valid: ImageSet, test: ImageSet) -> pd.DataFrame:
    """How many photos each part holds, of how many classes, and what the smallest class has."""
    rows = {}
    for name, part in {"training": train, "validation": valid, "test": test}.items():
        counts = part.counts()
        rows[name] = {
            "photos": len(part),
            "classes": int((counts > 0).sum()),
            "smallest class": int(counts.min()),
            "largest class": int(counts.max()),
        }
    return pd.DataFrame(rows).T


def beside(name: str, made: Mapping[str, Run]) -> Markdown:
    """The report's test accuracy, the recorded one and that of this execution, in one line."""
    report, parts = published().loc[name], []
    if pd.notna(report.get("test_accuracy")):
        parts.append(f"**report 002** {report['test_accuracy']:.4f} on its own photos")
    else:
        parts.append("**report 002** not printed")
    meant, as_run = recorded(name), recorded(f"{name}_as_run")
    kind = " on stand-in photos" if any(map(stand_in, meant.runs)) else ""
    parts.append(f"**recorded{kind}** {meant}" if meant.values else UNTRIED)
    if as_run.values:
        parts.append(f"**recorded as the report ran** {as_run}")
    parts.append(f"**this execution** {_here(made.get(name))}")
    return Markdown(f"Test accuracy of `{name}`: " + "; ".join(parts) + ".")


def _here(run: Run | None) -> str:
    if run is None:
        return "not asked for"
    test = run.metrics["test"]
    if is_check(run):
        return f"trained it on {run.record['data']['train']['n']} photos ({test['source']}), as a check"
    return f"{test['accuracy']:.4f} on {test['n']:,} photos, {test['source']}"


def curves(name: str, made: Mapping[str, Run]) -> "Figure | Markdown":
    """Loss and accuracy of the run that `shown` picks; the title says which."""
    found, _ = shown([name], results_only(made))
    if not found:
        done = "was trained on too few photos for a curve" if name in made else "was not trained"
        return Markdown(f"*In this execution `{name}` {done}, and it is {UNTRIED}.*")
    run = found[name]
    which = f"recorded, seed {run.seed}" if run.folder is None else "this execution"
    return plots.loss_and_accuracy(run, name=f"{name} ({which}: {photo_set(run)[0]})")


def picture(name: str, networks: Mapping[str, keras.Model]) -> Any:
    """The layers of a network as boxes, or a sentence where it was not asked for."""
    if name not in networks:
        return Markdown(f"*`{name}` is not among the networks of this execution.*")
    model = networks[name]
    if len(model.layers) > FLAT:
        return plots.model_layers(model)
    _, ax = plt.subplots(figsize=(look.WIDTH, 4), layout="constrained")  # a short network is nearly square
    return plots.model_layers(model, ax=ax)


def scores(names: Iterable[str], made: Mapping[str, Run]) -> pd.DataFrame:
    """Test accuracies on real photos by origin: the report's, the recorded mean, this execution's.

    A column without a figure is left out.
    """
    report, rows = published()["test_accuracy"], {}
    real = scoreboard.of_the_reader(results_only(made))
    for name in names:
        here = real.get(name)
        rows[name] = {
            REPORT: report.get(name, math.nan),
            "recorded": recorded(name).mean,
            "recorded as run": recorded(f"{name}_as_run").mean,
            "this execution": here.metrics["test"]["accuracy"] if here else math.nan,
        }
    return pd.DataFrame(rows).T.dropna(axis="columns", how="all").dropna(how="all")


def shown(names: Iterable[str], made: Mapping[str, Run]) -> tuple[dict[str, Run], str]:
    """Runs of this execution if it had real photos, else recorded ones, the first seed of each name."""
    names = tuple(names)
    here = {name: made[name] for name in names if name in made}
    if mine := scoreboard.of_the_reader(results_only(here)):
        return mine, "this execution"
    found = {name: side.runs[0] for name in names if (side := recorded(name)).runs}
    if found:
        return found, f"recorded runs on real photos, {', '.join(found)}"
    return here, "this execution, since none of them is on record yet"


def by_size(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Parameters, training and test accuracy of runs, for a plot of their gap."""
    rows = {
        name: {
            "parameters": run.record["model"]["parameters"]["total"],
            "accuracy": run.kept("accuracy"),
            "test_accuracy": run.metrics["test"]["accuracy"],
        }
        for name, run in runs.items()
        if run.epochs
    }
    return pd.DataFrame(rows, index=["parameters", "accuracy", "test_accuracy"]).T


def reported_by_size() -> pd.DataFrame:
    """The same of the report's own figures, where it prints them."""
    figures = published().loc[list(SCRATCH)]
    table = figures.rename(columns={"train_accuracy": "accuracy"})[["accuracy", "test_accuracy"]]
    return table.assign(parameters=[_reported_size(name).total for name in table.index]).dropna()


def _reported_size(name: str) -> models.Counts:
    """The size of a network from scratch as the report's code built it."""
    forms = models.card(name).forms
    return next((form for form in forms if form.options.get("as_run")), forms[0]).counts


def from_scratch(made: Mapping[str, Run], networks: Mapping[str, keras.Model]) -> "Styler":
    """The networks of the report: size and cost as built here, and test accuracies on real photos."""
    found, rows = scores(SCRATCH, made), []
    for name in SCRATCH:
        model = networks.get(name)
        cells = found.loc[name].dropna() if name in found.index else {}
        figures = {column: f"{value:.4f}" for column, value in cells.items()}
        rows.append(
            {
                "network": name,
                "parameters": f"{models.counts(model).total:,}" if model else "–",
                "in the report": f"{_reported_size(name).total:,}",
                "million MACs": f"{models.macs(model) / 1e6:,.0f}" if model else "–",
            }
            | {column: figures.get(column, "–") for column in found}
        )
    return _listed(rows, "scratch")


def _listed(rows: list[dict[str, Any]], name: str) -> "Styler":
    """Rows as a table that shows long texts in full."""
    return pd.DataFrame(rows).style.hide(axis="index").set_uuid(f"animals-{name}")


def printed_counts(backbone: str) -> dict[str, int]:
    """The trainable parameters that the report prints, by mode: of the models as its code built them."""
    return trainable_counts(backbone, as_run=True)


def trainable_counts(backbone: str, *, as_run: bool) -> dict[str, int]:
    """The trainable parameters by mode for the report's photos, as its code ran or as its text meant it."""
    forms = [form for form in models.card(backbone).forms if form.options.get("as_run", False) == as_run]
    freezes = {form.options.get("freeze", "all"): form for form in forms}
    return {mode: freezes[freeze].trainable for mode, freeze in MODES.items()}


def counts_table(starts: Mapping[str, Start], modes: Iterable[str]) -> pd.DataFrame:
    """Trainable parameters of every backbone and mode, as built here and as the report prints them."""
    rows = []
    for backbone, start in starts.items():
        built, printed = start.trainable(), printed_counts(backbone)
        for mode in modes:
            agrees = "equal" if built[mode] == printed[mode] else "differs"
            rows.append(
                {
                    "network": backbone,
                    "mode": mode,
                    "all": f"{models.counts(start.model).total:,}",
                    "trained": f"{built[mode]:,}",
                    "printed in the report": f"{printed[mode]:,}",
                    "": agrees if comparable(start) else "other size",
                }
            )
    columns = ["network", "mode", "all", "trained", "printed in the report", ""]
    return pd.DataFrame(rows, columns=columns).set_index(["network", "mode"])


def comparable(start: Start) -> bool:
    """Whether a network has the report's image size and number of classes, on which its head depends."""
    shape = start.model.input_shape[1:]
    return shape == (REPORTED_SIZE, REPORTED_SIZE, 3) and start.model.output_shape[-1] == REPORTED_CLASSES


def last_ten(starts: Mapping[str, Start]) -> "Styler":
    """Which reading of "the last ten layers" gives the printed count, in the backbone without its head.

    Without the head the numbers are the same for photos of any size and any number of classes.
    """
    rows = []
    for backbone, start in starts.items():
        built, printed = start.trainable(), printed_counts(backbone)
        wanted = printed["partial"] - printed["transfer"]
        tops = start.top_counts() - built["transfer"]
        rows.append(
            {
                "backbone": backbone,
                "last ten trained": f"{built['partial'] - built['transfer']:,}",
                "last ten frozen": f"{built['finetune'] - built['partial']:,}",
                "printed": f"{wanted:,}",
                "layers": len(tops) - 1,
                "numbers of last layers whose training gives the printed count": int((tops == wanted).sum()),
            }
        )
    return _listed(rows, "last-ten")


def pretrained_table(made: Mapping[str, Run]) -> pd.DataFrame:
    """Test accuracies of the pretrained networks and the report's own, named with what they train."""
    real = results_only(made)
    table = scores((*SCRATCH, *PRETRAINED), real if any(name in real for name in PRETRAINED) else {})
    ours = table.drop(columns=REPORT, errors="ignore").notna().any(axis=1)
    return table.set_axis([_with_size(name, ours=ours[name]) for name in table.index])


def _with_size(name: str, *, ours: bool) -> str:
    """An experiment's name with the millions that the report trained, and ours where they stand beside it."""
    report, meant = (f"{_trained(name, as_run=as_run) / 1e6:.1f} M" for as_run in (True, False))
    return f"{name}, {report}" + (f" (as meant {meant})" if ours and meant != report else "")


def _trained(name: str, *, as_run: bool) -> int:
    """How many parameters an experiment trains at the report's size, as its code ran or as it was meant."""
    backbone, _, mode = name.partition("_")
    if name in SCRATCH:
        return (_reported_size(name) if as_run else models.card(name).counts).trainable
    return trainable_counts(backbone, as_run=as_run)[mode]


def results_only(made: Mapping[str, Run]) -> dict[str, Run]:
    """The runs that are results: not those of networks that were only shown to train."""
    return {name: run for name, run in made.items() if not is_check(run)}


def untouched(name: str, networks: Mapping[str, keras.Model]) -> pd.DataFrame:
    """Parameters in weights that training has left as they were, in a network as meant and as run."""
    rows = {}
    for says, key in {"as meant": name, "as run": f"{name}_as_run"}.items():
        if key in networks:
            count, total = _unmoved(networks[key])
            rows[says] = {
                "trainable": f"{total:,}",
                "never moved": f"{count:,}",
                "share": f"{100 * count / total:.1f} %",
            }
    return pd.DataFrame(rows, index=["trainable", "never moved", "share"]).T


def _unmoved(model: keras.Model) -> tuple[int, int]:
    """Parameters of trainable weights that equal their initial ones, and of all trainable weights."""
    built = models.spec(model)
    options = {"input_shape": tuple(built["input_shape"]), "classes": built["classes"], "seed": built["seed"]}
    before = models.build(built["name"], **options, **built["options"]).trainable_weights
    pairs = zip(before, model.trainable_weights, strict=True)
    still = [math.prod(new.shape) for old, new in pairs if np.array_equal(_array(old), _array(new))]
    return sum(still), models.counts(model).trainable


def _array(values: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(values)


def noise(settings: Settings, networks: Mapping[str, keras.Model]) -> pd.DataFrame:
    """What the noise of `resnet_aug` does to a grey photo, in steps of 0 to 255."""
    rows, rng = {}, np.random.default_rng(settings.seed)
    for says, key in {"as meant": "resnet_aug", "as run": "resnet_aug_as_run"}.items():
        model = networks.get(key) or models.build("resnet_aug", as_run=says == "as run")
        order = [layer.name for layer in model.layers]
        scaled = order.index("rescale") < order.index("noise")
        level = model.get_layer("noise").stddev * (255 if scaled else 1)
        moved = np.rint(128 + rng.normal(0, level, 100_000)) != 128
        rows[says] = {"deviation in grey levels": level, "share of pixels changed": moved.mean()}
    return pd.DataFrame(rows).T.round(3)


def augmented(model: keras.Model, photo: np.ndarray, times: int) -> np.ndarray:
    """What `resnet_aug` gets to see of one photo, so many times, as pixels 0-255."""
    inside = keras.Model(model.inputs, model.get_layer("noise").output)
    return 255 * _array(inside([np.repeat(photo[None], times, axis=0)], training=True))


def ranges(photos: ImageSet) -> pd.DataFrame:
    """In what range pixels reach a backbone, as it expects them and as the report gave them."""
    some = photos.images[:64]
    rows = {}
    for says, values in {"as meant": pixels.signed(some), "as run": pixels.unit(some)}.items():
        found = _array(values)
        rows[says] = {
            "lowest": found.min(),
            "mean": found.mean(),
            "highest": found.max(),
            "deviation": found.std(),
        }
    return pd.DataFrame(rows).T.round(2)


def best_and_last(made: Mapping[str, Run]) -> pd.DataFrame:
    """Validation accuracy in the best epoch, whose weights were saved, and in the last, whose were tested."""
    found = {}
    for name in SCRATCH:
        found |= _every_run((f"{name}_as_run", name), made)
    return pd.DataFrame({says: _best_and_last(run) for says, run in found.items()}).T


def _best_and_last(run: Run) -> dict[str, str]:
    table = run.history.set_index("epoch")
    best, last = table.loc[table["val_loss"].idxmin()], table.iloc[-1]
    return {
        "best epoch": f"{best.name}",
        "last epoch": f"{last.name}",
        "validation, best": f"{best['val_accuracy']:.4f}",
        "validation, last": f"{last['val_accuracy']:.4f}",
        "points lost": f"{100 * (best['val_accuracy'] - last['val_accuracy']):+.1f}",
        "loss, best": f"{best['val_loss']:.3f}",
        "loss, last": f"{last['val_loss']:.3f}",
    }


def _every_run(names: Iterable[str], made: Mapping[str, Run]) -> dict[str, Run]:
    """All runs of the first name that has any: the reader's on real photos, else recorded, else made here."""

    def here(runs: Mapping[str, Run]) -> list[dict[str, Run]]:
        return [{f"{name}, here": runs[name]} for name in names if name in runs]

    kept = [{f"{name}, seed {run.seed}": run for run in recorded(name).runs} for name in names]
    mine = scoreboard.of_the_reader(results_only(made))
    return next(filter(None, [*here(mine), *kept, *here(made)]), {})


def validation_and_test() -> pd.DataFrame:
    """The report's best validation accuracy beside its test accuracy, where it prints both."""
    both = published()[["valid_accuracy", "test_accuracy"]].dropna()
    both = both.reindex([name for name in (*SCRATCH, *PRETRAINED) if name in both.index])
    both.columns, both.index.name = ["validation", "test"], None
    return both.assign(difference=both["test"] - both["validation"])


def recorded_validation_and_test() -> pd.DataFrame:
    """Validation accuracy of the weights that were scored beside their test accuracy, means over seeds."""
    rows = {}
    for name in (*SCRATCH, *PRETRAINED):
        for key in (name, f"{name}_as_run"):
            side = recorded(key)
            if side.values:
                valid = mean(run.validated for run in side.runs)
                rows[key] = {
                    "seeds": f"{len(side.values)}",
                    "validation": f"{valid:.4f}",
                    "test": f"{side.mean:.4f}",
                    "points higher in the test": f"{100 * (side.mean - valid):+.1f}",
                }
    return pd.DataFrame(rows, index=["seeds", "validation", "test", "points higher in the test"]).T


def as_run_beside(made: Mapping[str, Run]) -> pd.DataFrame:
    """Test accuracies of networks as meant and as the report's code ran, recorded and of this execution."""
    rows = {}
    for name in (*SCRATCH, *PRETRAINED):
        sides = recorded(name), recorded(f"{name}_as_run")
        here = [
            made[key].metrics["test"]["accuracy"] if key in made else None for key in (name, f"{name}_as_run")
        ]
        if not any(side.values for side in sides) and None in here:
            continue
        apart = difference(*sides)
        rows[name] = {
            "recorded as meant": str(sides[0]) or UNTRIED,
            "recorded as run": str(sides[1]) or UNTRIED,
            "meant − run": str(apart) if apart else "–",
            "here as meant": "–" if here[0] is None else f"{here[0]:.4f}",
            "here as run": "–" if here[1] is None else f"{here[1]:.4f}",
        }
    return pd.DataFrame(rows).T


def difference(better: Side, worse: Side) -> Difference | None:
    """How far one side's mean lies above another's; None where one of them has no run."""
    if not better.values or not worse.values:
        return None
    variance = 0.0
    for side in (better, worse):
        variance += side.mean * (1 - side.mean) / side.images + side.error**2
    ahead, behind = (mean(run.validated for run in side.runs) for side in (better, worse))
    return Difference(
        100 * (better.mean - worse.mean), 200 * math.sqrt(variance), on_validation=100 * (ahead - behind)
    )


def for_the_reader(photos: int = READER) -> "Styler":
    """What the ways to a classifier cost on two cores with so many photos, and what they scored."""
    names = ("simple", "mid", "resnet_aug", *(f"{backbone}_transfer" for backbone in BACKBONES))
    return _listed([_way(name, photos) for name in names], "reader")


def _way(name: str, photos: int) -> dict[str, str]:
    figures, side = published().loc[name], recorded(name)
    model = name.removesuffix("_transfer")
    frozen = model in BACKBONES  # its layers see each photo once; then each epoch trains the head alone
    features = on_two_cores(model, models.card(model).macs, photos)
    a_photo = printed_counts(model)["transfer"] if frozen else models.card(model).macs
    foretold = on_two_cores(model, a_photo * PASSES, photos * figures["epochs"])
    measured = _recorded_seconds(side, photos)
    return {
        "way": f"{model}, frozen" if frozen else f"{model} from scratch",
        "features, once": f"{spoken(features)}, foretold" if frozen else "–",
        "each training": f"{spoken(foretold)}, foretold"
        if measured is None
        else f"{spoken(measured)}, recorded",
        f"report 002, from {scoreboard.TRAINED_ON['animals']:,} photos": f"{figures['test_accuracy']:.4f}",
        "recorded here": f"{side}, from {photo_set(side.runs[0])[1]:,} photos" if side.values else UNTRIED,
    }


def on_two_cores(model: str, macs: float, images: float) -> float:
    """The seconds that two cores take for so many images of so many multiply-adds, as records foretell it."""
    return scoreboard.on_two_cores([Work("", model, models.card(model).family, macs, images)])


def _recorded_seconds(side: Side, photos: int) -> float | None:
    """What the epochs take on two cores for so many photos, each as fast as the fastest; None: no record."""
    machines = ((run, run.record["hardware"]) for run in side.runs)
    slow = [run for run, machine in machines if machine["gpu"] is None and machine["cores"] == 2]
    times = [run.fastest_epoch * run.epochs / photo_set(run)[1] for run in slow]
    return photos * median(times) if times else None


def final(made: Mapping[str, Run]) -> Run:
    """The run that validates best: of the reader's on real photos, else of the recorded, else made here."""
    mine = scoreboard.of_the_reader(results_only(made))
    kept = [run for name in (*SCRATCH, *PRETRAINED) for run in recorded(name).runs]
    here = results_only(made) or {name: run for name, run in made.items() if "test" in run.metrics}
    return max(mine.values() or kept or here.values(), key=lambda run: run.validated)


def graph(name: str, networks: Mapping[str, keras.Model]) -> Any:
    """The graph of a network, or a sentence where it was not asked for."""
    if name not in networks:
        return Markdown(f"*`{name}` is not among the networks of this execution.*")
    return plots.model_graph(networks[name])


def best_here(networks: Mapping[str, keras.Model], made: Mapping[str, Run]) -> str | None:
    """The network of this execution that validates best among those trained from scratch as meant."""
    names = [name for name in SCRATCH if name in networks and name in results_only(made)]
    return max(names, key=lambda name: made[name].validated, default=None)
