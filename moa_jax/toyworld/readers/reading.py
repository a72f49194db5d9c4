"""Independent judges of pictures of the toy world: what is where, and who is it?

They are trained on the renderer's pictures alone (see `training.py`), and no network of the model
under test is among them. The evaluation prints their accuracy on held-out renders first of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from moa_jax.errors import InputError
from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.readers.networks import (
    MAX_PEOPLE,
    SIZE,
    SMALL,
    PersonReader,
    SceneReader,
    boxes,
    cut,
)
from moa_jax.toyworld.world.labels import CONTEXT
from moa_jax.toyworld.world.people import BELOW_HATS, COLORS, KINDS, Look

COMMITTED = WEIGHTS / "readers.safetensors"
ATTRIBUTES = tuple(
    "skin hair hair_style glasses beard hat hat_color shirt trousers".split()
)  # of a Look; eyes are a pixel or two
SAME_COLOR = 0.2  # two colours agree if their distance in RGB, each in [0, 1], is below this
MIN_PIXELS = 80  # of a person; fewer do not count as one
BATCH = 48  # pictures read at once


@dataclass(frozen=True, eq=False)
class PersonReading:
    """One person of a picture.

    Attributes:
        mask: which pixels it covers.
        word: "man", "woman" or "kid".
        attributes: by the names of ATTRIBUTES; each is a value of the world's tables, or RGB.
    """

    mask: Bool[np.ndarray, "H W"]
    word: str
    attributes: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Reading:
    """One picture.

    Attributes:
        context: the value of each field of a Context.
        people: from left to right.
        features: what the context was read from, for the distance between sets of pictures.
    """

    context: dict[str, str]
    people: tuple[PersonReading, ...]
    features: Float[np.ndarray, " F"]

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """Which pixels show any person."""
        return np.any([np.zeros((SIZE, SIZE), bool), *(p.mask for p in self.people)], axis=0)


class Readers:
    """Both readers, compiled for one size of batch."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        """Take the parameters of the two networks, "scene" and "person"."""
        self.params = params
        self._read = jax.jit(read_arrays)

    @classmethod
    def load(cls, path: str | Path = COMMITTED) -> "Readers":
        """Load trained readers.

        Raises:
            InputError: the file is missing or damaged, or belongs to other networks.
        """
        remedy = "train them: python -m moa_jax.toyworld.pretraining --stages readers"
        try:
            arrays = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"readers {str(path)!r} cannot be read ({error}); {remedy}") from error
        expected = flatten_dict(jax.eval_shape(initial_params, jax.random.key(0)), sep="/")
        if {k: a.shape for k, a in arrays.items()} != {k: a.shape for k, a in expected.items()}:
            raise InputError(f"readers {str(path)!r} are of other networks; {remedy}")
        return cls(
            unflatten_dict({k: jnp.asarray(a, jnp.float32) for k, a in arrays.items()}, sep="/")
        )

    def save(self, path: str | Path) -> None:
        """Write the weights, in half precision."""
        flat = flatten_dict(jax.device_get(self.params), sep="/")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file({key: np.asarray(a, np.float16) for key, a in flat.items()}, path)
        Path(path).chmod(0o644)  # safetensors makes files that only their owner can read

    def read(self, pictures: UInt8[np.ndarray, "B H W 3"]) -> list[Reading]:
        """Read any number of pictures."""
        readings = []
        for start in range(0, len(pictures), BATCH):
            batch = pictures[start : start + BATCH]
            # Batches of one size share one compiled program.
            padded = np.zeros((BATCH, SIZE, SIZE, 3), np.uint8)
            padded[: len(batch)] = batch
            found = jax.device_get(self._read(self.params, padded))
            readings += [_reading(found, row) for row in range(len(batch))]
        return readings


@jax.jit  # as one program: flax compiles each operation of `init` alone
def initial_params(key: Array) -> dict[str, Any]:
    """Start both networks at random."""
    picture, mask = jnp.zeros((1, SMALL, SMALL, 3)), jnp.zeros((1, SMALL, SMALL))
    scene, person = jax.random.split(key)
    return {
        "scene": SceneReader().init(scene, picture)["params"],
        "person": PersonReader().init(person, picture, mask)["params"],
    }


def read_arrays(params: Any, pictures: UInt8[Array, "B H W 3"]) -> dict[str, Any]:
    """Read a batch into arrays: indices of the values, colours, and masks "B K H W"."""
    pixels = pictures.astype(jnp.float32) / 255
    scene = SceneReader().apply({"params": params["scene"]}, pixels)
    shares = jnp.moveaxis(jax.nn.softmax(scene.people), -1, 1)
    masks = jax.nn.one_hot(jnp.argmax(shares, axis=1), 1 + MAX_PEOPLE, axis=1)[:, 1:]
    people = [
        _read_person(params, pixels, shares[:, 1 + k], masks[:, k]) for k in range(MAX_PEOPLE)
    ]
    return {
        "context": {name: jnp.argmax(logits, axis=-1) for name, logits in scene.context.items()},
        "features": scene.features,
        "masks": masks > 0,
        "people": jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *people),
    }


def _read_person(params: Any, pixels: Array, share: Array, mask: Array) -> dict[str, Array]:
    images = jnp.concatenate([pixels, share[..., None]], axis=-1)
    person = cut(images, boxes(mask))
    said = PersonReader().apply({"params": params["person"]}, person[..., :3], person[..., 3])
    kinds = {name: jnp.argmax(logits, axis=-1) for name, logits in said.kinds.items()}
    return {**kinds, **{name: jnp.clip(color, 0, 1) for name, color in said.colors.items()}}


def _reading(found: Mapping[str, Any], row: int) -> Reading:
    context = {field: CONTEXT[field][number[row]] for field, number in found["context"].items()}
    seen = found["masks"][row]
    people = [
        _person(seen[k], {name: values[row, k] for name, values in found["people"].items()})
        for k in range(MAX_PEOPLE)
        if seen[k].sum() >= MIN_PIXELS
    ]
    return Reading(context, tuple(people), found["features"][row])


def _person(mask: np.ndarray, values: Mapping[str, Any]) -> PersonReading:
    named = {name: KINDS[name][values[name]] for name in KINDS}
    colors = {name: tuple(float(part) for part in values[name]) for name in COLORS}
    word = named.pop("word")
    return PersonReading(mask, word, {**named, **colors})


def applies(name: str, look: Look) -> bool:
    """Say whether an attribute can be judged: nothing that a hat hides, and beards only on men."""
    if name == "hair":
        return look.hat == "none" or look.hair_style in BELOW_HATS
    if name == "hair_style":
        return look.hat == "none"
    if name == "hat_color":
        return look.hat != "none"
    return name != "beard" or look.word == "man"


def same(name: str, one: Any, other: Any) -> bool:
    """Say whether two values of an attribute agree; colours agree if they are near."""
    if name in COLORS:
        return bool(np.linalg.norm(np.subtract(one, other)) < SAME_COLOR)
    return one == other


def agreement(person: PersonReading | None, look: Look) -> dict[str, bool]:
    """Compare a person with a look, in each attribute that applies.

    A person who is not there (None) agrees in nothing. The word is not compared, because a caption
    tells it.
    """
    return {
        name: person is not None and same(name, person.attributes[name], getattr(look, name))
        for name in ATTRIBUTES
        if applies(name, look)
    }
