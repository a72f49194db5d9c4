"""Compare an attention kernel with plain attention on the device that will run it.

A kernel is compiled by another compiler for every kind of chip. One that computed something else
would spoil hours of training without an error, so it is tried before the first step.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moa_jax.errors import InputError

LENGTH, CONTEXT, HEADS, WIDTH = 300, 200, 2, 40  # no multiples of a tile: padding is tried too
LIMIT = 2**-5  # of the largest value; bfloat16 rounds to 2**-8


@cache
def check_kernel(name: str, kernel: Callable[..., Array], plain: Callable[..., Array]) -> None:
    """Compare outputs and gradients of two functions that attend, once in a process.

    Args:
        name: of the kernel, for the message.
        plain: what it must agree with, to the rounding of bfloat16.

    Raises:
        InputError: they differ.
    """
    device = jax.local_devices()[0]
    keys = jax.random.split(jax.random.key(0), 4)
    sides = (LENGTH, CONTEXT, CONTEXT, LENGTH)  # of query, key, value and the output's gradient
    arrays = [
        jax.random.normal(key, (1, side, HEADS, WIDTH), jnp.bfloat16)
        for key, side in zip(keys, sides, strict=True)
    ]
    found, expected = (_both_ways(function, *arrays) for function in (kernel, plain))
    differences = [
        jnp.max(jnp.abs(ours - theirs)) / jnp.max(jnp.abs(theirs))
        for ours, theirs in zip(found, expected, strict=True)
    ]
    off = float(jnp.max(jnp.stack(differences)))
    if not off <= LIMIT:  # also where it is not a number
        raise InputError(
            f"attention={name!r}: on {device.device_kind} this kernel is off plain attention by "
            f"{off:.2g} of the largest value. Choose attention=splash, blocked or xla, and please "
            "report it"
        )


def _both_ways(function: Callable[..., Array], *arrays: Array) -> list[Array]:
    @jax.jit
    def run(query: Array, key: Array, value: Array, gradient: Array) -> list[Array]:
        mixed, back = jax.vjp(function, query, key, value)
        return [each.astype(jnp.float32) for each in (mixed, *back(gradient))]

    return run(*arrays)
