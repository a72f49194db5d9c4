"""Pictures of people: from a file that somebody dropped, or from the toy world by number.

A file is decoded in memory, shrunk, and forgotten; what is kept has pixels only, no EXIF.
"""

import base64
import io
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from PIL import Image

from moa_jax.data.files import Blob
from moa_jax.data.images import load_image
from moa_jax.errors import InputError
from moa_jax.toyworld.world.scenes import draw_subject, subject_word

MAX_BYTES = 20 * 2**20  # of a file
MAX_PIXELS = 50_000_000  # a phone's largest usual picture
KEPT = 768  # pixels of the longer side: more than any image encoder sees
EXAMPLES = 12  # people of the toy world

_decoding = Lock()  # one at a time, so that memory holds one large picture


@dataclass(frozen=True, eq=False)
class Person:
    """A picture of somebody.

    Attributes:
        picture: RGB, at most KEPT pixels a side.
        name: to say who it is: a word of the toy world, or the file's name.
        number: in the toy world; None for a picture of one's own.
    """

    picture: Image.Image
    name: str
    number: int | None = None


def read_person(blob: Blob) -> Person:
    """Decode a file that somebody dropped.

    Raises:
        InputError: it is too large, no picture, or damaged; the message says which.
    """
    if len(blob.data) > MAX_BYTES:
        raise InputError(
            f"{blob}: it has {len(blob.data) / 2**20:.0f} MB, more than {MAX_BYTES // 2**20}; "
            "make it smaller"
        )
    with _decoding:
        _check_size(blob)
        picture = load_image(blob)
        picture.thumbnail((KEPT, KEPT), Image.Resampling.LANCZOS)
    # Of the pixels alone: `info` may still hold the file's EXIF.
    return Person(Image.frombytes("RGB", picture.size, picture.tobytes()), blob.name)


def _check_size(blob: Blob) -> None:
    """Refuse too many pixels before any is decoded; `load_image` says what else is wrong."""
    try:
        with Image.open(blob.open()) as image:
            width, height = image.size
    except Exception:
        return
    if width * height > MAX_PIXELS:
        most = f"more than {MAX_PIXELS // 10**6} million"
        raise InputError(f"{blob}: it has {width}x{height} pixels, {most}; make it smaller")


@cache
def example(number: int) -> Person:
    """Draw somebody of the toy world, who is in no training data."""
    return Person(draw_subject(number), subject_word(number), number)


def data_url(picture: Any, side: int | None = None, form: str = "PNG") -> str:
    """Write a picture into a `data:` address, so that no file of it is ever made.

    Args:
        picture: an RGB picture.
        side: of the longer side at most, in pixels; None means as it is.
        form: "PNG", or "WEBP" for previews.
    """
    if side is not None and max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format=form)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{form.lower()};base64,{encoded}"
