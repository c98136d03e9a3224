import keras
import numpy as np
import pytest

from labkit import augment, data
from labkit.errors import ParameterError

IMAGES = data.synthetic("cifar10", 50, 0)
LEFT, RIGHT = data.pair_groups(IMAGES)


def one_hot(n, k=5, seed=0):
    return np.eye(k, dtype=np.float32)[np.random.default_rng(seed).integers(k, size=n)]


def test_moved_flips_then_shifts_over_black():
    x = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3) + 1
    out = augment.moved(x, np.array([False, True]), np.array([1, 0]), np.array([-2, 1]))
    assert (out[0, 1:, :2] == x[0, :3, 2:]).all() and not out[0, 0].any() and not out[0, :, 2:].any()
    assert (out[1, :, 1:] == x[1, :, ::-1][:, :3]).all() and not out[1, :, 0].any()
    assert out.dtype == x.dtype and (x[0, 0, 0] == [1, 2, 3]).all()


def test_basic_draws_every_flip_and_shift_equally_often():
    flips, down, right = augment.draw_moves(40_000, np.random.default_rng(0), pad=2)
    assert flips.mean() == pytest.approx(0.5, abs=0.01)
    for shift in (down, right):
        shares = np.bincount(shift + 2, minlength=5) / 40_000
        assert shares == pytest.approx([0.2] * 5, abs=0.01)


def test_basic_touches_the_share_asked_for_and_leaves_labels_alone():
    x, y = IMAGES.images, one_hot(len(IMAGES))
    out, same = augment.basic(x, y, np.random.default_rng(0), share=0.0)
    assert (out == x).all() and same is y
    rng = np.random.default_rng(0)
    touched = np.mean(
        [(augment.basic(x, y, rng, share=0.5)[0] != x).any(axis=(1, 2, 3)).mean() for _ in range(40)]
    )
    # A touched image is left as it was by one draw in fifty: no flip and no shift.
    assert touched == pytest.approx(0.5 * 0.98, abs=0.05)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_keeps_label_sums_and_means(name):
    mix = augment.get(name)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(64, 16, 16, 3), dtype=np.uint8)
    y = one_hot(64)
    pixels, targets = [], []
    for _ in range(200):
        mixed, labels = mix(x, y, rng)
        assert np.allclose(labels.sum(axis=1), 1, atol=1e-6)
        assert labels.min() >= 0
        pixels.append(mixed.mean(dtype=np.float64))
        targets.append(labels.mean(axis=0))
    assert np.mean(pixels) == pytest.approx(x.mean(), rel=0.005)
    assert np.mean(targets, axis=0) == pytest.approx(y.mean(axis=0), abs=0.01)
    assert mixed.shape == x.shape and mixed.dtype == (np.float32 if name == "mixup" else np.uint8)


def test_mixup_blends_image_and_label_by_one_share():
    x = np.stack([np.zeros((4, 4, 3)), np.full((4, 4, 3), 255)]).astype(np.uint8)
    y = np.eye(2, dtype=np.float32)
    mixed, labels = augment.mixup(x, y, np.random.default_rng(0), partners=(x[::-1], y[::-1]))
    assert mixed[:, 0, 0, 0] / 255 == pytest.approx(labels[:, 1], abs=1e-6)
    draws = [
        augment.mixup(x, y, np.random.default_rng(s), partners=(x[::-1], y[::-1]))[1][0, 0]
        for s in range(2000)
    ]
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert np.mean(draws) == pytest.approx(0.5, abs=0.04)
    assert np.var(draws) == pytest.approx(1 / (4 * 1.4), rel=0.05)


def test_cutmix_labels_follow_the_pasted_area():
    x = np.zeros((500, 16, 16, 3), np.uint8)
    other = np.full_like(x, 255)
    y, other_y = (
        np.tile(np.eye(2, dtype=np.float32)[0], (500, 1)),
        np.tile(np.eye(2, dtype=np.float32)[1], (500, 1)),
    )
    mixed, labels = augment.cutmix(x, y, np.random.default_rng(0), partners=(other, other_y))
    area = (mixed[..., 0] == 255).mean(axis=(1, 2))
    assert labels[:, 1] == pytest.approx(area, abs=1e-6)
    for pasted in mixed[..., 0] == 255:  # every pasted area is one box
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        assert (pasted == rows[:, None] & columns).all()
        assert all(
            np.abs(np.diff(line.astype(int), prepend=0, append=0)).sum() <= 2 for line in (rows, columns)
        )


def test_boxes_are_pasted_from_and_into_images_that_moved():
    x = np.full((2000, 16, 16, 3), 100, np.uint8)
    x[1000:] = 200
    mixed, labels = augment.basic_cutmix(x, one_hot(2000), np.random.default_rng(0))
    moved, _ = augment.basic(x, one_hot(2000), np.random.default_rng(0))
    kept = (mixed == moved).all(axis=(1, 2, 3))
    assert 0.1 < kept.mean() < 0.9  # some boxes are too small to see, others are not
    assert (labels.max(axis=1) < 1).mean() > 0.5
    # Only a shift leaves black; boxes from images that had not moved would cover some of it and bring none.
    assert (mixed == 0).mean() == pytest.approx((moved == 0).mean(), rel=0.05)
    unmoved, _ = augment.cutmix(moved, one_hot(2000), np.random.default_rng(0), partners=(x, one_hot(2000)))
    assert (unmoved == 0).mean() < 0.9 * (moved == 0).mean()


def test_cutmix_pastes_the_expected_area_at_the_borders_too():
    side = np.full(200_000, 0.5)
    marks = augment._interval(side, 16, np.random.default_rng(0))
    # A stretch of half the length around a centre anywhere loses an eighth at the borders on average.
    assert marks.mean() == pytest.approx(0.5 * (1 - 0.5 / 4), abs=0.003)
    covered = marks.mean(axis=0)
    assert covered == pytest.approx(covered[::-1], abs=0.01)
    assert marks[:, 8].mean() == pytest.approx(0.5, abs=0.02)
    everything = augment._interval(np.array([2.5]), 16, np.random.default_rng(0))
    assert everything.all()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ParameterError, match="Did you mean 'cutmix'"):
        augment.get("cutmx")
    with pytest.raises(ParameterError, match="by itself"):
        data.PairStream(LEFT, RIGHT, 4, augment="mixup")


@pytest.mark.parametrize("mix", [augment.mixup, augment.cutmix])
@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_a_share_that_cannot_be_drawn_is_refused(mix, alpha):
    with pytest.raises(ParameterError, match="Expected: a number above 0"):
        mix(IMAGES.images, one_hot(len(IMAGES)), np.random.default_rng(0), alpha=alpha)


@pytest.mark.parametrize("name", [None, *augment.NAMES])
@pytest.mark.parametrize("partners", ["batch", "shuffle"])
def test_batches_are_a_function_of_seed_epoch_and_number(name, partners):
    def batch(seed, epoch, index):
        feed = augment.Batches(IMAGES, 16, seed=seed, augment=name, first_epoch=epoch, partners=partners)
        return feed[index]

    feed = augment.Batches(IMAGES, 16, seed=5, augment=name, partners=partners)
    assert len(feed) == 4
    feed[3], feed[0]
    feed.on_epoch_end()
    for index in (2, 0, 3):
        x, y = feed[index]
        again_x, again_y = batch(5, 1, index)
        assert (x == again_x).all() and (y == again_y).all()
        assert len(x) == (2 if index == 3 else 16) and y.dtype == np.float32
    assert (batch(5, 0, 0)[0] != batch(5, 1, 0)[0]).any()
    assert (batch(5, 0, 0)[0] != batch(6, 0, 0)[0]).any()


def test_every_image_comes_once_an_epoch():
    numbered = data.ImageSet(
        np.arange(50, dtype=np.uint8).repeat(3).reshape(50, 1, 1, 3), IMAGES.labels, IMAGES.classes, "numbers"
    )
    feed = augment.Batches(numbered, 16, seed=0)
    batches = [feed[index] for index in range(len(feed))]
    seen = np.concatenate([x[:, 0, 0, 0] for x, _ in batches])
    assert sorted(seen) == list(range(50)) and (seen != np.arange(50)).any()
    assert (np.concatenate([y for _, y in batches]).argmax(axis=1) == IMAGES.labels[seen]).all()
    still = augment.Batches(numbered, 16, seed=0, shuffle=False)
    assert (np.concatenate([still[index][0][:, 0, 0, 0] for index in range(4)]) == np.arange(50)).all()


def test_smoothing_keeps_the_sum():
    smooth = augment.smooth(np.eye(10), 0.1)
    assert smooth.sum(axis=1) == pytest.approx(1)
    assert smooth[0, 0] == pytest.approx(0.91) and smooth[0, 1] == pytest.approx(0.01)
    with pytest.raises(ParameterError, match="from 0 to 1"):
        augment.smooth(np.eye(2), 2)


def test_smoothed_labels_and_hints():
    x, y = augment.Batches(IMAGES.with_hints(), 10, seed=0, label_smoothing=0.1)[0]
    assert set(x) == {"image", "label"} and x["image"].dtype == np.uint8
    assert x["label"].max(axis=1).tolist() == [1] * 10
    assert y.max(axis=1) == pytest.approx(0.91)
    assert (y.argmax(axis=1) == x["label"].argmax(axis=1)).all()
    mixed, targets = augment.Batches(IMAGES.with_hints(), 10, seed=0, augment="mixup")[0]
    assert mixed["label"] == pytest.approx(targets)  # hint and target are the same labels, mixed alike


def test_pair_streams_feed_the_very_pairs_of_their_epoch():
    stream = data.PairStream(LEFT, RIGHT, 70, seed=3, augment="basic")
    feed = augment.Batches(stream, 32, seed=0, first_epoch=2)
    whole = stream.epoch(2)
    for index in range(3):
        x, y = feed[index]
        span = slice(32 * index, 32 * (index + 1))
        assert (x == whole.images[span]).all()
        for head in data.HEADS:
            assert (y[head].argmax(axis=1) == whole.labels[head][span]).all()


def test_targets_take_the_place_of_labels_and_are_smoothed_as_they_are():
    targets = np.random.default_rng(0).dirichlet(np.ones(10), size=50).astype("float32")
    feed = augment.Batches(IMAGES.with_hints(), 50, seed=0, targets=targets)
    x, y = feed[0]
    order = [np.flatnonzero((IMAGES.images == image).all(axis=(1, 2, 3)))[0] for image in x["image"]]
    assert (y == targets[order]).all() and (np.array(order) != np.arange(50)).any()
    _, softer = augment.Batches(IMAGES, 50, seed=0, targets=targets, label_smoothing=0.5)[0]
    assert softer == pytest.approx(targets[order] / 2 + 0.05)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"targets": np.ones(50)}, {"partners": "both"}, {"seed": -1}, {"augment": "flip"}],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ParameterError):
        augment.Batches(IMAGES, **{"batch_size": 4, "seed": 0, **options})


def test_a_past_batch_is_an_index_error():
    with pytest.raises(IndexError):
        augment.Batches(IMAGES, 25, seed=0)[2]


class _SetEpoch(keras.callbacks.Callback):
    def __init__(self, feed):
        super().__init__()
        self.feed, self.seen = feed, []

    def on_epoch_begin(self, epoch, logs=None):
        self.feed.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.feed.epoch)


def test_fit_draws_the_epoch_that_was_set_and_counts_on():
    model = keras.Sequential(
        [
            keras.layers.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model.compile(optimizer="sgd", loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    feed = augment.Batches(IMAGES, 16, seed=0, augment="basic")
    drawn = []
    feed.augment = lambda x, y, rng: (drawn.append(feed.epoch), (x, y))[1]
    watch = _SetEpoch(feed)
    model.fit(feed, epochs=3, verbose=0, callbacks=[watch])
    assert drawn[-12:] == [0] * 4 + [1] * 4 + [2] * 4
    assert watch.seen == [1, 2, 3]


def test_fit_takes_two_heads():
    inputs = keras.Input((32, 32, 3))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, {head: keras.layers.Dense(5, name=head)(flat) for head in data.HEADS})
    loss = {head: keras.losses.CategoricalCrossentropy(from_logits=True) for head in data.HEADS}
    model.compile(optimizer="sgd", loss=loss)
    pairs = data.mix_pairs(LEFT, RIGHT, n=8, seed=0)
    before = model.get_weights()
    model.fit(augment.Batches(pairs, 4, seed=0), epochs=1, verbose=0)
    assert all((one != other).any() for one, other in zip(before, model.get_weights(), strict=True))
