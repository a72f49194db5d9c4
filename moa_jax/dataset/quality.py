"""Judge pictures, masks and faces: small, blurred, cut off, the same picture twice.

All are pure functions of pixels; the thresholds are options of the builder [ours].
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt64
from PIL import Image, ImageOps
from scipy import ndimage

from moa_jax.dataset.models import Box, Mask
from moa_jax.extension import import_extra

# Pixels of the longer side to which pictures and faces are reduced before their blur is measured.
PICTURE_SIDE, FACE_SIDE = 512, 128
BOX_MARGIN = 0.05  # of a box's sides, by which a mask may pass its box


def sharpness(image: Image.Image, side: int = PICTURE_SIDE) -> float:
    """Measure how sharp a picture is: the variance of its Laplacian, the usual measure of blur.

    Args:
        side: longer side in pixels to which a larger picture is reduced first, so that the number
            of its pixels matters less.

    Returns:
        In squared grey levels of 0 to 255. Five photographs of scikit-image have 398 to 1129 at
        512 pixels; 24 to 86 when blurred by a Gaussian of 1 pixel, and 4 to 11 by one of 2.
    """
    grey = ImageOps.grayscale(image)
    grey.thumbnail((side, side))
    return float(ndimage.laplace(np.asarray(grey, np.float32), mode="nearest").var())


def cut_share(mask: Mask) -> float:
    """Measure how much of a subject the picture's left, right or upper edge cuts off.

    The lower edge counts for nothing: most portraits end there.

    Returns:
        The longest run of the mask along one of these edges, as a share of its height or width;
        0 if it touches none, or is empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0.0
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    sides = max(int(mask[:, 0].sum()), int(mask[:, -1].sum())) / height
    return float(max(sides, mask[0].sum() / width))


def fit_to_box(mask: Mask, box: Box) -> Mask:
    """Take away what a mask has outside its box, but for a margin of BOX_MARGIN."""
    height, width = mask.shape
    across, down = (box[2] - box[0]) * BOX_MARGIN, (box[3] - box[1]) * BOX_MARGIN
    left, right = np.clip([box[0] - across, box[2] + across], 0, width).round().astype(int)
    top, bottom = np.clip([box[1] - down, box[3] + down], 0, height).round().astype(int)
    fitted = np.zeros_like(mask)
    fitted[top:bottom, left:right] = mask[top:bottom, left:right]
    return fitted


def fill(mask: Mask, box: Box) -> float:
    """Give the marked area as a share of the box's; a mask inside its box gives at most 1."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return float(mask.sum() / area) if area > 0 else 0.0


def mask_overlap(one: Bool[np.ndarray, "H W"], other: Bool[np.ndarray, "H W"]) -> float:
    """Give the area that two masks share, divided by the area of the smaller one."""
    smaller = min(int(one.sum()), int(other.sum()))
    return float((one & other).sum() / smaller) if smaller else 0.0


def picture_hash(image: Image.Image) -> int:
    """Give the perceptual hash of a picture, 64 bits: copies in other sizes differ in few bits.

    Raises:
        InputError: the library imagehash is not installed.
    """
    library = import_extra("imagehash", "the search for duplicates", "pip install 'moa_jax[build]'")
    return int(str(library.phash(image)), 16)


def find_duplicates(hashes: Sequence[int], distance: int) -> dict[int, int]:
    """Find pictures that look like an earlier one.

    Args:
        hashes: of each picture, those to be kept first.
        distance: bits in which two hashes of one picture may differ.

    Returns:
        The place of each duplicate, and the place of the kept picture that it looks like.
    """
    kept: UInt64[np.ndarray, " N"] = np.zeros(len(hashes), np.uint64)
    places: list[int] = []
    found = {}
    for place, number in enumerate(hashes):
        bits = np.bitwise_count(kept[: len(places)] ^ np.uint64(number))
        near = np.flatnonzero(bits <= distance)
        if near.size:
            found[place] = places[int(near[0])]
        else:
            kept[len(places)] = number
            places.append(place)
    return found
