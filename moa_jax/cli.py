"""What the command-line programs share: how they end, where they write, how they show progress."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moa_jax.errors import InputError, LostHost, NonFiniteLoss, Preempted

T = TypeVar("T")


def command_name(script: str) -> str:
    """Give the words that started this command, for its help: "moa-train" or "python train.py".

    Args:
        script: the file at the root of the repository that does the same.
    """
    started = Path(sys.argv[0]).stem  # on Windows it ends in .exe
    return started if started == f"moa-{Path(script).stem}" else f"python {script}"


def run(work: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Do a command's work; print what stops it as one message, without a traceback.

    Args:
        work: may return an exit code of its own.
        stopped: what to say after Ctrl-C, or when preempted.

    Returns:
        The exit code: 0 done; 1 training diverged; 2 something must be changed; 75 preempted, or
        another host is gone: run it again (EX_TEMPFAIL, for schedulers); 130 Ctrl-C.
    """
    try:
        return work() or 0
    except InputError as error:
        return _say(f"error: {error}", 2)
    except NonFiniteLoss as error:
        return _say(f"error: {error}", 1)
    except Preempted as preempted:
        return _say(f"{preempted}: {stopped}", os.EX_TEMPFAIL)  # a scheduler starts it again
    except LostHost as error:
        return _say(f"error: {error}", os.EX_TEMPFAIL)
    except KeyboardInterrupt:
        return _say(stopped, 130)


def _say(message: str, code: int) -> int:
    sys.stderr.write(message + "\n")
    return code


def make_folder(argument: str, path: str | Path) -> Path:
    """Make an output folder, before the long work starts.

    Args:
        argument: the option that the path was given for, as the message calls it.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{argument}={str(path)!r} cannot be made: {error}") from error
    return Path(path)


class Renamed(argparse.Action):
    """The earlier name of an option: it is still read, with a note; `dest` is the new name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Take the value, and say once what the option is called now."""
        _note(f"note: {option_string} is called --{self.dest.replace('_', '-')} now\n")
        setattr(namespace, self.dest, values)


@cache  # a note is said once, however often the option is read
def _note(text: str) -> None:
    sys.stderr.write(text)


class Bar:
    """A progress bar: what is being done, how much of it, and how long the rest will take.

    It is shown on a terminal only; in a log file it would be noise.

    Attributes:
        shown: whether the stream is a terminal.
    """

    def __init__(
        self, doing: str, total: int | None = None, stdout: bool = False, keep: bool = False
    ) -> None:
        """Prepare a bar; `with` shows it.

        Args:
            doing: what is being done, in a word or two.
            total: parts of the work; None means not known yet, see `start`.
            stdout: show it on standard output instead of standard error.
            keep: leave the finished bar on the screen.
        """
        stream = sys.stdout if stdout else sys.stderr
        self.shown = stream.isatty()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=not keep,
            disable=not self.shown,
        )
        self._task = self._progress.add_task(doing, total=total, note="")

    def __enter__(self) -> "Bar":
        """Show it."""
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        """Leave the terminal in order."""
        self._progress.stop()

    def start(self, total: int) -> None:
        """Say how many parts there are."""
        self._progress.update(self._task, total=total)

    def advance(self, parts: int = 1) -> None:
        """Count parts that are done."""
        self._progress.advance(self._task, parts)

    def show(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """Say how many parts are done, of how many, and what else is worth knowing.

        Args:
            total: None means as before.
            note: stands beside the bar; None means as before.
        """
        fields = {} if note is None else {"note": note}
        self._progress.update(self._task, completed=done, total=total, **fields)

    def describe(self, doing: str) -> None:
        """Say what is being done now."""
        self._progress.update(self._task, description=doing)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        # A line may hold square brackets, which are no markup.
        self._progress.console.print(line, markup=False, highlight=False)

    @property
    def speed(self) -> float | None:
        """How many parts were done a second, of late; None before there are any."""
        return self._progress.tasks[0].speed


def track(parts: Iterable[T], doing: str, total: int | None = None) -> Iterator[T]:
    """Go through the parts of some work, and show how many are done.

    rich has a function of this name, which fills log files with bars where FORCE_COLOR is set.

    Args:
        doing: what is being done, in a word or two.
        total: number of parts; None means the length of `parts`, if they have one.
    """
    known = len(parts) if total is None and isinstance(parts, Sized) else total
    with Bar(doing, known) as bar:
        for part in parts:
            yield part
            bar.advance()
