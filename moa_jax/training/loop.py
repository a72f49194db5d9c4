"""The loop around the training step: feed, step, watch, log, show, save.

The device never waits for the host: batches are placed ahead of their step, and the numbers of a
step are fetched only when the next one is already under way. So a loss that is not finite is found
one step late, but the step has not applied that update (see `step.py`). Every number is fetched
before a checkpoint, so a saved state is always a good one. Nothing here depends on what a step
computes.
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
from moa_jax.errors import NonFiniteLoss
from moa_jax.extension import find
from moa_jax.method.trained import combine
from moa_jax.method.variant import resolve
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.disk import writing
from moa_jax.training.log import Display, MetricsWriter, Unwritten, open_writer
from moa_jax.training.mesh import place_batch
from moa_jax.training.optimizer import learning_rate
from moa_jax.training.preemption import StopRequests
from moa_jax.training.profiling import profiled, steps_to_profile
from moa_jax.training.step import TrainState
from moa_jax.training.throughput import Throughput
from moa_jax.training.trackers import import_trackers

PREFETCH = 2  # batches on the device ahead of the step in flight

TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]
Probe = Callable[[TrainState, Any, Any], dict[str, jax.Array]]  # as a step, but changes nothing
# (step, parameters): draw pictures with them, or measure them and give the numbers to log.
Preview = Callable[[int, Any], Mapping[str, float] | None]


@runtime_checkable
class Batches(Protocol):
    """What the loop needs of the data: an endless iterator whose place can be saved."""

    def __next__(self) -> Mapping[str, np.ndarray]:
        """Give the next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Give the place after the last batch, as JSON can hold it."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place that `get_state` gave."""
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
        Preempted, or KeyboardInterrupt: the run was told to stop, and has saved its last step.
    """
    check_run(config)
    run, output = config.train, Path(config.train.output)
    state, start, notes = resume(state, batches, checkpoints)
    stop = None
    with (
        StopRequests(checkpoints.reached_preemption) as requests,
        writing(output),
        contextlib.closing(open_writer(config, start)) as writer,
        Display(run.steps, start) as display,
    ):
        monitor = Monitor(config, start, checkpoints, writer, display, preview, probe)
        _announce(display, start, notes, config, checkpoints)
        queue = monitor.speed.waiting(prefetch(batches, mesh))
        steps = range(start + 1, run.steps + 1)
        for step in profiled(steps, run.profile_steps, output, monitor.paused):
            batch, place = next(queue)
            monitor.speed.count(train_step, state, frozen, batch)
            state, metrics = train_step(state, frozen, batch)
            monitor.watch(step, metrics, state, frozen, batch)
            stop = requests.asked(step)
            # Saved last: what a step has not logged before it is saved is never logged.
            if stop or step % run.checkpoint_every == 0 or step == run.steps:
                with monitor.paused():
                    checkpoints.save(step, state, place)
            if stop:
                break
            requests.listen()
        monitor.settle()
        checkpoints.finish()
    if stop and step < run.steps:
        raise stop
    return state


def check_run(config: Config) -> None:
    """Refuse values that do not go together, before anything is loaded.

    Raises:
        InputError: a value is refused; the message names it.
    """
    # Each of these calls is made only for the error that it may raise.
    learning_rate(config.optimizer, config.train.steps)
    resolve(config.method.mixture)
    named = {"method.extra_loss": config.method.extra_loss, "train.probe": config.train.probe}
    for key, name in named.items():
        if name is not None:
            find(name, key)
    if config.train.profile_steps is not None:
        steps_to_profile(config.train.profile_steps)
    import_trackers(config.train)


def resume(
    state: TrainState, batches: Batches, checkpoints: Checkpoints
) -> tuple[TrainState, int, list[str]]:
    """Restore the state and the place in the data from the newest checkpoint.

    Returns:
        (state, step, notes on what was read); without a checkpoint, the state as given, 0 and no
        notes.

    Raises:
        InputError: the checkpoint belongs to another run, or none is intact.
    """
    restored = checkpoints.restore(state)
    if restored is None:
        return state, 0, []
    state, place, notes = restored
    batches.set_state(place)
    return state, int(state.step), notes


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
        preview: Preview | None,
        probe: Probe | None,
    ) -> None:
        """Log to `writer` and `display`; name `checkpoints` when the loss is not finite."""
        self._preview, self._probe = preview, probe
        self._run = config.train
        self._checkpoints, self._writer, self._display = checkpoints, writer, display
        accumulation = config.optimizer.accumulation
        self.speed = Throughput(start, self._run.batch_size, accumulation)
        self._first = start + 1
        self._pending: tuple[int, dict[str, jax.Array]] | None = None

    def watch(
        self, step: int, metrics: dict[str, jax.Array], state: TrainState, frozen: Any, batch: Any
    ) -> None:
        """Settle the step before; this step, which is under way, is settled next.

        The probe and the preview run if they are due.

        Args:
            state: the state after the step.
        """
        if self._probe and self._logs(step):
            with self.paused():  # its first call compiles
                metrics = {**metrics, **self._probe(state, frozen, batch)}
        self.settle()
        self._pending = (step, metrics)
        every = self._run.sample_every
        if self._preview and every and step % every == 0:
            with self.paused():
                self._report(step, self._preview(step, combine(state.averaged, frozen)))

    def settle(self) -> None:
        """Wait for the pending step, and log it when it is due.

        Raises:
            NonFiniteLoss: one of its numbers is not finite.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        self._require_finite(step, values)
        self._display.advance(step)
        if step == self._first:  # it compiles: it is no measure of the others
            seconds = self.speed.read(step)["step_seconds"]
            self._display.say(f"the first step, compiled, took {seconds:.0f} s")
        if self._logs(step):
            if step != self._first:
                values |= self.speed.read(step)
            self._writer.write(step, values)
            self._display.show(step, values)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Settle, then leave the time spent inside out of the step time."""
        self.settle()
        began = time.perf_counter()
        yield
        self.speed.stopwatch.pause(time.perf_counter() - began)

    def _logs(self, step: int) -> bool:
        return step % self._run.log_every == 0 or step == self._run.steps

    def _report(self, step: int, values: Mapping[str, float] | None) -> None:
        """Log what a preview measured, if anything."""
        if values:
            self._writer.write(step, values)
            numbers = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            self._display.say(f"step {step}/{self._run.steps}  {numbers}")

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
    display: Display, start: int, notes: list[str], config: Config, checkpoints: Checkpoints
) -> None:
    if start == 0:
        return
    display.say(f"resuming from step {start} of {checkpoints.folder}")
    for note in notes:
        display.say(f"  {note}")
    if start >= config.train.steps:
        display.say(f"nothing left to train: train.steps={config.train.steps}")
