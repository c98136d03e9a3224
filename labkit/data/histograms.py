"""Colour histograms, the reports' simplest description of an image."""

import numpy as np

from labkit.data.image_set import ImageSet

_STRETCH = 100  # images that fit the processor's cache together


def histograms(images: ImageSet, *, bins: int = 5) -> np.ndarray:
    """Count each channel's levels in equal bins from 0 to 255, as np.histogram does; one row an image."""
    n, height, width, channels = images.images.shape
    edges = np.ceil(np.linspace(0, 255, bins + 1)[1:-1]).astype(np.uint8)
    at_least = np.zeros((n, channels, bins + 1), np.int64)
    at_least[:, :, 0] = height * width
    for start in range(0, n, _STRETCH):
        stretch = slice(start, start + _STRETCH)
        planes = images.images[stretch].reshape(-1, height * width, channels).transpose(0, 2, 1)
        planes = np.ascontiguousarray(planes)
        for number, edge in enumerate(edges, start=1):
            # Eight comparisons to a byte, counted by the processor: ten times a sum of booleans.
            marks = np.packbits(planes >= edge, axis=-1)
            at_least[stretch, :, number] = np.bitwise_count(marks).sum(axis=-1, dtype=np.int64)
    return (at_least[:, :, :-1] - at_least[:, :, 1:]).reshape(n, channels * bins)
