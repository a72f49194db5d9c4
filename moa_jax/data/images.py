"""Read pictures and masks, whatever way they were saved.

A picture is 8-bit RGB as a viewer shows it: EXIF rotation applied, transparency on white, CMYK,
palette, grey and 16-bit files converted. A file that cannot be read raises an InputError that
names it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError

from moa_jax.data.files import File
from moa_jax.errors import InputError

Box = tuple[int, int, int, int]

# Pixels. Pillow warns of decompression bombs from 89 million on; the limit is lower, so an accepted
# picture never gives the warning. A phone's largest picture has 50 million or 108.
MAX_PIXELS = 80_000_000

T = TypeVar("T")


def load_image(file: str | File) -> Image.Image:
    """Read a picture as 8-bit RGB.

    Raises:
        InputError: the file is missing, is no picture, is damaged, or has over MAX_PIXELS pixels.
    """
    return _read(file, to_rgb)


def read_size(file: str | File) -> tuple[int, int]:
    """Read the width and height that `load_image` would give, from the head of the file alone.

    An orientation that stands behind the pixels, as PNG allows, is not found.

    Raises:
        InputError: the file is missing, is no picture, or has over MAX_PIXELS pixels.
    """
    return _read(file, _upright_size)


def open_image(image: Image.Image | str | File) -> Image.Image:
    """Give a picture as 8-bit RGB, from a file or from an opened picture.

    Raises:
        InputError: as `load_image` and `to_rgb`.
    """
    return to_rgb(image) if isinstance(image, Image.Image) else load_image(image)


def load_mask(file: str | File) -> Bool[np.ndarray, "H W"]:
    """Read a mask; `to_mask` says which pixels it marks.

    Raises:
        InputError: as `load_image`.
    """
    return _read(file, to_mask)


def require_mask_of(mask: Bool[np.ndarray, "H W"], image: Image.Image | None, what: str) -> None:
    """Refuse a mask that marks nothing, or that is not as large as its picture.

    Args:
        image: None if the picture could not be read: then its size is not compared.
        what: what messages call the mask.

    Raises:
        InputError: the mask is empty or of another size.
    """
    if not mask.any():
        raise InputError(f"{what}: is empty, no pixel belongs to the subject")
    height, width = mask.shape
    if image is not None and (width, height) != image.size:
        size = f"{image.width}x{image.height}"
        raise InputError(f"{what}: is {width}x{height} pixels, but the picture is {size}")


def bounds(mask: Bool[np.ndarray, "H W"]) -> Box:
    """Find the smallest box around a mask, which must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def prepare_control_image(
    image: Image.Image | str | File, width: int, height: int
) -> Float[np.ndarray, "H W 3"]:
    """Turn a picture of edges, depth or a pose into a ControlNet's input, in [0, 1].

    Source: diffusers' VaeImageProcessor without normalisation: stretched, by Lanczos.

    Args:
        image: an opened picture of any mode, or its file.
        width: width of the picture to draw, in pixels.
        height: height of the picture to draw, in pixels.

    Raises:
        InputError: as `load_image`.
    """
    image = open_image(image)
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.float32) / np.float32(255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an opened picture of any mode to RGB, upright and on a white background.

    Raises:
        InputError: its pixels are 32-bit floats, whose range is unknown.
    """
    image = _to_8_bit(ImageOps.exif_transpose(image))
    if image.has_transparency_data:
        image = _on(image, "white")
    return image.convert("RGB")


def to_mask(image: Image.Image) -> Bool[np.ndarray, "H W"]:
    """Give the mask that an opened picture shows: true where a pixel is marked.

    A pixel is marked if its brightest channel is at least 128. In a palette picture, and in one
    that holds only the values 0 and 1 (as labelling tools write them), every pixel but 0 is marked.
    Transparent pixels are not marked.

    Raises:
        InputError: as `to_rgb`.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("1", "P") and not image.has_transparency_data:
        return np.asarray(image) > 0
    image = _to_8_bit(image)
    if image.has_transparency_data:
        image = _on(image, "black")
    if image.mode != "L":
        red, green, blue = image.convert("RGB").split()
        image = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    values = np.asarray(image)
    return values >= (128 if values.max() > 1 else 1)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    if image.format == "TIFF":  # Pillow turns its size and its orientation at different times
        image.load()
    # Of PNG the format's own method reads all pixels first, to see what stands behind them.
    turn = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    width, height = image.size
    return (height, width) if turn in (5, 6, 7, 8) else (width, height)


def _on(image: Image.Image, colour: str) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image)


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise InputError("its pixels are 32-bit floats; save it as an 8-bit PNG or JPEG")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)  # Pillow's own conversion clips at 255
    return Image.fromarray((values >> 8 if values.max() > 255 else values).astype(np.uint8))


def _read(file: str | File, convert: Callable[[Image.Image], T]) -> T:
    file = Path(file) if isinstance(file, str) else file
    try:
        with file.open("rb") as opened, Image.open(opened) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"it has {width}x{height} pixels, more than {MAX_PIXELS / 1e6:.0f} million; "
                    "make it smaller"
                )
            return convert(image)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{file}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"more than {MAX_PIXELS / 1e6:.0f} million pixels"
        raise InputError(f"{file}: it has {limit}; make it smaller") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{file}: is no picture, or of a kind that Pillow cannot read") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{file}: cannot be read as a picture ({reason})") from error
