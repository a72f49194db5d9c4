"""Sparse routing: when drawing, compute an expert only where the router lets it draw.

Most pixels are the prior's: there the expert's output is multiplied by next to nothing. `Sparse`
says how much of an expert is computed. What is left out, the prior draws. The rule is ours, not the
paper's; training is always dense.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.errors import InputError


@partial(jax.tree_util.register_dataclass, data_fields=["skip_below"], meta_fields=["capacity"])
@dataclass(frozen=True)
class Sparse:
    """How much of the experts beside the prior is computed, in every mixture layer.

    Every picture is treated by itself, so it stays the same whatever else is in its batch.

    Attributes:
        skip_below: a number in [0, 1]. An expert whose mean weight over a picture's pixels is not
            above it is left out of this layer of the picture. A layer in which no picture of the
            batch needs the expert does not compute it. It may change from step to step.
        capacity: share of a picture's pixels that an expert is computed for, in (0, 1]: those at
            which it weighs most. It decides the shapes, so each value is a program of its own.
    """

    skip_below: Any = 0.0
    capacity: float = 1.0

    def keep(
        self, routing: Float[Array, "B H W E"]
    ) -> tuple[Float[Array, "B H W E"], list[Int[Array, "B P"] | None]]:
        """Choose the pixels of every expert, and give what is left out to the prior.

        Args:
            routing: weights in [0, 1] that sum to one over the experts, the prior first.

        Returns:
            The weights that remain, and for each expert beside the prior its pixels, counted row
            by row; None means all of them.
        """
        if routing.shape[-1] == 1:  # a block with the prior alone
            return routing, []
        kept, chosen = [], []
        for expert in range(1, routing.shape[-1]):
            weights = routing[..., expert]
            needed = jnp.mean(weights, axis=(1, 2), keepdims=True) > self.skip_below
            weights = jnp.where(needed, weights, 0.0)
            pixels = largest(weights, self.capacity) if self.capacity < 1.0 else None
            if pixels is not None:
                flat = weights.reshape(len(weights), -1, 1)
                weights = put(take(flat, pixels), pixels, flat.shape[1]).reshape(weights.shape)
            kept.append(weights)
            chosen.append(pixels)
        added = jnp.stack(kept, axis=-1)
        prior = 1.0 - jnp.sum(added, axis=-1, keepdims=True)
        # There the sum would round what the router chose.
        untouched = jnp.all(added == routing[..., 1:], axis=-1, keepdims=True)
        prior = jnp.where(untouched, routing[..., :1], prior)
        return jnp.concatenate([prior, added], axis=-1), chosen


def largest(weights: Float[Array, "B H W"], capacity: float) -> Int[Array, "B P"]:
    """Find the places of a picture's largest weights, counted row by row.

    Args:
        capacity: share of the pixels in (0, 1]; at least one pixel is found.
    """
    flat = weights.reshape(len(weights), -1)
    return jax.lax.top_k(flat, math.ceil(capacity * flat.shape[1]))[1]


def take(values: Float[Array, "B L D"], places: Int[Array, "B P"]) -> Float[Array, "B P D"]:
    """Take the values at some places."""
    return jnp.take_along_axis(values, places[..., None], axis=1)


def put(
    values: Float[Array, "B P D"], places: Int[Array, "B P"], size: int
) -> Float[Array, "B size D"]:
    """Put values back to their places, which differ from each other; all other places are zero."""
    batch, _, width = values.shape
    rows = jnp.arange(batch)[:, None]
    empty = jnp.zeros((batch, size, width), values.dtype)
    return empty.at[rows, places].set(values, unique_indices=True)


def compute(
    expert: nn.Module,
    hidden: Float[Array, "B H W D"],
    context: Float[Array, "B S C"] | None,
    weights: Float[Array, "B H W"],
    chosen: Int[Array, "B P"] | None,
) -> Float[Array, "B H W D"]:
    """Compute an expert at its chosen pixels; elsewhere its output is zero.

    Nothing is computed if all weights are zero. What the expert sows is not kept.

    Args:
        expert: bound to its parameters; called as `Expert` is.
        context: what it attends to; None means the pixels themselves, all of them.
        weights: of this expert, after `Sparse.keep`.
        chosen: None means all pixels.

    Raises:
        InputError: the expert cannot be computed for some of the pixels.
    """
    batch, rows, columns, width = hidden.shape
    pixels = hidden.reshape(batch, -1, width)
    options = {}
    if chosen is not None and context is None:
        _check(expert)
        options = {"pixels": pixels}
    run = unbound(expert)

    def computed() -> Float[Array, "B H W D"]:
        if chosen is None:
            return run(hidden, context)
        some = run(take(pixels, chosen)[:, None], context, **options)
        return put(some[:, 0], chosen, rows * columns).reshape(batch, rows, columns, -1)

    nothing = jax.eval_shape(computed)
    # In this order, so that a plan counts what is computed; see `planning.hlo`.
    return jax.lax.cond(
        jnp.all(weights == 0.0), lambda: jnp.zeros(nothing.shape, nothing.dtype), computed
    )


def unbound(module: nn.Module) -> Callable[..., Array]:
    """Return a bound module as a function that a branch of a conditional may call."""
    return partial(module.clone(parent=None).apply, module.variables)


def _check(expert: nn.Module) -> None:
    if "pixels" not in inspect.signature(type(expert).__call__).parameters:
        raise InputError(
            f"capacity: {type(expert).__name__} cannot attend from some of the pixels alone; draw "
            "with capacity=1, or give its __call__ the argument `pixels`, as Expert has it"
        )
