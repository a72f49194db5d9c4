"""Where the personalized expert draws, by layer and step of the sampler."""

import math
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from moa_jax.figures.canvas import (
    CAPTION,
    GAP,
    Picture,
    Weights,
    color_bar,
    overlay,
    rendered,
    show,
    show_panels,
    start_figure,
    to_picture,
)

Routing = Mapping[str, Float[np.ndarray, "steps B _ _"]]  # by the layer's path
Maps = Float[np.ndarray, "steps _ _"]

ROUTING_LOOK = {"cmap": "magma", "vmin": 0, "vmax": 1}  # the one scale of all routing


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

    On the left is the picture, and below it the mean of all maps, laid over the picture. On the
    right is a row per stage of the U-Net and a column per step, from first to last, with self- and
    cross-attention side by side. Each panel is the mean over its stage's layers, in their own
    pixels.

    Args:
        routing: the personalized expert's weight in each layer.
        index: which picture of the batch `image` is.
        columns: how many steps to show at most.
    """
    picture = to_picture(image)
    groups = _group_maps(routing, index)
    kinds = sorted({kind for _, kind in groups}, reverse=True)  # self-attention first
    stages = sorted({stage for stage, _ in groups})  # down, mid, up: as the U-Net runs
    total = len(next(iter(routing.values())))
    steps = spread(total, columns)

    # Few stages get larger panels, up to the height of the two pictures beside them.
    large = ImageOps.contain(picture, (360, 360))
    side = int(np.clip(2 * max(large.size) / len(stages), 112, 170))
    panel = ImageOps.contain(picture, (side, side)).size
    block = len(steps) * (panel[0] + GAP) - GAP
    height = max(large.height, (len(stages) * (panel[1] + GAP) - GAP - CAPTION) // 2)
    widths = [round(height * large.width / large.height)] + [block] * len(kinds)
    figure = start_figure(widths, [height, height], 76, title, 70)
    axes = figure.subplot_mosaic([["picture", *kinds], ["mean", *kinds]], width_ratios=widths)
    show(axes["picture"], picture, "the picture")
    show(axes["mean"], overlay(picture, mean_weights(routing, index)), "mean of all maps")
    for kind in kinds:
        maps = {stage: groups.get((stage, kind)) for stage in stages}
        rows = {stage: None if m is None else list(m[steps]) for stage, m in maps.items()}
        heads = [f"step {step + 1}" for step in steps]
        show_panels(axes[kind], rows, heads, panel, **ROUTING_LOOK, interpolation="nearest")
        axes[kind].set_title(kind, pad=12)
    color_bar(axes[kinds[-1]])
    return rendered(figure)


def spread(total: int, count: int) -> list[int]:
    """Pick at most `count` of `total` steps, evenly, with the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, count).round().astype(int)).tolist()


def _group_maps(routing: Routing, index: int) -> dict[tuple[str, str], Maps]:
    """Average one picture's maps over the layers of each group."""
    members: dict[tuple[str, str], list[np.ndarray]] = {}
    for path, weights in routing.items():
        members.setdefault(layer_group(path), []).append(weights[:, index].astype(np.float32))
    return {group: np.mean(maps, axis=0) for group, maps in members.items()}
