"""Classifier-free guidance (Ho and Salimans, 2207.12598) as a function around a denoiser.

What the wrapped denoiser holds (context, subjects) is the doubled batch, [unconditional;
conditional] in diffusers' order; the sampler sees the plain batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.diffusion.sampling import Denoiser


def classifier_free_guidance(
    denoise: Denoiser, guidance_scale: float | Float[Array, ""]
) -> Denoiser:
    """Push each prediction away from the unconditional one.

    Args:
        denoise: a denoiser of the doubled batch [unconditional; conditional].
        guidance_scale: 1 is the conditional prediction alone (without the wrapper it is half the
            work), 0 the unconditional one; may be traced, so that no scale compiles anew.

    Returns:
        A denoiser of the plain batch; its aux is the conditional half's.
    """

    def guided(latents: Array, timesteps: Array) -> tuple[Array, object]:
        both, aux = denoise(
            jnp.concatenate([latents, latents]), jnp.concatenate([timesteps, timesteps])
        )
        unconditional, conditional = jnp.split(both.astype(jnp.float32), 2)
        prediction = unconditional + guidance_scale * (conditional - unconditional)
        return prediction, jax.tree.map(lambda leaf: leaf[len(latents) :], aux)

    return guided
