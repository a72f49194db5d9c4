"""Pictures to look at instead of numbers to read: grids, routing maps, training previews.

A routing map is always the personalized expert's weight on one fixed colour scale: dark violet is 0
(all prior), light yellow is 1 (all personalized). matplotlib draws, without pyplot and its global
state. Knows no model and no jax.
"""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image, ImageOps

Picture = Image.Image | UInt8[np.ndarray, "_ _ 3"]  # each of its own size
Routing = Mapping[str, Float[np.ndarray, "steps B _ _"]]  # by the layer's path
Maps = Float[np.ndarray, "steps _ _"]
Weights = Float[np.ndarray, "h w"]

QUIET = "#71717a"
GAP, CAPTION = 6, 32  # pixels between panels; under a picture that has a caption
DPI = 100


def image_grid(
    images: Sequence[Picture], columns: int | None = None, padding: int = GAP
) -> Image.Image:
    """Lay pictures out in rows; smaller ones are centred in cells of the largest size.

    Args:
        columns: None makes the grid about square.
        padding: white pixels between pictures.
    """
    pictures = [_picture(image) for image in images]
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    width, height = (max(sizes) for sizes in zip(*(p.size for p in pictures), strict=True))
    across, down = width + padding, height + padding
    grid = Image.new("RGB", (columns * across - padding, rows * down - padding), "white")
    for i, picture in enumerate(pictures):
        left, top = i % columns * across, i // columns * down
        offset = (width - picture.width) // 2, (height - picture.height) // 2
        grid.paste(picture, (left + offset[0], top + offset[1]))
    return grid


def picture_table(
    rows: Sequence[Sequence[Picture | None]], heads: Sequence[str], size: int = 128
) -> Image.Image:
    """Lay pictures out in rows, under the heads of their columns; None says "none".

    Args:
        heads: of each column.
        size: side of a cell in pixels.
    """
    figure = _figure([size] * len(heads), [size] * len(rows), GAP, "", 32, caption=GAP)
    axes = figure.subplots(len(rows), len(heads), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for ax, picture in zip(line, row, strict=True):
            _show(ax, None if picture is None else _picture(picture))
    for ax, head in zip(axes[0], heads, strict=True):
        ax.set_title(textwrap.fill(head, size // 8), fontsize=size / 14, color=QUIET)
    return _rendered(figure)


def colorize(weights: Weights) -> UInt8[np.ndarray, "h w 3"]:
    """Colour a map on the fixed scale from 0 to 1; values outside take the colour of the end."""
    return colormaps["magma"](np.nan_to_num(weights.astype(np.float32)), bytes=True)[..., :3]


def overlay(image: Picture, weights: Weights, opacity: float = 0.6) -> Image.Image:
    """Lay a map over the grey picture, smoothly enlarged to its size.

    Args:
        weights: in [0, 1], any size.
        opacity: 0 shows the grey picture alone, 1 the colours alone.
    """
    picture = _picture(image)
    grey = picture.convert("L").convert("RGB")
    smooth = Image.fromarray(weights.astype(np.float32)).resize(picture.size, Image.BILINEAR)
    return Image.blend(grey, Image.fromarray(colorize(np.asarray(smooth))), opacity)


def mean_weights(routing: Routing, index: int = 0) -> Weights:
    """Average one picture's maps over steps and layers, at the size of the finest layer."""
    maps = [weights[:, index].mean(axis=0, dtype=np.float32) for weights in routing.values()]
    height, width = max((weights.shape for weights in maps), key=math.prod)
    enlarged = [Image.fromarray(m).resize((width, height), Image.BILINEAR) for m in maps]
    return np.mean([np.asarray(m) for m in enlarged], axis=0)


def layer_group(path: str) -> tuple[str, str]:
    """Name the stage and the kind of attention of a layer.

    Args:
        path: like "down_blocks.1.attentions.0.transformer_blocks.0.attn2"; what follows is ignored.

    Returns:
        ("down 1", "cross-attention"): attn1 is self-attention, attn2 cross-attention.

    Raises:
        ValueError: not the path of an attention layer.
    """
    found = re.search(r"(?:(down|up)_blocks\.(\d+)|(mid)_block)\..*\battn([12])\b", path)
    if found is None:
        raise ValueError(f"{path!r} is not the path of an attention layer of the U-Net")
    stage = found[3] or f"{found[1]} {found[2]}"
    return stage, "self-attention" if found[4] == "1" else "cross-attention"


def routing_figure(
    image: Picture,
    routing: Routing,
    index: int = 0,
    columns: int = 5,
    title: str = "Where the personalized expert draws",
) -> Image.Image:
    """Show where one picture is drawn by the personalized expert, by layer group and step.

    Left the picture and, over it, the mean of all maps; right a row per stage of the U-Net and a
    column per step, first to last, self- and cross-attention side by side. A panel is the mean over
    its stage's layers, pixel by pixel as the layer sees it.

    Args:
        routing: the personalized expert's weight of each layer.
        index: which picture of the batch `image` is.
        columns: at most so many steps.
    """
    picture = _picture(image)
    groups = _group_maps(routing, index)
    kinds = sorted({kind for _, kind in groups}, reverse=True)
    stages = sorted({stage for stage, _ in groups})  # down, mid, up: as the U-Net runs
    total = len(next(iter(routing.values())))
    steps = np.unique(np.linspace(0, total - 1, columns).round().astype(int)).tolist()

    # Few stages get larger panels, up to the height of the two pictures beside them.
    large = ImageOps.contain(picture, (360, 360))
    side = int(np.clip(2 * max(large.size) / len(stages), 112, 170))
    panel = ImageOps.contain(picture, (side, side)).size
    block = len(steps) * (panel[0] + GAP) - GAP
    height = max(large.height, (len(stages) * (panel[1] + GAP) - GAP - CAPTION) // 2)
    widths = [round(height * large.width / large.height)] + [block] * len(kinds)
    figure = _figure(widths, [height, height], 76, title, 70)
    axes = figure.subplot_mosaic([["picture", *kinds], ["mean", *kinds]], width_ratios=widths)
    _show(axes["picture"], picture, "the picture")
    _show(axes["mean"], overlay(picture, mean_weights(routing, index)), "mean of all maps")
    for kind in kinds:
        maps = {stage: groups.get((stage, kind)) for stage in stages}
        _show_maps(axes[kind], maps, steps, panel)
        axes[kind].set_title(kind, pad=12)
    _color_bar(axes[kinds[-1]])
    return _rendered(figure)


@dataclass(frozen=True)
class Preview:
    """One row of a training preview: what was asked for and what came out."""

    target: Picture  # the training picture
    subjects: Sequence[Picture]  # what the model was shown of them; may be empty
    generated: Picture
    weights: Weights  # the personalized expert's, over the generated picture, in [0, 1]
    caption: str = ""  # the prompt


def preview_figure(previews: Sequence[Preview], size: int = 256, title: str = "") -> Image.Image:
    """Lay previews out in rows: training picture, subjects, generated, routing over generated.

    Args:
        size: longest side of a panel in pixels.
    """
    heights = [ImageOps.contain(_picture(p.target), (size, size)).height for p in previews]
    figure = _figure([size] * 4, heights, GAP, title, 32)
    axes = figure.subplots(len(previews), 4, squeeze=False, height_ratios=heights)
    for row, preview in zip(axes, previews, strict=True):
        line = textwrap.shorten(preview.caption, size * 4 // 9, placeholder=" ...")
        tiles = [ImageOps.contain(_picture(s), (size, size)) for s in preview.subjects]
        _show(row[0], _picture(preview.target), line)
        _show(row[1], image_grid(tiles, padding=4 * GAP) if tiles else None)
        _show(row[2], _picture(preview.generated))
        _show(row[3], overlay(preview.generated, preview.weights))
    heads = ("training picture", "subjects shown", "generated", "personalized expert")
    for ax, text in zip(axes[0], heads, strict=True):
        ax.set_title(text, fontsize=min(11, size / 14), color=QUIET)
    _color_bar(axes[0, -1])
    return _rendered(figure)


def _group_maps(routing: Routing, index: int) -> dict[tuple[str, str], Maps]:
    """Average one picture's maps over the layers of each group."""
    members: dict[tuple[str, str], list[np.ndarray]] = {}
    for path, weights in routing.items():
        members.setdefault(layer_group(path), []).append(weights[:, index].astype(np.float32))
    return {group: np.mean(maps, axis=0) for group, maps in members.items()}


def _figure(
    widths: Sequence[int],
    heights: Sequence[int],
    gap: int,
    title: str,
    rise: int,
    caption: int = CAPTION,
) -> Figure:
    """Start a figure for axes of these sizes, with its title above; all in pixels."""
    width = sum(widths) + gap * (len(widths) - 1)
    height = sum(heights) + caption * (len(heights) - 1)
    figure = Figure((width / DPI, height / DPI), DPI)
    # The axes fill the figure; `_rendered` adds the room that titles and labels take outside.
    figure.subplots_adjust(0, 0, 1, 1, gap / np.mean(widths), caption / np.mean(heights))
    figure.text(0, 1 + rise / height, title, fontsize=18, parse_math=False)
    return figure


def _show(ax: Axes, picture: Image.Image | None, caption: str = "") -> None:
    if picture is None:
        ax.text(0.5, 0.5, "none", ha="center", va="center", color=QUIET)
    else:
        ax.imshow(picture, interpolation="lanczos")
    ax.set(xticks=[], yticks=[], anchor="N")
    ax.spines[:].set_visible(False)
    ax.set_xlabel(caption, loc="left", parse_math=False)


def _show_maps(
    ax: Axes, maps: Mapping[str, Maps | None], steps: Sequence[int], panel: tuple[int, int]
) -> None:
    """Show one kind of attention: a row per stage (None stays empty), a column per step."""
    width, height = panel
    left = np.arange(len(steps)) * (width + GAP)
    top = np.arange(len(maps)) * (height + GAP)
    scale = {"cmap": "magma", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    for y, weights in zip(top, maps.values(), strict=True):
        for x, step in zip(left, steps, strict=True):
            if weights is not None:
                ax.imshow(weights[step], extent=(x, x + width, y + height, y), **scale)
    ax.set(xlim=(0, left[-1] + width), ylim=(top[-1] + height, 0), anchor="N")
    ax.set_xticks(left + width / 2, [f"step {step + 1}" for step in steps], color=QUIET)
    ax.set_yticks(top + height / 2, list(maps))
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)


def _color_bar(ax: Axes) -> None:
    """Draw the scale at the right of some axes, as high as they are."""
    width = 14 / ax.bbox.width
    place = ax.inset_axes((1 + width, 0, width, 1))
    bar = ax.figure.colorbar(ScalarMappable(cmap="magma"), place, ticks=(0, 0.5, 1), format="%g")
    bar.outline.set_visible(False)
    place.tick_params(colors=QUIET)


def _rendered(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.2)
    return Image.open(file).convert("RGB")


def _picture(image: Picture) -> Image.Image:
    return (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("RGB")
