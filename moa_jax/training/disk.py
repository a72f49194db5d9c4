"""Turn the error of a full disk into one that says what to do."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from moa_jax.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise an error that names the folder and the remedy if a write inside finds no room.

    Raises:
        InputError: the disk is full, the quota is used up, or files may not grow so large.
    """
    try:
        yield
    except Exception as error:
        # tensorstore raises its own errors, which only quote the system's words.
        reasons = [os.strerror(code) for code in FULL if os.strerror(code) in str(error)]
        if not reasons or isinstance(error, InputError):
            raise
        raise InputError(
            f"{str(folder)!r} cannot be written to: {reasons[0]}. What was saved before is intact. "
            "Make room (train.keep_checkpoints says how many are kept), or move the run's folder "
            "and name it in train.output; the same command then resumes"
        ) from error
