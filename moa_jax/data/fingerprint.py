"""Digests that tell one state of a data set from another, without reading a picture.

The listing's digest is that of its content. A record's digest depends on its caption and subjects,
and on the size and time of change of its files, those of references among them. Records have none
in a bucket, where each file would cost a request, in a packed data set, whose listing holds the
hash of every shard, and in one of the library `datasets`, whose listing tells of every Arrow file.
"""

import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from moa_jax.data.files import Blob, File, is_remote
from moa_jax.data.packed import INDEX
from moa_jax.data.record import Record, Records


def listing_digest(records: Records) -> str:
    """Digest the file that lists the records."""
    return hashlib.sha256(records.listing.read_bytes()).hexdigest()


def record_digests(records: Records, workers: int) -> list[str]:
    """Digest each record, in threads; give none where the listing tells all, or in a bucket.

    Args:
        workers: number of threads; 0 is taken for 1.
    """
    listing = records.listing
    if isinstance(listing, Blob) or is_remote(listing) or listing.name == INDEX:
        return []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda place: _digest(records[place]), range(len(records))))


def _digest(record: Record) -> str:
    subjects = record.subjects
    masks = [subject.mask for subject in subjects if not isinstance(subject.mask, int)]
    said = [(subject.end, subject.box) for subject in subjects]
    said += [subject.mask for subject in subjects if isinstance(subject.mask, int)]
    stamps = [_stamp(file) for file in (record.image, record.instance_map, *masks)]
    said += [
        (place, _stamp(reference.image), _stamp(reference.mask))
        for place, subject in enumerate(subjects)
        for reference in subject.references
    ]
    parts = (record.name, record.caption, record.faults, said, stamps)
    # JSON can put lone surrogates into a caption, which plain UTF-8 refuses.
    return f"{zlib.crc32(repr(parts).encode(errors='surrogatepass')):08x}"


def _stamp(file: File | None) -> Any:
    """Give a file's size and time of change, in nanoseconds; None if no such file is on disk."""
    if file is None or isinstance(file, Blob):
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
