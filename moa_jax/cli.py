"""What the command-line programs share: how they end, and where they write."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from moa_jax.errors import InputError, LostHost, NonFiniteLoss, Preempted


def run(work: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Do a command's work; what stops it is one message, without a traceback.

    Args:
        work: may give an exit code of its own.
        stopped: what Ctrl-C leaves to say.

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
        return _say(f"{preempted}: {stopped}", os.EX_TEMPFAIL)
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
        argument: what the path was given as, for the message.

    Raises:
        InputError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{argument}={str(path)!r} cannot be made: {error}") from error
    return Path(path)
