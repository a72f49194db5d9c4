"""Folders that keep what encoders made of a data set: when they serve, and how they are filled.

`encoding.py` writes `data.encoded`, and `latents.py` writes `data.latents`. Both may be used again
only as long as neither the pictures nor the networks change, which this module tells.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from moa_jax.cli import Bar
from moa_jax.config import Config, DataConfig
from moa_jax.data.buckets import Buckets, Size
from moa_jax.data.fingerprint import listing_digest, record_digests
from moa_jax.data.records import Records
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.training.mesh import place_batch

T = TypeVar("T")

PART = 32  # pictures that a device encodes at once
LISTING, FILES = "listing", "files"  # keys of the digests that tell whether the source changed


def check_kept(config: Config, encode: bool = False) -> None:
    """Refuse `data.encoded` and `data.latents` where what they keep would not stay valid.

    Args:
        encode: whether the command only encodes (`--encode`).

    Raises:
        InputError: a value does not go with kept encodings, or no folder is named.
    """
    data = config.data
    if encode and data.encoded is None and data.latents is None:
        raise InputError(
            "--encode writes encoded pictures: name a folder by data.encoded=FOLDER, or by "
            "data.latents=FOLDER for the targets alone"
        )
    if data.encoded and data.latents:
        raise InputError(
            f"data.encoded={data.encoded!r} keeps the latents too: leave data.latents="
            f"{data.latents!r} out, or data.encoded"
        )
    if data.resident:
        _check_resident(config)
    if data.encoded is None:
        return
    given = f"data.encoded={data.encoded!r} keeps what frozen encoders give, but"
    instead = "or name the folder by data.latents, which keeps the targets alone"
    if data.augment:
        raise InputError(
            f"{given} data.augment=True changes the pictures: set it to false, {instead}"
        )
    if layers := config.method.image_encoder_layers:
        raise InputError(
            f"{given} method.image_encoder_layers={layers} trains them: set it to 0, {instead}"
        )


def _check_resident(config: Config) -> None:
    if config.data.encoded is None:
        raise InputError(
            "data.resident=True keeps encoded data on the devices: name a folder for it by "
            "data.encoded=FOLDER"
        )
    if config.data.buckets:
        raise InputError(
            "data.resident=True keeps all pictures in arrays of one shape, and data.buckets=True "
            "gives them several: set one of the two to false"
        )
    if jax.process_count() > 1:
        raise InputError("data.resident=True makes the batches on one host: set it to false")


def is_kept(
    key: str,
    folder: Path,
    source: dict[str, Any],
    records: Records,
    read: Callable[[Path], Any],
) -> bool:
    """Say whether a folder is there and of use; if it is not there, this host may make it.

    Args:
        key: the value of the configuration that names the folder.
        source: what is to be encoded, by what.
        read: opens the folder, and gives what has its own `source`.

    Raises:
        InputError: it is missing in a run on many hosts, or of other pictures or networks.
    """
    named = f"{key}={str(folder)!r}"
    if folder.exists():
        _require_made_of(named, read(folder).source, source, records)
        return True
    if jax.process_count() > 1:
        raise InputError(f"{named} is not there: make it on one host first, with train.py --encode")
    return False


def describe_source(
    config: Config, records: Records, identity: Identity, encoders: Sequence[str]
) -> dict[str, Any]:
    """Describe all that decides what encodings are, as JSON can hold it.

    Args:
        identity: of the networks, including weights that were carried into the image encoder.
        encoders: names of those that are used.
    """
    return {
        "data": [*config.data.source(), len(records)],
        "resolution": config.data.resolution,
        "max_crop": config.data.max_crop if config.data.buckets else None,
        "encoders": {name: identity.fingerprints[name] for name in encoders},
        LISTING: listing_digest(records),
        FILES: record_digests(records, config.data.workers),
    }


def _require_made_of(
    named: str, found: dict[str, Any], source: dict[str, Any], records: Records
) -> None:
    """Refuse encodings of other pictures, or by other networks."""
    remedy = "delete it, or name another folder"
    changed = [
        f"{key} {found.get(key)}"
        for key in source
        if key not in (LISTING, FILES) and found.get(key) != source[key]
    ]
    if changed:
        raise InputError(f"{named} was made with another {'; '.join(changed)}: {remedy}")
    if LISTING not in found:
        raise InputError(
            f"{named} is of an earlier version, which did not note the files that it read: {remedy}"
        )
    since = [f"{records.listing} changed"] if found[LISTING] != source[LISTING] else []
    pairs = enumerate(zip(found[FILES], source[FILES], strict=False))
    if places := [place for place, (then, now) in pairs if then != now]:
        since.append(
            f"{len(places)} of {len(records)} records or files of theirs changed, "
            f"{records[places[0]].name!r} among them"
        )
    if since:
        raise InputError(f"since {named} was made, {'; '.join(since)}: {remedy}")


def read_in_chunks(
    data: DataConfig, buckets: Buckets, chunk: int, load: Callable[[Size, int], T | None]
) -> Iterator[tuple[Size, list[T]]]:
    """Read the good records of each bucket in order, a chunk at a time, in threads.

    Args:
        chunk: number of records, bad ones among them.
        load: reads the record of a number for a size; gives None if it is bad.

    Yields:
        The size of a bucket, and what was read of a chunk of its records.
    """
    total = sum(map(len, buckets.members.values()))
    bar = Bar(f"encoding {data.path}", total, stdout=True, keep=True)
    with bar, ThreadPoolExecutor(max(1, data.workers)) as pool:
        for size, members in buckets.members.items():
            for start in range(0, len(members), chunk):
                part = members[start : start + chunk].tolist()
                yield size, [each for each in pool.map(partial(load, size), part) if each]
                bar.advance(len(part))


def encode_in_parts(
    function: Callable[..., Any],
    images: Sequence[np.ndarray] | np.ndarray,
    *,
    params: Any,
    mesh: Mesh,
    size: int,
) -> np.ndarray:
    """Encode any number of pictures of one size.

    Args:
        function: gives arrays of (parameters, pictures), which are joined along their last axis.
        size: number of pictures encoded at once.

    Returns:
        A row for each picture, in float16.
    """
    parts = []
    for start in range(0, len(images), size):
        part = np.stack(images[start : start + size])
        padded = np.zeros((size, *part.shape[1:]), np.uint8)  # a bucket is compiled once
        padded[: len(part)] = part
        found = function(params, place_batch(mesh, {"images": padded})["images"])
        parts.append(np.concatenate(jax.device_get(found), axis=-1)[: len(part)])
    return np.concatenate(parts).astype(np.float16)
