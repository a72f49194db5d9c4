"""Requests to stop a run: signals, and the notice that a scheduler gives to all hosts.

A run that is asked to stop finishes the step in flight, saves it and ends. Signals only leave a
note here, so they do not cut a save short; only a Ctrl-C after another signal stops at once.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import jax

from moa_jax.errors import Preempted

STOPPING = b"\nstopping: the step in flight will be saved; Ctrl-C again stops at once\n"


class StopRequests:
    """Remember what asks the run to stop, and restore the signal handlers afterwards."""

    def __init__(self, reached_preemption: Callable[[int], bool]) -> None:
        """Prepare.

        Args:
            reached_preemption: tells whether the hosts have agreed to stop at a step; it is asked
                for every step, in order, because it may be collective.
        """
        self._reached = reached_preemption
        self._received: signal.Signals | None = None
        self._found: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequests":
        """Use as a context manager; only `listen` takes over the signals."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to their earlier handlers."""
        for number, handler in self._found.items():
            # None stands for a handler that was not set from Python; Python cannot set it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._found.clear()

    def listen(self) -> None:
        """Take over SIGTERM and SIGINT, once there is something to save.

        Before that, they end the program as usual: a note would have to wait for a compilation of
        minutes. On many hosts they are left to jax, which tells all hosts and lets them agree on a
        step. Only the main thread can receive signals.
        """
        if jax.process_count() == 1:
            self._take(signal.SIGTERM, signal.SIGINT)

    def asked(self, step: int) -> BaseException | None:
        """Tell whether to stop after `step`.

        Returns:
            None to go on, or what to raise once the step is saved: Preempted or KeyboardInterrupt.
        """
        if self._reached(step):
            self._take(signal.SIGTERM)  # the next SIGTERM must not end the save
            return Preempted(f"preempted; step {step} is saved")
        if self._received is signal.SIGTERM:
            return Preempted(f"SIGTERM; step {step} is saved")
        return KeyboardInterrupt() if self._received is signal.SIGINT else None

    def _take(self, *numbers: signal.Signals) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in set(numbers) - set(self._found):
                self._found[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._received is not None:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        if number == signal.SIGINT:
            os.write(2, STOPPING)  # print may be in use where the signal came
