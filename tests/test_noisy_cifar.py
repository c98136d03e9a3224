"""Chapter 1: what its experiments train on, how corrections are scored, what records are read for."""

import math
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from labkit import chapters, data, evaluation, labels, models, protocols, runs, scoreboard, training
from labkit.augment import smooth
from labkit.book import mistakes
from labkit.data import ImageSet
from labkit.errors import ParameterError
from labkit.experiments import noisy_cifar as lab
from labkit.experiments import noisy_cifar_results as found
from labkit.experiments import noisy_cifar_words as says


def settings_for(folder, **parameters):
    """Smoke settings on next to no images, which every network takes for its brief ones."""
    given = {"runs": str(folder)} | parameters
    return replace(chapters.checked("noisy_cifar", given), n=lab.BRIEF["smoke"], epochs=1, batch=64)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return settings_for(tmp_path_factory.mktemp("runs"))


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_published_experiment_can_be_run():
    published = {row.experiment for row in scoreboard.rows("noisy_cifar")}
    assert published <= set(lab.EXPERIMENTS)


def test_a_misspelt_experiment_names_the_right_one(settings):
    with pytest.raises(ParameterError, match="Did you mean 'vgg_model2'"):
        lab.run(settings, "vgg_modell2")


def test_the_plain_lines_of_the_chapter_train_what_the_loop_loads(settings):
    parts = lab.split(settings)
    model = models.build("cnn1", seed=settings.seed)
    run = training.fit(
        model,
        parts.noisy,
        parts.valid,
        lab.recipe(settings, "report001_cnn"),
        run="noisy_cifar/cnn1-honest",
        runs=settings.runs,
    )
    again, loaded = lab.trained(settings, "cnn1")
    assert loaded.key == run.key and loaded.record["started"] == run.record["started"]
    assert same(weights_of(model), weights_of(again))


def test_a_finished_experiment_is_not_scored_again(settings, monkeypatch):
    lab.run(settings, "cnn1")
    monkeypatch.setattr("labkit.evaluation.predict", lambda *_: pytest.fail("predicted again"))
    assert set(lab.run(settings, "cnn1").metrics) == {"test", "test_given", "unseen", "train", "train_given"}


def test_test_accuracy_is_by_true_labels_and_given_labels_are_scored_beside(settings):
    model, run = lab.trained(settings, "cnn1")
    parts = lab.split(settings)
    predicted = model.predict(parts.test.images, verbose=0).argmax(1)
    assert run.metrics["test"]["accuracy"] == np.mean(predicted == parts.test.labels)
    assert run.metrics["test_given"]["accuracy"] == np.mean(predicted == parts.test.hints)


def test_an_honest_cleaner_leaves_its_classifier_alone_and_the_reports_does_not(settings):
    for protocol, alone in (("honest", True), ("report000", False)):
        under = lab.under(settings, protocol)
        parts = lab.split(under)
        before = weights_of(lab.model1(under, parts, "resnet8")[0])
        classifier, judge, run = lab.cleaner(under, parts, "resnet8")
        assert same(before, weights_of(classifier)) == alone
        assert run.metrics["corrections"]["n"] == len(parts.judge_test)
        assert judge.input_names if hasattr(judge, "input_names") else len(judge.inputs) == 2


def test_model2_trains_on_true_labels_where_they_may_be_used_and_on_cleaned_ones(settings):
    parts = lab.split(settings)
    _, relabelled = lab.corrected(settings, parts, "resnet8")
    kept = len(parts.kept)
    np.testing.assert_array_equal(relabelled.labels[:kept], parts.kept.labels)
    with pytest.MonkeyPatch.context() as patched:  # a cleaner that calls every label the next one

        def after(_, images):
            return SimpleNamespace(predicted=(images.hints + 1) % 10)

        patched.setattr(evaluation, "predict", after)
        _, changed = lab.corrected(settings, parts, "resnet8")
    np.testing.assert_array_equal(changed.labels[:kept], parts.kept.labels)
    np.testing.assert_array_equal(changed.labels[kept:], (parts.unsure.labels + 1) % 10)
    run = lab.run(settings, "resnet8_model2")
    assert run.record["data"]["train"]["n"] == len(relabelled)
    assert run.record["data"]["valid"]["fingerprint"] == parts.valid.fingerprint()


def test_as_the_report_ran_model2_validates_on_the_tail_of_its_own_training_set(settings):
    under = lab.under(settings, "report000")
    parts = lab.split(under)
    run = lab.run(under, "resnet8_model2")
    total = len(parts.kept) + len(parts.unsure)
    assert run.record["data"]["valid"]["n"] == total // 10
    assert run.record["data"]["train"]["n"] == total - total // 10
    mixed = lab.run(under, "resnet8_mixup")
    assert mixed.record["data"]["valid"]["fingerprint"] == parts.kept.fingerprint()
    assert mixed.record["recipe"]["monitor"] == "accuracy"


@pytest.mark.parametrize("protocol", ["honest", "report000"])
def test_what_correction_is_worth_is_told_from_model1_trained_on_with_no_label_corrected(settings, protocol):
    under = lab.under(settings, protocol)
    parts = lab.split(under)
    model2, control = (lab.run(under, f"resnet8_{stage}").record for stage in ("model2", "uncorrected"))
    assert control["recipe"] == model2["recipe"]
    assert control["data"]["train"]["n"] == model2["data"]["train"]["n"]
    trained_on = data.join(parts.kept, parts.unsure).take(slice(control["data"]["train"]["n"]))
    assert control["data"]["train"]["fingerprint"] == trained_on.fingerprint()


def test_the_report001_split_selects_by_nothing(settings):
    recipe = lab.recipe(lab.under(settings, "report001"), "report000_model1")
    assert (recipe.monitor, recipe.patience, recipe.restore_best) == ("accuracy", None, False)
    honest = lab.recipe(settings, "report001_cnn")
    assert (honest.monitor, honest.restore_best) == ("val_accuracy", True)
    assert not lab.recipe(lab.under(settings, "report001"), "report001_cnn").restore_best


def test_a_filter_keeps_true_labels_and_agreed_ones(settings):
    parts = lab.split(settings)
    run = lab.run(settings, "cnn2_filter")
    kept = run.record["data"]["train"]["n"] - len(parts.kept)
    assert 0 <= kept < len(parts.unsure)
    judged = run.metrics["corrections"]
    assert judged["n"] == len(parts.judge_test)
    assert run.record["data"]["train"]["source"] == parts.noisy.source


@pytest.mark.parametrize("name", ["vgg_gce", "vgg_forward", "vgg_confident"])
def test_the_fields_answers_train(settings, name, monkeypatch):
    masks, confident = [], labels.confident
    monkeypatch.setattr(lab.labels, "confident", lambda *given: masks.append(confident(*given)) or masks[-1])
    run = lab.run(settings, name)
    assert run.status == "done" and "test" in run.metrics
    loss = {"vgg_gce": "gce", "vgg_forward": "forward", "vgg_confident": "crossentropy"}[name]
    assert run.record["recipe"]["loss"] == loss
    assert ("corrections" in run.metrics) == name.endswith("confident")
    parts = lab.split(settings)
    if name == "vgg_confident":  # judged where the truth is known but was not used
        assert run.record["data"]["train"]["n"] == masks[0].sum() < len(parts.noisy)
        assert run.metrics["corrections"]["n"] == np.count_nonzero(parts.noisy.true_labels >= 0)
        assert len(list(settings.runs.glob("noisy_cifar/vgg_confident-honest_fold*"))) == settings.folds


def test_forward_correction_learns_how_likely_each_given_label_is(settings, monkeypatch):
    seen = {}
    monkeypatch.setattr(lab, "train", lambda *_, **options: seen.update(options))
    monkeypatch.setattr(lab, "scored_classifier", lambda *_: None)
    parts = lab.split(settings)
    lab.forward_loss(settings, parts, "vgg")
    matrix = lab.noise_matrix(parts.judge_train)
    np.testing.assert_array_equal(seen["targets"], matrix[:, parts.noisy.labels].T)


def test_the_noise_matrix_of_few_images_has_no_zeros_and_rows_of_shares():
    image = np.zeros((3, 4, 4, 3), np.uint8)
    judged = ImageSet(image, np.array([0, 0, 1]), ("a", "b", "c"), "synthetic", hints=np.array([0, 1, 1]))
    np.testing.assert_allclose(lab.noise_matrix(judged), [[0.4, 0.4, 0.2], [0.25, 0.5, 0.25], [1 / 3] * 3])


def test_the_baseline_counts_colours_as_numpy_does_and_scores_the_given_labels(settings):
    model, run = lab.trained(settings, "histogram_baseline")
    images = lab.split(settings).noisy.images[:8]
    features = keras.Model(model.input, model.get_layer("logits").input)
    shares = features.predict(images, verbose=0)
    edges = np.linspace(0, 255, 6)
    counts = [[np.histogram(image[..., channel], edges)[0] for channel in range(3)] for image in images]
    np.testing.assert_array_equal(shares * 1024, np.array(counts).reshape(8, 15))
    noisy = lab.images(settings)
    known = noisy.true_labels >= 0
    given = run.metrics["given_labels"]
    assert given["n"] == known.sum()
    assert given["accuracy"] == np.mean(noisy.labels[known] == noisy.true_labels[known])


def test_the_record_of_the_baseline_gives_the_noise_matrix_back(settings):
    noisy = lab.images(settings)
    direct = labels.transition(noisy.labels, noisy.true_labels, len(noisy.classes))
    kept = found.noise(lab.run(settings, "histogram_baseline"))
    np.testing.assert_array_equal(kept.counts, direct.counts)
    assert (kept.rate, kept.bits) == (direct.rate, direct.bits)


def test_judgements_are_stored_as_shares_of_what_is_left():
    truth = np.arange(10) % 5
    given = np.where(np.arange(10) < 4, (truth + 1) % 5, truth)
    images = ImageSet(np.zeros((10, 4, 4, 3), np.uint8), truth, tuple("abcde"), "synthetic")
    mask = np.arange(10) >= 2  # drops two of the four wrong labels
    kept = lab.judgement(images, given, mask).summary()
    assert (kept["precision"], kept["recall"], kept["residual_noise"], kept["kept"]) == (1, 0.5, 0.25, 0.8)
    assert kept["accuracy"] == 0.75
    assert lab.judgement(images, given, np.zeros(10, bool)).summary()["accuracy"] == 0


def test_unseen_images_are_no_others_and_a_folder_without_any_gives_none(settings, tmp_path):
    apart, noisy = lab.unseen(settings), lab.images(settings)
    pixels = {image.tobytes() for image in noisy.images}
    assert not pixels & {image.tobytes() for image in apart.images}
    assert lab.unseen(replace(settings, data=str(tmp_path))) is None


def test_a_course_folder_without_test_labels_takes_the_official_test_images_beside_it(settings, tmp_path):
    folder = mistakes.course_folder(tmp_path)
    assert lab.unseen(replace(settings, data=str(folder), n=None)) is None
    lab._unseen.cache_clear()
    mistakes.cifar10_folder(tmp_path, n=2)
    whole = lab.unseen(replace(settings, data=str(folder), n=None))
    assert len(whole) == 2 and "test images" in whole.source
    assert len(lab.unseen(replace(settings, data=str(tmp_path), n=10))) == 1


def test_predictions_are_scored_on_images_that_no_brief_network_learnt_from(tmp_path):
    settings = replace(chapters.checked("noisy_cifar", {"runs": str(tmp_path)}), n=600)
    test, apart = lab.split(settings).test, lab.fresh(settings, ["histogram_baseline", "cnn1", "vgg"])
    few = lab.split(lab.brief(settings, "vgg"))
    learnt = {image.tobytes() for part in (few.noisy, few.valid, few.judge_train) for image in part.images}
    assert any(image.tobytes() in learnt for image in test.images)
    assert len(apart) and not any(image.tobytes() in learnt for image in apart.images)
    assert (
        lab.fresh(settings, ["histogram_baseline", "cnn1", "cnn2_filter"]).fingerprint() == test.fingerprint()
    )


def test_a_test_folder_without_labels_can_be_predicted(settings, tmp_path):
    import cv2

    folder = tmp_path / "test_images"
    folder.mkdir()
    images = lab.images(settings).images[:3]
    for number, image in enumerate(images, start=1):
        cv2.imwrite(str(folder / f"test{number:05d}.png"), image[..., ::-1])
    read = lab.test_folder(replace(settings, data=str(tmp_path)))
    np.testing.assert_array_equal(read, images)
    assert len(lab.test_folder(settings)) == len(lab.unseen(settings))


def momenta(settings, name):
    layers = lab.build(settings, name).layers
    return {layer.momentum for layer in layers if isinstance(layer, keras.layers.BatchNormalization)}


def test_short_profiles_are_brief_with_deep_networks_and_hear_the_readers_epochs(tmp_path):
    smoke = chapters.checked("noisy_cifar", {"runs": str(tmp_path)})
    assert lab.brief(smoke, "cnn1") == smoke
    quick = chapters.checked("noisy_cifar", {"runs": str(tmp_path), "profile": "quick"})
    for short in (smoke, quick):
        slow = lab.brief(short, "cnn2")
        assert (slow.n, slow.batch, slow.epochs) == (short.n, lab.SMALL_BATCH[short.profile], short.epochs)
        assert momenta(short, "cnn2") == momenta(short, "resnet8") == {lab.SHORT_MEMORY}
    brief = lab.brief(smoke, "resnet44")
    assert brief.n == lab.BRIEF["smoke"] and brief.epochs == 1
    for epochs in (3, smoke.epochs):
        asked = chapters.checked("noisy_cifar", {"runs": str(tmp_path), "epochs": epochs})
        assert [lab.brief(asked, name).epochs for name in ("resnet44", "cnn2")] == [epochs, epochs]
    full = chapters.checked("noisy_cifar", {"runs": str(tmp_path), "profile": "full"})
    assert lab.brief(full, "resnet44") == full
    assert momenta(full, "cnn2") == momenta(full, "resnet8") == {0.99}


def test_the_plan_follows_the_chosen_models(tmp_path):
    def plan(**parameters):
        return lab.plan(chapters.checked("noisy_cifar", {"runs": str(tmp_path)} | parameters))

    everything = plan(profile="full")
    assert set(everything.model1) == set(lab.MODEL1) and len(everything.cleaned) == 16
    assert everything.filtered == ("cnn2_filter", "inception_transfer_filter")
    assert plan().cleaned == ("vgg_cleaner", "vgg_model2", "vgg_mixup", "vgg_uncorrected")
    assert plan(models="cct").cleaned[0] == "cct_cleaner"
    only = plan(models=["cnn2"])
    assert only == lab.Plan((), ("cnn2_filter",), (), (), ())
    assert plan(models="vgg", profile="full").copied == ("vgg_copied_decay",)
    assert plan(models="cct", profile="full").copied == plan(profile="quick").copied == plan().copied == ()


def fake(name, *, source="folder noisy_cifar", n=44_000, epochs=10, seconds=30.0, valid=None, **metrics):
    """As much of a run as the tables read."""
    record = {
        "data": {"train": {"source": source, "n": n}},
        "recipe": {"epochs": epochs, "precision": "float32"},
        "history": {"epoch": [*range(epochs)], "seconds": [2 * seconds, *[seconds] * (epochs - 1)]},
        "best_epoch": 1,
        "metrics": metrics,
    }
    if valid is not None:
        record["history"]["val_accuracy"] = [valid] * epochs
    return runs.Run(f"noisy_cifar/{name}", "0" * 16, None, record)


def scored(confusion, **more):
    confusion = np.array(confusion)
    total, right = int(confusion.sum()), int(np.trace(confusion))
    return {"confusion": confusion.tolist(), "accuracy": right / total, "n": total} | more


def test_expected_agreement_is_what_a_simulation_gives():
    rng = np.random.default_rng(0)
    matrix = labels.symmetric(10, 0.606)
    true = rng.integers(0, 10, 200_000)
    answers = np.where(rng.random(len(true)) < 0.67, true, rng.integers(0, 10, len(true)))
    given = labels.corrupt(true, matrix, seed=1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (true, answers), 1)
    expected = found.expected_agreement(fake("vgg", test=scored(confusion)), matrix)
    assert expected == pytest.approx(np.mean(answers == given), abs=0.004)


def test_noisy_validation_labels_are_worth_as_many_true_ones_as_their_error_says():
    assert found.worth(4_500, 0, 0.66, 10) == pytest.approx(4_500)
    assert found.worth(4_500, 0.9, 0.66, 10) == pytest.approx(0, abs=1e-9)
    rng = np.random.default_rng(0)
    rate, score, n, trials = 0.606, 0.66, 4_500, 4_000
    slope, chance = 1 - rate - rate / 9, rate / 9
    agreed = rng.binomial(n, score * slope + chance, trials) / n
    error = np.std((agreed - chance) / slope)
    assert found.worth(n, rate, score, 10) == pytest.approx(score * (1 - score) / error**2, rel=0.1)


def test_the_courses_table_has_three_digits_and_leaves_out_what_a_row_has_not():
    truth = np.array([0, 0, 1, 1])
    table = found.course_table(evaluation.evaluation(lambda image: 0, truth, np.zeros((4, 2, 2, 3))))
    assert list(table.loc["0"]) == ["0.500", "1.000", "0.667", 2]
    assert list(table.loc["accuracy"]) == ["", "", "0.500", 4]


def test_the_floor_of_clipped_outputs_is_the_one_worked_out_from_the_report():
    table = found.floors()["smallest loss possible"]
    assert table.iloc[0] == pytest.approx(1.5512, abs=5e-5)
    assert table.iloc[1] == pytest.approx(0.5003, abs=5e-5)
    rng = np.random.default_rng(0)
    target = smooth(np.eye(10)[0], 0.1)
    outputs = rng.uniform(0, 1, (500, 10))
    losses = np.log(np.exp(outputs).sum(1)) - (outputs * target).sum(1)
    assert losses.min() >= table.iloc[0]


def test_the_converted_decay_is_the_reports_and_the_copied_one_a_thousandth():
    table = found.decays()["epochs to half a weight"]
    steps = math.ceil(40_500 / 128)  # the report trained on nine tenths of images 5,000 to 49,999
    assert table.iloc[0] == pytest.approx(math.log(2) / 1e-4 / steps)
    assert table.iloc[0] == pytest.approx(table.iloc[2])
    assert table.iloc[1] == pytest.approx(1000 * table.iloc[0])


@pytest.fixture
def committed(monkeypatch):
    """Records to read in the place of those that are committed."""
    records = []

    def on_record(protocol):
        named = {run.name for run in records if run.name.endswith(f"-{protocol}")}
        return {name: [run for run in records if run.name == name] for name in named}

    monkeypatch.setattr(found, "_on_record", on_record)
    return records


def test_the_leak_is_what_a_model_does_better_on_images_whose_answers_it_saw(committed):
    as_run = fake("vgg_model2-report000", test=scored([[9, 1], [1, 9]]), unseen=scored([[7, 3], [3, 7]]))
    honest = fake("vgg_model2-honest", test=scored([[7, 3], [3, 7]]), unseen=scored([[7, 3], [3, 7]]))
    table = found.leak({"leaky": as_run, "honest": honest})
    assert table["test minus unseen"].tolist() == pytest.approx([0.2, 0])
    committed.append(honest)
    assert "0.7000 with the images kept apart" in says.leaked()
    assert "Without a record under the protocol `report000` yet: `vgg_model2`" in says.leaked()
    assert "Each time is of that stage alone" in says.leaked()
    committed.append(as_run)
    assert "0.9000 run as the report did, and 0.7000 with" in says.leaked()


def test_the_leak_is_the_gap_that_opens_after_it_beyond_chance(committed):
    def tested(name, test, unseen):
        parts = {"test": test, "unseen": unseen}
        return fake(name, **{part: scored([[n, 1000 - n], [1000 - n, n]]) for part, n in parts.items()})

    committed.append(tested("cct_model2-report000", 900, 700))
    assert "20.0 points fewer than of the test images; what its Model I did there is not" in says.leaked()
    committed.append(tested("cct-report000", 690, 710))
    assert "Model I, before the leak, had 2.0 points more than of the test images" in says.leaked()
    assert "differ by +22.0 points, more than the " in says.leaked()
    assert "chance allows: that is what the answers were worth that it had seen." in says.leaked()
    committed[1:] = [tested("cct-report000", 895, 705)]
    assert "differ by +1.0 points, within the " in says.leaked() and "worth" not in says.leaked()
    committed[:] = [tested("cct_model2-report000", 700, 710), tested("cct-report000", 800, 690)]
    assert "differ by -12.0 points, more than the " in says.leaked() and "worth" not in says.leaked()


def test_what_a_cleaner_gains_is_told_apart_from_training_further(committed):
    def tested(stage, n, part="test", way="honest"):
        scores = {"test": scored([[n, 1000 - n], [1000 - n, n]])}
        return fake(f"vgg{stage}-{way}", **scores | {part: scores["test"]})

    assert says.corrected({}, "honest") == "No Model I has been trained further without its cleaner yet."
    committed += [tested("", 600), tested("_model2", 700)]
    assert says.corrected({}, "honest") == "No Model I has been trained further without its cleaner yet."
    committed.append(tested("_uncorrected", 680))
    said = says.corrected({}, "honest")
    assert "`vgg` names 0.6000 of the test images." in said
    assert "it names 0.6800, and with a cleaner 0.7000: +8.0 points come of training further" in said
    assert "+2.0 of the cleaner, within the 2.9 that the choice of images allows, with one seed each." in said
    committed[-1] = tested("_uncorrected", 650)
    assert "+5.0 of the cleaner, more than the 2.9 " in says.corrected({}, "honest")
    leaky = [tested(stage, n, way="report000") for stage, n in (("", 6), ("_uncorrected", 7), ("_model2", 8))]
    committed += leaky
    assert "report000" not in says.corrected({}, "honest"), "its test images' own labels trained it"
    committed[-3:] = [
        tested(stage, n, "unseen", "report000")
        for stage, n in (("", 600), ("_uncorrected", 610), ("_model2", 620))
    ]
    assert "Under the protocol `report000`, `vgg` names 0.6000 of the images that no protocol touches" in (
        says.corrected({}, "honest")
    )


def test_both_ways_shows_all_records_and_trains_only_what_was_asked_for(committed, settings, monkeypatch):
    test = scored([[60, 20], [10, 70]])
    committed += [fake("vgg_model2-report000", test=test), fake("resnet8_model2-honest", test=test)]
    trained = []

    def run(settings, name):
        trained.append((name, settings.protocol))
        return fake(name, test=test)

    monkeypatch.setattr(lab, "run", run)
    committed.append(fake("vgg-report000", test=test, unseen=test))
    on_record = {
        "resnet8_model2, images kept apart, on record",
        "vgg, before the leak, on record",
        "vgg_model2, test labels leak, on record",
    }
    for chosen, profile in ((("cnn1",), "full"), (("vgg",), "smoke"), (("cct",), "quick")):
        asked = replace(settings, models=chosen, profile=profile)
        assert set(found.both_ways(asked)) == on_record and not trained
    both = found.both_ways(replace(settings, models=("cnn1", "cct", "resnet44"), profile="full"))
    assert trained == [("cct_model2", "report000"), ("cct_model2", "honest")]
    assert set(both) - on_record == {
        "cct_model2, test labels leak, here",
        "cct_model2, images kept apart, here",
    }


def test_several_seeds_on_record_are_a_mean_and_its_spread(committed):
    tested = [scored([[n, 100 - n], [100 - n, n]], interval=(0.5, 0.9)) for n in (70, 80)]
    committed += [fake("cnn1-honest", test=test) for test in tested]
    table = found.beside(["cnn1", "vgg"], {})
    assert table["recorded, honest split"].tolist() == ["0.750 ± 0.071 (2 seeds)", found.NONE]
    committed.pop()
    assert found.beside(["cnn1"], {})["recorded, honest split"].tolist() == ["0.700 (0.50–0.90)"]


def test_runs_on_few_images_say_only_that_they_ran():
    tested = scored([[60, 20], [10, 70]], interval=(0.75, 0.86))
    brief, untested, enough = (
        fake("vgg-honest", n=1_760, epochs=1, test=tested),
        fake("vgg-honest", test=scored([[4, 6], [5, 5]])),
        fake("cnn1-honest", test=tested),
    )
    assert found.spoken(brief) == "ran on 1,760 images"
    assert found.spoken(untested) == "ran on 44,000 images"
    assert found.spoken(enough) == "0.812 (0.75–0.86)"
    assert found.in_earnest({"brief": brief, "untested": untested, "enough": enough}) == {"enough": enough}
    assert found.in_earnest({"brief": brief}) == {}


def test_times_are_of_runs_in_earnest_and_a_cleaner_has_a_size_of_its_own(committed):
    committed.append(fake("cnn1-honest", seconds=29.86))
    tested = scored([[60, 20], [10, 70]])
    here = {
        "cnn1": fake("cnn1-honest", source="synthetic", n=88, epochs=1, seconds=0.2, test=tested),
        "resnet8": fake("resnet8-honest", n=20_000, seconds=11.0, test=tested),
    }
    table = found.costs(["cnn1", "resnet8", "resnet8_cleaner", "resnet8_model2"], here)
    assert table["recorded (images)"].tolist() == ["29.9 (44,000)", *["–"] * 3]
    assert table["here (images)"].tolist() == ["–", "11.0 (20,000)", "–", "–"]
    assert table["parameters"].tolist() == [319_178, 103_306, 112_818, 103_306]


def test_the_costs_say_which_network_is_small_and_which_is_light():
    assert (
        "`cnn1` has 3.1 times as many as `resnet8`, which takes 1.8 times the multiply-adds" in says.costly()
    )


def test_each_figure_takes_the_record_of_its_own_protocol_then_any_other_then_what_was_drawn(committed):
    here = {"vgg": fake("vgg-honest", source="synthetic", test=scored([[60, 20], [10, 70]]))}
    assert found.to_show(["vgg"], here, "honest") == (here, "this execution")
    committed.append(fake("vgg-report000"))
    committed.append(fake("cct-report000"))
    assert set(found.to_show(["vgg"], here, "honest")[0]) == {"vgg (report000)"}
    committed.append(fake("vgg-honest"))
    drawn, source = found.to_show(["vgg", "cct"], here, "honest")
    assert {name: run.name for name, run in drawn.items()} == {
        "vgg": "noisy_cifar/vgg-honest",
        "cct (report000)": "noisy_cifar/cct-report000",
    }
    assert "`honest`" in source
    own = {"vgg": fake("vgg-honest", test=scored([[60, 20], [10, 70]]))}
    assert found.to_show(["vgg", "cct"], own, "honest") == (own, "this execution")
    brief = {"vgg": fake("vgg-honest", n=1_760, epochs=1, test=scored([[60, 20], [10, 70]]))}
    assert found.to_show(["vgg"], brief, "honest")[0]["vgg"] is committed[-1]


def test_the_summary_takes_the_readers_real_runs_before_any_record(committed, settings):
    committed.append(fake("cnn1-honest", test=scored([[90, 10], [10, 90]])))
    drawn = {"cnn1": fake("cnn1-honest", source="synthetic", test=scored([[60, 40], [40, 60]]))}
    real = {"cnn1": fake("cnn1-report001", test=scored([[70, 30], [30, 70]]))}
    assert "0.900 with `cnn1`" in says.summary(settings, drawn)
    assert "On the course's data" in says.summary(settings, drawn)
    under = lab.under(settings, "report001")
    assert "0.700 with `cnn1`" in says.summary(under, real)
    assert "In this execution, under the protocol `report001`" in says.summary(under, real)
    committed += [
        fake("cnn2_filter-honest", test=scored([[60, 40], [40, 60]])),
        fake("cnn2_stage1-honest", test=scored([[55, 45], [45, 55]])),
        fake("cnn1-honest", test=scored([[80, 20], [20, 80]])),
    ]
    assert "0.850 with `cnn1`" in says.summary(settings, drawn)  # of two seeds
    assert "0.600 with `cnn2_filter`, where `cnn2_stage1` has 0.550" in says.summary(settings, drawn)
    committed.clear()
    assert "0.600 with `cnn1`" in says.summary(settings, drawn) and "drawn" in says.summary(settings, drawn)


def test_the_summary_chooses_by_validation_and_never_by_test(committed, settings):
    committed += [
        fake("cnn1-honest", test=scored([[90, 10], [10, 90]]), valid=0.5),
        fake("vgg-honest", test=scored([[70, 30], [30, 70]]), valid=0.8),
    ]
    assert "0.700 with `vgg`, which validates best of 2" in says.summary(settings, {})


def test_the_profiles_name_the_networks_that_train_in_earnest():
    smoke, quick = (line for line in says.profiles().splitlines() if "meant to stay within" in line)
    assert "`cnn1` and `cnn2` train for 4 epochs" in smoke and "a set of 50;" in smoke
    assert "`vgg` and `resnet8` train for 5 epochs" in quick and "a set of 500" in quick


def baseline():
    """A record that holds the noise of pairs, unlike what the settings draw."""
    flipped = (np.array([[6, 4], [0, 10]])[:, :, None, None] * np.eye(5, dtype=int)).transpose(0, 2, 1, 3)
    return fake("histogram_baseline-honest", given_labels={"confusion": flipped.reshape(10, 10).tolist()})


def test_drawn_images_show_the_noise_on_record_unless_the_reader_chose_another(committed, settings):
    noisy = lab.images(settings)
    here = labels.transition(noisy.labels, noisy.true_labels, 10)
    assert found.noise_to_draw(settings, here) == (here, "the labels of this page")
    committed.append(baseline())
    drawn, origin = found.noise_to_draw(settings, here)
    assert drawn.rate == pytest.approx(0.2) and "a record on the course's data" in origin
    chosen = replace(settings, own={**settings.own, "noise_kind": "pair_flip"})
    assert found.noise_to_draw(chosen, here)[0] is here
    assert found.noise_to_draw(replace(settings, data="/folder"), here)[0] is here


def test_class_shares_come_from_the_noise_that_is_drawn():
    noise = found.noise(baseline())
    shares = found.frequencies(noise)
    assert shares["true labels"].counts().tolist() == [10] * 10
    assert shares["labels as given"].counts().tolist() == [6] * 5 + [14] * 5
    assert "changes by more than 4.0 points, although 20.0% of the labels" in says.counted(noise)


def test_corrections_stand_beside_what_was_trained_on_them(committed):
    judged = {"n": 100, "precision": 0.5, "recall": 0.5, "residual_noise": 0.3, "kept": 1.0}
    committed += [
        fake("vgg_cleaner-honest", test=scored([[1, 0], [0, 1]]), corrections=judged),
        fake("vgg_model2-honest", test=scored([[70, 30], [30, 70]])),
        fake("vgg_mixup-honest", test=scored([[80, 20], [20, 80]])),
        fake("vgg_gce-honest", test=scored([[65, 35], [35, 65]])),
        fake("cnn2_filter-honest", test=scored([[60, 40], [40, 60]]), corrections=judged | {"kept": 0.2}),
    ]
    table = found.corrections(found.to_show(found.JUDGED, {}, "honest")[0])
    assert table["test accuracy"].to_dict() == {"vgg_cleaner": 0.7, "vgg_gce": 0.65, "cnn2_filter": 0.6}
    assert table["with mixup"].dropna().to_dict() == {"vgg_cleaner": 0.8}
    assert np.isnan(table.loc["vgg_gce", "kept"])
    here = labels.transition(np.arange(20) % 10, np.arange(20) % 10, 10)
    assert "most labels, 100%, `vgg_cleaner` leaves 30.0%." in says.judged(table, here, "this execution")
    table.loc["cct_cleaner"] = table.loc["vgg_cleaner"] + 0.01 * (table.columns == "residual noise")
    said = says.judged(table, here, "this execution")
    assert "`vgg_cleaner` leaves 30.0% and `cct_cleaner` 31.0%." in said


def test_published_accuracies_stand_beside_ours_and_are_worked_out(committed):
    ours = fake("cnn1-honest", test=scored(np.eye(10) * 10), test_given=scored(np.eye(10)))
    table = found.agreement({"cnn1 (report001)": ours}, np.eye(10))
    training, test = found.PUBLISHED
    assert (table.loc["cnn1 (report001)", training], table.loc["cnn1 (report001)", test]) == (0.3379, 0.4560)
    assert (table.loc["resnet44", training], table.loc["resnet44", test]) == (0.3138, 0.6724)
    assert set(table.index) == {*lab.MODEL1} - {"cnn1"} | {"cnn1 (report001)"}
    assert "not on record" in says.worked()
    committed.append(baseline())
    assert "0.6724 × 0.8000 + 0.3276 × 0.0222 = 0.5452 of the given labels" in says.worked()


def test_the_filters_and_the_fields_answers_are_told_from_runs_in_earnest(committed):
    judged = {"kept": 0.24, "residual_noise": 0.13}
    run = fake("cnn2_filter-report001", test=scored([[60, 40], [40, 60]]), corrections=judged)
    assert says.filtered({}, "honest") == "No filter has been run on enough images yet."
    committed += [run, fake("cnn2_stage1-report001", test=scored([[5, 5], [5, 5]]))]
    assert "agrees with 24.0%" in says.filtered({}, "honest")
    assert "names 0.600 of the test images, where the first named 0.500." in says.filtered({}, "honest")
    assert "None of the three" in says.answered({}, "honest")
    committed += [
        fake("vgg_gce-honest", test=scored([[70, 30], [30, 70]]), valid=0.6),
        fake("vgg_forward-honest", test=scored([[80, 20], [20, 80]]), valid=0.5),
        fake("vgg-honest", test=scored([[65, 35], [35, 65]])),
    ]
    told = says.answered({}, "honest")
    assert "`vgg_gce` validates best, and names 0.700" in told and "as given, `vgg` names 0.650." in told


def test_the_sizes_behind_validation_are_those_of_the_protocols(settings):
    assert found.course_sizes("report000") | {"noisy": 40_500, "valid": 4_500} == found.course_sizes(
        "report000"
    )
    here = labels.transition(np.arange(20) % 10, np.arange(20) % 10, 10)
    told = says.validated(here, lab.split(replace(settings, n=100)))
    assert "the 4,500 labels that report 000 validates on" in told
    assert "`honest` sets 1,000 true labels aside" in told and "under `honest`, 2 images validate" in told
    assert "no image validates" in says.validated(here, lab.split(lab.under(settings, "report001")))


def test_the_three_functions_are_told_by_their_accuracies():
    import pandas as pd

    table = pd.DataFrame({"accuracy": [0.2, 0.5, 0.4]}, index=["baseline", "model_1", "model_2"])
    assert says.predicted(table, 510) == (
        "Of the 510 test images on this page, `model_1` names 0.500, `model_2` 0.400 and `baseline` 0.200."
    )


def test_what_has_no_record_says_what_it_would_take(committed):
    committed.append(fake("vgg-honest"))
    text = says.missing(["vgg", "cct"], "honest")
    assert "`cct` (about" in text and "`vgg`" not in text and "alone" not in text
    assert "All of them" in says.missing(["vgg"], "honest")


def test_the_best_model_is_chosen_among_those_validated_on_the_same_images_and_labels(settings):
    def run(fingerprint, validated=None):
        valid = fingerprint and {"n": 500, "fingerprint": fingerprint}
        return SimpleNamespace(record={"data": {"valid": valid}}, validated=validated)

    valid = lab.split(settings).valid
    ours = valid.fingerprint()
    runs = {"cleaned": run("other", 1.0), "first": run(ours, 0.3), "second": run(ours, 0.4)}
    assert found.best(runs, valid, "") == "second"
    brief = {"first": run("brief", 0.1), "second": run("brief", 0.2), "third": run("other", 0.9)}
    assert found.best(brief, valid, "") == "second"
    assert found.best({"first": run(None), "second": run(None)}, None, "") == "first"
    assert found.best({}, valid, "cnn1") == "cnn1"


def test_tables_for_the_page_hold_text_without_gaps():
    import pandas as pd

    table = pd.DataFrame({"a": [0.12345, math.nan, 1e-7], "b": [319_178, 39.16, 5.0], "c": ["x", "y", None]})
    assert found.shown(table).to_numpy().tolist() == [
        ["0.123", "319,178", "x"],
        ["–", "39.2", "y"],
        ["1e-07", "5", "–"],
    ]


def test_split_sizes_name_every_part_and_its_labels(settings):
    for protocol in protocols.NOISY_PROTOCOLS:
        parts = lab.split(lab.under(settings, protocol))
        table = found.sizes(parts)
        assert list(table.index) == list(parts.parts())
        assert (table.loc["noisy", "labels"], table.loc["test", "labels"]) == ("given", "true beside given")
    assert found.sizes(lab.split(lab.under(settings, "report000"))).loc["valid", "labels"] == "given"


def test_cleaning_beats_training_on_noise_and_both_beat_colours(smoke):
    _, folder = smoke("noisy_cifar")
    found_runs = {path.parent.name.rpartition("-")[0]: runs.load(path) for path in folder.rglob("run.json")}

    def score(name):
        """On all images the run was tested on, seen by a protocol or not."""
        parts = [found_runs[f"{name}-honest"].metrics[part] for part in ("test", "unseen")]
        return sum(part["accuracy"] * part["n"] for part in parts) / sum(part["n"] for part in parts)

    colours, noisy, cleaned = map(score, ("histogram_baseline", "cnn1", "cnn2_filter"))
    assert colours + 0.1 < noisy and noisy + 0.1 < cleaned
