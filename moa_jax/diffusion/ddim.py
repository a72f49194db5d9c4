"""DDIM (Song et al., 2010.02502): first-order steps, deterministic at eta 0, DDPM's noise at eta 1.

Eq. 12 is linear in the latents, the prediction and fresh noise, whatever the network predicts. So
a step is three coefficients, computed beforehand in float64. DDPM, Euler and ancestral Euler use
the same formula between other levels; see `steps_between`.
"""

import numpy as np
from jaxtyping import Array, Float, Key

from moa_jax.diffusion.levels import Levels, ddim_levels
from moa_jax.diffusion.sampling import Sampler, normal_like
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.errors import InputError


def ddim(
    schedule: NoiseSchedule, num_inference_steps: int, eta: float = 0.0, *, skip: int = 0
) -> Sampler:
    """Lay out DDIM steps.

    Each step leads to the timestep that really comes next. diffusers' DDIMScheduler subtracts a
    fixed stride instead, which leads to other timesteps under linspace spacing and, for most step
    counts, under trailing spacing (its issues 11347, 12633).

    Args:
        num_inference_steps: 1 to the schedule's length.
        eta: share of DDPM's noise put back at each step, 0 to 1.
        skip: how many of the first steps to leave out.

    Raises:
        InputError: an argument is out of range.
    """
    if not 0.0 <= eta <= 1.0:
        raise InputError(f"eta={eta} must lie between 0 (deterministic) and 1 (DDPM)")
    levels = ddim_levels(schedule, num_inference_steps, schedule.final_alpha_cumprod)
    return steps_between(schedule, levels.without_first(skip), eta)


def steps_between(
    schedule: NoiseSchedule, levels: Levels, eta: float, init_noise_sigma: float = 1.0
) -> Sampler:
    """Lay out first-order steps from each level to the next.

    Args:
        eta: 0 follows the probability-flow ODE, 1 the ancestral process.
    """
    signals, alphas = levels.signals[:-1], levels.signals[:-1] ** 2
    following = levels.signals[1:] ** 2
    # Source: DDIM, Eq. 16 (sigma) and Eq. 12 (the step).
    variance = eta**2 * (1.0 - following) / (1.0 - alphas) * (1.0 - alphas / following)
    # Rounding may leave slightly less than 0.
    direction = np.sqrt(np.maximum(1.0 - following - variance, 0.0))
    clean, noise = schedule.clean_and_noise(levels.timesteps, signals)
    latents, prediction = levels.signals[1:] * clean + direction * noise
    coefficients = {"latents": latents, "prediction": prediction}
    if eta > 0.0:
        coefficients["fresh_noise"] = np.sqrt(variance)
    return Sampler(
        levels.timesteps,
        levels.signals,
        coefficients,
        linear_step,
        init_noise_sigma=init_noise_sigma,
    )


def linear_step(
    latents: Float[Array, "B H W C"],
    prediction: Float[Array, "B H W C"],
    carry: tuple[()],
    row: dict[str, Float[Array, ""]],
    keys: Key[Array, " B"],
) -> tuple[Float[Array, "B H W C"], tuple[()]]:
    """Add up latents, prediction and fresh noise by a row's coefficients."""
    result = row["latents"] * latents + row["prediction"] * prediction
    if "fresh_noise" in row:
        result += row["fresh_noise"] * normal_like(latents, keys)
    return result, carry
