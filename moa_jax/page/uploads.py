"""The place to drop pictures: files are read and removed at once, and lie in memory until then.

Gradio writes what is uploaded into the folder that GRADIO_TEMP_DIR names. `private_folder` makes
one in memory where there is such a file system, and removes it at the end; `make_uploads` removes
each file as soon as it has been read. Gradio's own sweeping (`delete_cache`) removes what was
uploaded by a browser that then left.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

IN_MEMORY = Path("/dev/shm")  # a file system without a disk, on Linux
VARIABLE = "GRADIO_TEMP_DIR"


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make the folder for uploads, which only this user can read, and remove it at the end.

    It must be entered before Gradio is imported.
    """
    parent = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="moa_jax-page-", dir=parent) as folder:
        os.environ[VARIABLE] = folder
        yield Path(folder)


def take(path: str | Path) -> bytes:
    """Read a file and remove it, with the folder that Gradio made for it."""
    path = Path(path)
    try:
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # another file of the same content may be there
            path.parent.rmdir()


def make_uploads(**options: Any) -> Any:
    """Make the component; its value is a list of `Blob`.

    Args:
        options: of `gradio.File`.
    """
    import gradio

    from moa_jax.data.files import Blob

    def read(payload: Any) -> list[Blob]:
        """Read the files, which Gradio has checked to be uploaded ones, and remove them."""
        files = getattr(payload, "root", payload) or []
        try:
            return [Blob(Path(each.orig_name or each.path).name, take(each.path)) for each in files]
        except FileNotFoundError:  # two people dropped the same file at the same moment
            raise gradio.Error("The picture got lost on the way: drop it again.") from None

    uploads = gradio.File(**options)
    # Not a subclass: Gradio would write a .pyi file beside it, and look for its script. Its own
    # method leaves an empty file each.
    uploads.preprocess = read
    return uploads
