"""Experts that a chip's memory does not hold: they stay in the host's, and come when needed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.errors import InputError

Weights = Any  # a tree of arrays


def stream(
    apply: Callable[[Weights, Array], Array],
    weights: Weights,
    hidden: Float[Array, "*batch D"],
    sections: int = 2,
) -> Float[Array, "*batch D"]:
    """Run blocks one after the other; the next one's experts are fetched while one computes.

    The weights lie in the host's memory, and the chip has a ring of sections, each of which holds
    one block's. While block i computes in one section, that of block i + 1 is written. The compiler
    starts a copy before the products that it hides behind, and waits for it after them.

    Equation: x_(i+1) = f(w_i, x_i), with w_i in section i mod `sections`; the chip holds `sections`
        of L blocks.
    Source: SE-MoE, from the abstract: prefetching through a hierarchy of
        memories, and its ring of memory sections for inference.
    Left out: the tier on disks, prefetching shards of other devices, elastic training of tasks of
        unequal size; fused messages, for JAX sums a tree of arrays in one message by itself. On a
        CPU both memories are one, and nothing is won.

    Args:
        apply: computes a block, of its weights and the features.
        weights: leaves begin with an axis of blocks, equal ones; their memory is `pinned_host`.
        hidden: what the first block reads.
        sections: how many blocks the chip holds at once, at least 2; it divides their number.

    Returns:
        What the last block makes of it.

    Raises:
        InputError: there is no such ring.
    """
    blocks = len(jax.tree.leaves(weights)[0])
    if sections < 2 or blocks % sections:
        raise InputError(f"sections={sections}: must be 2 or more, and divide {blocks} blocks")

    def fetch(block: Array) -> Weights:
        def one(leaf: Array) -> Array:
            leaf = jax.lax.dynamic_index_in_dim(leaf, block, keepdims=False)
            return jax.device_put(leaf, jax.memory.Space.Device)

        return jax.tree.map(one, weights)

    def turn(carry: tuple[Array, Weights], block: Array) -> tuple[tuple[Array, Weights], None]:
        hidden, here = carry
        coming = fetch((block + 1) % blocks)  # the last turn's is fetched in vain
        return (apply(here, hidden), coming), None

    # As many blocks in one turn of the loop as there are sections, or each copy would wait until
    # the section is free that it replaces.
    start = (hidden, fetch(jnp.int32(0)))
    return jax.lax.scan(turn, start, jnp.arange(blocks), unroll=sections)[0][0]
