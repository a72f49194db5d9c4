"""The sizes of all pictures of a data set, and what buckets they go to (`moa_jax.data.buckets`).

Sizes are read from the heads of the files, in threads. A packed data set has them in its index.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int

from moa_jax.config import DataConfig
from moa_jax.data.buckets import Buckets, Fit, group
from moa_jax.data.images import read_size
from moa_jax.data.ledger import Ledger
from moa_jax.data.record import Record, Records
from moa_jax.errors import InputError


def read_sizes(
    records: Records,
    numbers: range,
    workers: int,
    on_record: Callable[[], None] = lambda: None,
) -> Int[np.ndarray, "N 2"]:
    """Read the width and height of some records' pictures.

    Args:
        numbers: which records.
        workers: number of threads; 0 is taken for 1.
        on_record: called after each record, to show progress.

    Returns:
        In pixels, as a viewer shows the picture; 0 and 0 where it cannot be read.
    """
    sizes = np.zeros((len(numbers), 2), np.int32)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        known = records.sizes
        read = (lambda number: _size(records[number])) if known is None else known.__getitem__
        for row, size in enumerate(pool.map(read, numbers)):
            sizes[row] = size
            on_record()
    return sizes


def find_buckets(
    config: DataConfig, records: Records, sizes: Int[np.ndarray, "N 2"], fit: Fit
) -> Buckets:
    """Put each record into its bucket.

    Args:
        config: its path and max_bad_fraction are used.
        sizes: of all records, as `read_sizes` gives them.

    Raises:
        InputError: more pictures than allowed cannot be read or fit no bucket.
    """
    options = f" --buckets --resolution {config.resolution} --max-crop {config.max_crop}"
    ledger = Ledger(config.path, len(records), config.max_bad_fraction, options)
    chosen = []
    for number, size in enumerate(map(tuple, sizes.tolist())):
        readable = size != (0, 0)
        fault = fit.fault(size) if readable else None
        chosen.append(fit.choose(size) if readable and not fault else None)
        if chosen[-1] is None:
            record = records[number]
            ledger.add(record.name, [fault] if fault else _unreadable(record))
    return Buckets(group(chosen), fit.max_crop, ledger.faults)


def _size(record: Record) -> tuple[int, int]:
    try:
        return read_size(record.image) if record.image else (0, 0)
    except InputError:
        return 0, 0


def _unreadable(record: Record) -> list[str]:
    """Say why a picture's size cannot be read."""
    try:
        size = read_size(record.image) if record.image else None
    except InputError as error:
        return [*record.faults, str(error)]
    return [*record.faults] or [f"its size could not be read before, and is {size} now"]
