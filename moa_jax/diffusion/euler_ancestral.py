"""Ancestral Euler steps, after k-diffusion: each falls too low, and fresh noise lifts it."""

from moa_jax.diffusion.ddim import steps_between
from moa_jax.diffusion.levels import euler_levels
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule


def euler_ancestral(schedule: NoiseSchedule, num_inference_steps: int, *, skip: int = 0) -> Sampler:
    """Lay out ancestral Euler steps.

    The step down from sigma to sigma' goes on to `sigma'^2 / sigma`, and the noise that leads back
    up has variance `sigma'^2 * (1 - sigma'^2 / sigma^2)`: in the network's own latents these are
    the direction and the variance of DDIM's Eq. 12 at eta 1, between Euler's levels.

    Args:
        num_inference_steps: 1 to the schedule's length.
        skip: how many of the first steps to leave out.

    Raises:
        InputError: an argument out of range.
    """
    levels, first = euler_levels(schedule, num_inference_steps)
    return steps_between(schedule, levels.without_first(skip), eta=1.0, init_noise_sigma=first)
