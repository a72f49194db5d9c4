"""Packed data sets: a few large ArrayRecord files ("shards") in place of many small ones.

`index.json` says what the folder was made from and lists its shards, with the number of records and
bytes of each, because ArrayRecord itself takes a truncated file for an empty one; and the size of
each picture, so that no run has to read all of them to know. A record is a
msgpack map: name, caption, image (the bytes of a picture file), sample_subjects, and subjects, each
with mask (a PNG of one bit a pixel), end and box. A subject that has references has them too, each
with image and mask (None if there is none). Many threads can read records at random, from a disk or
a bucket. No pixel is read here; `pack` writes the folder.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import msgpack

from moa_jax.data.files import Location, copy_of, is_remote, unreachable
from moa_jax.errors import InputError

INDEX = "index.json"
FORMAT = "moa_jax packed pictures, version 1"
# Of folders with references, which a reader of version 1 would leave out without a word.
FORMAT_2 = "moa_jax packed pictures, version 2"


class Shards(Sequence[bytes]):
    """The records of a packed folder, in order; each is read when it is asked for.

    Attributes:
        index: content of `index.json`.
        sizes: width and height of each picture, in pixels; None if an earlier version wrote it.
    """

    def __init__(self, folder: Location):
        """Open the folder.

        Raises:
            InputError: the folder is unfinished or cannot be read, or a shard is missing or
                truncated.
        """
        if is_remote(folder) and not str(folder).startswith("gs://"):
            raise InputError(
                f"{folder}: array_record reads shards from gs:// and from disks; {copy_of(folder)}"
            )
        self._folder = folder
        self.index = read_index(folder)
        shards: Mapping[str, Any] = self.index["shards"]
        if absent := [name for name, shard in shards.items() if shard is None]:
            raise InputError(
                f"{folder} is unfinished: {len(absent)} of its {len(shards)} shards are to be "
                f"made; run the same command again: {command(folder, self.index)}"
            )
        for name in shards:
            if fault := shard_fault(folder, self.index, name):
                raise InputError(f"{folder / name} {fault}; {remedy(folder, self.index)}")
        # The index gives the numbers of records, so that no shard has to be opened at the start.
        self._names = [name for name, shard in shards.items() for _ in range(shard["records"])]
        sizes = [shard["sizes"] for shard in shards.values() if "sizes" in shard]
        self.sizes = _read_sizes(sizes) if len(sizes) == len(shards) else None
        paths = [f"{folder / n}[0:{s['records']}]" for n, s in shards.items() if s["records"]]
        self._records = grain.sources.ArrayRecordDataSource(paths) if paths else []

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        try:
            return self._records[index % len(self)]
        except Exception as error:  # array_record raises RuntimeError, ValueError, IndexError
            file = self._folder / self._names[index]
            if is_remote(file):
                raise InputError(unreachable(self._folder, error)) from error
            raise InputError(
                f"{file} is damaged ({error}): delete it; {remedy(self._folder, self.index)}"
            ) from error


def read_index(folder: Location) -> dict[str, Any]:
    """Read the index of a packed folder, finished or not.

    Raises:
        InputError: the index cannot be read, or another version wrote it.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder / INDEX} cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(
            f"{folder / INDEX} is damaged ({error}): delete {folder} and pack it again"
        ) from error
    found = index.get("format") if isinstance(index, dict) else None
    if found not in (FORMAT, FORMAT_2):
        raise InputError(
            f"{folder / INDEX} has the format {found!r}, not {FORMAT!r} or {FORMAT_2!r}: pack it "
            "again with this version of moa_jax, or use the version that wrote it"
        )
    return index


def write_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Write the sizes of a shard's pictures for the index: one short text is one line there."""
    return " ".join(f"{width}x{height}" for width, height in sizes)


def _read_sizes(texts: Sequence[str]) -> list[tuple[int, int]]:
    parts = (size.split("x") for text in texts for size in text.split())
    return [(int(width), int(height)) for width, height in parts]


def shard_fault(folder: Location, index: Mapping[str, Any], name: str) -> str | None:
    """Say what is wrong with a shard's file; None if it has the size with which it was written."""
    try:
        # An object in a bucket is complete or not there; only a local file can be cut off.
        size = None if is_remote(folder) else (folder / name).stat().st_size
    except OSError:
        return "is missing"
    expected = index["shards"][name]["bytes"]
    if size is not None and size != expected:
        return f"has {size} bytes, not {expected}: it is truncated or was changed"
    return None


def command(folder: Location, index: Mapping[str, Any]) -> str:
    """Give the command that made a packed folder."""
    source = index["source"]
    words = ["python", "-m", "moa_jax.data", "pack", source["path"], str(folder)]
    words += ["--layout", source["layout"], "--shard-size", str(source["shard_size"])]
    if source["layout"] != "imagefolder":
        words += ["--split", source["split"]]
    if source["layout"] not in ("imagefolder", "datasets"):
        words += ["--subject-label", source["subject_label"] or "none"]
    if source["resolution"] is not None:
        words += ["--resolution", str(source["resolution"])]
    return shlex.join(words)


def remedy(folder: Location, index: Mapping[str, Any]) -> str:
    """Say how to make a shard again, or to copy it again where the source is not at hand."""
    return (
        f"to make it again and nothing else: {command(folder, index)} (of a copied folder: copy "
        "this file again)"
    )


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Write a record as bytes."""
    # JSON can put lone surrogates into a caption, which plain UTF-8 refuses.
    return msgpack.packb(record, unicode_errors="surrogatepass")


def decode_record(data: bytes) -> dict[str, Any]:
    """Read what `encode_record` wrote."""
    return msgpack.unpackb(data, unicode_errors="surrogatepass")


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Replace the index in one step: a reader sees either the old one or the new one."""
    unfinished = folder / f"{INDEX}.unfinished"
    unfinished.write_text(json.dumps(index, indent=1), encoding="utf-8")
    unfinished.replace(folder / INDEX)
