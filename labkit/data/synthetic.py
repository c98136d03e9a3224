"""Image sets drawn by integer arithmetic: shapes, textures, clutter, the same bits on every platform."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from labkit.data.image_set import ImageSet
from labkit.data.names import ANIMALS, CIFAR10_CLASSES, CIFAR100_CLASSES, FINE_TO_COARSE
from labkit.errors import DataError, nearest

# Pixel positions run from -512 to 511 whatever the size of the image; angles count in 256ths of a turn.
_TURN = [round(256 * math.cos(2 * math.pi * step / 256)) for step in range(256)]
_COSINE = np.array(_TURN, np.int32)
_SINE = np.roll(_COSINE, 64)


def _between(low: int, values: np.ndarray, high: int) -> np.ndarray:
    return (low < values) & (values < high)


def _radius(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + v * v


def _reach(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v))


# Mirror images of themselves, so that a flip keeps the class.
_SHAPES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda u, v: _radius(u, v) < 290**2,  # disc
    lambda u, v: (np.abs(v) < 120) & (np.abs(u) < 330),  # bar
    lambda u, v: _between(-260, v, 230) & (8 * np.abs(u) < 5 * v + 1300),  # triangle
    lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 95) & (_reach(u, v) < 320),  # plus
    lambda u, v: _between(150, _reach(u, v), 270),  # frame
    lambda u, v: _radius(np.abs(u) - 185, v) < 150**2,  # two discs side by side
    lambda u, v: (np.abs(u) < np.abs(v) + 40) & (np.abs(v) < 280),  # hourglass
    lambda u, v: (_radius(u, v) < 310**2) & (_radius(u, v + 150) > 240**2),  # crescent
    lambda u, v: (np.abs(u) < 120) & (np.abs(v) < 330),  # pillar
    lambda u, v: _between(160**2, _radius(u, v), 310**2),  # ring
    lambda u, v: _reach(u, v) < 250,  # square
    lambda u, v: np.abs(u) + np.abs(v) < 350,  # diamond
    lambda u, v: (np.abs(np.abs(u) - np.abs(v)) < 110) & (_reach(u, v) < 270),  # saltire
    lambda u, v: _radius(u, np.abs(v) - 185) < 150**2,  # two discs one above the other
    lambda u, v: (_radius(u, v - 120) < 340**2) & (v < 100),  # dome
    lambda u, v: _radius(np.abs(u) - 170, np.abs(v) - 170) < 125**2,  # four discs
    lambda u, v: (_reach(u, v) < 280) & ((v < -110) | (np.abs(u) < 95)),  # T
    lambda u, v: (_reach(u, v) < 280) & ((v > 120) | (np.abs(u) > 140)),  # U
    lambda u, v: (np.abs(u) * np.abs(v) < 90**2) & (_reach(u, v) < 340),  # star
    lambda u, v: (np.abs(v) < np.abs(u) + 30) & (np.abs(u) < 290),  # bow tie
)


def _stripes(along: np.ndarray) -> np.ndarray:
    return (along * 13 >> 10) & 1


_TEXTURES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda u, v: np.zeros_like(u),  # plain
    lambda u, v: _stripes(v),  # lying stripes
    lambda u, v: _stripes(u),  # standing stripes
    lambda u, v: _stripes(u) ^ _stripes(v),  # checks
    lambda u, v: (_radius((u & 127) - 64, (v & 127) - 64) < 40**2).astype(u.dtype),  # dots
)


@dataclass(frozen=True)
class _Kind:
    """What a synthetic set looks like: its classes, and the shape and texture each class is drawn with."""

    classes: tuple[str, ...]
    shapes: np.ndarray
    textures: np.ndarray
    size: int = 32
    boxes_behind: int = 3
    boxes_before: int = 1
    shift: int = 130
    turn: int = 16
    dark: bool = False


def _cifar100_textures() -> np.ndarray:
    """Number the classes within their superclass."""
    return np.array([np.count_nonzero(FINE_TO_COARSE[:fine] == FINE_TO_COARSE[fine]) for fine in range(100)])


_TEN = _Kind(CIFAR10_CLASSES, np.arange(10), np.array([0, 1, 2, 3, 4, 2, 3, 4, 0, 1]))
KINDS = {
    # Wrong labels make it hard enough: the shape alone on a dark ground, turned and moved little.
    "noisy_cifar": replace(_TEN, boxes_behind=0, boxes_before=0, shift=10, turn=2, dark=True),
    "cifar10": _TEN,
    "cifar100": _Kind(CIFAR100_CLASSES, FINE_TO_COARSE, _cifar100_textures()),
    "animals": _Kind(ANIMALS, np.array([0, 2, 3, 7, 9]), np.array([4, 3, 0, 1, 2]), size=100),
}
_DRAWS = 40  # random numbers an image needs for everything but its pixel noise


def synthetic(kind: str, n: int, seed: int, *, part: str = "train", size: int | None = None) -> ImageSet:
    """Draw n labelled images that behave like the set they stand in for; `part` gives other images."""
    if kind not in KINDS:
        raise DataError(
            f"no synthetic set is called {kind!r}",
            expected=f"one of {', '.join(KINDS)}",
            mend=nearest(kind, KINDS),
        )
    if n < 0 or seed < 0 or part not in ("train", "test"):
        raise DataError(
            f"n={n}, seed={seed}, part={part!r}", expected="no negative number, and part 'train' or 'test'"
        )
    recipe = KINDS[kind]
    streams = np.random.SeedSequence((seed, list(KINDS).index(kind), part == "test", 1)).spawn(3)
    label_rng, draw_rng, noise_rng = (np.random.Generator(np.random.PCG64(stream)) for stream in streams)
    labels = _balanced(n, len(recipe.classes), label_rng)
    size = size or recipe.size
    images = np.empty((n, size, size, 3), np.uint8)
    step = max(1, 2_000_000 // size**2)
    for start in range(0, n, step):
        chunk = slice(start, min(start + step, n))
        draws = draw_rng.integers(0, 65536, size=(chunk.stop - start, _DRAWS), dtype=np.uint16)
        noise = noise_rng.integers(0, 256, size=images[chunk].shape, dtype=np.uint8)
        images[chunk] = _paint(labels[chunk], recipe, draws.astype(np.int32), noise)
    return ImageSet(images, labels, recipe.classes, f"synthetic, seed {seed}")


def _balanced(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Draw labels so that every k images in a row show each class once."""
    rounds = -(-n // k)
    return rng.integers(0, 2**62, size=(rounds, k)).argsort(axis=1, kind="stable").reshape(-1)[:n]


def _paint(labels: np.ndarray, kind: _Kind, draws: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Draw one image a label: background, clutter, the textured shape, clutter before it, noise."""
    size = noise.shape[1]
    take = _Draws(draws)
    line = (2 * np.arange(size, dtype=np.int32) + 1) * 512 // size - 512
    x, y = line[None, None, :], line[None, :, None]
    usual = labels * 7 % 12  # a colour that the class has more often than others
    ground = np.where(take.below(100) < 35, (usual + 5) % 12, take.below(12))
    canvas = _background(ground, kind.dark, take, x, y)
    for _ in range(kind.boxes_behind):
        _clutter(canvas, take, x, y)
    u, v = _placed(kind, take, x, y)
    texture = np.where(take.below(100) < 90, kind.textures[labels], take.below(5))
    inside, mark = _shape_and_texture(kind.shapes[labels], texture, u, v, take)
    palette = np.where(take.below(100) < 50, usual, take.below(12))
    colour = _colour(palette, take)
    second = (colour * 2 + 3 * _colour(take.below(12), take)) // 5
    shade = np.where(mark[..., None] > 0, second[:, None, None, :], colour[:, None, None, :])
    canvas = np.where(inside[..., None], shade, canvas)
    for _ in range(kind.boxes_before):
        _clutter(canvas, take, x, y)
    contrast = 140 + take.below(117)
    canvas = 128 + ((canvas - 128) * contrast[:, None, None, None] >> 8)
    canvas += (noise.astype(np.int32) - 128) * 22 >> 7
    return np.clip(canvas, 0, 255).astype(np.uint8)


class _Draws:
    """Hand out each image's random numbers one after the other."""

    def __init__(self, draws: np.ndarray):
        self._columns = iter(draws.T)

    def below(self, limit: int) -> np.ndarray:
        """Give one whole number below the limit for every image."""
        return next(self._columns) * limit >> 16

    def around(self, reach: int) -> np.ndarray:
        """Give one whole number from -reach to reach for every image."""
        return self.below(2 * reach + 1) - reach


# Twelve colours around the wheel, as red, green and blue.
_WHEEL = np.array(
    [[200, 50, 50], [200, 125, 50], [200, 200, 50], [125, 200, 50], [50, 200, 50], [50, 200, 125],
     [50, 200, 200], [50, 125, 200], [50, 50, 200], [125, 50, 200], [200, 50, 200], [200, 50, 125]],
    np.int32,
)  # fmt: skip


def _colour(palette: np.ndarray, take: _Draws) -> np.ndarray:
    """Vary a colour of the wheel in brightness."""
    return _WHEEL[palette] + take.around(45)[:, None]


def _background(palette: np.ndarray, dark: bool, take: _Draws, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Run from one dull colour to another across the image, or stay at a dark one in between."""
    start, end = (100 + (_colour(hue, take) - 100) * 3 // 4 for hue in (palette, take.below(12)))
    if dark:
        start = end = 45 + (start + end - 200) // 12
    angle = take.below(256)
    slope = _COSINE[angle][:, None, None] * x + _SINE[angle][:, None, None] * y
    along = np.clip((slope >> 10) + 128, 0, 256)[..., None]
    return start[:, None, None, :] + ((end - start)[:, None, None, :] * along >> 8)


def _clutter(canvas: np.ndarray, take: _Draws, x: np.ndarray, y: np.ndarray) -> None:
    """Put a small box of any colour anywhere."""
    centre_x, centre_y = (take.around(512)[:, None, None] for _ in range(2))
    reach = take.below(8192)
    width, height = (30 + (reach & 127))[:, None, None], (30 + (reach >> 6))[:, None, None]
    box = (np.abs(x - centre_x) < width) & (np.abs(y - centre_y) < height)
    colour = _colour(take.below(12), take)
    np.copyto(canvas, colour[:, None, None, :], where=box[..., None])


def _placed(kind: _Kind, take: _Draws, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn, scale and shift the plane the shape is drawn in."""
    shift_x, shift_y = (take.around(kind.shift)[:, None, None] for _ in range(2))
    angle = take.around(kind.turn) & 255
    zoom = 230 + take.below(160)
    across, down = (_COSINE[angle] * zoom)[:, None, None], (_SINE[angle] * zoom)[:, None, None]
    x, y = x - shift_x, y - shift_y
    return (across * x + down * y) >> 16, (across * y - down * x) >> 16


def _shape_and_texture(
    shapes: np.ndarray, textures: np.ndarray, u: np.ndarray, v: np.ndarray, take: _Draws
) -> tuple[np.ndarray, np.ndarray]:
    """Tell for each pixel whether it lies in the shape, and which of the texture's two shades it has."""
    inside, mark = np.zeros(u.shape, bool), np.zeros(u.shape, np.int32)
    phase_u, phase_v = (take.below(256)[:, None, None] for _ in range(2))
    for number in np.unique(shapes):
        chosen = shapes == number
        inside[chosen] = _SHAPES[number](u[chosen], v[chosen])
    for number in np.unique(textures):
        chosen = textures == number
        mark[chosen] = _TEXTURES[number]((u + phase_u)[chosen], (v + phase_v)[chosen])
    return inside, mark
