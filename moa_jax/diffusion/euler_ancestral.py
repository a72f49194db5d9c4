"""Ancestral Euler steps, after k-diffusion: each steps too far down, and fresh noise leads back."""

from moa_jax.diffusion.ddim import steps_between
from moa_jax.diffusion.levels import euler_levels
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule


def euler_ancestral(schedule: NoiseSchedule, num_inference_steps: int, *, skip: int = 0) -> Sampler:
    """Lay out ancestral Euler steps.

    A step from sigma to sigma' first goes down to `sigma'^2 / sigma`. The noise that leads back up
    has variance `sigma'^2 * (1 - sigma'^2 / sigma^2)`. In the network's own latents these two are
    the direction and the variance of DDIM's Eq. 12 at eta 1, between Euler's levels.

    Args:
        num_inference_steps: 1 to the schedule's length.
        skip: how many of the first steps to leave out.

    Raises:
        InputError: an argument is out of range.
    """
    levels, first = euler_levels(schedule, num_inference_steps)
    return steps_between(schedule, levels.without_first(skip), eta=1.0, init_noise_sigma=first)
