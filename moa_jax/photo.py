"""A photo to start from, and the part of it that is to be drawn anew.

Pixels here are 8-bit RGB of the size of the pictures to draw. Knows no networks.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter, ImageOps

from moa_jax.data.images import load_mask, open_image, to_rgb
from moa_jax.errors import InputError
from moa_jax.request import Picture

FEATHER = 1 / 128  # of the longer side: how softly what is drawn is laid into the photo


class Photo(NamedTuple):
    """A photo, cut to size.

    Attributes:
        pixels: "H W 3" uint8.
        mask: "H W" float32, 1 where the picture is drawn anew; None: everywhere.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    mask: Float[np.ndarray, "H W"] | None


def prepare_photo(
    image: Picture,
    mask: Picture | None,
    height: int | None,
    width: int | None,
    *,
    area: int,
    multiple: int = 8,
) -> Photo:
    """Bring a photo, and with it its mask, to the size of the pictures to draw.

    Args:
        mask: bright where the picture is drawn anew; as large as `image`, or of its proportions.
        height: in pixels. Where both are given, the photo is scaled to cover the picture and cut
            around its middle; where one is, the other follows from the photo's proportions.
        width: likewise.
        area: pixels of a picture if neither is given; its proportions are then the photo's.
        multiple: of which a side is that nobody gave.

    Raises:
        InputError: a picture that cannot be read, or a mask that is not the photo's, or empty.
    """
    photo = open_image(image)
    size = choose_size(photo.size, height, width, area=area, multiple=multiple)
    pixels = np.asarray(ImageOps.fit(photo, size, Image.LANCZOS))
    if mask is None:
        return Photo(pixels, None)
    chosen = _load_mask(mask)
    if abs(math.log(chosen.width / chosen.height * photo.height / photo.width)) > 0.02:
        raise InputError(
            f"the mask has {chosen.width}x{chosen.height} pixels and the photo "
            f"{photo.width}x{photo.height}: give a mask of the photo's proportions"
        )
    drawn = np.asarray(ImageOps.fit(chosen, size, Image.BILINEAR), np.float32) / 255.0
    drawn = (drawn >= 0.5).astype(np.float32)
    if not drawn.any():
        raise InputError("the mask is black all over: paint white what is to be drawn anew")
    return Photo(pixels, drawn)


def choose_size(
    photo: tuple[int, int], height: int | None, width: int | None, *, area: int, multiple: int
) -> tuple[int, int]:
    """Choose width and height of the pictures that start from a photo.

    Args:
        photo: its width and height.
        area: see `prepare_photo`.
        multiple: likewise.
    """
    proportion = photo[0] / photo[1]
    if height is None and width is None:
        height = math.sqrt(area / proportion)
        return _near(height * proportion, multiple), _near(height, multiple)
    if height is None:
        return width, _near(width / proportion, multiple)
    if width is None:
        return _near(height * proportion, multiple), height
    return width, height


def coarse_mask(mask: Float[np.ndarray, "H W"], factor: int) -> Float[np.ndarray, "1 h w 1"]:
    """Say of each latent whether any of its pixels is drawn anew."""
    rows, columns = (side // factor for side in mask.shape)
    blocks = mask[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.max(axis=(1, 3))[None, :, :, None]


def paste(drawn: Image.Image, photo: Photo) -> Image.Image:
    """Lay what was drawn into the photo, softly at the edge of the mask; outside it is the photo.

    The softness lies inside the mask, so that what is to be kept is kept to the pixel.
    """
    if photo.mask is None:
        return drawn
    radius = max(1, round(FEATHER * max(drawn.size)))
    mask = Image.fromarray(np.uint8(255 * photo.mask))
    inner = mask.filter(ImageFilter.MinFilter(2 * radius + 1))
    soft = inner.filter(ImageFilter.GaussianBlur(radius / 2))
    inside = Image.fromarray(np.minimum(np.asarray(soft), np.asarray(mask)))
    return Image.composite(drawn, Image.fromarray(photo.pixels), inside)


def psnr(one: UInt8[np.ndarray, "*B H W 3"], other: UInt8[np.ndarray, "*B H W 3"]) -> float:
    """Measure how near two pictures are, in dB: the more the nearer; infinite if equal."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float("inf") if error == 0.0 else float(10.0 * np.log10(255.0**2 / error))


def _load_mask(mask: Picture) -> Image.Image:
    """Give a mask as a grey picture of 0 and 255."""
    if isinstance(mask, Image.Image):
        return to_rgb(mask).convert("L")
    return Image.fromarray(np.uint8(255 * load_mask(mask)))


def _near(pixels: float, multiple: int) -> int:
    return max(1, round(pixels / multiple)) * multiple
