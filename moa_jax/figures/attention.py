"""Maps of the attention to each subject's word, which say which subject a pixel belongs to.

An attention map is the weight of a subject's word in the personalized expert's cross-attention, as
a mean over heads. It is small everywhere, because a pixel also attends to all other words. So the
figures scale each map to its own maximum.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from moa_jax.figures.canvas import (
    GAP,
    QUIET,
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
from moa_jax.figures.routing import spread

Attention = Mapping[str, Float[np.ndarray, "steps B _ _ K"]]  # by the path of the layer
Regions = Float[np.ndarray, "h w K"]

COLORS = "viridis"  # not the colours of routing, which is another quantity


def mean_attention(attention: Attention, index: int, steps: slice = slice(None)) -> Regions:
    """Average one picture's maps over steps and layers, at the size of the finest layer."""
    maps = [layer[steps, index].mean(axis=0, dtype=np.float32) for layer in attention.values()]
    size = max((m.shape[:2] for m in maps), key=math.prod)
    return np.mean([resize(m, size, Image.Resampling.BILINEAR) for m in maps], axis=0)


def subject_regions(attention: Attention, index: int = 0) -> Regions:
    """Say where each subject is in one picture, by the mean attention to its word.

    Returns:
        For each subject, 1 where its word gets the most attention and 0 where it gets the least; 1
        everywhere if there is no difference.
    """
    maps = mean_attention(attention, index)
    least, most = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    span = most - least
    return np.where(span > 0, (maps - least) / np.where(span > 0, span, 1), 1).astype(np.float32)


def attention_figure(
    image: Picture,
    attention: Attention,
    index: int,
    subjects: Sequence[str],
    columns: int = 5,
    title: str = "Where each subject's word is attended to",
) -> Image.Image:
    """Show over the picture how much the personalized expert attends to each subject's word.

    On the left is the picture. On the right is a row per subject: first the mean over all steps,
    then a column per step, from first to last. Each panel is the mean over layers, scaled to its
    own maximum.

    Args:
        attention: the attention to each subject's word in each cross-attention layer.
        index: which picture of the batch `image` is.
        subjects: their names, in the order of the maps.
        columns: how many steps to show at most.
    """
    picture = to_picture(image)
    steps = spread(len(next(iter(attention.values()))), columns)
    shown = [slice(None), *(slice(step, step + 1) for step in steps)]
    maps = [mean_attention(attention, index, part) for part in shown]
    side = int(np.clip(360 / len(subjects), 150, 210))
    panel = ImageOps.contain(picture, (side, side)).size
    rise = len(subjects) * (panel[1] + GAP) - GAP
    large = ImageOps.contain(picture, (int(np.clip(rise, 240, 420)),) * 2)
    height = max(rise, large.height)
    widths = [large.width, len(maps) * (panel[0] + GAP) - GAP]
    figure = start_figure(widths, [height], 90, title, 44)
    left, right = figure.subplots(1, 2, width_ratios=widths)
    show(left, picture, "the picture")
    under = picture.resize((2 * panel[0], 2 * panel[1]), Image.LANCZOS)
    rows = {
        textwrap.fill(name, 11): [
            overlay(under, _to_own_maximum(m[..., k]), colors=COLORS) for m in maps
        ]
        for k, name in enumerate(distinct(subjects))
    }
    show_panels(right, rows, ["all steps", *(f"step {step + 1}" for step in steps)], panel)
    right.set_xlabel("every panel is scaled to its own maximum", loc="left", color=QUIET)
    color_bar(right, COLORS, ("0", "max"))
    return rendered(figure)


def distinct(names: Sequence[str]) -> list[str]:
    """Number the names that occur more than once: man 1, man 2."""
    names = list(names)
    return [
        f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def resize(
    maps: Regions, size: tuple[int, int], how: Image.Resampling
) -> Float[np.ndarray, "rows columns K"]:
    """Resize the map of each subject.

    Args:
        size: rows and columns.
    """
    layers = [np.ascontiguousarray(layer, np.float32) for layer in np.moveaxis(maps, -1, 0)]
    resized = [Image.fromarray(layer).resize(size[::-1], how) for layer in layers]
    return np.stack([np.asarray(layer) for layer in resized], axis=-1)


def _to_own_maximum(weights: Weights) -> Weights:
    # At least the smallest number, so that a map of zeros stays zero.
    return weights / max(weights.max(), np.finfo(np.float32).tiny)
