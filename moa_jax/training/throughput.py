"""How fast a run goes: numbers for its log from the clock, the compiler and the devices.

A "chip" is what jax calls a device. The compiler counts the work of a step, whatever the model is.
"""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, TypeVar

import jax

from moa_jax.training.chips import find_chip
from moa_jax.training.log import Stopwatch

Item = TypeVar("Item")

# The numbers that differ between two runs of the same computation.
MEASURED = frozenset(
    "step_seconds images_per_second images_per_second_per_chip input_wait tflops_per_chip mfu "
    "memory_peak_gib".split()
)


class Throughput:
    """Measure the steps between two log entries."""

    def __init__(self, step: int, batch_size: int, micro_batches: int) -> None:
        """Start at `step`."""
        self.stopwatch = Stopwatch(step)
        self._batch_size, self._micro_batches = batch_size, micro_batches
        self._step = step
        self._flops: dict[Any, float | None] = {}  # of one step, by the shapes of its batch
        self._counted: deque[float | None] = deque()  # of each step that is not read yet
        self._waited = 0.0

    def waiting(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass items on and measure the time spent waiting for them."""
        while True:
            began = time.perf_counter()
            item = next(items)
            self._waited += time.perf_counter() - began
            yield item

    def count(self, train_step: Any, *arguments: Any) -> None:
        """Count the work of the step that comes next; to be called once a step.

        The step is compiled for the shapes of its batch, for the compiler's count. jax keeps the
        compiled step, so the next call of the step does not compile it again.

        Args:
            train_step: jitted.
            arguments: of the step; the last is the batch.
        """
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(arguments[-1]))
        if shapes not in self._flops:
            self._flops[shapes] = self._work(train_step.lower(*arguments))
        self._counted.append(self._flops[shapes])

    def _work(self, lowered: Any) -> float | None:
        """Give the FLOPs of one device in a step; None if the compiler does not count them."""
        counted, chips = lowered.compile(), 1
        if jax.default_backend() == "gpu":
            # On a GPU, a compiled step calls libraries for its products, and XLA counts no work for
            # them. Before compilation the step has them all, counted for all chips together.
            counted, chips = lowered, jax.device_count()
        costs = counted.cost_analysis() or {}
        # XLA counts one turn of the loop over micro-batches.
        return costs["flops"] * self._micro_batches / chips if "flops" in costs else None

    def read(self, step: int) -> dict[str, float]:
        """Give the numbers of the steps since the last reading, and start anew.

        Returns:
            step_seconds; images_per_second, over all chips and per chip; input_wait, the share of
            the time that the loop waited for batches (the chips wait less, being busy with the step
            before); and, where they are known, tflops_per_chip, mfu (the same as a share of the
            chip's peak) and memory_peak_gib (of this host's fullest chip).
        """
        seconds = self.stopwatch.read(step)
        steps, self._step = step - self._step, step
        # The step after this one is counted already: it is under way.
        counted = [self._counted.popleft() for _ in range(min(steps, len(self._counted)))]
        flops = None if None in counted or not counted else sum(counted) / len(counted)
        numbers = speeds(seconds, self._batch_size, flops, jax.devices())
        numbers["input_wait"] = self._waited / (seconds * steps)
        self._waited = 0.0
        return numbers | memory_peak(jax.local_devices())


def speeds(
    seconds: float, batch_size: int, flops: float | None, devices: list[Any]
) -> dict[str, float]:
    """Compute speeds from the seconds and the work of a step.

    Args:
        batch_size: pictures over all devices.
        flops: work of one device in a step, a mean over steps whose batches have several sizes;
            None if the compiler does not count it.
    """
    rate = batch_size / seconds
    numbers = {
        "step_seconds": seconds,
        "images_per_second": rate,
        "images_per_second_per_chip": rate / len(devices),
    }
    if flops is not None:
        numbers["tflops_per_chip"] = flops / seconds / 1e12
        if chip := find_chip(devices[0].device_kind):
            numbers["mfu"] = flops / seconds / chip.flops
    return numbers


def memory_peak(devices: list[Any]) -> dict[str, float]:
    """Give the most memory that was in use on any device, in GiB, if the devices report it."""
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return {"memory_peak_gib": max(peaks) / 2**30} if peaks else {}
