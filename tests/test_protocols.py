"""Splits: disjoint where they must be, and leaking only where the name says so."""

import numpy as np
import pytest

from labkit import protocols
from labkit.data import ImageSet
from labkit.errors import DataError, ParameterError


def numbered(n: int, known: int | None = None) -> ImageSet:
    """Images whose first pixels spell their number, so that a split can be traced back."""
    images = np.zeros((n, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) // 256, np.arange(n) % 256
    truth = np.arange(n) % 10
    if known is None:
        return ImageSet(images, truth, tuple("abcdefghij"), "synthetic")
    given = (truth + 1) % 10
    truth = np.where(np.arange(n) < known, truth, -1)
    return ImageSet(images, given, tuple("abcdefghij"), "synthetic", true_labels=truth)


def numbers(images: ImageSet) -> set[int]:
    pixels = images.images[:, 0, 0].astype(int)
    return set(pixels[:, 0] * 256 + pixels[:, 1])


@pytest.mark.parametrize("protocol", ["honest", "report001"])
@pytest.mark.parametrize("share", [1, 0.1])
def test_honest_protocols_keep_test_images_out_of_everything_else(protocol, share):
    split = protocols.noisy_cifar(numbered(5000, 1000), protocol, share=share)
    test = numbers(split.test)
    for name, part in split.parts().items():
        if name not in ("test", "judge_test"):
            assert not numbers(part) & test, name
    assert not split.leaks


def test_the_smallest_sets_leave_no_part_empty_and_smaller_ones_are_refused():
    for protocol in protocols.NOISY_PROTOCOLS:
        for known in range(10, 40):
            split = protocols.noisy_cifar(numbered(max(known + 1, known // 2 + 10), known), protocol)
            assert all(len(part) for part in split.parts().values())
    with pytest.raises(DataError, match="14 images are too few for 'report000'; 'valid' gets none") as error:
        protocols.noisy_cifar(numbered(14, 10), "report000")
    assert "15 or more" in str(error.value)
    with pytest.raises(DataError, match="9 of 15 images have a true label"):
        protocols.noisy_cifar(numbered(15, 9))


def test_honest_validation_is_no_training_image():
    split = protocols.noisy_cifar(numbered(5000, 1000), "honest")
    valid = numbers(split.valid)
    for name in ("noisy", "unsure", "kept", "judge_train"):
        assert not numbers(split.parts()[name]) & valid, name


def test_report000_leaks_the_test_images_into_the_judge():
    split = protocols.noisy_cifar(numbered(5000, 1000), "report000")
    assert split.leaks
    assert numbers(split.test) <= numbers(split.judge_train)
    assert not numbers(split.noisy) & numbers(split.test)


def test_report000_has_the_sizes_of_the_report():
    split = protocols.noisy_cifar(numbered(50_000, 10_000), "report000")
    sizes = {name: len(part) for name, part in split.parts().items()}
    assert sizes == {
        "noisy": 40_500,
        "valid": 4_500,
        "unsure": 43_000,
        "kept": 2_000,
        "judge_train": 8_100,
        "judge_valid": 900,
        "judge_test": 1_000,
        "test": 5_000,
    }


def test_report001_draws_by_its_seed():
    images = numbered(5000, 1000)
    first, again, other = (protocols.noisy_cifar(images, "report001", seed=seed) for seed in (1, 1, 2))
    assert len(first.kept) == 800 and len(first.test) == 200 and first.valid is None
    assert numbers(first.test) == numbers(again.test) != numbers(other.test)


def test_parts_carry_given_or_true_labels_as_they_should():
    split = protocols.noisy_cifar(numbered(5000, 1000), "honest")
    np.testing.assert_array_equal(split.test.labels, np.arange(500) % 10)
    np.testing.assert_array_equal(split.judge_train.hints, (split.judge_train.labels + 1) % 10)
    np.testing.assert_array_equal(split.unsure.labels, (np.arange(1000, 5000) + 1) % 10)
    np.testing.assert_array_equal(split.test.hints, (split.test.labels + 1) % 10)
    assert split.kept.hints is None


def test_a_misspelt_protocol_names_the_right_one():
    with pytest.raises(ParameterError, match="Did you mean 'honest'"):
        protocols.noisy_cifar(numbered(5000, 1000), "honst")


@pytest.mark.parametrize("known", [0, 5, 5000])
def test_unusable_truth_is_refused(known):
    with pytest.raises(DataError, match="true label"):
        protocols.noisy_cifar(numbered(5000, known), "honest")


def test_cifar100_validates_on_the_last_fifth():
    train, valid = protocols.cifar100(numbered(5000))
    assert numbers(train) == set(range(4000)) and numbers(valid) == set(range(4000, 5000))


@pytest.mark.parametrize("share", [2, 1.01, 0, -3, float("nan")])
@pytest.mark.parametrize(
    "split",
    [
        lambda share: protocols.noisy_cifar(numbered(5000, 1000), share=share),
        lambda share: protocols.animals(numbered(1000), share=share),
        lambda share: protocols.cifar100(numbered(1000), share=share),
        lambda share: protocols.thin(numbered(1000), share),
    ],
)
def test_a_share_that_is_none_is_refused(split, share):
    with pytest.raises(ParameterError, match=f"share is {share}[\\s\\S]*above 0, and 1 at most"):
        split(share)


def test_animals_validate_on_fifteen_percent():
    train, valid = protocols.animals(numbered(1000))
    assert (len(train), len(valid)) == (850, 150) and not numbers(train) & numbers(valid)


def test_thin_keeps_an_even_share():
    assert numbers(protocols.thin(numbered(100), 0.25)) == set(range(0, 100, 4))


def test_dual_pairs_come_from_disjoint_images_and_stay_fixed():
    images, test = numbered(1000), numbered(200)
    split, other = (
        protocols.dual_cifar(images, test, pairs_per_epoch=64, fixed_pairs=32, seed=seed) for seed in (0, 1)
    )
    parts = ((split.train.first, split.train.second), split.valid_images, split.test_images)
    train, valid, tested = (numbers(first) | numbers(second) for first, second in parts)
    assert (len(train), len(valid), len(tested)) == (900, 100, 200)
    assert not train & valid
    assert split.valid.fingerprint() == other.valid.fingerprint()
    assert split.test.fingerprint() == other.test.fingerprint()
    assert split.train.epoch(0).fingerprint() != other.train.epoch(0).fingerprint()
