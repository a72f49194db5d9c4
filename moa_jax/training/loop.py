"""The loop around the training step: feed, step, watch, log, show, save.

The device never waits for the host: batches are placed ahead of their step, and the numbers of a
step are fetched only when the next one is already under way. So a loss that is not finite is found
one step late; the step has not applied that update (see `step.py`), and every number is fetched
before a checkpoint, so a saved state is always a good one. Knows nothing of what a step computes.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from moa_jax.config import Config
from moa_jax.errors import InputError, NonFiniteLoss
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.learning import combine, learning_rate
from moa_jax.training.log import Display, MetricsWriter, Stopwatch, Unwritten, open_writer
from moa_jax.training.mesh import place_batch
from moa_jax.training.step import TrainState

PREFETCH = 2  # batches on the device ahead of the step in flight

TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]
Probe = Callable[[TrainState, Any, Any], dict[str, jax.Array]]  # as a step, but changes nothing
# (step, parameters): draw pictures with them, or measure them and give the numbers to log.
Preview = Callable[[int, Any], Mapping[str, float] | None]


@runtime_checkable
class Batches(Protocol):
    """What the data side gives: an endless iterator whose place can be saved."""

    def __next__(self) -> Mapping[str, np.ndarray]:
        """Give the next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Give the place after the last batch, as JSON can hold it."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place."""
        ...


def fit(
    train_step: TrainStep,
    state: TrainState,
    frozen: Any,
    batches: Batches,
    checkpoints: Checkpoints,
    mesh: Mesh,
    config: Config,
    preview: Preview | None = None,
    probe: Probe | None = None,
) -> TrainState:
    """Train to `config.train.steps`, from the newest checkpoint if there is one.

    Args:
        train_step: jitted; it may take over the buffers of `state`.
        state: the state to start from, already placed on the mesh.
        frozen: the parameters that do not learn.
        preview: called every `train.sample_every` steps.
        probe: jitted; gives more numbers for each log entry.

    Returns:
        The state after the last step, which has been saved too.

    Raises:
        InputError: the checkpoint belongs to another run, or a value of `config.train` is unusable.
        NonFiniteLoss: a loss term or the gradient is not finite.
    """
    check_run(config)
    run, output = config.train, Path(config.train.output)
    state, start, changes = resume(state, batches, checkpoints)
    with (
        contextlib.closing(open_writer(output, start)) as writer,
        Display(run.steps, start) as display,
    ):
        monitor = Monitor(config, start, checkpoints, writer, display)
        _announce(display, start, changes, config, checkpoints)
        queue = prefetch(batches, mesh)
        for step in range(start + 1, run.steps + 1):
            batch, place = next(queue)
            state, metrics = train_step(state, frozen, batch)
            if probe and (step % run.log_every == 0 or step == run.steps):
                with monitor.paused():  # its first call compiles
                    metrics = {**metrics, **probe(state, frozen, batch)}
            monitor.settle()
            monitor.pending = (step, metrics)
            if step % run.checkpoint_every == 0 or step == run.steps:
                with monitor.paused():
                    checkpoints.save(step, state, place)
            if preview and run.sample_every and step % run.sample_every == 0:
                with monitor.paused():
                    monitor.report(step, preview(step, combine(state.averaged, frozen)))
        monitor.settle()
        checkpoints.finish()
    return state


def check_run(config: Config) -> None:
    """Refuse what cannot be trained with, before anything is loaded.

    Raises:
        InputError: naming the value.
    """
    learning_rate(config.optimizer, config.train.steps)
    for key in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
        if getattr(config.train, key) < 1:
            raise InputError(f"train.{key}={getattr(config.train, key)} must be at least 1")
    if config.train.sample_every is not None and config.train.sample_every < 1:
        raise InputError(
            f"train.sample_every={config.train.sample_every} must be at least 1, or none"
        )


def resume(
    state: TrainState, batches: Batches, checkpoints: Checkpoints
) -> tuple[TrainState, int, list[str]]:
    """Go to the newest checkpoint, in the state and in the data.

    Returns:
        (state, step, configuration values that changed since); as given, 0 and none without one.

    Raises:
        InputError: the checkpoint belongs to another run.
    """
    restored = checkpoints.restore(state)
    if restored is None:
        return state, 0, []
    state, place, changes = restored
    batches.set_state(place)
    return state, int(state.step), changes


def prefetch(batches: Batches, mesh: Mesh) -> Iterator[tuple[dict[str, jax.Array], dict]]:
    """Place batches on the mesh ahead of use; each comes with the place in the data after it."""
    queue: deque[tuple[dict[str, jax.Array], dict]] = deque()
    while True:
        while len(queue) <= PREFETCH:
            batch = next(batches)
            queue.append((place_batch(mesh, batch), batches.get_state()))
        yield queue.popleft()


class Monitor:
    """Fetch the numbers of each step once the next is under way, check them and pass them on."""

    def __init__(
        self,
        config: Config,
        start: int,
        checkpoints: Checkpoints,
        writer: MetricsWriter | Unwritten,
        display: Display,
    ) -> None:
        """Log to `writer` and `display`; name `checkpoints` when the loss is not finite."""
        self._run = config.train
        self._checkpoints, self._writer, self._display = checkpoints, writer, display
        self._stopwatch, self._first = Stopwatch(start), start + 1
        self.pending: tuple[int, dict[str, jax.Array]] | None = None

    def settle(self) -> None:
        """Wait for the pending step, and log it when it is due.

        Raises:
            NonFiniteLoss: one of its numbers is not finite.
        """
        if self.pending is None:
            return
        step, metrics = self.pending
        self.pending = None
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        self._require_finite(step, values)
        self._display.advance(step)
        if step == self._first:  # it compiles: it is no measure of the others
            self._display.say(f"the first step, compiled, took {self._stopwatch.read(step):.0f} s")
        if step % self._run.log_every == 0 or step == self._run.steps:
            if step != self._first:
                seconds = self._stopwatch.read(step)
                values["step_seconds"] = seconds
                values["images_per_second"] = self._run.batch_size / seconds
            self._writer.write(step, values)
            self._display.show(step, values)

    def report(self, step: int, values: Mapping[str, float] | None) -> None:
        """Log what a preview measured, if anything."""
        if values:
            self._writer.write(step, values)
            numbers = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            self._display.say(f"step {step}/{self._run.steps}  {numbers}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Settle, then leave what happens inside out of the step time."""
        self.settle()
        began = time.perf_counter()
        yield
        self._stopwatch.pause(time.perf_counter() - began)

    def _require_finite(self, step: int, values: Mapping[str, float]) -> None:
        bad = [key for key, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        terms = [key for key in bad if key.startswith("loss/") and key != "loss/total"]
        named = ", ".join(f"{key}={values[key]}" for key in terms or bad)
        self._checkpoints.finish()
        newest = self._checkpoints.newest
        last = "there is no checkpoint yet"
        if newest is not None:
            last = f"the last good checkpoint is {self._checkpoints.where(newest)} (step {newest})"
        raise NonFiniteLoss(
            f"step {step}: {named} is not finite; {last}. Run again to resume from it, with a "
            "lower optimizer.learning_rate or with model.dtype=float32"
        )


def _announce(
    display: Display, start: int, changes: list[str], config: Config, checkpoints: Checkpoints
) -> None:
    if start == 0:
        return
    display.say(f"resuming from step {start} of {checkpoints.folder}")
    for change in changes:
        display.say(f"  changed since: {change}")
    if start >= config.train.steps:
        display.say(f"nothing left to train: train.steps={config.train.steps}")
