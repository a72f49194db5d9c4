"""Pictures side by side: grids, tables with heads, previews of a training run."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

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
    start_figure,
    to_picture,
)


def image_grid(
    images: Sequence[Picture], columns: int | None = None, padding: int = GAP
) -> Image.Image:
    """Lay pictures out in rows; smaller ones are centred in cells of the largest size.

    Args:
        columns: None makes the grid about square.
        padding: white pixels between pictures.
    """
    pictures = [to_picture(image) for image in images]
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
    """Lay pictures out in rows, under the heads of their columns; None shows "none".

    Args:
        heads: the head of each column.
        size: side of a cell in pixels.
    """
    figure = start_figure([size] * len(heads), [size] * len(rows), GAP, "", 32, caption=GAP)
    axes = figure.subplots(len(rows), len(heads), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for ax, picture in zip(line, row, strict=True):
            show(ax, None if picture is None else to_picture(picture))
    for ax, head in zip(axes[0], heads, strict=True):
        ax.set_title(textwrap.fill(head, size // 8), fontsize=size / 14, color=QUIET)
    return rendered(figure)


@dataclass(frozen=True)
class Preview:
    """One row of a training preview: what was asked for and what came out."""

    target: Picture  # the training picture
    subjects: Sequence[Picture]  # the subjects' pictures that the model was shown; may be empty
    generated: Picture
    weights: Weights  # the personalized expert's weights in the generated picture, in [0, 1]
    caption: str = ""  # the prompt


def preview_figure(previews: Sequence[Preview], size: int = 256, title: str = "") -> Image.Image:
    """Lay previews out in rows: training picture, subjects, generated picture, routing over it.

    Args:
        size: longest side of a panel in pixels.
    """
    heights = [ImageOps.contain(to_picture(p.target), (size, size)).height for p in previews]
    figure = start_figure([size] * 4, heights, GAP, title, 32)
    axes = figure.subplots(len(previews), 4, squeeze=False, height_ratios=heights)
    for row, preview in zip(axes, previews, strict=True):
        line = textwrap.shorten(preview.caption, size * 4 // 9, placeholder=" ...")
        tiles = [ImageOps.contain(to_picture(s), (size, size)) for s in preview.subjects]
        show(row[0], to_picture(preview.target), line)
        show(row[1], image_grid(tiles, padding=4 * GAP) if tiles else None)
        show(row[2], to_picture(preview.generated))
        show(row[3], overlay(preview.generated, preview.weights))
    heads = ("training picture", "subjects shown", "generated", "personalized expert")
    for ax, text in zip(axes[0], heads, strict=True):
        ax.set_title(text, fontsize=min(11, size / 14), color=QUIET)
    color_bar(axes[0, -1])
    return rendered(figure)
