"""Run many rows as many at once as the memory holds: through a program, and within one.

Nothing here depends on pictures or networks.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from moa_jax.errors import InputError

FULL = "RESOURCE_EXHAUSTED"  # how XLA says that memory is out, while it compiles or runs


def in_batches(run: Callable[[Any], Any], rows: Any, size: int | None = None) -> list[Any]:
    """Run over all rows; if memory runs out, start again with half as many at once.

    Args:
        run: maps rows to outputs on the host, one output row for each row.
        rows: a pytree of arrays with the same first axis.
        size: rows at once; None means all of them. The last batch repeats its last row until it is
            full, so that every batch runs the same program.

    Returns:
        The outputs of each batch, without those of repeated rows.

    Raises:
        InputError: `size` is below 1.
    """
    if size is not None and size < 1:
        raise InputError(f"batch_size={size}: must be 1 or more; leave it out for what fits")
    count = len(jax.tree.leaves(rows)[0])
    size = min(size or count, count)
    while True:
        try:
            return [_batch(run, rows, start, size, count) for start in range(0, count, size)]
        except jax.errors.JaxRuntimeError as error:
            if size == 1 or FULL not in str(error):  # fewer rows would not help
                raise
            size = (size + 1) // 2
            warnings.warn(f"out of memory: going on with {size} picture(s) at once", stacklevel=2)


def _batch(run: Callable[[Any], Any], rows: Any, start: int, size: int, count: int) -> Any:
    chosen = np.minimum(np.arange(start, start + size), count - 1)
    whole = start == 0 and size == count
    # Indexing copies, so a single batch is passed on as it is.
    outputs = run(rows if whole else jax.tree.map(lambda leaf: leaf[chosen], rows))
    return jax.tree.map(lambda leaf: leaf[: count - start], outputs)


def in_turn(function: Callable[[Array], Array], rows: Array, most: int, shards: int = 1) -> Array:
    """Apply a function to groups of rows, one after the other, within one program.

    Args:
        function: maps rows to rows, each by itself.
        most: rows of a group on each device, at most. All groups are equally large; the last one
            repeats a device's last row until it is full.
        shards: how many devices the rows are divided among, in order; each keeps its own.
    """
    count, *shape = rows.shape
    own = count // shards  # of each device
    groups = -(-own // most)
    if groups == 1:
        return function(rows)
    size = -(-own // groups)
    filled = [(0, 0), (0, groups * size - own)] + [(0, 0)] * len(shape)
    rows = jnp.pad(rows.reshape(shards, own, *shape), filled, mode="edge")
    rows = rows.reshape(shards, groups, size, *shape).swapaxes(0, 1)
    results = jax.lax.map(function, rows.reshape(groups, shards * size, *shape))
    results = results.reshape(groups, shards, size, *results.shape[2:]).swapaxes(0, 1)
    results = results.reshape(shards, groups * size, *results.shape[3:])[:, :own]
    return results.reshape(count, *results.shape[2:])
