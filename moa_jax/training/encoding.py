"""Encode a data set once, before training, with the networks that do not learn.

As long as neither a picture nor the encoders change, the picture's encoding stays the same, and
encoding it at every step is a waste. The noise behind a subject is drawn only once too.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, UInt8

from moa_jax.cli import Bar
from moa_jax.config import Config
from moa_jax.data.augment import crop_target, cut_out, prepare_subject
from moa_jax.data.buckets import Buckets, Fit, Size
from moa_jax.data.captions import Tokenizer, encode_caption
from moa_jax.data.encoded import EncodedRecord, EncodedRecords, EncodedSubject, write_encoded
from moa_jax.data.examples import LoadedRecord, read_record
from moa_jax.data.fingerprint import listing_digest, record_digests
from moa_jax.data.ledger import Ledger
from moa_jax.data.records import Records, open_records
from moa_jax.data.references import count_references
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.model import MoA
from moa_jax.training.mesh import place_batch
from moa_jax.training.objective import encode

PART = 32  # pictures that a device encodes at once
ENCODERS = ("vae", "image_encoder")
LISTING, FILES = "listing", "files"  # keys of the digests that tell whether the source changed


def check_encoded(config: Config, encode: bool = False) -> None:
    """Refuse `data.encoded` where the encodings would not stay valid.

    Args:
        encode: whether the command only encodes (`--encode`).

    Raises:
        InputError: a value does not go with encoded data, or no folder is named.
    """
    if config.data.encoded is None:
        if config.data.resident:
            raise InputError(
                "data.resident=True keeps encoded data on the devices: name a folder for it by "
                "data.encoded=FOLDER"
            )
        if encode:
            raise InputError(
                "--encode writes encoded pictures: name a folder by data.encoded=FOLDER"
            )
        return
    if config.data.resident and config.data.buckets:
        raise InputError(
            "data.resident=True keeps all pictures in arrays of one shape, and data.buckets=True "
            "gives them several: set one of the two to false"
        )
    if config.data.resident and jax.process_count() > 1:
        raise InputError("data.resident=True makes the batches on one host: set it to false")
    given = f"data.encoded={config.data.encoded!r} keeps what frozen encoders give, but"
    if config.data.augment:
        raise InputError(f"{given} data.augment=True changes the pictures: set it to false")
    if config.method.image_encoder_layers:
        raise InputError(
            f"{given} method.image_encoder_layers={config.method.image_encoder_layers} trains "
            "them: set it to 0"
        )


def ensure_encoded(
    config: Config,
    model: MoA,
    params: Any,
    identity: Identity,
    tokenizer: Tokenizer,
    mesh: Mesh,
    buckets: Buckets | None = None,
) -> None:
    """Encode the data set into the folder `data.encoded`, unless the folder exists.

    Args:
        identity: of the networks, including weights that were carried into the image encoder.
        buckets: of the pictures; None crops all to squares.

    Raises:
        InputError: the folder cannot be written, is missing in a run on many hosts, or holds
            encodings of other pictures or by other networks.
    """
    data, folder = config.data, Path(config.data.encoded)
    records = open_records(*data.source())
    source = describe_source(config, records, identity)
    if model.variant.replaces("look"):
        source["look"] = config.method.mixture
    if folder.exists():
        _require_made_of(folder, source, records)
        return
    if jax.process_count() > 1:
        raise InputError(
            f"data.encoded={str(folder)!r} is not there: make it on one host first, with "
            "train.py --encode"
        )
    square = (data.resolution, data.resolution)
    tower = model.image_encoder.config
    frozen = {name: params[name] for name in ENCODERS}
    chunk = PART * mesh.size
    buckets = buckets or Buckets({square: np.arange(len(records))})
    chunks = _cropped(config, records, buckets, tokenizer, tower.image_size, chunk)
    try:
        write_encoded(
            folder,
            _encoded(chunks, chunk, model, frozen, mesh),
            source,
            rows=(len(records), sum(len(record.subjects) for record in records)),
            size=buckets.sizes[0],
            downscale=model.vae.config.downscale,
            channels=2 * model.vae.config.latent_channels,
            features=model.feature_width(params),
            references=sum(count_references(record.subjects) for record in records),
        )
    except OSError as error:
        raise InputError(f"data.encoded={str(folder)!r} cannot be written: {error}") from error


def describe_source(config: Config, records: Records, identity: Identity) -> dict[str, Any]:
    """Describe all that decides what the encodings are, as JSON can hold it.

    Args:
        identity: see `ensure_encoded`.
    """
    return {
        "data": [*config.data.source(), len(records)],
        "resolution": config.data.resolution,
        "max_crop": config.data.max_crop if config.data.buckets else None,
        "max_subjects": config.method.max_subjects,
        "encoders": {name: identity.fingerprints[name] for name in ENCODERS},
        LISTING: listing_digest(records),
        FILES: record_digests(records, config.data.workers),
    }


def _require_made_of(folder: Path, source: dict[str, Any], records: Records) -> None:
    """Refuse encodings of other pictures, or by other networks."""
    found = EncodedRecords(folder).source
    remedy = "delete it, or name another folder"
    changed = [
        f"{key} {found.get(key)}"
        for key in source
        if key not in (LISTING, FILES) and found.get(key) != source[key]
    ]
    if changed:
        raise InputError(
            f"data.encoded={str(folder)!r} was made with another {'; '.join(changed)}: {remedy}"
        )
    if LISTING not in found:
        raise InputError(
            f"data.encoded={str(folder)!r} is of an earlier version, which did not note the files "
            f"that it read: {remedy}"
        )
    since = [f"{records.listing} changed"] if found[LISTING] != source[LISTING] else []
    pairs = enumerate(zip(found[FILES], source[FILES], strict=False))
    if places := [place for place, (then, now) in pairs if then != now]:
        since.append(
            f"{len(places)} of {len(records)} records or files of theirs changed, "
            f"{records[places[0]].name!r} among them"
        )
    if since:
        raise InputError(
            f"since data.encoded={str(folder)!r} was made, {'; '.join(since)}: {remedy}"
        )


class _Cropped(NamedTuple):
    """A record as the encoders take it; its fields are named like those of an example."""

    record: LoadedRecord
    image: UInt8[np.ndarray, "height width 3"]
    masks: list[Bool[np.ndarray, "height width"]]
    subject_images: list[UInt8[np.ndarray, "small small 3"]]
    reference_images: list[UInt8[np.ndarray, "small small 3"]]


def _cropped(
    config: Config,
    records: Records,
    buckets: Buckets,
    tokenizer: Tokenizer,
    small: int,
    chunk: int,
) -> Iterator[list[_Cropped]]:
    """Read and crop the good records of each bucket in order, a chunk at a time, in threads.

    Args:
        small: side of a subject's picture, in pixels.
    """
    ledger = Ledger(config.data.path, len(records), config.data.max_bad_fraction)
    ledger.faults.update(buckets.faults)
    encode_caption(tokenizer, "")  # sets its padding, before the threads use it

    def load(size: Size, index: int) -> _Cropped | None:
        record, fit = records[index], Fit((size,), buckets.max_crop)
        loaded, faults = read_record(record, config.method.max_subjects, tokenizer, fit)
        if loaded is None:
            ledger.add(record.name, faults)
            return None
        random = np.random.default_rng(index)  # by record, as the threads come in any order
        masks = [subject.mask for subject in loaded.subjects]
        image, masks = crop_target(loaded.image, masks, size, flip=False)
        cuts = [cut_out(loaded.image, s.mask, s.box, random) for s in loaded.subjects]
        others = [each.show(random) for s in loaded.subjects for each in s.references]
        prepared = ([prepare_subject(each, small) for each in part] for part in (cuts, others))
        return _Cropped(loaded, image, masks, *prepared)

    bar = Bar(
        f"encoding {config.data.path}",
        sum(map(len, buckets.members.values())),
        stdout=True,
        keep=True,
    )
    with bar, ThreadPoolExecutor(max(1, config.data.workers)) as pool:
        for size, members in buckets.members.items():
            for start in range(0, len(members), chunk):
                part = members[start : start + chunk].tolist()
                yield [cropped for cropped in pool.map(partial(load, size), part) if cropped]
                bar.advance(len(part))


def _encoded(
    chunks: Iterable[list[_Cropped]], size: int, model: MoA, params: Any, mesh: Mesh
) -> Iterator[EncodedRecord]:
    """Send every chunk through the encoders.

    Args:
        size: number of pictures encoded at once.
    """
    encode_images = jax.jit(partial(encode, model))
    encode_subjects = jax.jit(model.encode_subjects)

    def in_parts(function: Callable[..., Any], images: list[np.ndarray]) -> np.ndarray:
        """Encode any number of pictures, `size` at a time."""
        parts = []
        for start in range(0, len(images), size):
            part = np.stack(images[start : start + size])
            padded = np.zeros((size, *part.shape[1:]), np.uint8)  # a bucket is compiled once
            padded[: len(part)] = part
            found = function(params, place_batch(mesh, {"images": padded})["images"])
            parts.append(np.concatenate(jax.device_get(found), axis=-1)[: len(part)])
        return np.concatenate(parts).astype(np.float16)

    for chunk in chunks:
        if not chunk:
            continue
        latents = in_parts(encode_images, [cropped.image for cropped in chunk])
        subjects = [image for cropped in chunk for image in cropped.subject_images]
        subjects += [image for cropped in chunk for image in cropped.reference_images]
        features = np.empty((0, model.image_encoder.config.projection_dim), np.float16)
        if subjects:
            features = in_parts(
                lambda params, images: (encode_subjects(params, images[:, None])[:, 0],), subjects
            )
        crops, others = np.split(features, [sum(len(cropped.masks) for cropped in chunk)])
        others, first = iter(others), 0
        for cropped, latent in zip(chunk, latents, strict=True):
            record, last = cropped.record, first + len(cropped.masks)
            subjects = [
                EncodedSubject(mask, subject.end, tuple(islice(others, len(subject.references))))
                for subject, mask in zip(record.subjects, cropped.masks, strict=True)
            ]
            yield EncodedRecord(
                latent,
                crops[first:last],
                record.caption,
                tuple(subjects),
                record.sample_subjects,
                (cropped.image.shape[1], cropped.image.shape[0]),
            )
            first = last
