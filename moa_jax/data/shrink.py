"""Shrink a picture once, and the masks and boxes of its subjects with it.

`python -m moa_jax.data pack --resolution N` does this if the short side is over N pixels.
"""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from moa_jax.data.augment import BILINEAR, NEAREST
from moa_jax.data.files import File
from moa_jax.data.images import Box, bounds

Marked = tuple[Bool[np.ndarray, "_ _"], Box]  # a subject's mask and box

JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}  # 0: colours at full resolution


def picture_bytes(
    file: File, image: Image.Image, subjects: list[Marked], resolution: int | None
) -> tuple[bytes, tuple[int, int], list[Marked]]:
    """Give a picture's file as it is, or a smaller one if its short side is over `resolution`.

    Args:
        image: the file's picture.
        resolution: in pixels; None keeps every file.

    Returns:
        The bytes of a picture file; its width and height in pixels; and each subject's mask and
        box on it.
    """
    if resolution is not None and min(image.size) > resolution:
        return shrink(image, subjects, resolution)
    with file.open("rb") as opened:
        return opened.read(), image.size, subjects


def mask_bytes(mask: Bool[np.ndarray, "H W"]) -> bytes:
    """Write a mask as a PNG of one bit a pixel."""
    return encode(Image.fromarray(mask), format="PNG")


def shrink(
    image: Image.Image, subjects: Sequence[Marked], resolution: int
) -> tuple[bytes, tuple[int, int], list[Marked]]:
    """Resize the short side of a picture to `resolution` pixels.

    Returns:
        The bytes of a JPEG file; its width and height in pixels; and each subject's mask, which
        keeps at least a pixel, and box.
    """
    width, height = image.size
    scale = resolution / min(width, height)
    size = (round(width * scale), round(height * scale))
    shrunk = []
    for whole, edges in subjects:
        mask = np.asarray(Image.fromarray(whole).resize(size, NEAREST))
        if not mask.any():  # so small that nearest neighbour steps over it: keep a pixel of it
            shares = Image.fromarray(whole.astype(np.float32)).resize(size, Image.BOX)
            mask = np.asarray(shares) == np.asarray(shares).max()
        left, top, right, bottom = (side * scale for side in edges)
        box = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
        if not mask[box[1] : box[3], box[0] : box[2]].any():
            box = bounds(mask)
        shrunk.append((mask, box))
    return encode(image.resize(size, BILINEAR), **JPEG), size, shrunk


def encode(image: Image.Image, **options: Any) -> bytes:
    """Write a picture as the bytes of a file; the options are those of Pillow's `save`."""
    file = BytesIO()
    image.save(file, **options)
    return file.getvalue()


def loss(resolution: int | None) -> str:
    """Say what a packed data set has lost."""
    if resolution is None:
        return "nothing: every picture file as it is, every mask pixel by pixel"
    return (
        f"of pictures whose short side is over {resolution} pixels: detail below that size, and "
        f"what JPEG of quality {JPEG['quality']} leaves out; transparency (on white) and metadata; "
        "their masks follow by nearest neighbour. Smaller pictures: nothing"
    )
