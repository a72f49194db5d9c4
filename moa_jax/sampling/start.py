"""What a picture starts from: noise from a seed, or a photo brought to a noise level."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.diffusion import Sampler
from moa_jax.errors import InputError
from moa_jax.sampling.photo import Photo, coarse_mask
from moa_jax.sampling.settings import Known

Latents = Float[np.ndarray, "B H W C"] | Float[Array, "B H W C"]


class Start(NamedTuple):
    """Where drawing starts, if not from noise alone.

    Attributes:
        latents: "B H W C", at the noise level of the first step that is taken.
        skip: how many steps are left out at the noisy end.
        known: the part of the pictures that is given; None means that all of it is drawn.
    """

    latents: Any
    skip: int = 0
    known: Known | None = None


def picture_keys(seed: int, count: int) -> Key[Array, " B"]:
    """Make the random key of each picture of a seed; it does not depend on how many there are.

    Raises:
        InputError: `count` is below 1.
    """
    if count < 1:
        raise InputError(f"num_images={count}: must be 1 or more")
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(count))


def standard_noise(keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B H W C"]:
    """Draw each picture's standard normal latents from its key.

    Args:
        shape: the latents' shape, from `latent_shape`.
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)


def latent_shape(
    base: StableDiffusion, height: int | None, width: int | None, num_images: int
) -> tuple[int, int, int, int]:
    """Compute the shape of the latents of some pictures.

    Args:
        height: in pixels; None means the checkpoint's own.
        width: likewise.

    Raises:
        InputError: a side is not a positive multiple of the VAE's factor.
    """
    native, factor = base.unet.config.get("sample_size") or 64, base.vae.module.config.downscale
    rows, columns = native if isinstance(native, (list, tuple)) else (native, native)
    sides = []
    for name, pixels, default in (("height", height, rows), ("width", width, columns)):
        pixels = default * factor if pixels is None else pixels
        if pixels < 1 or pixels % factor:
            raise InputError(
                f"{name}={pixels}: must be a positive multiple of {factor}, e.g. "
                f"{max(1, round(pixels / factor)) * factor}"
            )
        sides.append(pixels // factor)
    return num_images, *sides, base.vae.module.config.latent_channels


def skipped_steps(num_inference_steps: int, strength: float | None, inpainting: bool) -> int:
    """Count the first steps that a photo leaves out.

    Args:
        strength: share of the way that the photo goes through, 0 to 1; None means 0.8, and 1 for
            inpainting.

    Raises:
        InputError: the strength is out of range, or leaves no step.
    """
    if strength is None:
        strength = 1.0 if inpainting else 0.8
    if not 0.0 < strength <= 1.0:
        raise InputError(f"strength={strength}: must lie above 0 (the photo itself) and up to 1")
    taken = int(num_inference_steps * strength)  # rounded down, as in diffusers
    if taken == 0:
        raise InputError(
            f"strength={strength} of {num_inference_steps} steps leaves none: use more steps or a "
            "higher strength"
        )
    return num_inference_steps - taken


def start_from_photo(
    clean: Float[Array, "1 H W C"], photo: Photo, sampler: Sampler, noise: Latents, skip: int
) -> Start:
    """Bring a photo to the noise level of a sampler's first step.

    Args:
        clean: the photo's latents.
        noise: standard normal, a row for each picture.
        skip: how many steps the sampler leaves out. If it leaves out none and only a part is drawn
            anew, that part starts from the noise alone.
    """
    noise = jnp.asarray(noise)
    clean = jnp.broadcast_to(clean, noise.shape)
    if photo.mask is None:
        return Start(sampler.noisy(clean, noise, 0), skip)
    start = sampler.noisy(clean, noise, 0) if skip else noise * sampler.init_noise_sigma
    factor = photo.mask.shape[0] // noise.shape[1]
    levels = [sampler.noisy(clean, noise, int(row) + 1) for row in sampler.last_rows[:-1]]
    # The last step ends at the photo itself.
    return Start(start, skip, Known(coarse_mask(photo.mask, factor), [*levels, clean]))
