"""Real photographs of faces: scikit-image's astronaut, and two people from `face_recognition`."""

import io
import os
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageEnhance

# The source distribution of face_recognition 1.3.0, whose tests have photographs of public figures.
# They are not part of this repository: set the variable to the file, and more is tested.
SDIST = Path(os.environ.get("FACE_RECOGNITION_SDIST", ""))
FIGURES = ("obama", "obama2", "obama3", "biden")


@cache
def astronaut():
    return Image.fromarray(skimage.data.astronaut())


@cache
def changed():
    """Copies of one photograph that leave the person who she is."""
    photo = astronaut()
    return {
        "mirror": photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "darker": ImageEnhance.Brightness(photo).enhance(0.5),
        "half": photo.resize((256, 256)),
        "turned by 15": photo.rotate(15, Image.Resampling.BILINEAR),
        "turned by -15": photo.rotate(-15, Image.Resampling.BILINEAR),
        "turned by 30": photo.rotate(30, Image.Resampling.BILINEAR),
    }


@cache
def figures():
    """The photographs of public figures, by name; none if the distribution is not here."""
    if not SDIST.is_file():
        return {}
    with tarfile.open(SDIST) as archive:
        folder = "face_recognition-1.3.0/tests/test_images"
        files = {name: archive.extractfile(f"{folder}/{name}.jpg").read() for name in FIGURES}
    return {name: Image.open(io.BytesIO(file)).convert("RGB") for name, file in files.items()}


def three():
    """Paste one face three times, at three sizes, into one picture."""
    picture = Image.new("RGB", (900, 512), "grey")
    head = astronaut().crop((120, 20, 320, 260))
    for left, scale in ((0, 1.0), (260, 1.3), (560, 1.6)):
        size = tuple(round(scale * side) for side in head.size)
        picture.paste(head.resize(size, Image.Resampling.LANCZOS), (left, 60))
    return picture


def without_faces():
    photos = [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "coffee")]
    grey = Image.fromarray(np.full((200, 300, 3), 128, np.uint8))
    return [*photos, grey]
