"""The training data of a run: streamed from its files, or kept in the devices' memory."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.cli import Bar
from moa_jax.config import Config
from moa_jax.data.buckets import Buckets, Fit, Size, bucket_sizes
from moa_jax.data.loader import Loader, make_loader
from moa_jax.data.records import open_records
from moa_jax.data.sizes import find_buckets, read_sizes
from moa_jax.errors import InputError
from moa_jax.training.hosts import divided
from moa_jax.training.mesh import host_rows, place_batch_shapes
from moa_jax.training.resident import ResidentLoader


def open_batches(
    config: Config,
    base: StableDiffusion,
    mesh: Mesh,
    buckets: Buckets | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Loader | ResidentLoader:
    """Stream the training data, or keep it on the devices if `data.resident` asks for that.

    Args:
        buckets: from `open_buckets`; encoded data have their own.
        say: told of what takes long.
    """
    if not config.data.resident:
        buckets = None if config.data.encoded else buckets
        return open_data(config, base, host_rows(mesh, config.train.batch_size), buckets)
    say("reading the encoded data into the devices' memory")
    return ResidentLoader(
        config.data,
        base.tokenizer,
        mesh,
        max_subjects=config.method.max_subjects,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
    )


def open_data(
    config: Config,
    base: StableDiffusion,
    rows: Sequence[int] | None = None,
    buckets: Buckets | None = None,
) -> Loader:
    """Stream the training data: all of each batch, or some rows of it."""
    return make_loader(
        config.data,
        base.tokenizer,
        max_subjects=config.method.max_subjects,
        subject_resolution=base.image_encoder.module.config.image_size,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        rows=rows,
        buckets=buckets,
    )


def open_buckets(
    config: Config, base: StableDiffusion, say: Callable[[str], None] = lambda words: None
) -> Buckets | None:
    """Read the sizes of all pictures and put each into its bucket; all hosts must call this.

    Each host reads a part of the sizes, and all of them get all. So they agree on the buckets.

    Args:
        say: told how many pictures are in each bucket, and how many in none.

    Returns:
        The buckets; None without `data.buckets`.

    Raises:
        InputError: more pictures than allowed cannot be read or fit no bucket.
    """
    data = config.data
    if not data.buckets:
        return None
    records = open_records(*data.source())
    with Bar("reading sizes", len(records), stdout=True) as bar:
        sizes = divided(
            len(records), lambda part: read_sizes(records, part, data.workers, bar.advance)
        )
    fit = Fit(bucket_sizes(data.resolution, side_unit(base)), data.max_crop)
    buckets = find_buckets(data, records, sizes, fit)
    say(buckets.described())
    return buckets


def upcoming_shapes(
    config: Config, base: StableDiffusion, mesh: Mesh, batches: Loader | ResidentLoader
) -> list[Mapping[str, jax.ShapeDtypeStruct]]:
    """Give the shapes of the batches of each bucket in use, the largest first; else none."""
    if not isinstance(batches, Loader) or batches.buckets is None:
        return []
    sizes = batches.buckets.sizes
    return [place_batch_shapes(mesh, batch_shapes(config, base, size)) for size in sizes]


def batch_sizes(config: Config, base: StableDiffusion) -> tuple[Size, ...]:
    """List the sizes that a batch of a run can have; those of most pixels first."""
    square = (config.data.resolution, config.data.resolution)
    return bucket_sizes(square[0], side_unit(base)) if config.data.buckets else (square,)


def batch_shapes(
    config: Config, base: StableDiffusion, size: Size
) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Give the shapes of a training batch of all hosts together, as `moa_jax.data` makes it.

    Args:
        size: width and height of its pictures, in pixels.
    """
    subjects, (width, height) = config.method.max_subjects, size
    tower = base.image_encoder.module.config
    target = {"image": ((height, width, 3), np.uint8)}
    if config.data.encoded or config.data.latents:
        vae = base.vae.module.config
        sides = (height // vae.downscale, width // vae.downscale)
        # Means and standard deviations: see `moa_jax.data.encoded`.
        target = {"latents": ((*sides, 2 * vae.latent_channels), np.float16)}
    if config.data.encoded:
        shown = {"features": ((subjects, tower.projection_dim), np.float16)}
    else:
        small = (tower.image_size, tower.image_size, 3)
        shown = {"subject_images": ((subjects, *small), np.uint8)}
    shapes = {
        **target,
        **shown,
        "masks": ((subjects, height, width), np.uint8),
        "subject_tokens": ((subjects,), np.int32),
        "subject_present": ((subjects,), np.bool_),
        "input_ids": ((base.tokenizer.model_max_length,), np.int32),
    }
    rows = config.train.batch_size
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), kind) for name, (shape, kind) in shapes.items()
    }


def side_unit(base: StableDiffusion) -> int:
    """Say what a picture's sides must be multiples of, in pixels, for the networks to halve it."""
    levels = len(base.unet.config["block_out_channels"])
    # The VAE's own factor, and a halving from each level to the next.
    return base.vae.module.config.downscale * 2 ** (levels - 1)


def check_resolution(resolution: int, base: StableDiffusion) -> None:
    """Refuse pictures whose latents the U-Net cannot halve at each of its levels.

    Raises:
        InputError: the resolution is not a multiple of the factor that the message names.
    """
    factor = side_unit(base)
    if resolution % factor:
        raise InputError(f"data.resolution={resolution} must be a multiple of {factor}")
