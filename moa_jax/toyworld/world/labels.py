"""What a scene shows, in numbers, for networks that learn to read pictures of it.

A kind is a place in the tables of `KINDS` and `CHOICES`; a colour is RGB in [0, 1]. Where there is
no second person, the first is repeated, and `present` tells that nobody is there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int8

from moa_jax.toyworld.world.people import BELOW_HATS, COLORS, KINDS
from moa_jax.toyworld.world.places import CHOICES
from moa_jax.toyworld.world.scenes import Scene

PEOPLE = 2  # at most, in a scene
CONTEXT = {field: tuple(values) for field, values in CHOICES.items()}
# Name of an array -> its shape for one scene, and its type.
SHAPES: dict[str, tuple[tuple[int, ...], Any]] = {
    "context": ((len(CONTEXT),), np.int8),
    "present": ((PEOPLE,), np.bool_),
    "kinds": ((PEOPLE, len(KINDS)), np.int8),
    "colors": ((PEOPLE, len(COLORS), 3), np.float32),
}


def label(scene: Scene) -> dict[str, np.ndarray]:
    """Write a scene as the arrays of SHAPES, with its people in the caption's order."""
    people = [*scene.people, *scene.people[:1] * (PEOPLE - len(scene.people))]
    context = [values.index(getattr(scene.context, field)) for field, values in CONTEXT.items()]
    kinds = [[values.index(getattr(p, name)) for name, values in KINDS.items()] for p in people]
    found = {
        "context": context,
        "present": np.arange(PEOPLE) < len(scene.people),
        "kinds": kinds,
        "colors": [[getattr(person, name) for name in COLORS] for person in people],
    }
    return {name: np.asarray(found[name], kind) for name, (_, kind) in SHAPES.items()}


def by_name(labels: Mapping[str, Array]) -> dict[str, Array]:
    """Split labels by name: fields of the context "B", kinds "B K" and colours "B K 3"."""
    found = {field: labels["context"][:, i].astype(jnp.int32) for i, field in enumerate(CONTEXT)}
    found |= {name: labels["kinds"][..., i].astype(jnp.int32) for i, name in enumerate(KINDS)}
    return found | {name: labels["colors"][..., i, :] for i, name in enumerate(COLORS)}


def visible(kinds: Mapping[str, Array]) -> dict[str, Bool[Array, "*B"]]:
    """Tell which attributes of people can be seen: a hat hides most hair, and only men have beards.

    Args:
        kinds: "hair_style", "hat" and "word" of people, as numbers.
    """

    def among(name: str, values: Sequence[Any]) -> Array:
        numbers = jnp.array([KINDS[name].index(value) for value in values])
        return jnp.isin(kinds[name], numbers)

    bare, man = among("hat", ["none"]), among("word", ["man"])
    seen = dict.fromkeys((*KINDS, *COLORS), jnp.ones_like(bare))
    hair = bare | among("hair_style", BELOW_HATS)
    return seen | {"hair": hair, "hair_style": bare, "hat_color": ~bare, "beard": man}


def describe(
    kinds: Int8[Array, "*B k"], colors: Float[Array, "*B c 3"]
) -> tuple[Float[Array, "*B n"], Float[Array, "*B n"]]:
    """Write looks as numbers in [0, 1]: three for a colour, and for a kind one for each value.

    Returns:
        The numbers, and for each whether it can be seen (1 or 0).
    """
    numbers = {name: kinds[..., i].astype(jnp.int32) for i, name in enumerate(KINDS)}
    parts = {name: colors[..., i, :] for i, name in enumerate(COLORS)}
    parts |= {name: jax.nn.one_hot(numbers[name], len(KINDS[name])) for name in KINDS}
    seen = visible(numbers)
    shown = [
        jnp.broadcast_to(seen[name][..., None], part.shape).astype(jnp.float32)
        for name, part in parts.items()
    ]
    return jnp.concatenate([*parts.values()], axis=-1), jnp.concatenate(shown, axis=-1)


DESCRIBED = 3 * len(COLORS) + sum(len(values) for values in KINDS.values())  # numbers of a look
