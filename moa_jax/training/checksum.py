"""Checksums of a state's arrays, computed on the devices that hold them.

orbax and tensorstore notice a file that is missing or cut short, but they read flipped bytes of an
array without an error (tried with orbax 0.12.8). The sums are of integers modulo 2^32, so they are
the same on any mesh and any number of hosts. They cost one read of the device's memory.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped, UInt32

MIX = 0x9E3779B1  # an odd number near 2^32 over the golden ratio: neighbours get unlike weights


def checksums(tree: Any) -> dict[str, int]:
    """Sum every array of a tree; give the sums by the arrays' paths.

    A change of one 32-bit word always changes the sum; any other goes unnoticed once in 2^32.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = jax.tree_util.keystr
    # One array at a time: arrays of one shape share a small program; one for all would be large.
    # Each sum is waited for: simulated devices on fewer cores can lock up when several run at once.
    return {
        name(path, simple=True, separator="."): int(jax.device_get(_checksum(leaf)))
        for path, leaf in leaves
    }


@jax.jit
def _checksum(array: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """Sum an array's words, each multiplied by an odd weight that depends on its place."""
    if array.dtype == jnp.bool_:
        words = array.astype(jnp.uint32)
    else:
        word = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
        words = jax.lax.bitcast_convert_type(array, word).astype(jnp.uint32)
    place, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):  # not a reshape, which would move a sharded array
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place += along * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(words * (place * jnp.uint32(MIX) | jnp.uint32(1)), dtype=jnp.uint32)
