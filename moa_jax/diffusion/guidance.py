"""Classifier-free guidance (Ho and Salimans, 2207.12598) as a function around a denoiser.

What the wrapped denoiser holds (context, subjects) is the doubled batch, [unconditional;
conditional] in diffusers' order; the sampler sees the plain batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moa_jax.diffusion.sampling import Denoiser, Step, Table
from moa_jax.errors import InputError


def over_steps(
    value: float, num_steps: int, start: float = 0.0, end: float = 1.0, outside: float = 0.0
) -> Float[np.ndarray, " n"]:
    """Give `value` to the steps that lie in a part of the way, and `outside` to the others.

    Args:
        start: where the part begins: 0 is before the first step, 1 after the last.
        end: where it ends; a step belongs to it that lies in it whole.

    Raises:
        InputError: not 0 <= start < end <= 1.
    """
    if not 0.0 <= start < end <= 1.0:
        raise InputError(
            f"a range of steps from {start:g} to {end:g}: needs 0 <= start < end <= 1, e.g. 0 0.5 "
            "for the first half"
        )
    steps, slack = np.arange(num_steps), 1e-9  # 1/3 of 3 steps is one step, whatever it rounds to
    inside = (steps / num_steps >= start - slack) & ((steps + 1) / num_steps <= end + slack)
    return np.where(inside, value, outside)


def classifier_free_guidance(
    denoise: Denoiser,
    guidance_scale: float | Float[Table, ""] | Float[Table, " n"],
    rescale: float | Float[Array, ""] | None = None,
) -> Denoiser:
    """Push each prediction away from the unconditional one.

    Args:
        denoise: a denoiser of the doubled batch [unconditional; conditional].
        guidance_scale: one for all steps or one for each; 1 is the conditional prediction alone
            (without the wrapper it is half the work), 0 the unconditional one; may be traced, so
            that no scale compiles anew.
        rescale: how far to bring the result's standard deviation back to the conditional
            prediction's, 0 to 1. Source: 2305.08891, Sec. 3.4.

    Returns:
        A denoiser of the plain batch; its aux is the conditional half's.
    """
    scales = jnp.asarray(guidance_scale, jnp.float32)

    def guided(latents: Array, timesteps: Array, step: Step) -> tuple[Array, object]:
        doubled = (jnp.concatenate([each, each]) for each in (latents, timesteps))
        both, aux = denoise(*doubled, step)
        unconditional, conditional = jnp.split(both.astype(jnp.float32), 2)
        scale = scales[step] if scales.ndim else scales
        prediction = unconditional + scale * (conditional - unconditional)
        if rescale is not None:
            wanted, found = _deviation(conditional), _deviation(prediction)
            prediction = prediction * (1.0 + rescale * (wanted / found - 1.0))
        return prediction, jax.tree.map(lambda leaf: leaf[len(latents) :], aux)

    return guided


def _deviation(prediction: Float[Array, "B H W C"]) -> Float[Array, "B 1 1 1"]:
    """Measure each picture's standard deviation."""
    return jnp.std(prediction, axis=(1, 2, 3), keepdims=True, ddof=1)
