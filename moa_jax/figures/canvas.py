"""The parts that all figures share: their look, axes that hold pictures, colours for weights.

matplotlib draws, without pyplot and its global state.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

Picture = Image.Image | UInt8[np.ndarray, "_ _ 3"]  # each of its own size
Weights = Float[np.ndarray, "h w"]

QUIET = "#71717a"  # grey, for what should not stand out
GAP, CAPTION = 6, 32  # pixels between panels; under a picture that has a caption
DPI = 100


def to_picture(image: Picture) -> Image.Image:
    """Turn a picture or its pixels into an RGB picture."""
    return (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("RGB")


def start_figure(
    widths: Sequence[int],
    heights: Sequence[int],
    gap: int,
    title: str,
    rise: int,
    caption: int = CAPTION,
) -> Figure:
    """Start a figure for axes of these sizes, with its title above.

    Args:
        widths: width of each column of axes in pixels.
        heights: height of each row of axes in pixels.
        gap: pixels between columns.
        rise: pixels from the axes up to the title.
        caption: pixels between rows.
    """
    width = sum(widths) + gap * (len(widths) - 1)
    height = sum(heights) + caption * (len(heights) - 1)
    figure = Figure((width / DPI, height / DPI), DPI)
    # The axes fill the figure; `rendered` adds the room that titles and labels take outside.
    figure.subplots_adjust(0, 0, 1, 1, gap / np.mean(widths), caption / np.mean(heights))
    figure.text(0, 1 + rise / height, title, fontsize=18, parse_math=False)
    return figure


def show(ax: Axes, picture: Image.Image | None, caption: str = "") -> None:
    """Show a picture with its caption below; for None, show the word "none"."""
    if picture is None:
        ax.text(0.5, 0.5, "none", ha="center", va="center", color=QUIET)
    else:
        ax.imshow(picture, interpolation="lanczos")
    ax.set(xticks=[], yticks=[], anchor="N")
    ax.spines[:].set_visible(False)
    ax.set_xlabel(caption, loc="left", parse_math=False)


def show_panels(
    ax: Axes,
    rows: Mapping[str, Sequence[Any] | None],
    heads: Sequence[str],
    panel: tuple[int, int],
    **look: Any,
) -> None:
    """Show rows of pictures or maps under the heads of their columns.

    Args:
        rows: the panels of each row, by the label on its left; None leaves a row empty.
        panel: width and height of one panel in pixels.
        look: the look of maps, as options of matplotlib's `imshow`.
    """
    # The axes count in pixels, downwards.
    width, height = panel
    left = np.arange(len(heads)) * (width + GAP)
    top = np.arange(len(rows)) * (height + GAP)
    for y, panels in zip(top, rows.values(), strict=True):
        for x, shown in zip(left, panels or (), strict=panels is not None):
            ax.imshow(shown, extent=(x, x + width, y + height, y), **look)
    ax.set(xlim=(0, left[-1] + width), ylim=(top[-1] + height, 0), anchor="N")
    ax.set_xticks(left + width / 2, heads, color=QUIET)
    ax.set_yticks(top + height / 2, list(rows), parse_math=False)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)


def color_bar(ax: Axes, colors: str = "magma", labels: Sequence[str] = ("0", "0.5", "1")) -> None:
    """Draw the colour scale to the right of some axes, as high as they are.

    Args:
        labels: evenly spaced, from the scale's lower end to its upper end.
    """
    width = 14 / ax.bbox.width
    place = ax.inset_axes((1 + width, 0, width, 1))
    bar = ax.figure.colorbar(ScalarMappable(cmap=colors), place)
    bar.set_ticks(np.linspace(0, 1, len(labels)), labels=labels)
    bar.outline.set_visible(False)
    place.tick_params(colors=QUIET)


def rendered(figure: Figure) -> Image.Image:
    """Render a figure with all its labels inside."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.2)
    return Image.open(file).convert("RGB")


def colorize(weights: Weights, colors: str = "magma") -> UInt8[np.ndarray, "h w 3"]:
    """Colour a map on the fixed scale from 0 to 1; values outside take the colour of the end."""
    return colormaps[colors](np.nan_to_num(weights.astype(np.float32)), bytes=True)[..., :3]


def overlay(
    image: Picture, weights: Weights, opacity: float = 0.6, colors: str = "magma"
) -> Image.Image:
    """Lay a map over the grey picture, smoothly enlarged to its size.

    Args:
        weights: in [0, 1], any size.
        opacity: 0 shows the grey picture alone, 1 the colours alone.
    """
    picture = to_picture(image)
    grey = picture.convert("L").convert("RGB")
    smooth = Image.fromarray(weights.astype(np.float32)).resize(picture.size, Image.BILINEAR)
    return Image.blend(grey, Image.fromarray(colorize(np.asarray(smooth), colors)), opacity)
