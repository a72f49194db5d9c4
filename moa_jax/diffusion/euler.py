"""Euler's method over sigma (Karras et al., 2206.00364, Sec. 3 and 4), at its own noise levels."""

from moa_jax.diffusion.ddim import steps_between
from moa_jax.diffusion.levels import euler_levels
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule


def euler(
    schedule: NoiseSchedule, num_inference_steps: int, *, skip: int = 0, karras: bool = False
) -> Sampler:
    """Lay out Euler steps along the probability-flow ODE.

    A step from `x_0 + sigma * noise` to sigma' gives `x_0 + sigma' * noise`. In the network's own
    latents that is DDIM's step, so this sampler is DDIM between other levels.

    Args:
        num_inference_steps: 1 to the schedule's length.
        skip: how many of the first steps to leave out.
        karras: spread the noise levels as Karras et al. do, Eq. 5.

    Raises:
        InputError: an argument is out of range.
    """
    levels, first = euler_levels(schedule, num_inference_steps, karras)
    return steps_between(schedule, levels.without_first(skip), eta=0.0, init_noise_sigma=first)
