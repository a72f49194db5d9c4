"""The noise levels of a sampler's steps, chosen for each family of samplers as in diffusers.

DDIM and DDPM use the schedule's timesteps as they are. Euler's steps may stand between timesteps;
those of DPM-Solver and UniPC end before timestep 0. These two families always end at the clean
picture, and can spread their levels as Karras et al. do.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Levels:
    """The noise levels of steps, noisiest first.

    Attributes:
        timesteps: the timestep at which each step asks the network.
        signals: share of the picture in the latents before each step, and after the last step.
    """

    timesteps: Num[np.ndarray, " n"]
    signals: Float[np.ndarray, " n+1"]

    def without_first(self, skip: int) -> "Levels":
        """Leave out the first steps, as image to image does.

        Raises:
            InputError: no step would be left, or `skip` is negative.
        """
        if not 0 <= skip < len(self.timesteps):
            raise InputError(
                f"skip={skip}: of {len(self.timesteps)} steps 0 to {len(self.timesteps) - 1} can "
                "be left out"
            )
        return Levels(self.timesteps[skip:], self.signals[skip:])


def ddim_levels(schedule: NoiseSchedule, num_inference_steps: int, end: float) -> Levels:
    """Lay the levels of DDIM and DDPM.

    Args:
        end: share of the picture's variance after the last step.
    """
    timesteps = schedule.inference_timesteps(num_inference_steps, "leading")
    return Levels(timesteps, np.sqrt(np.append(schedule.alphas_cumprod[timesteps], end)))


def euler_levels(
    schedule: NoiseSchedule, num_inference_steps: int, karras: bool = False
) -> tuple[Levels, float]:
    """Lay the levels of Euler's samplers, and give the deviation of the latents to start with.

    Between two timesteps, sigma is interpolated linearly. Between two sigmas, the timestep is
    interpolated over the logarithm of sigma. Both are as in diffusers and k-diffusion.

    Returns:
        The levels, and the standard deviation of the latents to start with. Under linspace and
        trailing spacing it is that of the noise alone, as in diffusers.
    """
    timesteps = schedule.inference_timesteps(num_inference_steps, "linspace")
    spacing, steps = schedule.spacing or "linspace", np.arange(schedule.num_train_timesteps)
    if spacing == "linspace":
        # Not rounded, because Euler's steps may stand between timesteps.
        timesteps = np.linspace(steps[-1], 0.0, num_inference_steps)
    sigmas = np.interp(timesteps, steps, schedule.sigmas)
    if karras:
        sigmas = _karras(sigmas[0], sigmas[-1], num_inference_steps)
        timesteps = _timesteps_at(schedule, sigmas)
    first = 1.0 if spacing == "leading" else sigmas[0] / np.hypot(1.0, sigmas[0])
    return Levels(timesteps, _signals_to_clean(sigmas)), float(first)


def solver_levels(
    schedule: NoiseSchedule, num_inference_steps: int, karras: bool = False
) -> Levels:
    """Lay the levels of DPM-Solver and UniPC."""
    timesteps = schedule.inference_timesteps(num_inference_steps, "linspace", leave_cleanest=True)
    sigmas = schedule.sigmas[timesteps]
    if karras:
        sigmas = _karras(schedule.sigmas[-1], schedule.sigmas[0], num_inference_steps)
        # Rounded as in diffusers; the sigmas are not.
        timesteps = _timesteps_at(schedule, sigmas).round().astype(np.int64)
    return Levels(timesteps, _signals_to_clean(sigmas))


def _karras(most: float, least: float, num_inference_steps: int) -> Float[np.ndarray, " n"]:
    """Spread sigmas so that their seventh roots are evenly spaced.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models (2206.00364), Eq. 5.
    """
    rho = 7.0
    way = np.linspace(0.0, 1.0, num_inference_steps)
    return (most ** (1 / rho) + way * (least ** (1 / rho) - most ** (1 / rho))) ** rho


def _timesteps_at(
    schedule: NoiseSchedule, sigmas: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    steps = np.arange(schedule.num_train_timesteps, dtype=np.float64)
    return np.interp(np.log(sigmas), np.log(schedule.sigmas), steps)


def _signals_to_clean(sigmas: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n+1"]:
    return 1.0 / np.hypot(1.0, np.append(sigmas, 0.0))
