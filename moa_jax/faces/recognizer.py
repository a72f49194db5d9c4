"""What a recognizer of faces does, and how one is opened by its name.

A recognizer finds the faces of a picture and turns each into an embedding: two embeddings lie close
together when they are of one person. Which network does so, and under which licence, differs from
one recognizer to the next; who uses one reads both from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.extension import find, is_name

# Named by text: they import this module, and libraries that not every installation has.
BUILT_IN = {
    "dlib": "moa_jax.faces.dlib_resnet:DlibResNet",
    "facenet": "moa_jax.faces.facenet:FaceNet",
    "auraface": "moa_jax.faces.auraface:AuraFace",
}


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
        box: left, top, right and bottom edge, in pixels; they may lie outside of the picture.
        points: (x, y) in pixels of the right eye, the left eye, the nose, and the right and left
            corner of the mouth; right and left are the person's own. NaN where the detector does
            not say.
        score: how sure the detector is; its scale is the detector's own.
    """

    box: tuple[float, float, float, float]
    points: Float[np.ndarray, "5 2"]
    score: float


@runtime_checkable  # for the test run, which checks arguments
class Recognizer(Protocol):
    """What finds faces and tells people apart.

    Attributes:
        name: what reports call it.
        licence: under which licences its code and its weights stand.
        source: where its weights come from.
        same_person: Euclidean distance between two embeddings, in [0, 2], below which two faces in
            photographs are taken for one person. For drawn pictures nobody published such a value.
    """

    name: str
    licence: str
    source: str
    same_person: float

    def find(self, image: Image.Image) -> list[Face]:
        """Find the faces of an RGB picture, the surest first."""
        ...

    def embed(self, image: Image.Image, faces: Sequence[Face]) -> Float[np.ndarray, "N D"]:
        """Turn faces of an RGB picture, as `find` gave them, into embeddings of length 1."""
        ...


def open_recognizer(name: str = "dlib", key: str = "--recognizer") -> Recognizer:
    """Open a recognizer.

    Args:
        name: "dlib"; "facenet" or "facenet:FILE"; "auraface:FILE"; or your own class, as
            `package.module:Class(option=1)`.
        key: the option that the name was given for, as messages call it.

    Raises:
        InputError: there is no such recognizer, a library is not installed, or the weights cannot
            be read; the message has the remedy.
    """
    chosen, _, file = name.partition(":")
    if chosen in BUILT_IN:
        return find(BUILT_IN[chosen], key)(*[file] if file else [])
    if is_name(name):
        return find(name, key)()
    raise InputError(
        f"{key}={name!r}: must be dlib, facenet, auraface:FILE, or a class of your own, "
        "package.module:Class"
    )
