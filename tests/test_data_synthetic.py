import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from labkit import data, labels
from labkit.augment import Batches
from labkit.errors import DataError

# Drawn once; a change here means that records made on synthetic data are of another set.
FINGERPRINTS = {
    "noisy_cifar": "f7b6cd803c4620bd468684775560b8f968ab7c5c2fa1877686b82c4ddcf21251",
    "cifar10": "1da8acf208fc69b03bf33e34bf293993944c8ec7eb60c1c9369af4b1b00c5190",
    "cifar100": "622018a9e289f8763537fb3aa484ebffaa4327f8c9645883c53e428f0348ee57",
    "animals": "8e842e16526b1697cd2eb5e0a64065ce6322c69dbe9a88515721c08cc19e112a",
}


@pytest.mark.parametrize("kind", FINGERPRINTS)
def test_the_drawing_is_the_same_on_every_platform(kind):
    assert data.synthetic(kind, 20, 0).fingerprint() == FINGERPRINTS[kind]


@pytest.mark.parametrize("kind", FINGERPRINTS)
def test_a_small_set_is_the_start_of_a_large_one(kind):
    small, large = data.synthetic(kind, 7, 5), data.synthetic(kind, 230, 5)
    assert (small.images == large.images[:7]).all() and (small.labels == large.labels[:7]).all()


@pytest.mark.parametrize("kind", FINGERPRINTS)
def test_seeds_and_parts_give_other_images(kind):
    sets = [
        data.synthetic(kind, 10, 0),
        data.synthetic(kind, 10, 1),
        data.synthetic(kind, 10, 0, part="test"),
    ]
    assert len({part.fingerprint() for part in sets}) == 3
    pixels = np.concatenate([part.images.reshape(10, -1) for part in sets])
    assert len(np.unique(pixels, axis=0)) == 30


def test_classes_are_balanced_and_sizes_kept():
    for kind, k in (("cifar10", 10), ("cifar100", 100), ("animals", 5)):
        drawn = data.synthetic(kind, 2 * k, 0)
        assert drawn.counts().tolist() == [2] * k and len(drawn.classes) == k
    assert data.synthetic("animals", 2, 0).images.shape == (2, 100, 100, 3)
    assert data.synthetic("animals", 2, 0, size=48).images.shape == (2, 48, 48, 3)
    assert len(data.synthetic("cifar10", 0, 0)) == 0


def test_wrong_requests_are_refused():
    for wrong in (("cifar", 5, 0), ("cifar10", -1, 0), ("cifar10", 5, -1)):
        with pytest.raises(DataError):
            data.synthetic(*wrong)
    with pytest.raises(DataError):
        data.synthetic("cifar10", 5, 0, part="valid")


# The drawing behaves like photos: tiny models, fixed seeds, margins several times their spread over seeds.


def convnet(k, width=12):
    layers = keras.layers
    stages = [
        layer
        for channels in (width, 2 * width, 2 * width)
        for layer in (layers.Conv2D(channels, 3, padding="same", activation="relu"), layers.MaxPooling2D())
    ]
    return [*stages, layers.Flatten(), layers.Dense(48, activation="relu"), layers.Dense(k)]


def mlp(k):
    layers = keras.layers
    hidden = [layers.Dense(width, activation="relu") for width in (128, 64)]
    return [layers.AveragePooling2D(2), layers.Flatten(), *hidden, layers.Dense(k)]


def trained(layers, train, *, epochs, augment=None):
    keras.utils.set_random_seed(1)
    shape = train.images.shape[1:]
    model = keras.Sequential(
        [keras.layers.Input(shape), keras.layers.Rescaling(1 / 64, -2), *layers(len(train.classes))]
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss=loss)
    model.fit(Batches(train, 64, seed=0, augment=augment), epochs=epochs, verbose=0)
    return model


def probabilities(model, images):
    logits = model.predict(images.images, batch_size=500, verbose=0)
    return np.exp(logits - logits.max(axis=1, keepdims=True)) / np.exp(
        logits - logits.max(axis=1, keepdims=True)
    ).sum(axis=1, keepdims=True)


def accuracy(model, test):
    return (probabilities(model, test).argmax(axis=1) == test.labels).mean()


def test_a_conv_net_beats_an_mlp_beats_colour_histograms():
    train, test = data.synthetic("cifar10", 2000, 0), data.synthetic("cifar10", 1000, 0, part="test")
    colours = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    colours.fit(data.histograms(train), train.labels)
    by_colour = colours.score(data.histograms(test), test.labels)
    by_mlp = accuracy(trained(mlp, train, epochs=8), test)
    by_convnet = accuracy(trained(convnet, train, epochs=8), test)
    print(by_colour, by_mlp, by_convnet)
    assert by_colour > 0.14  # better than chance, as on photos
    assert by_mlp > by_colour + 0.1
    assert by_convnet > by_mlp + 0.05


@pytest.mark.long
def test_augmentation_helps():
    train, test = data.synthetic("cifar10", 1200, 0), data.synthetic("cifar10", 1000, 0, part="test")
    plain = accuracy(trained(convnet, train, epochs=25), test)
    augmented = accuracy(trained(convnet, train, epochs=25, augment="basic"), test)
    print(plain, augmented)
    assert augmented > plain + 0.02


@pytest.mark.long
def test_noisy_labels_hurt_and_cleaning_helps():
    noisy = data.noisy_cifar(n=4000, seed=0)
    test = data.noisy_cifar_test(n=1000, seed=0)
    clean = data.synthetic("noisy_cifar", 4000, 0)
    on_clean, on_noisy = (accuracy(trained(convnet, part, epochs=8), test) for part in (clean, noisy))
    known = noisy.take(noisy.true_labels >= 0)
    known = known.relabel(known.true_labels)
    rest = noisy.take(noisy.true_labels < 0)
    judge = trained(convnet, known, epochs=16, augment="basic")
    kept = rest.take(labels.self_filter(rest.labels, probabilities(judge, rest)))
    on_cleaned = accuracy(trained(convnet, data.join(known, kept), epochs=16), test)
    print(on_clean, on_noisy, on_cleaned)
    assert on_clean > on_noisy + 0.15
    assert on_cleaned > on_noisy + 0.05


@pytest.mark.long
def test_averaged_pairs_are_harder_than_single_images():
    train, test = (data.pair_groups(part) for part in data.cifar10(n=4000))
    single = accuracy(trained(convnet, train[0], epochs=8), test[0])
    fixed = (data.mix_pairs(*parts, n=len(parts[0]), seed=0) for parts in (train, test))
    train, test = (
        data.ImageSet(part.images, part.labels["first"], part.classes["first"], "") for part in fixed
    )
    paired = accuracy(trained(convnet, train, epochs=8), test)
    print(single, paired)
    assert single > paired + 0.1 and paired > 0.25


@pytest.mark.long
def test_a_hundred_classes_fall_into_their_superclasses():
    train, test = data.cifar100(n=6000)
    predicted = probabilities(trained(convnet, train, epochs=10), test).argmax(axis=1)
    wrong = predicted != test.labels
    in_family = data.FINE_TO_COARSE[predicted] == data.FINE_TO_COARSE[test.labels]
    print((~wrong).mean(), in_family[wrong].mean())
    assert (~wrong).mean() > 0.08  # eight times chance
    assert in_family[wrong].mean() > 3 * 4 / 99  # chance keeps 4 wrong classes of 99 in the family
