"""What the command-line programs share: how they refuse, and where they write."""

import sys
from pathlib import Path

from moa_jax.errors import InputError


def fail(error: Exception, code: int = 2) -> int:
    """Print an error as one message, without a traceback; gives the exit code back."""
    sys.stderr.write(f"error: {error}\n")
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
