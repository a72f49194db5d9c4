"""The training data of a run: streamed from its files, or kept in the devices' memory."""

from collections.abc import Sequence

from jax.sharding import Mesh

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.config import Config
from moa_jax.data.loader import Loader, make_loader
from moa_jax.errors import InputError
from moa_jax.training.mesh import host_rows
from moa_jax.training.resident import ResidentLoader


def open_batches(config: Config, base: StableDiffusion, mesh: Mesh) -> Loader | ResidentLoader:
    """Stream the training data, or keep it on the devices if `data.resident` asks for that."""
    if not config.data.resident:
        return open_data(config, base, host_rows(mesh, config.train.batch_size))
    return ResidentLoader(
        config.data,
        base.tokenizer,
        mesh,
        max_subjects=config.method.max_subjects,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
    )


def open_data(config: Config, base: StableDiffusion, rows: Sequence[int] | None = None) -> Loader:
    """Stream the training data: all of each batch, or some rows of it."""
    return make_loader(
        config.data,
        base.tokenizer,
        max_subjects=config.method.max_subjects,
        subject_resolution=base.image_encoder.module.config.image_size,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        rows=rows,
    )


def check_resolution(resolution: int, base: StableDiffusion) -> None:
    """Refuse pictures whose latents the U-Net cannot halve at each of its levels.

    Raises:
        InputError: the resolution is not a multiple of the factor that the message names.
    """
    levels = len(base.unet.config["block_out_channels"])
    # The VAE's own factor, and a halving from each level to the next.
    factor = base.vae.module.config.downscale * 2 ** (levels - 1)
    if resolution % factor:
        raise InputError(f"data.resolution={resolution} must be a multiple of {factor}")
