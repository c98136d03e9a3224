"""The look every figure shares, and the way its alt text reaches the page."""

import base64
import io
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from PIL import Image, features

# Okabe and Ito's colours, which stay apart for colour-blind readers; yellow is left out, too pale on white.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))  # tells lines apart in print
INK, MUTED, FAINT = "#222222", "#5C5C5C", "#D9D9D9"
BAR = "#4F95C4"  # the blue, lighter where it fills areas
SHADES = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", "#CFE3F1", "#5FA6D2", "#0072B2", "#08304F"])
_PNG = re.compile(r'data:image/png;base64,\s*([^"]+)"')
HEAVY = 150_000  # bytes of a figure from which on its pictures are packed with next to no loss
LARGEST = 400_000  # bytes of one figure on a page
NOTE = 70  # letters in a line under a title: what fits beside the longest names of classes
LINE = 11  # points from one of its lines to the next
WIDTH = 7.0  # inches: 672 pixels on the page, the width of its text

RC = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": False,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "figure.max_open_warning": 0,  # a notebook shows and closes its figures itself
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "labkit",  # the same figure gives the same bytes
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelsize": 8.5,
    "xtick.major.size": 3,
    "xtick.major.width": 0.6,
    "ytick.color": MUTED,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 3,
    "ytick.major.width": 0.6,
}


def style() -> None:
    """Give figures and tables from here on the book's look; in a notebook figures are SVG with alt text."""
    mpl.rcParams.update(RC)
    pd.set_option("display.precision", 4)
    pd.set_option("display.max_colwidth", None)  # no sentence in a cell is cut
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    plt.switch_backend(
        plt.get_backend()
    )  # the inline backend registers its formatters when loaded: before ours
    formatters = shell.display_formatter.formatters
    for kind in (Figure, Axes):
        formatters["image/svg+xml"].for_type(kind, _shown)
        formatters["text/plain"].for_type(kind, _spoken)
        formatters["image/png"].pop(kind, None)


def alt(drawn: Figure | Axes) -> str:
    """The sentence that tells what a figure shows to a reader who does not see it."""
    figure = _figure(drawn)
    parts = [getattr(part, "labkit_alt", "") for part in (figure, *figure.axes)]
    return " ".join(part for part in parts if part)


def describe(drawn: Figure | Axes, text: str) -> None:
    """Attach the alt text of one Axes, or of a figure as a whole."""
    drawn.labkit_alt = text


def svg(drawn: Figure | Axes) -> str:
    """A figure as SVG text, the same bytes each time."""
    buffer = io.StringIO()
    with mpl.rc_context({key: RC[key] for key in ("svg.fonttype", "svg.hashsalt")}):
        _figure(drawn).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    packed = _PNG.sub(partial(_as_webp, lossless=True), buffer.getvalue())
    return packed if len(packed) <= HEAVY else _PNG.sub(partial(_as_webp, lossless=False), buffer.getvalue())


def axes(ax: Axes | None, height: float, width: float = WIDTH) -> Axes:
    """The Axes given, or those of a new figure."""
    return ax if ax is not None else plt.subplots(figsize=(width, height), layout="constrained")[1]


def title(ax: Axes, text: str, note: str = "", lift: float = 0) -> None:
    """A title flush left, below it a muted note: whose data, how many; `lift` leaves room for a legend."""
    lines = textwrap.wrap(note, NOTE)
    pad = lift + (7 + LINE * len(lines) if lines else 8)
    ax.set_title(text, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=pad)
    if lines:
        ax.annotate(
            "\n".join(lines),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, lift + 4),
            textcoords="offset points",
            verticalalignment="bottom",
            fontsize=8.5,
            color=MUTED,
        )


def grid(ax: Axes, axis: str = "y") -> None:
    """Faint lines to read values off, in place of a heavy frame."""
    ax.grid(visible=True, axis=axis, color=FAINT, linewidth=0.6)


def end_labels(lines: Mapping[Axes, Sequence[tuple[float, float, str, str]]]) -> None:
    """Name the lines of axes of one figure, given as (last x, last y, text, colour), right of those axes.

    A thread leads to a line that ends early.
    """
    named = {ax: ends for ax, ends in lines.items() if ends}
    if named:
        next(iter(named)).get_figure(root=True).draw_without_rendering()  # settles the layout and distances
    for ax, ends in named.items():
        _name_ends(ax, ends)


def _name_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    pixels = ax.transData.transform([(x, y) for x, y, *_ in ends])
    places = _apart(pixels[:, 1], 11 * ax.get_figure(root=True).dpi / 72)
    inside = ax.transAxes.inverted().transform(np.column_stack([pixels[:, 0], places]))
    for (x, y, text, colour), (across, up) in zip(ends, inside, strict=True):
        thread = {  # dotted and grey, not to be taken for the line's going on
            "arrowstyle": "-",
            "color": MUTED,
            "linewidth": 0.6,
            "linestyle": (0, (1, 3)),
            "shrinkA": 1,
            "shrinkB": 2,
        }
        ax.annotate(
            text,
            (x, y),
            xytext=(1.015, up),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=ink_of(colour),
            annotation_clip=False,
            arrowprops=thread if across < 0.97 else None,
        )


def ink_of(colour: str) -> tuple[float, ...]:
    """A colour of the palette dark enough for text on white: a contrast of 4.5 or more."""
    return tuple(0.65 * part for part in to_rgb(colour)) if colour != BLUE else to_rgb(BLUE)


def ink_on(share: float) -> str:
    """A text colour that can be read on a shade of the matrices, 0 being white and 1 the darkest."""
    return "white" if share > 0.7 else BLACK  # a contrast of 4.5 or more throughout


def _apart(places: np.ndarray, step: float) -> np.ndarray:
    """Move positions as little as needed for neighbours to lie a step apart."""
    order = np.argsort(places, kind="stable")
    blocks: list[tuple[float, int]] = []  # mean offset-free position and size of runs of touching labels
    for rank, place in enumerate(places[order]):
        blocks.append((place - rank * step, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (low, m), (high, n) = blocks[-2:]
            blocks[-2:] = [((low * m + high * n) / (m + n), m + n)]
    spread = np.concatenate([np.full(count, mean) for mean, count in blocks])
    moved = np.empty(len(places))
    moved[order] = spread + np.arange(len(places)) * step
    return moved


def _as_webp(found: re.Match, *, lossless: bool) -> str:
    """A picture inside an SVG, packed a third smaller without loss, or four times with next to none."""
    if not features.check("webp"):
        return found[0]
    picture, packed = Image.open(io.BytesIO(base64.b64decode(found[1]))), io.BytesIO()
    options = {"lossless": True, "method": 5} if lossless else {"quality": 92}
    opaque = picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255)
    (picture.convert("RGB") if opaque else picture).save(packed, "webp", **options)
    return f'data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"'


def _figure(drawn: Figure | Axes) -> Figure:
    return drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn


def _shown(drawn: Figure | Axes) -> tuple[str, dict[str, str]]:
    """SVG and its metadata; closed at once, or the notebook would show the figure again below the cell."""
    shown = svg(drawn), {"alt": alt(drawn)}
    plt.close(_figure(drawn))
    return shown


def _spoken(drawn: Figure | Axes, printer: object, cycle: bool) -> None:
    printer.text(alt(drawn) or "A figure.")
