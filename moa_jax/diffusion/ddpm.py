"""DDPM (Ho et al., 2006.11239): the ancestral process, in any number of steps."""

from moa_jax.diffusion.ddim import steps_between
from moa_jax.diffusion.levels import ddim_levels
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule


def ddpm(schedule: NoiseSchedule, num_inference_steps: int, *, skip: int = 0) -> Sampler:
    """Lay out DDPM's steps.

    Each step draws the next level from its posterior, given the predicted clean picture. Mean and
    variance are those of DDPM's Eq. 7, which DDIM's Eq. 12 gives at eta 1 (DDIM, Sec. 4.1). The
    variance is the smaller of DDPM's two. The last step ends at the clean picture, without noise.

    Args:
        num_inference_steps: 1 to the schedule's length.
        skip: how many of the first steps to leave out.

    Raises:
        InputError: an argument is out of range.
    """
    levels = ddim_levels(schedule, num_inference_steps, end=1.0)
    return steps_between(schedule, levels.without_first(skip), eta=1.0)
