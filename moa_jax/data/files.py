"""The files that are read: on disk, in a bucket (gs://, s3://), or bytes in memory with a name.

And the folders that are written, which appear whole or not at all.

etils.epath reads buckets, as it does in orbax and grain. Nothing here depends on what files hold.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from etils import epath

from moa_jax.errors import InputError

Location = Path | epath.Path


@dataclass(frozen=True)
class Blob:
    """Bytes in memory, opened like a file.

    Attributes:
        name: the name that messages use.
    """

    name: str
    data: bytes = field(repr=False)

    def open(self, mode: str = "rb") -> BytesIO:
        """Open the bytes for reading."""
        return BytesIO(self.data)

    def read_bytes(self) -> bytes:
        """Give the bytes."""
        return self.data

    def __str__(self) -> str:
        return self.name


File = Location | Blob


def is_remote(path: str | Location) -> bool:
    """Tell whether a path is in a bucket, such as gs://bucket/folder."""
    return "://" in str(path)


def find_folder(path: str | Location) -> Location:
    """Find a folder, on disk or in a bucket.

    Raises:
        InputError: the path is not a folder, or the bucket cannot be reached.
    """
    if not is_remote(path):
        folder, found = Path(path), Path(path).is_dir()
    else:
        try:
            folder = epath.Path(path)
            found = folder.is_dir()
        except Exception as error:  # a missing library, credentials, the network, the scheme
            raise InputError(unreachable(path, error)) from error
    if not found:
        raise InputError(
            f"data set {str(path)!r} is not a folder (an id on the Hugging Face Hub needs the "
            "layout datasets)"
        )
    return folder


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into, which takes the name of `folder` once all is written.

    A run that is cut short leaves no such folder; the next one begins anew.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(folder)


def unreachable(path: str | Location, error: Exception) -> str:
    """Say what to do about a bucket that cannot be read."""
    reason = f"{path} cannot be read ({type(error).__name__}: {error})"
    if str(path).startswith("gs://"):
        return (
            f"{reason}: pip install gcsfs and gcloud auth application-default login; or mount the "
            f"bucket with gcsfuse; or {copy_of(path)}"
        )
    if str(path).startswith("s3://"):
        return f"{reason}: pip install s3fs and log in; or {copy_of(path)}"
    return f"{reason}: of buckets, gs:// and s3:// are read"


def copy_of(path: str | Location) -> str:
    """Say how to copy a folder from a bucket to the local disk."""
    tool = "gcloud storage rsync -r" if str(path).startswith("gs://") else "aws s3 sync"
    return f"copy it to the local disk ({tool} {path} {str(path).rstrip('/').split('/')[-1]})"
