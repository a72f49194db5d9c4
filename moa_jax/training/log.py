"""Where the numbers of a run go: metrics.jsonl, TensorBoard and the terminal.

A resumed run appends. It first drops what an earlier attempt logged after the step from which it
resumes, so that every step is logged once. Nothing here depends on the model or on the loop.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from moa_jax.cli import Bar
from moa_jax.config import Config
from moa_jax.training.hosts import first
from moa_jax.training.trackers import Tracker, open_trackers

METRICS_NAME = "metrics.jsonl"
SLOW_INPUT = 0.1  # share of the time spent waiting for batches; a larger one is shown


class MetricsWriter:
    """Append a run's metrics to metrics.jsonl, TensorBoard's event files and any trackers."""

    def __init__(self, folder: Path, step: int, trackers: Sequence[Tracker] = ()) -> None:
        """Open the files and drop what was logged after `step`, the last step to keep.

        Args:
            trackers: where else the numbers go; each itself drops steps that are logged again.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS_NAME
        _drop_after(path, step)
        self._trackers = trackers
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step; a value that is not finite is null in the JSON."""
        finite = {key: v if math.isfinite(v) else None for key, v in values.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        for key, value in values.items():
            self._board.add_scalar(key, value, step)
        self._board.flush()  # now, because a step that is saved is never logged again
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def close(self) -> None:
        """Flush and close all."""
        self._file.close()
        self._board.close()
        for tracker in self._trackers:
            tracker.finish()


class Unwritten:
    """Stand in for a MetricsWriter on hosts that do not write: all hosts have the same numbers."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing: the first host writes."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def open_writer(config: Config, step: int) -> MetricsWriter | Unwritten:
    """Open the metrics of a run for the steps after `step`; only the first host writes them."""
    if not first():
        return Unwritten()
    return MetricsWriter(Path(config.train.output), step, open_trackers(config))


def _drop_after(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a line that a crash cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(kept), encoding="utf-8")
    unfinished.replace(path)  # in one step: a crash meanwhile loses nothing


class Stopwatch:
    """Measure the seconds of a step between two readings, without pauses (previews, saves)."""

    def __init__(self, step: int) -> None:
        """Start at `step`."""
        self._step, self._since = step, time.perf_counter()
        self._paused = 0.0

    def pause(self, seconds: float) -> None:
        """Leave `seconds` out of the next reading."""
        self._paused += seconds

    def read(self, step: int) -> float:
        """Give the mean seconds of a step since the last reading, and start anew."""
        now = time.perf_counter()
        seconds = (now - self._since - self._paused) / max(1, step - self._step)
        self._step, self._since, self._paused = step, now, 0.0
        return seconds


class Display:
    """A progress bar on a terminal; elsewhere one plain line for each log entry."""

    def __init__(self, steps: int, step: int) -> None:
        """Prepare to show a run of `steps` that starts after `step`."""
        self._stream = sys.stdout
        self._steps = steps
        self._bar = Bar("step", steps, stdout=True, keep=True)
        self._bar.show(step)

    def __enter__(self) -> "Display":
        """Start to draw."""
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the terminal in order."""
        self._bar.__exit__(*error)

    def advance(self, step: int) -> None:
        """Show that `step` steps are done."""
        self._bar.show(step)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show the numbers of a log entry; the first has no speed yet."""
        numbers = f"loss {values['loss/total']:.4f}"
        seconds = values.get("step_seconds")
        if seconds is not None:
            numbers += f"  {values['images_per_second']:.2f} images/s  {seconds:.3f} s/step"
            if values.get("mfu") is not None:
                numbers += f"  MFU {values['mfu']:.1%}"
            if values.get("input_wait", 0.0) > SLOW_INPUT:
                numbers += f"  waits for input {values['input_wait']:.0%}"
        if self._bar.shown:
            self._bar.show(step, note=numbers)
            return
        if seconds is not None:
            left = seconds * (self._steps - step)
            days = f"{left // 86_400:.0f} d " if left >= 86_400 else ""
            numbers += f"  {days}{time.strftime('%H:%M:%S', time.gmtime(left))} left"
        self.say(f"step {step}/{self._steps}  {numbers}")

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        if self._bar.shown:
            self._bar.say(line)
        else:
            print(line, file=self._stream, flush=True)
