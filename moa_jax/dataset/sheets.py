"""Contact sheets: pictures with their masks, boxes and words; what was dropped; who is paired."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from moa_jax.data.images import load_image, load_mask
from moa_jax.dataset.files import Folder, encode_png
from moa_jax.dataset.models import Box
from moa_jax.dataset.source import load_photograph
from moa_jax.errors import InputError
from moa_jax.figures.grids import image_grid

SIDE, LINES = 300, 4  # pixels of a picture on a sheet; lines of text below
MOST = 60  # pictures of a sheet; of more some are taken, evenly
COLUMNS = 5
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45")
_SIZE = 13  # of the letters, in pixels


@dataclass(frozen=True)
class Tile:
    """A picture on a sheet.

    Attributes:
        text: is written below.
        subjects: of each the file of its mask and its word.
        boxes: x1, y1, x2, y2 of each in pixels; none for a row made by hand.
    """

    file: Path
    text: str
    subjects: tuple[tuple[Path, str], ...] = ()
    boxes: tuple[Box, ...] = ()

    @classmethod
    def of_row(cls, root: Path, row: dict[str, Any], boxes: Sequence[Sequence[float]]) -> "Tile":
        """Make the tile of a row of `metadata.jsonl`."""
        subjects = tuple((root / each["mask"], each["word"]) for each in row["subjects"])
        sides = tuple((box[0], box[1], box[2], box[3]) for box in boxes)
        return cls(root / row["file_name"], row["text"], subjects, sides)


def draw_tiles(folder: Folder, name: str, tiles: Sequence[Tile]) -> None:
    """Draw a sheet; without pictures, remove the one of an earlier run."""
    chosen = _evenly(tiles)
    pictures = [_framed(_draw_tile(tile), tile.text) for tile in chosen]
    _save(folder, name, pictures, min(COLUMNS, max(len(pictures), 1)))


def draw_pairs(
    folder: Folder,
    name: str,
    pairs: Sequence[tuple[float, tuple[dict[str, Any], int], tuple[dict[str, Any], int]]],
) -> None:
    """Draw the two subjects of each pair side by side, with the distance of their faces.

    Args:
        pairs: of each the distance, and twice a row and which of its subjects; of more than MOST
            the first are shown.
    """
    pictures = []
    for distance, *places in pairs[:MOST]:
        both = [_cut_out(folder.path, row, count) for row, count in places]
        names = " | ".join(row["file_name"] for row, _ in places)
        pictures.append(_framed(image_grid(both, columns=2), f"{distance:.3f}: {names}"))
    _save(folder, name, pictures, 2)


def _save(folder: Folder, name: str, pictures: Sequence[Image.Image], columns: int) -> None:
    if pictures:
        folder.write(name, encode_png(image_grid(pictures, columns=columns)))
    else:
        (folder.path / name).unlink(missing_ok=True)


def _evenly(tiles: Sequence[Tile]) -> list[Tile]:
    count = min(len(tiles), MOST)
    return [tiles[int(place)] for place in np.linspace(0, len(tiles) - 1, count).round()]


def _draw_tile(tile: Tile) -> Image.Image:
    """Draw a picture, its masks in colours, its boxes and words."""
    try:
        image, _ = load_photograph(tile.file)
    except InputError:
        return Image.new("RGB", (SIDE, SIDE), "#dddddd")
    shown = ImageOps.contain(image, (SIDE, SIDE))
    for number, (mask, _) in enumerate(tile.subjects):
        over = Image.new("RGB", shown.size, COLOURS[number % len(COLOURS)])
        alpha = Image.fromarray(load_mask(mask)).convert("L").resize(shown.size)
        shown.paste(over, mask=alpha.point(lambda value: value * 45 // 100))
    pen = ImageDraw.Draw(shown)
    scale = shown.width / image.width
    for number, (mask, word) in enumerate(tile.subjects):
        colour = COLOURS[number % len(COLOURS)]
        if number < len(tile.boxes):
            left, top, right, bottom = (side * scale for side in tile.boxes[number])
            pen.rectangle((left, top, max(right, left), max(bottom, top)), outline=colour, width=2)
        else:
            rows, columns = np.nonzero(load_mask(mask))
            left, top = columns.min() * scale, rows.min() * scale
        place = (min(left + 3, shown.width - 30), min(top + 3, shown.height - _SIZE - 3))
        pen.rectangle(pen.textbbox(place, word, _font()), fill=colour)
        pen.text(place, word, "white", _font())
    return shown


def _cut_out(root: Path, row: dict[str, Any], count: int) -> Image.Image:
    """Cut a subject out by the bounds of its mask."""
    image = load_image(root / row["file_name"])
    rows, columns = np.nonzero(load_mask(root / row["subjects"][count]["mask"]))
    bounds = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return ImageOps.contain(image.crop(tuple(int(side) for side in bounds)), (SIDE, SIDE))


def _framed(picture: Image.Image, text: str) -> Image.Image:
    """Put a picture above its text, on white."""
    width = max(SIDE, picture.width)
    framed = Image.new("RGB", (width, SIDE + LINES * (_SIZE + 3)), "white")
    framed.paste(picture, ((width - picture.width) // 2, SIDE - picture.height))
    lines = textwrap.wrap(text, width * 2 // _SIZE - 2, max_lines=LINES, placeholder=" ...")
    ImageDraw.Draw(framed).multiline_text((2, SIDE + 2), "\n".join(lines), "black", _font())
    return framed


def _font() -> Any:
    return ImageFont.load_default(_SIZE)
