"""Experiments of chapter 1: train on wrong labels, then filter, correct or outvote them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression

from labkit import data, evaluation, labels, models, protocols, recipes, training
from labkit.chapters import Settings
from labkit.data import ImageSet
from labkit.data.course import numbered
from labkit.data.decode import read_tiles
from labkit.errors import ParameterError, nearest
from labkit.evaluation import Predictions
from labkit.experiments.registry import place, register
from labkit.protocols import NoisySplit
from labkit.recipes import Recipe
from labkit.runs import Run

CLASSIFIERS = ("vgg", "cct", "resnet8", "resnet44")  # of report 000, each with a cleaner, Model II and mixup
MODEL1 = dict.fromkeys(CLASSIFIERS, "report000_model1") | {
    "cnn1": "report001_cnn",
    "inception_transfer": "report001_inception",
}
FILTERED = {"cnn2": "report001_cnn", "inception_transfer": "report001_inception"}
# Networks that a short profile trains in earnest; the others take their steps on BRIEF images.
IN_EARNEST = {
    "smoke": ("histogram", "cnn1", "cnn2"),
    "quick": ("histogram", "cnn1", "cnn2", "vgg", "resnet8"),
}
SMALL_BATCH = {"smoke": 16, "quick": 32}  # of cnn2, which has few true labels
SHORT_MEMORY = 0.9  # of batch normalization in a short profile, which has few steps to get to know its images
BRIEF = {"smoke": 50, "quick": 500}
COPIED = "vgg_copied_decay"


def images(settings: Settings) -> ImageSet:
    """The chapter's images with the labels they were given, and the true ones where they are known."""
    return _images(*_source(settings))


def unseen(settings: Settings) -> ImageSet | None:
    """Test images apart from all others, which no protocol touches; None where the source has none.

    A course folder without a labelled test part takes CIFAR-10's own test images, where they lie beside it.
    """
    return _unseen(*_source(settings)[:3])


def test_folder(settings: Settings) -> np.ndarray:
    """The images to predict: those of the course's test folder, or else test images of our own."""
    folder = Path(place(settings, "noisy_cifar")) / "test_images"
    if folder.is_dir():
        return read_tiles([str(folder / name) for name, *_ in numbered(folder, prefix="test")])
    apart = unseen(settings)
    return (split(settings).test if apart is None else apart).images


def fresh(settings: Settings, names: Iterable[str]) -> ImageSet:
    """The test images that none of these experiments learnt from in the smaller split of a brief network."""
    test = split(settings).test
    short = {brief(settings, network(name)).n for name in names} - {settings.n}
    learnt = {image.tobytes() for n in short for image in _learnt_from(split(replace(settings, n=n)))}
    return test.take(np.array([image.tobytes() not in learnt for image in test.images]))


def _learnt_from(parts: NoisySplit) -> Iterator[np.ndarray]:
    """Every image of a split that trains, stops or selects something."""
    for name, part in parts.parts().items():
        if name not in ("test", "judge_test", "unseen"):
            yield from part.images


def split(settings: Settings) -> NoisySplit:
    """The chapter's images, split by the chapter's protocol."""
    return _split(settings.protocol, *_source(settings))


def _source(settings: Settings) -> tuple[str, int, int | None, float, str]:
    """All that decides the images, so that a notebook full of experiments reads or draws them once."""
    where = place(settings, "noisy_cifar")
    return where, settings.seed, settings.n, settings.noise_rate, settings.noise_kind


@lru_cache(maxsize=2)
def _images(source: str, seed: int, n: int | None, noise_rate: float, noise_kind: str) -> ImageSet:
    return data.noisy_cifar(source, seed=seed, n=n, noise_rate=noise_rate, noise_kind=noise_kind)


@lru_cache(maxsize=2)
def _unseen(source: str, seed: int, n: int | None) -> ImageSet | None:
    few = None if n is None else max(1, n // 10)
    folder, beside = Path(source), Path(source).parent / "cifar-10-batches-bin"
    labelled = (folder / "test_images").is_dir() and (folder / "test_labels.csv").is_file()
    if source in ("synthetic", "download") or labelled:
        return data.noisy_cifar_test(source, seed=seed, n=few)
    return data.cifar10(beside)[1].take(slice(few)) if beside.is_dir() else None


@lru_cache(maxsize=3)
def _split(protocol: str, source: str, seed: int, n: int | None, *noise: float | str) -> NoisySplit:
    parts = protocols.noisy_cifar(_images(source, seed, n, *noise), protocol)
    return replace(parts, unseen=_unseen(source, seed, n))


def is_brief(settings: Settings, name: str) -> bool:
    """Tell whether this profile shows a network only a few images, once."""
    return name not in IN_EARNEST.get(settings.profile, (name,))


def brief(settings: Settings, name: str) -> Settings:
    """The settings for one network: a short profile shows most of the networks a few images, once."""
    if not is_brief(settings, name):
        few = settings.profile in SMALL_BATCH and name == "cnn2"
        return replace(settings, batch=SMALL_BATCH[settings.profile]) if few else settings
    return replace(
        settings,
        n=min(BRIEF[settings.profile], settings.n or BRIEF[settings.profile]),
        epochs=settings.asked_epochs or 1,
        batch=None,
    )


def under(settings: Settings, protocol: str) -> Settings:
    """The same settings with another protocol."""
    return replace(settings, own={**settings.own, "protocol": protocol})


def recipe(settings: Settings, name: str, **changes: Any) -> Recipe:
    """A recipe as the chapter's protocol lets it select: report 001 holds no validation images back."""
    found = settings.apply(recipes.RECIPES[name]).but(**changes)
    if settings.protocol == "report001" and found.monitor.startswith("val_"):
        return found.but(monitor=found.monitor.removeprefix("val_"), patience=None, restore_best=False)
    if settings.protocol == "honest" and not found.restore_best:
        return found.but(monitor="val_accuracy", restore_best=True)
    return found


def train(
    settings: Settings,
    stage: str,
    model: keras.Model,
    parts: tuple[ImageSet, ImageSet | None],
    recipe: Recipe,
    **options: Any,
) -> Run:
    """Fit one stage, named after the model, the stage and the protocol, on (train, valid)."""
    name = f"noisy_cifar/{stage}-{settings.protocol}"
    once = model.name == "inception_transfer"  # its features never change
    return training.fit(model, *parts, recipe, run=name, runs=settings.runs, frozen_once=once, **options)


def scored_classifier(
    run: Run, model: keras.Model, parts: NoisySplit, *, learnt: ImageSet | None = None
) -> Run:
    """Score a classifier on test images, on unseen ones and on those it learnt from, unless it is done.

    Test images count by true and by given labels, and so do those it learnt from where the truth is known.
    """
    known = None if learnt is None else learnt.take(learnt.true_labels >= 0)
    wanted = {"test": parts.test, "unseen": parts.unseen, "train_given": known}
    new = {part: images for part, images in wanted.items() if not _is_scored(run, part, images)}
    for part, predictions in evaluation.predict_each(model, new).items():
        run = run.score(part, predictions)
        if part == "test":
            run = run.score("test_given", predictions.against(parts.test.hints))
        if part == "train_given":
            run = run.score("train", predictions.against(known.true_labels))
    return run


def _is_scored(run: Run, part: str, images: ImageSet | None) -> bool:
    """Tell whether nothing is left to do for a part."""
    return images is None or run.has_scored(part, images)


@dataclass(frozen=True)
class Judgement:
    """How well labels were judged on images whose truth the judge did not learn from."""

    correction: labels.Correction
    images: ImageSet

    def summary(self) -> dict[str, Any]:
        """What a record keeps; accuracy is the share of right labels among those that are left."""
        noise = self.correction.residual_noise
        return {
            "n": len(self.images),
            "accuracy": 0.0 if np.isnan(noise) else 1 - noise,
            "source": self.images.source,
            "fingerprint": self.images.fingerprint(),
            **asdict(self.correction),
        }


def judgement(images: ImageSet, given: np.ndarray, after: np.ndarray) -> Judgement:
    """Score corrected labels, or a mask of kept ones, against the truth."""
    return Judgement(labels.correction_report(given, after, images.labels), images)


def histogram_baseline(settings: Settings, parts: NoisySplit) -> tuple[keras.Model, Run]:
    """Logistic regression of the labels as given on colour histograms, as a network of one layer."""
    model = models.build("histogram", seed=settings.seed)
    features = keras.Model(model.input, model.get_layer("logits").input)
    shares = evaluation.outputs(features, parts.noisy.images, 1024)
    fitted = LogisticRegression(max_iter=1000).fit(shares, parts.noisy.labels)
    weights, offsets = np.zeros((shares.shape[1], len(parts.test.classes))), np.full(10, -100.0)
    weights[:, fitted.classes_], offsets[fitted.classes_] = fitted.coef_.T, fitted.intercept_
    model.get_layer("logits").set_weights([weights, offsets])
    untouched = recipes.RECIPES["report001_cnn"].but(epochs=0, seed=settings.seed)
    run = train(settings, "histogram_baseline", model, (parts.noisy, parts.valid), untouched)
    run = run.score("given_labels", given_labels(images(settings)))
    return model, scored_classifier(run, model, parts)


def given_labels(images: ImageSet) -> Predictions:
    """The given labels as if a model had predicted them, scored where the truth is known."""
    known = images.take(images.true_labels >= 0)
    opinions = np.eye(len(images.classes))[known.labels]
    return Predictions(opinions, known.true_labels, images.classes, images.source, known.fingerprint())


def model1(
    settings: Settings, parts: NoisySplit, name: str, *, called: str | None = None, **changes: Any
) -> tuple[keras.Model, Run]:
    """Train a classifier on the labels as given, by its recipe or with changes to it."""
    model = build(settings, name)
    how = recipe(settings, MODEL1[name], **changes)
    run = train(settings, called or name, model, (parts.noisy, parts.valid), how)
    return model, scored_classifier(run, model, parts, learnt=parts.noisy)


def build(settings: Settings, name: str, seed: int | None = None) -> keras.Model:
    """A network of this chapter; the one backbone starts from the weights the settings name."""
    seed = settings.seed if seed is None else seed
    if name != "inception_transfer":
        model = models.build(name, seed=seed)
        for layer in model.layers if settings.profile in IN_EARNEST else ():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = SHORT_MEMORY
        return model
    return models.build(name, seed=seed, weights=None if settings.weights == "none" else settings.weights)


def cleaner(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, keras.Model, Run]:
    """Train the label-cleaning network on top of Model I; returns classifier, cleaner and the cleaner's run.

    Under `report000` the cleaner shares the classifier's layers and changes them, as in the report.
    """
    classifier, _ = model1(settings, parts, name)
    judge = models.build("label_cleaner", classifier=classifier, as_run=parts.leaks, seed=settings.seed)
    shown = (parts.judge_train, parts.judge_valid)
    run = train(settings, f"{name}_cleaner", judge, shown, recipe(settings, "report000_cleaner"))
    if not _is_scored(run, "test", parts.judge_test):
        opinion = evaluation.predict(judge, parts.judge_test)
        run = run.score("test", opinion)
        run = run.score("corrections", judgement(parts.judge_test, parts.judge_test.hints, opinion.predicted))
    return classifier, judge, run


def corrected(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, ImageSet]:
    """Model I, and the training set with the labels its cleaner gives."""
    classifier, judge, _ = cleaner(settings, parts, name)
    given = parts.unsure.labels
    if parts.leaks:  # the report showed its cleaner the true labels where it had them, then replaced them
        truth = parts.unsure.true_labels
        given = np.where(truth >= 0, truth, given)
    opinion = evaluation.predict(judge, parts.unsure.with_hints(given)).predicted
    return classifier, data.join(parts.kept, parts.unsure.relabel(opinion))


def model2(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, Run]:
    """Train Model I further on corrected labels."""
    return _further(settings, parts, f"{name}_model2", *corrected(settings, parts, name))


def uncorrected(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, Run]:
    """Train Model I further as for Model II, on the same images, but correct no label."""
    classifier, _ = model1(settings, parts, name)
    together = data.join(parts.kept, parts.unsure)
    return _further(settings, parts, f"{name}_uncorrected", classifier, together)


def _further(
    settings: Settings, parts: NoisySplit, stage: str, classifier: keras.Model, images: ImageSet
) -> tuple[keras.Model, Run]:
    valid = parts.valid
    if parts.leaks:  # the report validates on the tail of the set it trains on, with the same kind of labels
        cut = len(images) - len(images) // 10
        images, valid = images.take(slice(cut)), images.take(slice(cut, None))
    run = train(settings, stage, classifier, (images, valid), recipe(settings, "report000_model2"))
    return classifier, scored_classifier(run, classifier, parts)


def mixup(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, Run]:
    """Train Model I further on corrected labels with mixup."""
    classifier, relabelled = corrected(settings, parts, name)
    valid, how = parts.valid, recipe(settings, "report000_mixup_honest")
    if parts.leaks:  # the report validates on the images with kept labels and selects on training accuracy
        relabelled, valid = relabelled.take(slice(len(parts.kept), None)), parts.kept
        how = recipe(settings, "report000_mixup")
    run = train(settings, f"{name}_mixup", classifier, (relabelled, valid), how)
    return classifier, scored_classifier(run, classifier, parts)


def self_filter(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, Run]:
    """Train on true labels and on the noisy ones that a first model agrees with (report 001)."""
    judge, how = build(settings, name), recipe(settings, FILTERED[name])
    stage = train(settings, f"{name}_stage1", judge, (parts.kept, parts.valid), how)
    scored_classifier(stage, judge, parts)
    keep = labels.self_filter(parts.unsure.labels, evaluation.predict(judge, parts.unsure).probabilities)
    model = build(settings, name, seed=settings.seed + 1)
    together = data.join(parts.kept, parts.unsure.take(keep))
    run = train(settings, f"{name}_filter", model, (together, parts.valid), how)
    if "corrections" not in run.metrics:
        given, opinion = parts.judge_test.hints, evaluation.predict(judge, parts.judge_test)
        agreed = labels.self_filter(given, opinion.probabilities)
        run = run.score("corrections", judgement(parts.judge_test, given, agreed))
    return model, scored_classifier(run, model, parts)


def robust_loss(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, Run]:
    """Train on the labels as given with generalised cross-entropy (Zhang 2018, arXiv:1805.07836)."""
    model = build(settings, name)
    how = recipe(settings, "noisy_gce")
    run = train(settings, f"{name}_gce", model, (parts.noisy, parts.valid), how)
    return model, scored_classifier(run, model, parts)


def forward_loss(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, Run]:
    """Train through the noise matrix estimated on the judge's images (Patrini 2017, arXiv:1609.03683)."""
    matrix = noise_matrix(parts.judge_train)
    model = build(settings, name)
    likely = labels.likelihoods(parts.noisy.labels, matrix)
    how = recipe(settings, "noisy_forward")
    run = train(settings, f"{name}_forward", model, (parts.noisy, parts.valid), how, targets=likely)
    return model, scored_classifier(run, model, parts)


def noise_matrix(judged: ImageSet) -> np.ndarray:
    """The estimated noise of images with true labels and given ones as hints, one image a cell added.

    The added images keep every cell above 0, so that no label is impossible, and rows of few images sound.
    """
    counts = labels.transition(judged.hints, judged.labels, len(judged.classes)).counts + 1
    return counts / counts.sum(axis=1, keepdims=True)


def confident(settings: Settings, parts: NoisySplit, name: str) -> tuple[keras.Model, Run]:
    """Train without the labels that confident learning doubts (Northcutt 2021, arXiv:1911.00068)."""
    how = recipe(settings, MODEL1[name])
    probs = training.out_of_fold(
        partial(build, settings, name),
        parts.noisy,
        how,
        folds=settings.folds,
        seed=settings.seed,
        run=f"noisy_cifar/{name}_confident-{settings.protocol}",
        runs=settings.runs,
    )
    keep = labels.confident(parts.noisy.labels, probs)
    model = build(settings, name)
    run = train(settings, f"{name}_confident", model, (parts.noisy.take(keep), parts.valid), how)
    if "corrections" not in run.metrics:
        known = parts.noisy.true_labels >= 0
        judged = parts.noisy.take(known)
        truth = judged.relabel(judged.true_labels)
        run = run.score("corrections", judgement(truth, judged.labels, keep[known]))
    return model, scored_classifier(run, model, parts)


def trained(settings: Settings, name: str) -> tuple[keras.Model, Run]:
    """The model of an experiment, trained or loaded, and its run."""
    experiment = _experiment(name)
    settings = brief(settings, experiment.network)
    model, *_, run = experiment.function(settings, split(settings))
    return model, run


def run(settings: Settings, name: str) -> Run:
    """Train and score an experiment, such as "vgg_model2"; a finished one is loaded."""
    return trained(settings, name)[1]


def network(name: str) -> str:
    """The classifier that an experiment trains, or whose labels it cleans."""
    return _experiment(name).network


@dataclass(frozen=True)
class Plan:
    """The experiments that one execution of the chapter goes through, by section."""

    model1: tuple[str, ...]
    filtered: tuple[str, ...]
    cleaned: tuple[str, ...]
    answers: tuple[str, ...]
    copied: tuple[str, ...]  # with the decay copied as a number


def plan(settings: Settings) -> Plan:
    """The experiments for the chosen models; smoke tries the later stages on the first that has them."""
    chosen = [name for name in CLASSIFIERS if name in settings.models]
    filtered = [f"{name}_filter" for name in FILTERED if name in settings.models]
    few = slice(1 if settings.profile == "smoke" else None)
    return Plan(
        tuple(name for name in MODEL1 if name in settings.models),
        tuple(filtered[few]),
        tuple(f"{name}_{stage}" for name in chosen[few] for stage in STAGES),
        tuple(f"{name}_{answer}" for name in chosen[:1] for answer in ANSWERS),
        (COPIED,) if "vgg" in chosen and settings.profile == "full" else (),  # it takes many epochs to tell
    )


@dataclass(frozen=True)
class _Experiment:
    network: str
    says: str
    function: Callable[[Settings, NoisySplit], tuple]


def _experiment(name: str) -> _Experiment:
    if name not in EXPERIMENTS:
        raise ParameterError(
            f"Chapter 1 has no experiment {name!r}.",
            expected=", ".join(EXPERIMENTS),
            mend=nearest(name, EXPERIMENTS),
        )
    return EXPERIMENTS[name]


STAGES: dict[str, tuple[Callable, str]] = {
    "cleaner": (cleaner, "The label-cleaning network on {}."),
    "model2": (model2, "{} trained further on cleaned labels."),
    "mixup": (mixup, "{} trained further on cleaned labels with mixup."),
    "uncorrected": (uncorrected, "{} trained further on the same images with no label cleaned."),
}
ANSWERS: dict[str, tuple[Callable, str]] = {
    "gce": (robust_loss, "{} with generalised cross-entropy on the labels as given."),
    "forward": (forward_loss, "{} trained through the estimated noise matrix."),
    "confident": (confident, "{} without the labels that confident learning doubts."),
}


def _all() -> Iterator[tuple[str, _Experiment]]:
    says = "Logistic regression on histograms of the three colours."
    yield "histogram_baseline", _Experiment("histogram", says, histogram_baseline)
    for net in MODEL1:
        yield net, _Experiment(net, f"{net} trained on the labels as given.", partial(model1, name=net))
    for net in FILTERED:
        says = f"{net} trained on true labels and on the noisy ones that a first {net} agrees with."
        yield f"{net}_filter", _Experiment(net, says, partial(self_filter, name=net))
    for net in CLASSIFIERS:
        for stage, (function, says) in (STAGES | ANSWERS).items():
            yield f"{net}_{stage}", _Experiment(net, says.format(net), partial(function, name=net))
    says = "vgg trained on the labels as given, with report 000's weight decay copied as a number."
    copied = partial(model1, name="vgg", called=COPIED, weight_decay=1e-4)
    yield COPIED, _Experiment("vgg", says, copied)


EXPERIMENTS = dict(_all())
for _name, _what in EXPERIMENTS.items():
    register(f"noisy_cifar/{_name}", _what.says, partial(run, name=_name))
