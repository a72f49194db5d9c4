"""Latent consistency sampling: one to eight steps, for networks that were distilled for it.

A LoRA such as LCM-LoRA distils an ordinary checkpoint. Each step predicts the clean picture at
once, and fresh noise brings it to the next level.

Source: Latent Consistency Models (2310.04378), as diffusers' LCMScheduler computes it.
"""

import numpy as np

from moa_jax.diffusion.ddim import linear_step
from moa_jax.diffusion.levels import Levels
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.errors import InputError

DISTILLED_STEPS = 50  # steps of the solver that the network was distilled from
DATA_DEVIATION = 0.5  # of the data, in the boundary condition
TIMESTEP_SCALING = 10.0  # of the timesteps, in the boundary condition


def lcm(schedule: NoiseSchedule, num_inference_steps: int, *, skip: int = 0) -> Sampler:
    """Lay out latent consistency steps.

    The timesteps are those of the distillation, 19, 39, ..., 999 of 1000, from the noisiest down.
    The checkpoint's spacing does not matter.

    Args:
        num_inference_steps: 1 to DISTILLED_STEPS; 4 is usual.
        skip: how many of the first steps to leave out.

    Raises:
        InputError: an argument is out of range.
    """
    if not 1 <= num_inference_steps <= DISTILLED_STEPS:
        raise InputError(
            f"num_inference_steps={num_inference_steps} must be 1 to {DISTILLED_STEPS} for lcm, "
            "whose networks are distilled for few steps; 4 is usual"
        )
    stride = schedule.num_train_timesteps // DISTILLED_STEPS
    distilled = np.arange(DISTILLED_STEPS, 0, -1) * stride - 1
    places = np.linspace(0, DISTILLED_STEPS, num_inference_steps, endpoint=False)
    timesteps = distilled[np.floor(places).astype(np.int64)]
    signals = np.sqrt(np.append(schedule.alphas_cumprod[timesteps], 1.0))
    levels = Levels(timesteps, signals).without_first(skip)
    (latents, prediction), _ = schedule.clean_and_noise(levels.timesteps, levels.signals[:-1])
    # The boundary condition: near timestep 0 the answer is the latents themselves.
    scaled = TIMESTEP_SCALING * levels.timesteps
    norm = np.hypot(scaled, DATA_DEVIATION)
    kept, predicted = (DATA_DEVIATION / norm) ** 2, scaled / norm
    following = levels.signals[1:]
    coefficients = {
        "latents": following * (predicted * latents + kept),
        "prediction": following * predicted * prediction,
        "fresh_noise": np.sqrt(1.0 - following**2),  # 0 after the last step
    }
    return Sampler(levels.timesteps, levels.signals, coefficients, linear_step)
