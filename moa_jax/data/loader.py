"""Shuffled, endless batches of a data set, read ahead by threads.

Example i of the stream depends on the seed and on i alone, not on the number of threads or hosts,
nor on where a run was resumed. The next good record takes the place of a bad one. With buckets the
batch size decides too, see `moa_jax.data.buckets`. The loader is built on grain and knows no
devices.
"""

import copy
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from moa_jax.config import DataConfig
from moa_jax.data.buckets import SIDE_UNIT, BucketOrder, Buckets, Fit, Size, bucket_sizes, group
from moa_jax.data.captions import Tokenizer, encode_caption
from moa_jax.data.encoded import EncodedRecords, make_encoded_example
from moa_jax.data.examples import Example, LoadedRecord, make_example, read_record
from moa_jax.data.latents import Latents
from moa_jax.data.ledger import Ledger
from moa_jax.data.records import Records, open_records
from moa_jax.data.references import draw_references
from moa_jax.data.sizes import find_buckets, read_sizes
from moa_jax.errors import InputError

logger = logging.getLogger("moa_jax.data")


class Loader(Iterator[Example]):
    """An endless iterator of batches whose place can be saved and restored.

    Attributes:
        records: number of records in the data set.
        ledger: the bad records met so far.
        buckets: the sizes that batches have; None means that all have one size.
    """

    def __init__(
        self,
        stream: grain.MapDataset,
        batch_size: int,
        workers: int,
        rows: Sequence[int],
        ledger: Ledger,
        records: int,
        buckets: Buckets | None = None,
    ):
        self.records, self.ledger, self.buckets = records, ledger, buckets
        self._stream, self._batch_size, self._workers = stream, batch_size, workers
        self._rows = rows
        self._digest = {"buckets": buckets.digest()} if buckets else {}
        self._examples = 0
        self._batches: Any = None

    def __next__(self) -> Example:
        if self._batches is None:
            self._batches = self._read_ahead()
        batch = next(self._batches)
        self._examples += self._batch_size
        return batch

    def get_state(self) -> dict[str, int]:
        """Give the place in the stream, as JSON can hold it; it is the same on every host."""
        return {"examples": self._examples, "records": self.records, **self._digest}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go to a place that `get_state` gave; the next batch is the one that followed it.

        With buckets, a place that another batch size left inside a batch is moved to its end.
        """
        if state["records"] != self.records:
            logger.warning(
                "the data set had %d records at the checkpoint and has %d now: "
                "the run goes on, in another order",
                state["records"],
                self.records,
            )
        elif self._digest.items() - state.items() and "buckets" in state:
            logger.warning(
                "the pictures had other sizes at the checkpoint, or could not all be read then or "
                "now: the run goes on, in another order"
            )
        self.close()
        self._examples = int(state["examples"])
        if self.buckets:
            self._examples = math.ceil(self._examples / self._batch_size) * self._batch_size

    def close(self) -> None:
        """Stop the threads; the next batch starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _read_ahead(self) -> Any:
        """Start the threads at the present place; they keep two batches ready."""
        start, local = self._examples, len(self._rows)

        def example(index: int) -> Example:
            batch, row = divmod(index, local)
            return self._stream[start + batch * self._batch_size + self._rows[row]]

        # A buffer smaller than the number of threads would leave some of them idle.
        ahead = max(2 * local, self._workers) if self._workers else 0
        options = grain.ReadOptions(num_threads=self._workers, prefetch_buffer_size=ahead)
        mine = grain.MapDataset.range(sys.maxsize).map(example)
        return iter(mine.to_iter_dataset(options).batch(local))


def make_loader(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    max_subjects: int,
    subject_resolution: int,
    batch_size: int,
    seed: int,
    rows: Sequence[int] | None = None,
    buckets: Buckets | None = None,
) -> Loader:
    """Open a data set and stream it.

    Args:
        batch_size: pictures a step, over all hosts.
        rows: the rows of each batch that this host reads, in their order; None means all rows. A
            row has the same picture, whichever host reads it.
        buckets: of all records. None means, with `data.buckets`: those of encoded data, or of sizes
            that are read now, with sides of multiples of 64.

    Raises:
        InputError: as `open_records`; the batch size, the rows or the seed are not usable; or, when
            batches are drawn, too many records are bad.
    """
    rows = _checked(rows, batch_size, seed)
    encoded = EncodedRecords(config.encoded) if config.encoded else None
    records = open_records(*config.source()) if encoded is None else encoded
    latents = _open_latents(config, len(records))
    tokenizer = _own(tokenizer)
    if config.buckets and buckets is None:
        buckets = _find_buckets(config, records)
    ledger = Ledger(config.path, len(records), config.max_bad_fraction)

    def read(index: int, size: Size, random: np.random.Generator) -> LoadedRecord | None:
        # Of all references only the one to show is read. So whether a record is bad depends on the
        # draw, and what was found at another draw counts for nothing.
        record = draw_references(records[index], random, config.reference_probability)
        fit = Fit((size,), config.max_crop) if buckets else None  # the file may have changed since
        loaded, faults = read_record(record, max_subjects, tokenizer, fit)
        faults = faults or (latents.faults(index, size) if latents else [])
        if faults:
            ledger.add(record.name, faults)
        return None if faults else loaded

    def example(candidates: Iterable[tuple[int, Size]], random: np.random.Generator) -> Example:
        for index, size in candidates:
            if encoded is not None:
                return make_encoded_example(encoded[index], random, config, tokenizer, max_subjects)
            if loaded := read(index, size, random):
                sides = {"max_subjects": max_subjects, "subject_resolution": subject_resolution}
                target = {"size": size, "latents": latents.read(index, size) if latents else None}
                return make_example(loaded, random, config, tokenizer, **target, **sides)
        raise InputError(f"every record of {config.path} is bad")

    # Two seeds, so that the order does not depend on what the examples draw.
    order, draws = (int(part) for part in np.random.SeedSequence(seed).generate_state(2))
    ledger.faults.update(buckets.faults if buckets else {})
    places = _order(config, len(records), buckets, batch_size, order)
    stream = places.random_map(example, seed=draws)
    return Loader(stream, batch_size, config.workers, rows, ledger, len(records), buckets)


def _checked(rows: Sequence[int] | None, batch_size: int, seed: int) -> Sequence[int]:
    """Give the rows, all if none are named; refuse them or the seed if they are not usable."""
    rows = range(batch_size) if rows is None else rows
    if not rows or not set(rows) <= set(range(batch_size)):
        raise InputError(
            f"rows={list(rows)} of batch size {batch_size}: there must be one or more, each from 0 "
            f"to {batch_size - 1}"
        )
    if seed < 0:
        raise InputError(f"seed={seed} may not be negative")
    return rows


def _own(tokenizer: Tokenizer) -> Tokenizer:
    """Copy a tokenizer, because a caller that pads changes it while the threads use it.

    Only ids are read from the copy: its decode() is wrong in transformers 5 (5.0 to 5.23).
    """
    tokenizer = copy.deepcopy(tokenizer)
    encode_caption(tokenizer, "")  # sets its padding
    return tokenizer


def _open_latents(config: DataConfig, records: int) -> Latents | None:
    """Open `data.latents`, if it is named.

    Raises:
        InputError: it cannot be read, or is of another data set.
    """
    if config.latents is None:
        return None
    latents = Latents(config.latents)
    if len(latents) != records:
        raise InputError(
            f"data.latents={config.latents!r} is of {len(latents)} records, and {config.path} has "
            f"{records}: delete it, or name another folder"
        )
    return latents


def _find_buckets(config: DataConfig, records: Records | EncodedRecords) -> Buckets:
    if isinstance(records, EncodedRecords):
        return Buckets(group(records.sizes))
    fit = Fit(bucket_sizes(config.resolution, SIDE_UNIT), config.max_crop)
    sizes = read_sizes(records, range(len(records)), config.workers)
    return find_buckets(config, records, sizes, fit)


def _order(
    config: DataConfig, count: int, buckets: Buckets | None, batch_size: int, seed: int
) -> "grain.MapDataset[Iterable[tuple[int, Size]]]":
    """Order the records: for each example, those that it may be, the first good one of which it is.

    Args:
        count: number of records.
    """
    if buckets:
        order = BucketOrder(buckets, batch_size, seed)
        return grain.MapDataset.range(sys.maxsize).map(order.candidates)
    square = (config.resolution, config.resolution)
    return (
        grain.MapDataset.range(count)
        .shuffle(seed)
        .repeat()
        .map(lambda first: (((first + skipped) % count, square) for skipped in range(count)))
    )
