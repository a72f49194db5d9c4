"""Encode the subjects that are there: most of a batch's slots for subjects are empty.

A compiled program has arrays of fixed sizes, so it cannot encode just as many as there are. It
encodes a share of the slots, with the subjects moved to the front; should there be more subjects,
it encodes the other slots too. So the features are the same whatever the share. Subjects stay on
the device that holds their picture, and nothing of the batch is sent.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


@dataclass(frozen=True)
class Packing:
    """How many subjects are encoded at least.

    Attributes:
        share: of the slots, above 0 and up to 1.
        devices: number of devices that the rows of a batch are split over.
    """

    share: float = 1.0
    devices: int = 1

    def encode(
        self,
        encode: Callable[[Any], Float[Array, "n m F"]],
        images: Shaped[Array, "B K H W 3"],
        present: Bool[Array, "B K"],
    ) -> Float[Array, "B K F"]:
        """Encode the pictures of a batch's subjects.

        Args:
            encode: gives the features of the pictures "n m H W 3"; a picture's do not depend on
                the others.
            images: one in each slot.
            present: whether a slot has a subject.

        Returns:
            The features. Those of an empty slot are 0, unless all slots are encoded.
        """
        slots = present.size // self.devices  # of one device
        first = math.ceil(self.share * slots)
        if first == slots:
            return encode(images)
        here = present.reshape(self.devices, slots)
        order = jnp.argsort(~here, axis=1, stable=True)
        shape = (self.devices, slots, *images.shape[2:])
        packed = jnp.take_along_axis(images.reshape(shape), order[..., None, None, None], axis=1)
        found = encode(packed[:, :first])
        nothing = jnp.zeros((self.devices, slots - first, found.shape[-1]), found.dtype)
        others = jax.lax.cond(
            jnp.any(jnp.sum(here, axis=1) > first),
            encode,
            lambda rest: nothing,
            packed[:, first:],
        )
        back = jnp.argsort(order, axis=1)[..., None]
        features = jnp.take_along_axis(jnp.concatenate([found, others], axis=1), back, axis=1)
        return jnp.where(here[..., None], features, 0).reshape(*present.shape, -1)
