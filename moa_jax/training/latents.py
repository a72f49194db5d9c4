"""Make the latents of a data set's pictures once, before training, with the frozen VAE.

Only the target pictures are encoded here, each as it is and flipped. What the image encoder is
shown stays in the training step, where it is augmented and where the image encoder may learn.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float16, UInt8

from moa_jax.config import Config, DataConfig
from moa_jax.data.augment import crop_target
from moa_jax.data.buckets import Buckets, Fit, Size
from moa_jax.data.examples import read_record
from moa_jax.data.latents import FLIPS, Latents, write_latents
from moa_jax.data.ledger import Ledger
from moa_jax.data.records import Records, open_records
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


def ensure_latents(
    config: Config,
    model: MoA,
    params: Any,
    identity: Identity,
    mesh: Mesh,
    buckets: Buckets | None = None,
) -> None:
    """Write the latents of the data set into the folder `data.latents`, unless the folder exists.

    Args:
        identity: of the networks.
        buckets: of the pictures; None crops all to squares.

    Raises:
        InputError: the folder cannot be written, is missing in a run on many hosts, or holds
            latents of other pictures or by another VAE.
    """
    data, folder = config.data, Path(config.data.latents)
    records = open_records(*data.source())
    source = describe_source(config, records, identity, ("vae",))
    if is_kept("data.latents", folder, source, records, Latents):
        return
    square = (data.resolution, data.resolution)
    buckets = buckets or Buckets({square: np.arange(len(records))})
    vae, frozen = model.vae.config, {"vae": params["vae"]}
    try:
        write_latents(
            folder,
            _encoded(_targets(data, records, buckets, PART * mesh.size), model, frozen, mesh),
            source,
            records=len(records),
            size=buckets.sizes[0],
            downscale=vae.downscale,
            channels=2 * vae.latent_channels,
        )
    except OSError as error:
        raise InputError(f"data.latents={str(folder)!r} cannot be written: {error}") from error


class _Target(NamedTuple):
    """A record's picture as the VAE takes it; the flipped one is its mirror image."""

    index: int
    image: UInt8[np.ndarray, "height width 3"]


def _targets(
    data: DataConfig, records: Records, buckets: Buckets, chunk: int
) -> Iterator[tuple[Size, list[_Target]]]:
    """Read and crop the pictures of each bucket in order, a chunk at a time, in threads."""
    ledger = Ledger(data.path, len(records), data.max_bad_fraction)
    ledger.faults.update(buckets.faults)

    def load(size: Size, index: int) -> _Target | None:
        # What else a record has is read when it is trained on.
        record = replace(records[index], subjects=(), instance_map=None)
        loaded, faults = read_record(record, 0, fit=Fit((size,), buckets.max_crop))
        if loaded is None:
            ledger.add(record.name, faults)
            return None
        return _Target(index, crop_target(loaded.image, [], size, flip=False)[0])

    return read_in_chunks(data, buckets, chunk, load)


def _encoded(
    chunks: Iterator[tuple[Size, list[_Target]]], model: MoA, params: Any, mesh: Mesh
) -> Iterator[tuple[int, Size, Float16[np.ndarray, "2 h w C2"]]]:
    """Send every picture, and then every mirror image, through the VAE."""
    function = jax.jit(partial(encode, model))
    in_parts = partial(encode_in_parts, function, params=params, mesh=mesh, size=PART * mesh.size)
    for size, targets in chunks:
        if not targets:
            continue
        images = np.stack([target.image for target in targets])
        rows = [in_parts(images[:, :, ::-1] if flip else images) for flip in FLIPS]
        for target, latents in zip(targets, np.stack(rows, axis=1), strict=True):
            yield target.index, size, latents
