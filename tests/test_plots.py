import base64
import io
import re
import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from labkit import labels, plots
from labkit.errors import ParameterError
from labkit.plots import look
from labkit.plots.curves import rate_drops
from labkit.predictions import Predictions

CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture(autouse=True)
def quiet_matplotlib():
    with mpl.rc_context(), mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


def curve(epochs=12, drops=(5, 9), best=0.6):
    steps = np.arange(1, epochs + 1)
    rates = 0.1 * 0.5 ** sum((steps >= drop).astype(int) for drop in drops)
    rising = best * (1 - 0.8**steps)
    return pd.DataFrame(
        {
            "epoch": steps,
            "accuracy": rising + 0.05,
            "val_accuracy": np.where(steps == 7, best, 0.9 * rising),
            "loss": 2 - rising,
            "val_loss": 2.2 - rising,
            "lr": rates,
        }
    )


def run(name="chapter/net", **options):
    return SimpleNamespace(name=name, history=curve(**options), kept_epoch=7)


def predictions(k=4, n=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    shares = np.exp(rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels])
    names = CLASSES[:k] if k <= 4 else tuple(f"class {number:03}" for number in range(k))
    return Predictions(shares / shares.sum(1, keepdims=True), labels, names, "synthetic, seed 0")


def image_set(n=20, k=4, **more):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % k
    fields = {
        "images": rng.integers(0, 256, (n, 6, 8, 3), np.uint8),
        "labels": labels,
        "classes": CLASSES[:k],
    }
    fields |= {"source": "synthetic, seed 0", "true_labels": None, **more}

    class Images(SimpleNamespace):
        def __len__(self):
            return n

        def counts(self):
            return np.bincount(labels, minlength=k)

    return Images(**fields)


def line(ax, label):
    return next(drawn for drawn in ax.lines if drawn.get_label() == label)


def said(ax):
    return [text.get_text() for text in ax.texts]


def test_history_draws_both_lines_best_epoch_and_rate_drops():
    ax = plots.history(run())
    assert line(ax, "training").get_ydata()[0] == pytest.approx(curve()["accuracy"][0])
    assert line(ax, "validation").get_xdata().tolist() == list(range(1, 13))
    drops = [drawn.get_xdata()[0] for drawn in ax.lines if drawn.get_label() == "_rate drop"]
    assert drops == [4.5, 8.5]
    assert line(ax, "_best").get_xydata().tolist() == [[7, 0.6]]
    assert "○ kept 0.600, epoch 7" in said(ax)
    assert {"training", "validation"} <= set(said(ax))  # named at their ends, without a legend
    assert ax.get_legend() is None
    assert ax.get_title("left") == "Accuracy of chapter/net"


def test_history_takes_runs_records_tables_and_lists():
    table = curve()
    record = {"name": "chapter/net", "history": table.to_dict("list"), "best_epoch": 7}
    for thing in (
        run(),
        record,
        table,
        table.to_dict("list"),
        SimpleNamespace(history=table.drop(columns="epoch")),
    ):
        drawn = line(plots.history(thing), "validation")
        np.testing.assert_allclose(drawn.get_xydata(), table[["epoch", "val_accuracy"]])


def test_history_without_validation_draws_training_alone():
    ax = plots.history(curve()[["epoch", "accuracy"]])
    assert [drawn.get_label() for drawn in ax.lines] == ["training"]
    assert "validation" not in plots.alt(ax)


def test_history_of_two_heads_draws_their_mean():
    table = curve().rename(columns={"accuracy": "mean_accuracy", "val_accuracy": "val_mean_accuracy"})
    assert plots.history(table).get_ylabel() == "mean accuracy"


def test_history_names_the_columns_it_has():
    with pytest.raises(ParameterError, match="Did you mean 'accuracy'"):
        plots.history(curve(), metric="acuracy")
    with pytest.raises(ParameterError, match="has no history"):
        plots.history(3)


def test_a_run_without_epochs_has_nothing_to_draw():
    with pytest.raises(ParameterError, match="no epoch to draw"):
        plots.history(curve().head(0))


def test_plots_and_predictions_need_neither_keras_nor_data():
    told = "import sys, labkit.plots, labkit.predictions; print({'keras', 'labkit.data'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True).stdout == "set()\n"


def test_a_smooth_schedule_has_no_drops():
    cosine = pd.DataFrame({"epoch": np.arange(1, 21), "lr": np.cos(np.linspace(0, 1.57, 20))})
    assert rate_drops(cosine) == []
    assert rate_drops(curve()) == [5, 9]
    assert rate_drops(curve().drop(columns="lr")) == []


def test_one_epoch_is_enough_to_draw():
    ax = plots.history(curve(epochs=1, drops=()))
    assert ax.get_xticks().tolist() == [1]


def test_loss_and_accuracy_share_the_best_epoch():
    figure = plots.loss_and_accuracy(run())
    marks = [line(ax, "_best").get_xdata()[0] for ax in figure.axes]
    assert marks == [7, 7]
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy", "loss"]


def test_an_epoch_that_nobody_kept_is_called_the_best():
    record = {"history": curve().to_dict("list"), "best_epoch": 7}
    assert "○ kept 0.600, epoch 7" in said(plots.history(record))
    assert any(text.startswith("○ best 0.600, epoch 7") for text in said(plots.history(curve())))
    last = plots.history(record | {"recipe": {"restore_best": False}})
    assert any(re.fullmatch(r"○ kept .*, epoch 12", text) for text in said(last))


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_words_on_the_best_epoch_stand_above_the_lines(metric):
    ax = plots.history(run(), metric=metric)
    panel = plots.loss_and_accuracy(run()).axes[metric == "loss"]
    for axes, words in ((ax, ax.texts), (panel, [panel._right_title])):
        axes.figure.canvas.draw()
        [marked] = [text for text in words if text.get_text().startswith("○ kept")]
        assert marked.get_window_extent().y0 >= axes.get_window_extent().y1


def test_histories_name_every_line_at_its_end():
    runs = {"cnn": run(), "vgg": run(epochs=20), "cct": run(epochs=20)}
    ax = plots.histories(runs)
    assert said(ax) == ["cnn", "vgg", "cct"]
    heights = sorted(text.get_position()[1] * ax.bbox.height for text in ax.texts)
    assert min(np.diff(heights)) > 8  # equal ends would lie on each other
    assert len({str(drawn._unscaled_dash_pattern) for drawn in ax.lines}) == 3  # told apart without colour


def test_histories_go_over_any_column():
    runs = {"net": curve().assign(pairs=np.arange(12) * 100)}
    ax = plots.histories(runs, x="pairs")
    assert ax.get_xlabel() == "pairs"
    assert ax.lines[0].get_xdata()[-1] == 1100


def test_side_by_side_has_a_panel_a_run_on_one_scale():
    figure = plots.side_by_side({f"net {number}": run() for number in range(4)})
    assert len(figure.axes) == 4
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


@pytest.mark.parametrize("form", ["predictions", "record"])
def test_confusion_of_few_classes_shows_every_share(form):
    some = predictions()
    ax = plots.confusion(some if form == "predictions" else some.summary(), name="vgg")
    shares = some.confusion() / some.confusion().sum(1, keepdims=True)
    np.testing.assert_allclose(ax.images[0].get_array(), shares)
    assert f"{100 * shares[1, 1]:.0f}" in said(ax)
    assert "per cent of the true class" in " ".join(said(ax)).replace("\n", " ")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(CLASSES)
    assert "300 images" in plots.alt(ax)


def test_confusion_of_100_classes_parts_groups_and_names_no_class():
    some = predictions(100, 2000)
    groups = np.random.default_rng(1).permutation(np.arange(100) % 20)
    names = [f"group {number}" for number in range(20)]
    ax = plots.confusion(some, groups=groups, group_names=names)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == names
    assert len(ax.lines) == 2 * 19
    order = np.argsort(groups, kind="stable")
    np.testing.assert_array_equal(np.diag(ax.images[0].get_array()) > 0, np.diag(some.confusion())[order] > 0)
    assert not [text for text in said(ax) if text.isdigit()]


def test_long_notes_and_long_names_stay_within_the_figure():
    summary = predictions(20, 400).summary()
    summary["classes"] = [f"large omnivores and herbivores {number}" for number in range(20)]
    summary["source"] = "folder cifar-100-binary (5,000 of 10,000 test images)"
    for figure in (plots.confusion(summary, name="superclasses").figure, plots.per_class(summary).figure):
        figure.draw_without_rendering()
        drawn = figure.get_tightbbox()
        assert drawn.x0 >= -0.02 and drawn.x1 <= figure.get_figwidth() + 0.02


def test_confusion_refuses_wrong_groups_and_two_heads():
    with pytest.raises(ParameterError, match="4 classes need as many"):
        plots.confusion(predictions(), groups=[0, 1])
    with pytest.raises(ParameterError, match="for two heads draw each"):
        plots.confusion({"first": predictions()})


def test_noise_matrix_shows_intervals_only_where_known():
    matrix = np.full((4, 4), 0.1) + 0.6 * np.eye(4)
    bare = plots.noise_matrix(matrix, CLASSES)
    assert said(bare).count("70") == 4
    known = SimpleNamespace(matrix=matrix, low=matrix - 0.05, high=matrix + 0.05)
    assert said(plots.noise_matrix(known, CLASSES)).count("65–75") == 4


def test_a_class_never_seen_leaves_its_row_of_the_noise_matrix_blank():
    found = labels.transition(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]), 4)
    ax = plots.noise_matrix(found, CLASSES)
    assert sum("–" in text for text in said(ax)) == 3 * 4
    assert not any("nan" in text for text in said(ax))
    told = plots.alt(ax)
    assert "4 classes, 1 of them never seen:" in told and "kept for 50 to 100 per cent" in told
    assert "bee for ant (50 per cent)" in told


def test_reliability_draws_a_dot_for_every_filled_step():
    some = predictions()
    ax = plots.reliability(some.summary())
    table = some.reliability()
    filled = table[table["count"] > 0]
    dots = ax.collections[-1]
    np.testing.assert_allclose(dots.get_offsets(), filled[["confidence", "accuracy"]])
    assert np.argmax(dots.get_sizes()) == filled["count"].argmax()
    assert f"{some.ece():.3f}" in plots.alt(ax)


def test_per_class_bars_are_sorted():
    some = predictions()
    ax = plots.per_class(some, metric="recall")
    lengths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(lengths, sorted(some.report()["recall"], reverse=True), atol=1e-5)
    with pytest.raises(ParameterError, match="Did you mean 'recall'"):
        plots.per_class(some, metric="recal")


def test_per_class_of_many_shows_the_ends():
    some = predictions(100, 3000)
    ax = plots.per_class(some)
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    report = some.report()["f1"].sort_values(ascending=False)
    assert len(names) == 31
    assert report[names[0]] == report.max()
    assert report[names[-1]] == report.min()


def test_class_counts_of_one_set_and_of_two():
    ax = plots.class_counts(image_set(18))
    assert [bar.get_width() for bar in ax.patches] == [5, 5, 4, 4]
    both = plots.class_counts({"noisy": image_set(18), "true": image_set(8)})
    assert sum(bar.get_width() for bar in both.patches) == pytest.approx(2)
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["noisy (18)", "true (8)"]


def test_scores_mark_each_column_and_leave_out_what_is_missing():
    table = pd.DataFrame(
        {"recorded": [0.6, 0.7], "published": [0.62, np.nan], "low": [0.58, 0.68], "high": [0.62, 0.72]},
        index=["vgg", "cct"],
    )
    ax = plots.scores(table)
    dots = [drawn for drawn in ax.collections if drawn.get_label() in table]
    assert [drawn.get_label() for drawn in dots] == ["recorded", "published"]
    assert plots.alt(ax).endswith("vgg recorded 0.600, published 0.620; cct recorded 0.700.")


def results():
    return pd.DataFrame(
        {
            "parameters": [1e5, 1e6, 1.05e6],
            "accuracy": [0.6, 0.9, 0.9],
            "val_accuracy": [0.5, 0.6, 0.599],
            "seconds": [30, 4000, 4100],
        },
        index=["small", "large", "larger"],
    )


def test_gap_is_training_minus_validation():
    ax = plots.gap_against_parameters(results())
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[1e5, 0.1], [1e6, 0.3], [1.05e6, 0.301]])
    extents = [text.get_window_extent() for text in ax.texts]
    assert not extents[0].overlaps(extents[1])
    with pytest.raises(ParameterError, match="no column 'parameters'"):
        plots.gap_against_parameters(results().drop(columns="parameters"))


def test_accuracy_against_time_speaks_of_minutes_and_hours():
    ax = plots.accuracy_against_time(results())
    ax.figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert "1 min" in ticks
    assert "1 h" in ticks


def test_parallel_coordinates_end_in_the_best_score():
    trials = pd.DataFrame({"lr": [0.1, 0.01, 0.001], "kind": ["a", "b", "a"], "score": [0.2, 0.5, np.nan]})
    ax = plots.parallel_coordinates(trials, ["lr", "kind"], log=["lr"])
    np.testing.assert_allclose(line(ax, "best").get_ydata(), [0, 1, 1])
    assert len(ax.lines) == 2 + 3  # two finished trials, three axes
    assert "best: lr 0.01, kind b, score 0.5" in plots.alt(ax)


def rates():
    table = pd.DataFrame({"lr": [1e-4, 1e-3, 1e-2], "loss": [2.0, 1.2, 3.0], "smooth": [2.0, 1.1, 2.0]})
    return SimpleNamespace(table=table, suggestion=5e-4)


def test_rate_scan_marks_the_rate_to_try():
    ax = plots.rate_scan(rates())
    assert line(ax, "_best").get_xydata().tolist() == [[5e-4, 1.1]]
    assert line(ax, "smoothed").get_ydata().tolist() == [2.0, 1.1, 2.0]
    assert "○ try 5.0e-04" in said(ax)


def test_images_show_the_true_label_where_it_differs():
    labels = np.array([0, 1, 2, 3] * 5)
    truth = np.array([0, 2, -1, 3] * 5)
    figure = plots.images(image_set(labels=labels, true_labels=truth), 20)
    assert len(figure.axes[0].images) == 20
    assert said(figure.axes[0])[1:4] == ["bee\nis cat", "cat", "dog\n(right)"]


def test_images_of_pairs_name_both_heads():
    heads = {"first": np.zeros(20, int), "second": np.ones(20, int)}
    classes = {"first": ("ant", "bee"), "second": ("cat", "dog")}
    figure = plots.images(image_set(labels=heads, classes=classes), 3)
    assert said(figure.axes[0])[0] == "ant\ndog"


def test_pictures_keep_their_own_pixels():
    some = image_set()
    figure = plots.images(some, index=[4, 5])
    np.testing.assert_array_equal(figure.axes[0].images[1].get_array(), some.images[5])
    packed = re.findall(r'data:image/\w+;base64,\s*([^"]+)"', plots.svg(figure))
    pictures = [np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in packed]
    assert [picture.shape for picture in pictures] == [(6, 8, 3)] * 2
    assert sorted(picture.sum() for picture in pictures) == sorted(some.images[[4, 5]].sum((1, 2, 3)))


def test_a_hundred_noisy_pictures_stay_light():
    noise = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
    figure = plots.images(image_set(100, images=noise, labels=np.arange(100) % 4), 100, columns=10)
    assert len(plots.svg(figure)) < look.LARGEST


def test_class_means_end_with_the_mean_of_all():
    some = image_set()
    drawn = plots.class_means(some).axes[0].images
    np.testing.assert_array_equal(drawn[1].get_array(), np.rint(some.images[some.labels == 1].mean(0)))
    np.testing.assert_array_equal(drawn[-1].get_array(), np.rint(some.images.mean(0)))


def test_one_per_class_takes_the_first_of_each():
    some = image_set()
    drawn = plots.one_per_class(some).axes[0].images
    np.testing.assert_array_equal([picture.get_array() for picture in drawn], some.images[:4])


def test_mistakes_show_what_was_predicted_how_surely():
    some, shown = predictions(n=20), image_set()
    worst = some.worst(3)
    figure = plots.mistakes(some, shown, 3)
    first = worst.iloc[0]
    assert f"{first.predicted} {100 * first.confidence:.0f} %\nlabel {first.true}" == said(figure.axes[0])[0]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), shown.images[first["index"]])


def test_augmentations_put_rows_below_each_other():
    before = image_set().images[:3]
    figure = plots.augmentations(
        before, {"flipped": before[:, :, ::-1]}, captions={"flipped": ["a", "b", "c"]}, source="folder x"
    )
    assert "Before and after augmentation, folder x: before, flipped" in plots.alt(figure)
    tops = [picture.get_extent()[3] for picture in figure.axes[0].images]
    assert tops[:3] == [0, 0, 0]
    assert min(tops[3:]) > 0.75  # a picture is 6/8 of its width high
    assert {"before", "flipped", "a"} <= set(said(figure.axes[0]))
    with pytest.raises(ParameterError, match="different lengths"):
        plots.image_rows({"one": before, "two": before[:2]})


def test_soft_captions_name_two_classes_at_most():
    assert plots.soft_caption(np.array([0, 1, 0, 0]), CLASSES) == "bee"
    assert plots.soft_caption(np.array([0.3, 0.7, 0, 0]), CLASSES) == "bee 70 %\nant 30 %"


def test_heat_colours_where_the_map_is_high():
    maps = np.zeros((2, 6, 8))
    maps[0, 0, 0] = 3
    drawn = plots.heat(np.full((2, 6, 8, 3), 100, np.uint8), maps).axes[0].images
    assert drawn[0].get_array()[0, 0].tolist() == [185, 96, 25]
    assert drawn[1].get_array().min() == drawn[1].get_array().max() == 100


def test_every_plot_draws_into_axes_given():
    ax = plt.figure().subplots()
    for draw in (
        lambda: plots.history(run(), ax=ax),
        lambda: plots.histories({"net": run()}, ax=ax),
        lambda: plots.reliability(predictions(), ax=ax),
        lambda: plots.confusion(predictions(), ax=ax),
        lambda: plots.noise_matrix(np.eye(4), CLASSES, ax=ax),
        lambda: plots.per_class(predictions(), ax=ax),
        lambda: plots.class_counts(image_set(), ax=ax),
        lambda: plots.scores(pd.DataFrame({"ours": [0.5]}, index=["net"]), ax=ax),
        lambda: plots.gap_against_parameters(results(), ax=ax),
        lambda: plots.accuracy_against_time(results(), ax=ax),
        lambda: plots.parallel_coordinates(pd.DataFrame({"lr": [1.0], "score": [1.0]}), ["lr"], ax=ax),
        lambda: plots.rate_scan(rates(), ax=ax),
    ):
        ax.clear()
        assert draw() is ax
        assert plots.alt(ax).endswith(".")


def test_svg_is_the_same_every_time():
    assert plots.svg(plots.history(run())) == plots.svg(plots.history(run()))


def test_importing_plots_changes_no_setting():
    before = dict(mpl.rcParamsDefault)
    assert before["axes.spines.top"] is True
    plots.history(run())
    assert mpl.rcParams["axes.spines.top"] is True
    plots.style()
    assert mpl.rcParams["axes.spines.top"] is False


def test_no_sentence_in_a_table_is_cut_short():
    plots.style()
    assert "..." not in pd.DataFrame({"source": ["word " * 20]}).to_html()


def test_labels_are_moved_apart_no_further_than_needed():
    np.testing.assert_allclose(look._apart(np.array([5.0, 5.0, 100.0]), 10), [0, 10, 100])
    np.testing.assert_allclose(look._apart(np.array([30.0, 0.0]), 10), [30, 0])


def luminance(colour):
    parts = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("colour", [*look.PALETTE, look.INK])
def test_text_in_the_colour_of_a_line_can_be_read_on_white(colour):
    assert 1.05 / (luminance(look.ink_of(colour)) + 0.05) >= 4.5
    assert 1.05 / (luminance(look.MUTED) + 0.05) >= 4.5


def test_numbers_in_a_matrix_can_be_read_on_their_shade():
    for share in np.linspace(0, 1, 101):
        text, shade = luminance(look.ink_on(share)), luminance(look.SHADES(share))
        assert (max(text, shade) + 0.05) / (min(text, shade) + 0.05) >= 4.5, share


def test_model_pictures_list_the_layers():
    keras = pytest.importorskip("keras", reason="pictures of models need Keras")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)), name="tiny")
    ax = plots.model_layers(model)
    assert ax.images[0].get_array().shape[1] > 50
    assert plots.alt(ax).startswith("The layers of tiny in order, as boxes to scale: 1 InputLayer, 1 Conv2D")


def test_model_graph_says_why_there_is_none(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    graph = plots.model_graph(SimpleNamespace(name="tiny"))
    bundle, metadata = graph._repr_mimebundle_()
    assert "dot is not installed" in bundle["text/plain"]
    assert metadata == {}


def test_model_graph_is_svg_with_alt_text():
    pytest.importorskip("pydot", reason="graphs of models need pydot")
    import shutil

    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    import keras

    inputs = keras.Input((4,))
    joined = keras.layers.Add()([keras.layers.Dense(4)(inputs), inputs])
    graph = plots.model_graph(keras.Model(inputs, joined, name="joined"))
    bundle, metadata = graph._repr_mimebundle_()
    assert bundle["image/svg+xml"].startswith("<svg")
    assert metadata["image/svg+xml"]["alt"] == "Graph of joined: 3 layers, 1 of them join branches."


def test_a_notebook_shows_each_figure_once_with_its_alt_text(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="needs the tools of the book")
    import nbformat.v4 as v4

    setup = (
        "from labkit import plots\nplots.style()\nrun = {'accuracy': [0.1, 0.2], 'val_accuracy': [0.1, 0.3]}"
    )
    cells = [setup, "plots.history(run)", "figure = plots.loss_and_accuracy({**run, 'loss': [2, 1]})\nfigure"]
    cells.append("import matplotlib.pyplot as plt\nplots.history(run, ax=plt.figure().subplots());")
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    assert notebook.cells[0].outputs == []
    for cell in notebook.cells[1:]:
        (output,) = cell.outputs
        assert output.data["image/svg+xml"].startswith("<?xml")
        assert output.metadata["image/svg+xml"]["alt"].startswith("Line chart of accuracy over 2 epochs")
        assert "image/png" not in output.data
