"""A photo to start from, and the part of it that is to be drawn anew.

Pixels here are 8-bit RGB, in the size of the pictures to draw. Nothing here runs a network.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter, ImageOps

from moa_jax.data.images import load_mask, open_image, to_mask
from moa_jax.errors import InputError
from moa_jax.sampling.request import Picture

FEATHER = 1 / 128  # width of the soft edge around the mask, as a share of the longer side


class Photo(NamedTuple):
    """A photo, cut to size.

    Attributes:
        pixels: "H W 3" uint8.
        mask: "H W" float32, 1 where the picture is drawn anew; None means everywhere.
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
    """Scale and cut a photo and its mask to the size of the pictures to draw.

    Args:
        mask: bright where the picture is drawn anew, see `to_mask`. It is as large as `image`, or
            has its proportions. Where it is scaled down, a pixel that covers any marked pixel is
            drawn anew.
        height: in pixels. If height and width are given, the photo is scaled to cover the picture
            and cut around its middle. If only one is given, the other follows from the photo's
            proportions.
        width: likewise.
        area: how many pixels a picture has if neither is given; it then has the photo's
            proportions.
        multiple: in pixels. A side that is not given becomes a multiple of it.

    Raises:
        InputError: a picture cannot be read; or the mask does not have the photo's proportions, is
            empty, or lies entirely in what is cut away.
    """
    photo = open_image(image)
    size = choose_size(photo.size, height, width, area=area, multiple=multiple)
    pixels = np.asarray(ImageOps.fit(photo, size, Image.LANCZOS))
    if mask is None:
        return Photo(pixels, None)
    chosen = to_mask(mask) if isinstance(mask, Image.Image) else load_mask(mask)
    rows, columns = chosen.shape
    # The proportions may differ by 2 %.
    if abs(math.log(columns / rows * photo.height / photo.width)) > 0.02:
        raise InputError(
            f"the mask has {columns}x{rows} pixels and the photo {photo.width}x{photo.height}: "
            "give a mask of the photo's proportions"
        )
    if not chosen.any():
        raise InputError("the mask is black all over: paint white what is to be drawn anew")
    drawn = _fit_mask(chosen, size)
    if not drawn.any():
        raise InputError(
            f"what is white in the mask is cut away, for the picture is {size[0]}x{size[1]} and "
            f"the photo {photo.width}x{photo.height}: give height and width of its proportions"
        )
    return Photo(pixels, drawn)


def choose_size(
    photo: tuple[int, int], height: int | None, width: int | None, *, area: int, multiple: int
) -> tuple[int, int]:
    """Choose the width and height of pictures that start from a photo.

    Args:
        photo: width and height of the photo.
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
    """Mark each latent that covers a pixel to be drawn anew."""
    rows, columns = (side // factor for side in mask.shape)
    blocks = mask[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.max(axis=(1, 3))[None, :, :, None]


def paste(drawn: Image.Image, photo: Photo) -> Image.Image:
    """Paste a drawn picture into the photo: all that the mask marks, and a soft edge around it.

    The edge lies outside the mask, so everything that is marked is drawn anew, even a line of one
    pixel. The edge is `FEATHER` wide (4 pixels of 512). Beyond it every pixel is the photo's.
    """
    if photo.mask is None:
        return drawn
    mask = Image.fromarray(np.uint8(255 * photo.mask))
    # Each ring reaches one pixel further; their mean falls from 1 to 0 across the edge.
    rings = [mask]
    for _ in range(max(1, round(FEATHER * max(drawn.size)))):
        rings.append(rings[-1].filter(ImageFilter.MaxFilter(3)))
    soft = Image.fromarray(np.uint8(np.mean(rings, axis=0)))
    return Image.composite(drawn, Image.fromarray(photo.pixels), soft)


def psnr(one: UInt8[np.ndarray, "*B H W 3"], other: UInt8[np.ndarray, "*B H W 3"]) -> float:
    """Measure how alike two pictures are, as PSNR in dB; equal pictures give infinity."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float("inf") if error == 0.0 else float(10.0 * np.log10(255.0**2 / error))


def _fit_mask(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Cut a mask as its photo is cut, and mark each pixel that covers any marked pixel."""
    grey = Image.fromarray(mask.astype(np.float32))  # in 8 bits, one pixel of many would become 0
    shares = np.asarray(ImageOps.fit(grey, size, Image.BOX))
    return (shares > 0.0).astype(np.float32)


def _near(pixels: float, multiple: int) -> int:
    return max(1, round(pixels / multiple)) * multiple
