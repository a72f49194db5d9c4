"""What a full disk says, put so that it can be mended."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from moa_jax.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Name the folder and the remedy when what is done inside finds no room to write.

    Raises:
        InputError: the disk is full, the quota is used up, or files may not grow so large.
    """
    try:
        yield
    except Exception as error:
        # tensorstore raises the system's words in errors of its own.
        reasons = [os.strerror(code) for code in FULL if os.strerror(code) in str(error)]
        if not reasons or isinstance(error, InputError):
            raise
        raise InputError(
            f"{str(folder)!r} cannot be written to: {reasons[0]}. What was saved before is intact. "
            "Make room (train.keep_checkpoints says how many are kept), or move the run's folder "
            "and name it in train.output; the same command then resumes"
        ) from error
