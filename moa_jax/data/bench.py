"""How fast a host makes training examples, and how many cores keep the chips from waiting.

The same shuffled records are measured three times, with the threads and the code of training:
reading and decoding alone, complete examples, and complete examples with augmentation. All that
matters of the chips is the time of a step.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import grain
import numpy as np

from moa_jax.config import DataConfig, MethodConfig
from moa_jax.data.captions import Tokenizer
from moa_jax.data.examples import read_record
from moa_jax.data.loader import make_loader
from moa_jax.data.records import open_records
from moa_jax.data.references import draw_references

SUBJECT_RESOLUTION = 224  # pixels; the input of FastComposer's image encoder, CLIP ViT-L/14
BATCH = 4  # examples between two looks at the clock

READ = "read + decode"
PLAIN = "examples, no augmentation"
AUGMENTED = "examples, augmented"


@dataclass(frozen=True)
class Rate:
    """What a measurement counted.

    Attributes:
        seconds: time that passed.
        core_seconds: processor time, summed over all cores.
    """

    images: int
    seconds: float
    core_seconds: float

    @property
    def per_second(self) -> float:
        """Images a second, by all threads together."""
        return self.images / self.seconds

    @property
    def per_core(self) -> float:
        """Images for each second of one core's work."""
        return self.images / self.core_seconds


def measure(
    data: DataConfig,
    tokenizer: Tokenizer,
    seconds: float,
    on_start: Callable[[int], None] = lambda total: None,
    on_second: Callable[[], None] = lambda: None,
) -> dict[str, Rate]:
    """Measure each kind of work in turn.

    Args:
        data: the data set, its resolution and workers.
        seconds: duration of each measurement.
        on_start: called once with the seconds that all measurements take together.
        on_second: called after each of these seconds.

    Returns:
        The rates, by READ, PLAIN and AUGMENTED.

    Raises:
        InputError: as `open_records`, or too many records are bad.
    """
    sources = {
        READ: lambda: _read(data),
        PLAIN: lambda: _examples(replace(data, augment=False), tokenizer),
        AUGMENTED: lambda: _examples(replace(data, augment=True), tokenizer),
    }
    on_start(math.floor(seconds) * len(sources))
    return {name: _time(open(), seconds, on_second) for name, open in sources.items()}


def report(data: DataConfig, rates: dict[str, Rate], need: float) -> list[str]:
    """Report in lines what was measured and what it means for training.

    Args:
        need: images a second that all chips together take.
    """
    # The cores that this process may use can be fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shape = "pixels, in buckets" if data.buckets else "pixels"
    title = f"{data.path} at {data.resolution} {shape}, {data.workers} threads, {cores} cores"
    lines = [title, f"{'':28}{'images/s':>10}{'images/s/core':>15}"]
    for name, rate in rates.items():
        lines.append(f"{name:28}{rate.per_second:10.1f}{rate.per_core:15.1f}")
    busy = {name: math.ceil(need / rate.per_core) for name, rate in rates.items()}
    lines.append(
        f"chips that take {need:.1f} images/s never wait with {busy[AUGMENTED]} such cores over "
        f"all hosts ({busy[PLAIN]} without augmentation)"
    )
    made = rates[AUGMENTED].per_second
    hosts = math.ceil(need / made)
    enough = "enough" if hosts == 1 else f"it would take {hosts} such hosts"
    lines.append(f"this host, with all else that runs on it, made {made:.1f} images/s: {enough}")
    return lines


def _time(stream: Any, seconds: float, on_second: Callable[[], None]) -> Rate:
    """Count the images that a stream of batches gives in `seconds`, after its first batch."""
    next(stream)  # starts the threads, which is no part of the rate
    start, work, images, shown = time.perf_counter(), time.process_time(), 0, 0
    while (passed := time.perf_counter() - start) < seconds:
        images += next(stream)
        while shown < math.floor(min(passed, seconds)):
            shown += 1
            on_second()
    passed, work = time.perf_counter() - start, time.process_time() - work
    for _ in range(math.floor(seconds) - shown):  # so that a progress bar reaches its end
        on_second()
    stream.close()
    return Rate(images, passed, work)


def _read(data: DataConfig) -> Iterator[int]:
    """Read and decode records in random order; bad records count too."""
    records, limit = open_records(*data.source()), MethodConfig().max_subjects

    def read(index: int, random: np.random.Generator) -> int:
        record = draw_references(records[index], random, data.reference_probability)
        return len(read_record(record, limit))

    stream = grain.MapDataset.range(len(records)).shuffle(0).repeat().random_map(read, seed=0)
    options = grain.ReadOptions(num_threads=data.workers, prefetch_buffer_size=2 * data.workers)
    batches = iter(stream.to_iter_dataset(options).batch(BATCH))
    try:
        for batch in batches:
            yield len(batch)
    finally:
        batches.close()


def _examples(data: DataConfig, tokenizer: Tokenizer) -> Iterator[int]:
    """Make training examples, as a run does."""
    sizes = {"max_subjects": MethodConfig().max_subjects, "subject_resolution": SUBJECT_RESOLUTION}
    loader = make_loader(data, tokenizer, batch_size=BATCH, seed=0, **sizes)
    try:
        for batch in loader:
            yield len(batch["image"])
    finally:
        loader.close()
