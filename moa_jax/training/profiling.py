"""A trace of a few steps, for xprof."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from moa_jax.errors import InputError

FOLDER = "profile"


def steps_to_profile(text: str) -> range:
    """Read `train.profile_steps`.

    Args:
        text: FIRST:LAST; both of these steps are traced.

    Raises:
        InputError: the text is not of this form.
    """
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise InputError(
            f"train.profile_steps={text!r} must be FIRST:LAST, for instance 10:13, or none"
        )
    return range(int(first), int(last) + 1)


def profiled(
    steps: Iterable[int],
    traced: str | None,
    output: Path,
    paused: Callable[[], AbstractContextManager[None]],
) -> Iterator[int]:
    """Pass steps on and trace some of them into `output`/profile.

    Args:
        traced: `train.profile_steps`; None traces nothing.
        paused: waits for the steps under way, and leaves the time spent inside out of theirs.
    """
    wanted = steps_to_profile(traced) if traced else range(0)
    tracing = False
    try:
        for step in steps:
            if step in wanted and not tracing:
                with paused():
                    jax.profiler.start_trace(str(output / FOLDER))
                tracing = True
            yield step
            if tracing and step == wanted[-1]:
                with paused():
                    jax.profiler.stop_trace()
                tracing = False
    finally:
        if tracing:  # the run ended before the last step to trace
            jax.profiler.stop_trace()
