"""What tells one state of a data set from another, without reading a picture.

The listing counts by its content; a record by what is said of it and by the size and the time of
its files. Where each file would be a request (in a bucket), or where the listing holds the hash of
every shard (packed), the listing alone counts.
"""

import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from moa_jax.data.files import Blob, File, is_remote
from moa_jax.data.packed import INDEX
from moa_jax.data.records import Record, Records


def listing_digest(records: Records) -> str:
    """Digest the file that lists the records."""
    return hashlib.sha256(records.listing.read_bytes()).hexdigest()


def record_digests(records: Records, workers: int) -> list[str]:
    """Digest each record, by threads; none where the listing alone counts.

    Args:
        workers: threads; 0 is taken for 1.
    """
    if is_remote(records.listing) or records.listing.name == INDEX:
        return []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda place: _digest(records[place]), range(len(records))))


def _digest(record: Record) -> str:
    subjects = record.subjects
    masks = [subject.mask for subject in subjects if not isinstance(subject.mask, int)]
    said = [(subject.end, subject.box) for subject in subjects]
    said += [subject.mask for subject in subjects if isinstance(subject.mask, int)]
    stamps = [_stamp(file) for file in (record.image, record.instance_map, *masks)]
    parts = (record.name, record.caption, record.faults, said, stamps)
    return f"{zlib.crc32(repr(parts).encode(errors='surrogatepass')):08x}"


def _stamp(file: File | None) -> Any:
    """Give a file's size and time of change; None: it is not there."""
    if file is None or isinstance(file, Blob):
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
