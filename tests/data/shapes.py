"""Pictures of several shapes, each of one colour that tells its number, for tests of buckets."""

import json

import numpy as np
import pytest
from PIL import Image

from moa_jax.data.buckets import Fit, bucket_sizes

RESOLUTION, UNIT = 64, 16
FIT = Fit(bucket_sizes(RESOLUTION, UNIT), 0.1)
WIDE, SQUARE, TALL = (96, 48), (64, 64), (48, 80)  # the buckets of the pictures below
SIZES = [(120, 60)] * 5 + [(90, 90)] * 6 + [(60, 100)] * 4  # numbers 0-4, 5-10, 11-14
TURNED = 14  # a portrait that is stored lying, and says so
MISFIT = (200, 50)  # number 15


def colour(number):
    return (16 * number, 255 - 16 * number, 0)


def number_of(image):
    """Which picture an example shows."""
    return round(float(np.mean(image[..., 0])) / 16)


def write_shapes(root, sizes=(*SIZES, MISFIT)):
    """An imagefolder; the left half of each picture is its subject."""
    rows = []
    for number, (width, height) in enumerate(sizes):
        picture, name = Image.new("RGB", (width, height), colour(number)), f"{number}.png"
        mask = np.zeros((height, width), bool)
        mask[:, : width // 2] = True
        exif = Image.Exif()
        if number == TURNED:  # 8: to be turned by 90 degrees to the left
            picture, exif[0x0112] = picture.transpose(Image.Transpose.ROTATE_270), 8
        picture.save(root / name, exif=exif)
        Image.fromarray(mask).save(root / f"mask{number}.png")
        subjects = [{"mask": f"mask{number}.png", "word": "man"}]
        rows.append({"file_name": name, "text": f"a man {number}", "subjects": subjects})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """The pictures of SIZES, and one that fits no bucket. Read only."""
    return write_shapes(tmp_path_factory.mktemp("shapes"))
