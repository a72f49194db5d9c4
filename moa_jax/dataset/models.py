"""What the builder asks of a network: four small protocols, and how to name a class of one's own.

A class is named as `package.module:Class(option=1)`. It is called with its options and `device`
and gives an object with the methods of one protocol or several. Nothing here imports a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.extension import find, is_name

Box = tuple[float, float, float, float]
Mask = Bool[np.ndarray, "H W"]

# The networks that have a short name, by what they serve as; the first of each is the default.
BUILT_IN = {
    "captioner": {
        "florence2": "moa_jax.dataset.florence2:Florence2",
        "qwen3-vl": "moa_jax.dataset.qwen3_vl:Qwen3VL",
    },
    "grounder": {"florence2": "moa_jax.dataset.florence2:Florence2"},
    "segmenter": {"sam2": "moa_jax.dataset.sam2:Sam2", "sam3": "moa_jax.dataset.sam3:Sam3"},
}
METHODS = {"captioner": "caption", "grounder": "ground", "segmenter": "segment"}


@dataclass(frozen=True)
class Phrase:
    """A phrase of a caption, and where in the picture its things are.

    Attributes:
        start: characters of the caption before its first letter.
        end: characters of the caption up to its last letter.
        boxes: x1, y1, x2, y2 in pixels; several if the phrase was found in several places.
    """

    start: int
    end: int
    boxes: tuple[Box, ...]


@runtime_checkable
class Captioner(Protocol):
    """Say what a picture shows.

    Attributes:
        about: name, revision and licence, for the data set's card.
        attempts: how many different captions it can give of one picture, at least 1.
    """

    about: str
    attempts: int

    def caption(self, image: Image.Image, attempt: int) -> str:
        """Give a caption in English; `attempt` counts from 0, and each gives another caption."""
        ...


@runtime_checkable
class Grounder(Protocol):
    """Find the things that a caption speaks of; `about` is as for `Captioner`."""

    about: str

    def ground(self, image: Image.Image, caption: str) -> list[Phrase]:
        """Give the phrases of the caption that name things, in their order, with boxes."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Draw masks; `about` is as for `Captioner`."""

    about: str

    def segment(self, image: Image.Image, texts: Sequence[str], boxes: Sequence[Box]) -> list[Mask]:
        """Give the mask of each subject, as large as the picture.

        A network uses the boxes, the texts or both. A subject that it does not find gets an empty
        mask, and is then left out.

        Args:
            texts: of each subject the phrase that names it.
            boxes: of each subject the box that holds it.
        """
        ...


@dataclass(frozen=True)
class Models:
    """The networks of one device; one object may serve as several of them."""

    captioner: Captioner
    grounder: Grounder
    segmenter: Segmenter

    def about(self) -> dict[str, str]:
        """Say of each network what it is."""
        return {role: getattr(self, role).about for role in METHODS}


def open_models(names: dict[str, str], devices: Sequence[str]) -> list[Models]:
    """Load the networks on each device; those of the same name are one object.

    Args:
        names: of the captioner, the grounder and the segmenter: a name that BUILT_IN has, or
            that of a class of one's own.
        devices: as PyTorch names them, such as "cuda:0" or "cpu".

    Raises:
        InputError: there is no such network, it cannot be loaded, or it lacks the method.
    """
    return [_open_on(names, device) for device in devices]


def _open_on(names: dict[str, str], device: str) -> Models:
    opened: dict[str, Any] = {}
    for role, name in names.items():
        option, known = f"--{role}", BUILT_IN[role]
        if not is_name(name) and name not in known:
            raise InputError(
                f"{option}={name!r}: choose one of {', '.join(known)}, or name a class of your own "
                "as package.module:Class(option=1)"
            )
        if name not in opened:
            opened[name] = find(known.get(name, name), option)(device=device)
        if not callable(getattr(opened[name], METHODS[role], None)):
            raise InputError(f"{option}={name!r} is no {role}: it has no method {METHODS[role]}")
    return Models(**{role: opened[name] for role, name in names.items()})
