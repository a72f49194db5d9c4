"""Where MoA weights come from: a folder here, a repository on the Hugging Face hub, or a bucket.

Whatever names MoA weights goes through `find_moa`: `Pipeline.from_pretrained(moa=...)`, `sample.py
--moa`, `model.moa`, `python -m moa_jax.evaluation toy --moa` and `MoAWeights.from_pretrained`.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from moa_jax.backbone.hub import HUB_ID, download
from moa_jax.data.files import is_remote, unreachable
from moa_jax.errors import InputError
from moa_jax.method.weights import CARD_NAME, WEIGHTS_NAME
from moa_jax.runtime import cache_folder

FORMS = (
    "give a folder, owner/name or owner/name@revision of the Hugging Face hub, or a folder of a "
    "bucket such as gs://bucket/folder"
)
_NAMED = re.compile(rf"(?P<name>{HUB_ID.pattern})(?:@(?P<revision>.+))?")
_CHUNK = 16 * 2**20  # bytes that are copied at once


def find_moa(
    source: str | os.PathLike[str],
    argument: str = "moa",
    *,
    revision: str | None = None,
    weights: bool = True,
    **options: Any,
) -> Path:
    """Find the folder of `moa.safetensors` and `moa.json`, and download both if need be.

    Args:
        source: a folder; or a hub id, "owner/name" or "owner/name@revision"; or a folder in a
            bucket, "gs://bucket/folder". A folder that is here wins over a hub id of its name.
        argument: the option that the source was given for, as the message calls it.
        revision: of a hub id: a branch, a tag or a commit; None means the main branch.
        weights: whether `moa.safetensors` is wanted too, or `moa.json` alone.
        options: further arguments of the hub's `snapshot_download`, such as `token`.

    Returns:
        The folder itself; or one in the cache of the hub or of this package (`~/.cache/moa_jax`).

    Raises:
        InputError: there is none, or it cannot be downloaded; the message says why, and what to do.
    """
    given, path = os.fspath(source), Path(source).expanduser()
    what = f"{argument}={given!r}"
    files = (CARD_NAME, WEIGHTS_NAME) if weights else (CARD_NAME,)
    if not given:  # would be the working directory
        raise InputError(f"{what} names no weights: {FORMS}")
    named = _NAMED.fullmatch(given)
    if path.exists() or not named:
        if revision is not None:
            raise InputError(f"revision={revision!r}: {what} is no hub id, and only those have any")
        if path.is_dir():
            return path
        if path.exists():
            raise InputError(f"{what} is a file: give the folder that it is in")
        if is_remote(given):
            return _copy(given, files, what)
        raise InputError(f"{what}: there is no such folder; {FORMS}")
    if revision is not None and named["revision"] not in (None, revision):
        raise InputError(f"{what} and revision={revision!r} name two revisions: leave one out")
    revision = revision or named["revision"]
    folder = download(named["name"], files, revision, what, **options)
    _require_complete(folder, files, what)
    return folder


def _require_complete(folder: Path, files: Sequence[str], what: str) -> None:
    """Refuse a repository of something else."""
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{what} has no {' and no '.join(missing)}: it holds no MoA weights of this project, "
            "or not whole ones; name a repository that moa_jax pushed, or another revision of it"
        )


def _copy(folder: str, files: Sequence[str], what: str) -> Path:
    """Copy files of a bucket's folder into the cache, unless they are there as they are now."""
    copies = cache_folder() / "weights" / hashlib.sha256(folder.encode()).hexdigest()[:16]
    for name in files:
        try:
            remote = epath.Path(folder) / name
            state = remote.stat()
        except FileNotFoundError as error:
            raise InputError(
                f"{what} has no {name}: give the folder that train.py's output was copied to"
            ) from error
        except Exception as error:  # a missing library, credentials, the network, the scheme
            raise InputError(f"{what}: {unreachable(folder, error)}") from error
        _copy_file(remote, copies / name, state, what)
    return copies


def _copy_file(source: Any, target: Path, state: Any, what: str) -> None:
    """Copy one file, whole or not at all; what has the same size and time is the same."""
    if target.is_file() and state.mtime:  # some buckets tell no time
        known = target.stat()
        if (known.st_size, int(known.st_mtime)) == (state.length, state.mtime):
            return
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as reading, unfinished.open("wb") as writing:
            shutil.copyfileobj(reading, writing, _CHUNK)
        if unfinished.stat().st_size != state.length:
            raise EOFError(f"{unfinished.stat().st_size} of {state.length} bytes came")
        os.utime(unfinished, (state.mtime, state.mtime))
        os.replace(unfinished, target)
    except Exception as error:  # as above, or the disk is full
        raise InputError(
            f"{what}: copying {target.name} to {str(target.parent)!r} was interrupted "
            f"({type(error).__name__}: {error}): the same command starts it again"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
