"""What systems of several families are made of; it knows none of them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def low_rank(
    source: Float[Array, "*places C"],
    name: str,
    width: int,
    rank: int,
    dtype: Any,
    between: Callable[[Array], Array] = lambda low: low,
) -> Float[Array, "*places D"]:
    """Apply a trained matrix of low rank, zero at the start; call it in a module's `__call__`.

    Args:
        name: the two factors are called NAME.down and NAME.up.
        width: of the result.
        between: what happens to the "*places rank" numbers between the two factors.
    """
    down = nn.Dense(rank, use_bias=False, dtype=dtype, name=f"{name}.down")
    zeros = nn.initializers.zeros
    up = nn.Dense(width, use_bias=False, kernel_init=zeros, dtype=dtype, name=f"{name}.up")
    return up(between(down(source)))


def strongest(weights: Float[Array, "*places E"], keep: int) -> Bool[Array, "*places E"]:
    """Mark the `keep` largest at every place; of equal ones, the first."""
    chosen = jax.lax.top_k(weights, keep)[1]
    return jnp.any(jax.nn.one_hot(chosen, weights.shape[-1], dtype=bool), axis=-2)


def balance(weights: Float[Array, "B H W E"], chosen: Bool[Array, "B H W E"]) -> Float[Array, ""]:
    """Measure how unevenly pixels are given to experts.

    A picture counts by itself, so that the mean does not depend on how a batch is cut.

    Args:
        weights: of the experts before the choice; they sum to one at every pixel.
        chosen: the experts that compute, equally many at every pixel.

    Returns:
        E times the sum over the experts of (mean weight) times (share of the choices): 1 where all
        are used alike, and E where one is chosen everywhere with all the weight.
    """
    choices = chosen.astype(jnp.float32)
    share = jnp.mean(choices / jnp.sum(choices, axis=-1, keepdims=True), axis=(1, 2))
    mean = jnp.mean(weights, axis=(1, 2))
    return weights.shape[-1] * jnp.mean(jnp.sum(share * mean, axis=-1))
