"""Write a data set as a packed folder (`moa_jax.data.packed`): parallel, resumable, verified.

Threads read and check each record as training does; bad records are listed and left out. A shard is
written under another name, read back and compared, and only then gets its own name. Shards depend
on the source and the options alone, so a second run makes exactly those that the first left out.
"""

import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from moa_jax.config import DataConfig
from moa_jax.data.examples import read_record
from moa_jax.data.files import is_remote
from moa_jax.data.fingerprint import listing_digest
from moa_jax.data.images import bounds
from moa_jax.data.ledger import Ledger
from moa_jax.data.packed import (
    FORMAT,
    FORMAT_2,
    INDEX,
    Shards,
    encode_record,
    read_index,
    shard_fault,
    write_index,
    write_sizes,
)
from moa_jax.data.record import Reference
from moa_jax.data.records import Record, Records, open_records
from moa_jax.data.references import LoadedReference
from moa_jax.data.shrink import loss, mask_bytes, picture_bytes
from moa_jax.errors import InputError
from moa_jax.extension import is_name

# A reader fetches one record at a time; pictures do not compress any further.
WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclass(frozen=True)
class Packed:
    """What a run of `pack` did.

    Attributes:
        index: the folder's index, as `index.json` holds it.
        made: number of shards that this run wrote.
    """

    index: dict[str, Any]
    made: int


@dataclass(frozen=True)
class _Made:
    """A record's bytes; or None, and the faults for which the record is left out."""

    name: str
    data: bytes | None
    subjects: int
    references: int
    faults: list[str]
    size: tuple[int, int] = (0, 0)


def pack(
    data: DataConfig,
    destination: str | Path,
    *,
    resolution: int | None = None,
    shard_size: int = 1000,
    on_start: Callable[[int], None] = lambda records: None,
    on_record: Callable[[], None] = lambda: None,
) -> Packed:
    """Pack a data set; keep the shards that an earlier run with the same options finished.

    Args:
        data: its path, layout, split, subject_label, workers and max_bad_fraction are used.
        destination: the packed folder, on a local disk.
        resolution: short side in pixels, to which larger pictures are resized once; None keeps
            every picture file as it is.
        shard_size: number of the source's pictures that a shard is made of.
        on_start: called with the number of records to be packed now.
        on_record: called after each of them, to show progress.

    Raises:
        InputError: as `open_records`; the folder was packed from another source or with other
            options, holds something else, or cannot be written; or too many records are bad.
    """
    if is_remote(destination):
        raise InputError(
            f"{destination}: shards are written to a local disk; pack to a folder there, then copy "
            f"it: gcloud storage rsync -r FOLDER {destination}"
        )
    folder = Path(destination)
    records = open_records(*data.source())
    index = _start(folder, _describe(data, records, resolution, shard_size))
    names = list(index["shards"])
    missing = [
        number
        for number, name in enumerate(names)
        if index["shards"][name] is None or shard_fault(folder, index, name)
    ]
    parts = [range(len(records))[n * shard_size : (n + 1) * shard_size] for n in missing]
    on_start(sum(map(len, parts)))
    ledger = _open_ledger(data, records, index, {names[number] for number in missing})
    places = [place for part in parts for place in part]
    # One stream for all shards: the threads go on reading while a shard is finished.
    stream = _read_ahead(lambda place: _make(records[int(place)], resolution), places, data.workers)
    try:
        for number, part in zip(missing, parts, strict=True):
            shard = (next(stream) for _ in part)
            shard = _watched(shard, ledger, on_record)
            index["shards"][names[number]] = _write_shard(folder / names[number], shard)
            if "references" in index["shards"][names[number]]:
                index["format"] = FORMAT_2
            write_index(folder, index)  # after each shard, so that a run cut short keeps it
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}") from error
    finally:
        stream.close()
    if not len(Shards(folder)):
        raise InputError(f"every record of {data.path} is bad; {folder} holds none")
    return Packed(index, len(missing))


def _describe(
    data: DataConfig, records: Records, resolution: int | None, shard_size: int
) -> dict[str, Any]:
    """Describe the source and the options: all that decides what each shard holds."""
    if records.listing.name == INDEX:
        raise InputError(f"{data.path} is packed already; pack what it was made from")
    if shard_size < 1 or (resolution is not None and resolution < 1):
        raise InputError(f"shard size {shard_size}, resolution {resolution}: must be at least 1")
    # A reader of the user's own may have listed the records of another layout.
    layout = data.layout if is_name(data.layout) else records.layout
    return {
        "path": str(data.path),
        "layout": layout,
        "split": data.split,
        "subject_label": None if layout in ("imagefolder", "datasets") else data.subject_label,
        "records": len(records),
        "listing": listing_digest(records),
        "resolution": resolution,
        "shard_size": shard_size,
    }


def _start(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    """Open the index of an earlier run, or make the folder and its first index."""
    if (folder / INDEX).is_file():
        index = read_index(folder)
        found = index["source"]
        # The same pictures may be reached by another path.
        changed = [k for k in source if k != "path" and found.get(k) != source[k]]
        if changed:
            differences = "; ".join(f"{k} {found.get(k)} (now {source[k]})" for k in changed)
            raise InputError(
                f"{folder} was packed with another {differences}: give the same options, name "
                "another folder, or delete it"
            )
        return index
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty and has no {INDEX}; name a new folder")
    count = math.ceil(source["records"] / source["shard_size"])
    names = [f"{number:05d}-of-{count:05d}.array_record" for number in range(count)]
    lost = loss(source["resolution"])
    index = {"format": FORMAT, "source": source, "lost": lost, "shards": dict.fromkeys(names)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_index(folder, index)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error}") from error
    return index


def _open_ledger(
    data: DataConfig, records: Records, index: dict[str, Any], missing: set[str]
) -> Ledger:
    """Start to count bad records with those that earlier runs left out."""
    ledger = Ledger(data.path, len(records), data.max_bad_fraction)
    for name, shard in index["shards"].items():
        if name not in missing:
            ledger.faults.update(shard["skipped"])
    return ledger


def _read_ahead(
    make: Callable[[Any], _Made], places: list[int], workers: int
) -> "grain.DatasetIterator[_Made]":
    """Make records in threads and give them in order."""
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    return iter(grain.MapDataset.source(places).map(make).to_iter_dataset(options))


def _watched(
    records: Iterable[_Made], ledger: Ledger, on_record: Callable[[], None]
) -> Iterator[_Made]:
    for record in records:
        if record.faults:
            ledger.add(record.name, record.faults)
        on_record()
        yield record


def _make(record: Record, resolution: int | None) -> _Made:
    """Read, check and encode a record; training judges whether it has too many subjects."""
    loaded, faults = read_record(record, sys.maxsize)
    if loaded is None or record.image is None:
        return _Made(record.name, None, 0, 0, faults)
    marked = [(subject.mask, subject.box) for subject in loaded.subjects]
    image, size, marked = picture_bytes(record.image, loaded.image, marked, resolution)
    entries, references = [], 0
    for subject, whole, (mask, box) in zip(record.subjects, loaded.subjects, marked, strict=True):
        entry = {"mask": mask_bytes(mask), "end": whole.end, "box": box}
        if subject.references:
            pairs = zip(subject.references, whole.references, strict=True)
            entry["references"] = [_encode_reference(*pair, resolution) for pair in pairs]
            references += len(subject.references)
        entries.append(entry)
    row = {"name": record.name, "caption": record.caption, "image": image, "subjects": entries}
    data = encode_record(row | {"sample_subjects": record.sample_subjects})
    return _Made(record.name, data, len(entries), references, [], size)


def _encode_reference(
    reference: Reference, loaded: LoadedReference, resolution: int | None
) -> dict[str, bytes | None]:
    mask = loaded.mask
    marked = [] if mask is None else [(mask, bounds(mask))]
    image, _, marked = picture_bytes(reference.image, loaded.image, marked, resolution)
    return {"image": image, "mask": mask_bytes(marked[0][0]) if marked else None}


def _write_shard(file: Path, records: Iterable[_Made]) -> dict[str, Any]:
    """Write a shard, read it back, and only then give it its name.

    Returns:
        Its entry in the index.

    Raises:
        OSError: the shard cannot be written, or does not read back as it was written.
    """
    unfinished = file.with_name(f"{file.name}.unfinished")
    digests, sizes, subjects, references, skipped = [], [], 0, 0, {}
    try:
        writer = ArrayRecordWriter(str(unfinished), WRITER_OPTIONS)
        for record in records:
            if record.data is None:
                skipped[record.name] = record.faults
                continue
            writer.write(record.data)
            digests.append(hashlib.sha256(record.data).digest())
            sizes.append(record.size)
            subjects += record.subjects
            references += record.references
        writer.close()
        found = [hashlib.sha256(data).digest() for data in _read_back(unfinished)]
    except RuntimeError as error:  # what array_record raises
        raise OSError(f"{unfinished}: {error}") from error
    if found != digests:
        raise OSError(f"{unfinished}: reads back otherwise than it was written; is the disk full?")
    size = unfinished.stat().st_size
    unfinished.replace(file)
    digest = hashlib.sha256(b"".join(digests)).hexdigest()
    count = {"records": len(digests), "subjects": subjects, "bytes": size}
    if references:
        count["references"] = references
    return {**count, "sha256": digest, "sizes": write_sizes(sizes), "skipped": skipped}


def _read_back(file: Path) -> Iterator[bytes]:
    reader = ArrayRecordReader(str(file), "readahead_buffer_size:16M,max_parallelism:0")
    try:
        for _ in range(reader.num_records()):
            yield reader.read()
    finally:
        reader.close()
