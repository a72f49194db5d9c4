"""Many rows through a compiled program that takes as many at once as the memory holds.

Nothing here depends on pictures or networks.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from moa_jax.errors import InputError

FULL = "RESOURCE_EXHAUSTED"  # how XLA says that memory is out, while it compiles or runs


def in_batches(run: Callable[[Any], Any], rows: Any, size: int | None = None) -> list[Any]:
    """Run over all rows; where memory runs out, begin again with half as many at once.

    Args:
        run: from rows to outputs on the host, a row for a row.
        rows: a pytree of arrays with the same first axis.
        size: rows at once; None: all of them. The last batch is filled up by repeating its last
            row, so that every batch runs the same program.

    Returns:
        For each batch its outputs, without those of the filling.

    Raises:
        InputError: fewer than one row at once.
    """
    if size is not None and size < 1:
        raise InputError(f"batch_size={size}: must be 1 or more; leave it out for what fits")
    count = len(jax.tree.leaves(rows)[0])
    size = min(size or count, count)
    while True:
        try:
            return [_batch(run, rows, start, size, count) for start in range(0, count, size)]
        except jax.errors.JaxRuntimeError as error:
            if size == 1 or FULL not in str(error):
                raise
            size = (size + 1) // 2
            warnings.warn(f"out of memory: going on with {size} picture(s) at once", stacklevel=2)


def _batch(run: Callable[[Any], Any], rows: Any, start: int, size: int, count: int) -> Any:
    chosen = np.minimum(np.arange(start, start + size), count - 1)
    whole = start == 0 and size == count
    outputs = run(rows if whole else jax.tree.map(lambda leaf: leaf[chosen], rows))
    return jax.tree.map(lambda leaf: leaf[: count - start], outputs)
