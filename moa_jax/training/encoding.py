"""Encode a data set once, before training, with the networks that do not learn.

As long as neither a picture nor the encoders change, the picture's encoding stays the same, and
encoding it at every step is a waste. The noise behind a subject is drawn only once too.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, UInt8

from moa_jax.config import Config
from moa_jax.data.augment import crop_target, cut_out, prepare_subject
from moa_jax.data.buckets import Buckets, Fit, Size
from moa_jax.data.captions import Tokenizer, encode_caption
from moa_jax.data.encoded import EncodedRecord, EncodedRecords, EncodedSubject, write_encoded
from moa_jax.data.examples import LoadedRecord, read_record
from moa_jax.data.ledger import Ledger
from moa_jax.data.records import Records, open_records
from moa_jax.data.references import count_references
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.model import MoA
from moa_jax.training.kept import (
    PART,
    describe_source,
    encode_in_parts,
    is_kept,
    read_in_chunks,
)
from moa_jax.training.objective import encode

ENCODERS = ("vae", "image_encoder")


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
    source = describe_source(config, records, identity, ENCODERS)
    source["max_subjects"] = config.method.max_subjects
    if model.variant.replaces("look"):
        source["look"] = config.method.mixture
    if is_kept("data.encoded", folder, source, records, EncodedRecords):
        return
    square = (data.resolution, data.resolution)
    tower = model.image_encoder.config
    frozen = {name: params[name] for name in ENCODERS}
    chunk = PART * mesh.size
    buckets = buckets or Buckets({square: np.arange(len(records))})
    chunks = _cropped(config, records, buckets, tokenizer, tower.image_size, chunk)
    try:
        write_encoded(
            folder,
            _encoded(chunks, chunk, model, frozen, mesh, model.feature_width(params)),
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

    for _, part in read_in_chunks(config.data, buckets, chunk, load):
        yield part


def _encoded(
    chunks: Iterable[list[_Cropped]], size: int, model: MoA, params: Any, mesh: Mesh, width: int
) -> Iterator[EncodedRecord]:
    """Send every chunk through the encoders.

    Args:
        size: number of pictures encoded at once.
        width: of a subject's features.
    """
    encode_images = jax.jit(partial(encode, model))
    encode_subjects = jax.jit(model.encode_subjects)

    in_parts = partial(encode_in_parts, params=params, mesh=mesh, size=size)
    for chunk in chunks:
        if not chunk:
            continue
        latents = in_parts(encode_images, [cropped.image for cropped in chunk])
        subjects = [image for cropped in chunk for image in cropped.subject_images]
        subjects += [image for cropped in chunk for image in cropped.reference_images]
        features = np.empty((0, width), np.float16)
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
