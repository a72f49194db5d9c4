"""Shrink a record's picture once, and its masks and boxes with it.

`python -m moa_jax.data pack --resolution N` does this if the short side is over N pixels.
"""

import math
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from moa_jax.data.augment import BILINEAR, NEAREST, Box
from moa_jax.data.examples import LoadedRecord, bounds

JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}  # 0: colours at full resolution


def shrink(
    record: LoadedRecord, resolution: int
) -> tuple[bytes, tuple[int, int], list[tuple[Bool[np.ndarray, "h w"], Box]]]:
    """Resize the short side of a picture to `resolution` pixels.

    Returns:
        The bytes of a JPEG file; its width and height in pixels; and each subject's mask, which
        keeps at least a pixel, and box.
    """
    width, height = record.image.size
    scale = resolution / min(width, height)
    size = (round(width * scale), round(height * scale))
    subjects = []
    for subject in record.subjects:
        mask = np.asarray(Image.fromarray(subject.mask).resize(size, NEAREST))
        if not mask.any():  # so small that nearest neighbour steps over it: keep a pixel of it
            shares = Image.fromarray(subject.mask.astype(np.float32)).resize(size, Image.BOX)
            mask = np.asarray(shares) == np.asarray(shares).max()
        left, top, right, bottom = (side * scale for side in subject.box)
        box = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
        if not mask[box[1] : box[3], box[0] : box[2]].any():
            box = bounds(mask)
        subjects.append((mask, box))
    return encode(record.image.resize(size, BILINEAR), **JPEG), size, subjects


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
