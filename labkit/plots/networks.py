"""Pictures of models: their layers as boxes to scale, and their graph."""

import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from labkit.plots import look

if TYPE_CHECKING:
    import keras
    from PIL import Image

COLOURS = {  # by a part of the layer's name, the first that fits
    "DepthwiseConv": look.SKY,
    "SeparableConv": look.SKY,
    "Conv": look.BLUE,
    "Dense": look.GREEN,
    "Pool": look.VERMILION,
    "Normalization": "#B8B8B8",
    "Dropout": "#F3E3A1",
    "ReLU": "#F5C66A",
    "Activation": "#F5C66A",
    "Attention": look.BLACK,
    "Flatten": look.PURPLE,
    "Add": look.ORANGE,
}
SMALL = (
    "Activation",
    "Add",
    "BatchNormalization",
    "Dropout",
    "LeakyReLU",
    "ReLU",
    "Reshape",
    "ZeroPadding2D",
)
CROWDED = 40  # layers from which on those that keep the shape are left out


def model_layers(model: "keras.Model", *, ax: Axes | None = None) -> Axes:
    """The layers of a model as boxes to the scale of their outputs, with a legend."""
    crowded = len(model.layers) > CROWDED
    left_out = sorted(
        {type(layer).__name__ for layer in model.layers if crowded and type(layer).__name__ in SMALL}
    )
    picture = _layered(model, left_out)
    ax = look.axes(ax, 0.7 + look.WIDTH * min(1.2, picture.height / picture.width))
    ax.imshow(np.asarray(picture.convert("RGB")), interpolation="antialiased")
    ax.set_axis_off()
    note = f"{model.count_params():,} parameters, {len(model.layers)} layers"
    note += f"; not drawn: {', '.join(left_out)}" if left_out else ""
    look.title(ax, f"Layers of {model.name}", note)
    kinds = Counter(type(layer).__name__ for layer in model.layers)
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
    look.describe(ax, f"The layers of {model.name} in order, as boxes to scale: {said}; {note}.")
    return ax


@dataclass(frozen=True)
class Graph:
    """A drawing of a model's graph that shows itself in a notebook, or says why it cannot."""

    svg: str | None
    alt: str

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        if self.svg is None:
            return {"text/plain": self.alt}, {}
        return {"image/svg+xml": self.svg, "text/plain": self.alt}, {"image/svg+xml": {"alt": self.alt}}


def model_graph(model: "keras.Model", *, across: bool = False) -> Graph:
    """The graph of a model as SVG, drawn by Graphviz where its program `dot` is installed."""
    if shutil.which("dot") is None:
        return Graph(
            None, f"No graph of {model.name}: it is drawn by Graphviz, whose program dot is not installed."
        )
    import keras

    dot = keras.utils.model_to_dot(
        model, show_shapes=True, show_layer_names=True, rankdir="LR" if across else "TB"
    )
    svg = dot.create_svg().decode()
    joins = sum(len(layer.input) > 1 for layer in model.layers if isinstance(layer.input, list))
    text = f"Graph of {model.name}: {len(model.layers)} layers, {joins} of them join branches"
    text += f", {len(model.outputs)} outputs." if len(model.outputs) > 1 else "."
    return Graph(svg[svg.index("<svg") :], text)


def _layered(model: "keras.Model", left_out: list[str]) -> "Image.Image":
    """The picture that visualkeras draws, as wide as the page or up to twice as wide."""
    import visualkeras
    from PIL import Image, ImageFont

    kinds = {type(layer).__name__: type(layer) for layer in model.layers}
    sides = [layer.output.shape[1] or 1 for layer in model.layers if len(layer.output.shape) == 4]
    options = {
        "type_ignore": [kinds[name] for name in left_out],
        "color_map": {kind: {"fill": _colour(name), "outline": "#444444"} for name, kind in kinds.items()},
        "draw_funnel": False,
        "scale_xy": 200 / max(sides, default=1),
        "scale_z": 0.2,
        "min_xy": 14,
        "min_z": 8,
        "max_xy": 200,
        "max_z": 90,
        "spacing": 6,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an option is deprecated even at its default
        width = visualkeras.layered_view(model, **options).width
        points = max(13, round(11 * width / (96 * look.WIDTH)))  # as large on the page as other text
        font = ImageFont.truetype(mpl.get_data_path() + "/fonts/ttf/DejaVuSans.ttf", points)
        picture = visualkeras.layered_view(model, legend=True, font=font, **options)
    page = round(96 * look.WIDTH)
    if picture.width < page:  # drawn over the page, few boxes would be as large as a hand
        white = Image.new("RGB", (page, picture.height), "white")
        white.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        return white
    widest = 2 * page
    if picture.width > widest:
        size = widest, round(picture.height * widest / picture.width)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return picture


def _colour(kind: str) -> str:
    """One colour for each job a layer does; those that only prepare the image stay pale."""
    return next((colour for part, colour in COLOURS.items() if part in kind), "#EDEDED")
