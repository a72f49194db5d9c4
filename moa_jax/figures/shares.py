"""How much of a picture the personalized expert draws, by layer, by step and by subject."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from moa_jax.figures.attention import Attention, Regions, distinct, resize, subject_regions
from moa_jax.figures.canvas import GAP, QUIET, color_bar, rendered, start_figure
from moa_jax.figures.routing import ROUTING_LOOK, Routing, layer_group, spread

SUBJECT_COLORS = ("#2563eb", "#ea580c", "#059669", "#c026d3")
FAINT = "#e4e4e7"
ROW, HIGH = 20, 320  # pixels: a layer's row; the figure's least height
WIDE, CURVES, SIDE = 250, 360, 100  # widths in pixels: by layer, curves, regions
LABEL, REGION = 20, 60  # pixels: above a region, for its name; its least side


def layer_shares(routing: Routing, index: int = 0) -> dict[str, Float[np.ndarray, " steps"]]:
    """Average the personalized expert's weight over one picture, by layer and step.

    Returns:
        The means by the layers' paths, in the order of the U-Net: down, mid, up.
    """
    return {
        path: routing[path][:, index].mean(axis=(1, 2), dtype=np.float32)
        for path in sorted(routing)
    }


def subject_shares(
    routing: Routing, regions: Regions, index: int = 0
) -> Float[np.ndarray, "K+1 steps"]:
    """Average the personalized expert's weight where each subject is, and where none is.

    Args:
        regions: how much a pixel belongs to each subject, in [0, 1], at any size. A pixel belongs
            to the background by 1 minus the largest of these.

    Returns:
        The mean over layers, with a row for each subject and the last row for the background; nan
        for a region that is nowhere.
    """
    regions = _with_background(regions)
    shares = []
    for layer in routing.values():
        weights = layer[:, index].astype(np.float32)
        # Box resampling neither blurs a region's edge nor changes how much of an area it takes.
        region = resize(regions, weights.shape[1:], Image.Resampling.BOX)
        total = region.sum(axis=(0, 1))
        region = np.where(total > 0, region / np.where(total > 0, total, 1), np.nan)
        shares.append(np.einsum("shw,hwk->ks", weights, region))
    return np.mean(shares, axis=0)


def share_figure(
    routing: Routing,
    attention: Attention,
    index: int,
    subjects: Sequence[str],
    title: str = "How much the personalized expert draws",
) -> Image.Image:
    """Show the personalized expert's share of one picture, by layer and step and by subject.

    On the left is its mean weight over the picture: a row per layer, in the order of the U-Net, and
    a column per step, with self- and cross-attention apart. On the right are its mean weight on
    each subject and on the background, from step to step, and the regions of these means.

    Args:
        routing: the personalized expert's weight in each layer.
        attention: the attention to each subject's word in each cross-attention layer; not read if
            there are no subjects.
        index: which picture of the batch to show.
        subjects: their names, in the order of the maps.
    """
    shares = layer_shares(routing, index)
    kinds = sorted({layer_group(path)[1] for path in shares}, reverse=True)  # self first
    regions = np.ones((1, 1, 0), np.float32)
    if subjects:
        regions = subject_regions(attention, index)[..., : len(subjects)]
    names = [*distinct(subjects), "background"]
    colors = [*(SUBJECT_COLORS[k % len(SUBJECT_COLORS)] for k in range(len(subjects))), QUIET]

    rows = max(sum(layer_group(path)[1] == kind for path in shares) for kind in kinds)
    height = max(HIGH, rows * ROW, len(names) * (LABEL + REGION + GAP))
    widths = [*[WIDE] * len(kinds), CURVES, SIDE]
    gaps = [*[28] * (len(kinds) - 1), 118, 24]  # 118: a color bar and the curves' labels
    lefts = [sum(widths[:i]) + sum(gaps[:i]) for i in range(len(widths))]
    figure = start_figure([lefts[-1] + SIDE], [height], 0, title, 56)
    *tables, curve, side = (_place(figure, *at) for at in zip(lefts, widths, strict=True))
    for ax, kind in zip(tables, kinds, strict=True):
        _show_layers(ax, {p: s for p, s in shares.items() if layer_group(p)[1] == kind})
        ax.set_title(kind, pad=12)
        ax.tick_params(labelleft=kind == kinds[0])
    color_bar(tables[-1])
    _show_curves(curve, subject_shares(routing, regions, index), colors)
    _show_regions(side, regions, names, colors)
    return rendered(figure)


def _with_background(regions: Regions) -> Float[np.ndarray, "h w K+1"]:
    background = 1 - regions.max(axis=-1, keepdims=True, initial=0)
    return np.concatenate([regions, background], axis=-1)


def _place(figure: Figure, left: int, width: int) -> Axes:
    """Add axes as high as the figure, at a place in pixels."""
    total = figure.get_figwidth() * figure.dpi
    return figure.add_axes((left / total, 0, width / total, 1))


def _show_layers(ax: Axes, shares: Mapping[str, Float[np.ndarray, " steps"]]) -> None:
    """Show a row per layer and a column per step, the stages apart."""
    table = np.stack(list(shares.values()))
    stages = [layer_group(path)[0] for path in shares]
    ax.imshow(table, aspect="auto", interpolation="nearest", **ROUTING_LOOK)
    for row in range(1, len(stages)):
        ax.axhline(row - 0.5, color="white", linewidth=3 if stages[row] != stages[row - 1] else 0.5)
    middle = {stage: np.mean([i for i, s in enumerate(stages) if s == stage]) for stage in stages}
    ax.set_yticks(list(middle.values()), list(middle))
    ax.spines[:].set_visible(False)
    _mark_steps(ax, table.shape[1])


def _show_curves(
    ax: Axes, curves: Float[np.ndarray, "regions steps"], colors: Sequence[str]
) -> None:
    """Draw the share of each region from step to step; the last is the background."""
    steps = np.arange(curves.shape[1])
    for curve, color in zip(curves, colors, strict=True):
        few = {"marker": "o"} if len(steps) < 12 else {}
        style = "--" if color is QUIET else "-"
        ax.plot(steps, curve, style, color=color, linewidth=2, clip_on=False, **few)
    ax.set_title("share on each region", pad=12)
    ax.set(ylim=(0, 1), yticks=(0, 0.25, 0.5, 0.75, 1), yticklabels=("0", "", "0.5", "", "1"))
    ax.grid(axis="y", color=FAINT)
    ax.set_axisbelow(True)
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.spines["bottom"].set_color(FAINT)
    ax.margins(x=0.02)
    _mark_steps(ax, len(steps))


def _mark_steps(ax: Axes, steps: int) -> None:
    marks = spread(steps, 5)
    ax.set_xticks(marks, [str(step + 1) for step in marks], color=QUIET)
    ax.set_xlabel("step", color=QUIET)
    ax.tick_params(length=0)


def _show_regions(ax: Axes, regions: Regions, names: Sequence[str], colors: Sequence[str]) -> None:
    """Show the regions of the curves one below the other, in the curves' colours."""
    width, height = ax.bbox.width, ax.bbox.height
    room = height / len(names)
    side = min(width, room - LABEL - GAP)
    rows, columns = regions.shape[:2]
    fit = side / max(rows, columns)
    maps = np.moveaxis(_with_background(regions), -1, 0)
    for k, (shown, name, color) in enumerate(zip(maps, names, colors, strict=True)):
        top = k * (side + LABEL + GAP)
        ax.text(0, top, name, color=color, va="top", parse_math=False)
        place = (0, columns * fit, top + LABEL + rows * fit, top + LABEL)
        shades = LinearSegmentedColormap.from_list(name, ["#fafafa", color])
        ax.imshow(shown, shades, vmin=0, vmax=1, extent=place)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    ax.set_axis_off()
