"""What each chapter may be asked: its parameters, its three profiles, and the refusal of everything else."""

import ast
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from labkit.errors import ParameterError, nearest
from labkit.recipes import PRECISIONS

PROFILES = ("smoke", "quick", "full")
DEFAULT_RUNS = "_build/runs"
ALL = "all"


@dataclass(frozen=True)
class Parameter:
    """One thing that a reader may change in a chapter."""

    name: str
    type: str
    default: Any
    allowed: tuple[str, ...] | str
    meaning: str
    read: Callable[[Any], Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Profile:
    """How much of the data a profile uses, for how long; None leaves it to the data and the recipe."""

    n: int | None = None
    epochs: int | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Chapter:
    """One notebook: its title, its models, its own parameters, and what the profiles mean in it."""

    name: str
    title: str
    models: tuple[str, ...]
    own: tuple[Parameter, ...]
    profiles: Mapping[str, Profile]
    never: Mapping[str, str] = field(default_factory=dict)  # values of `data` that it cannot have, and why


@dataclass(frozen=True)
class Settings:
    """The checked parameters of one execution, and what its profile decides."""

    chapter: str
    profile: str
    data: str
    seed: int
    models: tuple[str, ...]
    runs: Path
    n: int | None
    epochs: int | None
    asked_epochs: int | None  # the reader's own; None leaves them to the profile
    batch: int | None
    precision: str
    own: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        """A parameter that only this chapter has; a misspelt one is an error that names the nearest."""
        own = self.__dict__.get("own", {})  # absent while a copy or a pickle is being rebuilt
        if name in own:
            return own[name]
        hint = None if name.startswith("_") else nearest(name, (*self.__dict__, *own))
        raise AttributeError(f"the settings have no {name!r}. {hint or ''}".strip())

    def apply(self, recipe: Any) -> Any:
        """The recipe with this execution's seed and precision, and the epochs and batch that are decided."""
        changes = {"epochs": self.epochs, "batch_size": self.batch}
        changes |= {"seed": self.seed, "precision": self.precision}
        return recipe.but(**{name: value for name, value in changes.items() if value is not None})


def parameters(chapter: str) -> tuple[Parameter, ...]:
    """Every parameter of a chapter, the common ones first."""
    found = _chapter(chapter)
    return (*_common(found), *found.own)


def settings(chapter: str, namespace: Mapping[str, Any]) -> Settings:
    """Check the parameters in a notebook's globals and return them, or raise before any work starts."""
    known = [parameter.name for parameter in parameters(chapter)]
    _refuse_unknown(chapter, known, _assigned(namespace))
    for name in known:
        _refuse_module(name, namespace.get(name))
    return checked(chapter, {name: namespace[name] for name in known if name in namespace})


def checked(chapter: str, given: Mapping[str, Any], *, beside: Iterable[str] = ()) -> Settings:
    """Check parameters given by name, and add the defaults of the others.

    `beside` names what the caller takes besides them, for whom a misspelt name may have been meant.
    """
    known = {parameter.name: parameter for parameter in parameters(chapter)}
    _refuse_unknown(chapter, (*known, *beside), given)
    values = {name: known[name].read(given.get(name, known[name].default)) for name in known}
    found = _chapter(chapter)
    profile = found.profiles[values["profile"]]
    return Settings(
        chapter=chapter,
        profile=values["profile"],
        data=values["data"],
        seed=values["seed"],
        models=values["models"],
        runs=_runs_folder(chapter, values["runs"]),
        n=profile.n,
        epochs=values["epochs"] or profile.epochs,
        asked_epochs=values["epochs"],
        batch=profile.batch,
        precision=values["precision"],
        own={parameter.name: values[parameter.name] for parameter in found.own},
    )


def command(chapter: str, values: Mapping[str, Any]) -> str:
    """The papermill command that runs a chapter with these parameters."""
    known = {parameter.name: parameter for parameter in parameters(chapter)}
    _refuse_unknown(chapter, known, values)
    given = {name: value for name, value in values.items() if value != known[name].default}
    options = "".join(f" -p {name} {shlex.quote(spell(value))}" for name, value in given.items())
    return f".venv/bin/papermill notebooks/{chapter}.ipynb {chapter}.out.ipynb{options}"


def options(words: list[str]) -> dict[str, Any]:
    """Parameters as they stand on a command line: `--seed 3 --data FOLDER`."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return {name.removeprefix("--").replace("-", "_"): typed(value) for name, value in pairs}


def typed(text: str) -> Any:
    """A value as it is typed: a number or None where it reads as one, else the text itself."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return value if isinstance(value, int | float | None) else text


def spell(value: Any) -> str:
    """A value as a command line has it."""
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return "/".join("".join(map(str, group)) for group in value) if nested else ",".join(map(str, value))
    return str(value)


def _chapter(name: str) -> Chapter:
    if name not in CHAPTERS:
        raise ParameterError(
            f"there is no chapter {name!r}.",
            expected=", ".join(CHAPTERS),
            mend=nearest(name, CHAPTERS),
        )
    return CHAPTERS[name]


def _refuse_unknown(chapter: str, known: Iterable[str], given: Iterable[str]) -> None:
    """Refuse parameters that a chapter does not have, and name the nearest that it has."""
    unknown = sorted(set(given) - set(known))
    if not unknown:
        return
    hints = [nearest(name, known) or f"Leave {name!r} out." for name in unknown]
    raise ParameterError(
        f"the chapter {chapter!r} has no parameter {', '.join(map(repr, unknown))}.",
        expected="one of " + ", ".join(known),
        mend=" ".join(hints),
    )


def _refuse_module(name: str, value: Any) -> None:
    """The chapters import modules called data, models and runs further down, over the parameters."""
    if isinstance(value, ModuleType):
        raise ParameterError(
            f"the name {name!r} holds a module and no parameter any more.",
            mend="Run the cell that sets the parameters again, then this one.",
        )


def _assigned(namespace: Mapping[str, Any]) -> set[str]:
    """Names that the parameter cells set: papermill injects an unknown name there as readily as a known one.

    In a notebook these are the cells of plain assignments run just before the call, so that a chapter may be
    run again in a kernel that already holds its results. Outside one, every public plain value counts.
    """
    cells = namespace.get("In")
    if cells is None:
        plain = (str, int, float, list, tuple, dict, type(None))
        return {
            name for name, value in namespace.items() if not name.startswith("_") and isinstance(value, plain)
        }
    names: set[str] = set()
    for source in reversed(cells[1:-1]):
        found = _plain_assignments(source)
        if found is None:
            break
        names |= found
    return names


def _plain_assignments(source: str) -> set[str] | None:
    """Names that a cell sets when it does nothing but set names to literals; None for any other cell."""
    names = set()
    try:
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                continue
            ast.literal_eval(statement.value)
            names |= {target.id for target in statement.targets}
    except (SyntaxError, ValueError, AttributeError):
        return None
    return names


def _runs_folder(chapter: str, runs: str) -> Path:
    """By default $LABKIT_RUNS, or the project's folder, wherever in the project the kernel started."""
    if runs == DEFAULT_RUNS and (kept := os.environ.get("LABKIT_RUNS")):
        return Path(kept).expanduser()
    if runs == DEFAULT_RUNS:
        for folder in (Path.cwd(), *Path.cwd().parents):
            if (folder / "notebooks" / f"{chapter}.ipynb").exists():
                return folder / runs
    return Path(runs).expanduser()


def _refuse(name: str, value: Any, expected: str, hint: str | None = None) -> ParameterError:
    shown = f"the text {value!r}" if isinstance(value, str) else f"{value!r}"
    return ParameterError(f"the parameter {name!r} is {shown}.", expected=expected, mend=hint)


def _choice(name: str, default: str, choices: tuple[str, ...], meaning: str) -> Parameter:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _refuse(name, value, " or ".join(choices), nearest(value, choices))
        return value

    return Parameter(name, "text", default, choices, meaning, read)


def _names(name: str, choices: tuple[str, ...], meaning: str) -> Parameter:
    expected = f"'{ALL}', one of {', '.join(choices)}, or several as a list or separated by commas"

    def read(value: Any) -> tuple[str, ...]:
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not items:
            raise _refuse(name, value, expected)
        if list(items) == [ALL]:
            return choices
        for item in items:
            if item not in choices:
                raise _refuse(name, item, expected, nearest(item, (*choices, ALL)))
        return tuple(dict.fromkeys(items))

    return Parameter(name, "list", ALL, choices, meaning, read)


def _integer(name: str, default: int | None, low: int, meaning: str) -> Parameter:
    allowed = f"{low} or more" + (", or None" if default is None else "")

    def read(value: Any) -> int | None:
        if value is None and default is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise _refuse(name, value, f"a whole number, {allowed}")
        return value

    return Parameter(name, "integer", default, allowed, meaning, read)


def _number(name: str, default: float, low: float, high: float, meaning: str) -> Parameter:
    allowed = f"{low:g} to {high:g}"

    def read(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or math.isnan(value) or not low <= value <= high:
            raise _refuse(name, value, f"a number, {allowed}")
        return float(value)

    return Parameter(name, "number", default, allowed, meaning, read)


def _place(
    name: str,
    default: str,
    words: tuple[str, ...],
    what: str,
    meaning: str,
    never: Mapping[str, str] = MappingProxyType({}),
) -> Parameter:
    """A word or an existing path; a value that can never be had is refused with its reason."""
    words = tuple(word for word in words if word not in never)
    expected = f"{', '.join(map(repr, words))} or {what}"

    def read(value: Any) -> str:
        if value in words:
            return value
        if isinstance(value, str) and value in never:
            raise _refuse(name, value, expected, never[value])
        if not isinstance(value, str) or not value:
            raise _refuse(name, value, expected)
        path = Path(value).expanduser()
        if not path.exists():
            hint = nearest(value, words) or f"Nothing is at {path}: check the path."
            raise _refuse(name, value, expected, hint)
        return str(path)

    return Parameter(name, "text", default, (*words, what), meaning, read)


def _folder(name: str, default: str, meaning: str) -> Parameter:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not value or Path(value).expanduser().is_file():
            raise _refuse(name, value, "the path of a folder, made when it is missing")
        return value

    return Parameter(name, "text", default, "a folder", meaning, read)


def _groups(name: str, default: str, meaning: str) -> Parameter:
    expected = "two groups of at least two classes from 0 to 9 that share none, such as '01234/56789'"

    def read(value: Any) -> tuple[tuple[int, ...], ...]:
        parts = value.split("/") if isinstance(value, str) else value
        try:
            groups = tuple(tuple(int(label) for label in part) for part in parts)
        except (TypeError, ValueError):
            raise _refuse(name, value, expected) from None
        flat = [label for group in groups for label in group]
        fits = len(groups) == 2 and all(len(group) >= 2 for group in groups)
        if not fits or len(set(flat)) != len(flat) or not set(flat) <= set(range(10)):
            raise _refuse(name, value, expected)
        return groups

    return Parameter(name, "text", default, "two groups of digits", meaning, read)


def _common(chapter: Chapter) -> tuple[Parameter, ...]:
    return (
        _choice(
            "profile",
            "smoke",
            PROFILES,
            "How much is done: seconds a model, minutes on a laptop, or the recipes of the reports.",
        ),
        _place(
            "data",
            "synthetic",
            ("synthetic", "download"),
            "a folder",
            "Where the images come from: drawn here, read from a folder"
            + (". Nobody publishes them." if chapter.never else ", or fetched from their publishers."),
            chapter.never,
        ),
        _integer(
            "seed",
            0,
            0,
            "Decides what is drawn: images and noise that labkit makes, initial weights, batches. "
            "A published set is always split alike.",
        ),
        _names("models", chapter.models, "Which of the chapter's models are trained."),
        _integer(
            "epochs", None, 1, "Epochs for every model; None keeps what the profile and the recipes say."
        ),
        _choice(
            "precision",
            "float32",
            PRECISIONS,
            "In how many bits training computes; sixteen are faster where the processor knows bfloat16.",
        ),
        _folder("runs", DEFAULT_RUNS, "Where trained models are kept and looked for."),
    )


CHAPTERS: dict[str, Chapter] = {
    chapter.name: chapter
    for chapter in (
        Chapter(
            "noisy_cifar",
            "Learning from wrong labels",
            (
                "cnn1",
                "cnn2",
                "vgg",
                "cct",
                "resnet8",
                "resnet44",
                "inception_transfer",
            ),
            (
                _choice(
                    "protocol",
                    "honest",
                    ("honest", "report000", "report001"),
                    "Which images train, clean and test: kept apart, or as one of the reports split them.",
                ),
                _number(
                    "noise_rate",
                    0.606,
                    0,
                    1,
                    "Share of wrong labels drawn into synthetic and downloaded data.",
                ),
                _choice(
                    "noise_kind",
                    "symmetric",
                    ("symmetric", "pair_flip"),
                    "Which labels these are: any other class alike, or always the next one.",
                ),
                _integer(
                    "folds", 3, 2, "Folds of the out-of-fold predictions that confident learning needs."
                ),
                _place(
                    "weights",
                    "none",
                    ("none", "imagenet"),
                    "a file",
                    "Weights that Inception starts from; with none its rows show that it runs, no more.",
                ),
            ),
            {"smoke": Profile(1_200, 4, 24), "quick": Profile(8_000, 5), "full": Profile()},
        ),
        Chapter(
            "animals",
            "Animals: from scratch and from ImageNet",
            ("simple", "mid", "custom_resnet", "inception", "resnet_aug"),
            (
                _integer(
                    "image_size", 100, 75, "Side of the square that every photo is resized to, in pixels."
                ),
                _place(
                    "weights",
                    "none",
                    ("none", "imagenet"),
                    "a folder",
                    "Weights the pretrained backbones start from; none makes their rows architecture checks.",
                ),
                _names(
                    "backbones",
                    ("resnet50v2", "mobilenetv2", "xception"),
                    "Which pretrained networks are used.",
                ),
                _names("modes", ("transfer", "finetune", "partial"), "How much of a backbone is trained."),
            ),
            {"smoke": Profile(60, 1, 16), "quick": Profile(None, 4, 32), "full": Profile()},
            {"download": "Nobody publishes these photos; in a build of all, say animals.data=synthetic."},
        ),
        Chapter(
            "dual_cifar",
            "Two images in one",
            ("dual_linear", "fmp3", "accn", "accnrr", "accnl", "lacnn"),
            (
                _number("weight", 0.5, 0.01, 0.99, "Share of the first image in the average."),
                _integer(
                    "pairs_per_epoch", None, 1, "Fresh pairs an epoch; None keeps what the profile says."
                ),
                _groups(
                    "groups",
                    "01234/56789",
                    "Which CIFAR-10 classes the first and the second image come from.",
                ),
                _choice(
                    "augment",
                    "none",
                    ("none", "basic"),
                    "What is done to each image before the two are averaged.",
                ),
            ),
            {"smoke": Profile(240, 1, 32), "quick": Profile(15_000, 3), "full": Profile()},
        ),
        Chapter(
            "cifar100",
            "CIFAR-100: augmentation and tuning",
            (
                "mlp",
                "conv2d",
                "custom_vgg",
                "custom_vgg_l1",
                "custom_vgg_l2",
                "custom_vgg16",
                "custom_resnet10",
                "custom_resnet34_dropout",
                "efficientnetv2b0",
            ),
            (
                _names(
                    "augmentations",
                    ("none", "basic", "cutmix"),
                    "Which augmentations every model is trained with.",
                ),
                _integer("trials", None, 1, "Trials of the search; None keeps what the profile says."),
                _choice(
                    "tuner",
                    "random",
                    ("random", "bayesian", "hyperband"),
                    "How the search picks its next trial.",
                ),
                _choice(
                    "label_mode", "fine", ("fine", "coarse"), "Name the 100 classes or the 20 superclasses."
                ),
                _place(
                    "weights",
                    "none",
                    ("none", "imagenet"),
                    "a weights file",
                    "Weights that EfficientNet starts from; none makes its rows architecture checks.",
                ),
            ),
            {"smoke": Profile(250, 1, 32), "quick": Profile(10_000, 3), "full": Profile()},
        ),
    )
}
