"""A router of your own: the personalized expert draws only near the middle of the picture.

    python train.py configs/toy.py 'method.mixture=examples.router_in_20_lines:CentreRouting'

from the project's root; from any folder that has a copy of this file

    moa-train toy 'method.mixture=router_in_20_lines:CentreRouting'

Options are given as in `CentreRouting(reach=0.4)`. Nothing in moa_jax is edited.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp

from moa_jax.method.router import LinearRouter
from moa_jax.method.variant import Variant


class CentreRouter(LinearRouter):
    """MoA's router, but the added experts fade with the distance from the centre.

    Attributes:
        reach: distance at which they have lost two thirds of their weight, in sides of the picture.
    """

    reach: float = 0.5

    def __call__(self, hidden, context):
        """Weigh the experts at every pixel."""
        routing = super().__call__(hidden, context)
        y, x = (jnp.linspace(-0.5, 0.5, side) for side in hidden.shape[1:3])
        near = jnp.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / self.reach**2)[None, :, :, None]
        added = routing[..., 1:] * near  # the prior, expert 0, takes what they lose
        return jnp.concatenate([1 - added.sum(-1, keepdims=True), added], axis=-1)


@dataclass(frozen=True)
class CentreRouting(Variant):
    """MoA with `CentreRouter`."""

    reach: float = 0.5

    def router(self, method):
        """Return the builder of `CentreRouter`, which starts as MoA's router does."""
        weight = method.initial_personalized_weight
        return partial(CentreRouter, initial_personalized_weight=weight, reach=self.reach)
