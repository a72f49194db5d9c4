"""DPM-Solver++ 2M (Lu et al., 2211.01095, Algorithm 2): second order from one prediction a step.

The linear part of the probability-flow ODE is solved exactly. The predicted clean picture is
extrapolated from this step's and the previous step's, over half the log signal-to-noise ratio.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from moa_jax.diffusion.levels import solver_levels
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule


def dpm_solver_pp_2m(
    schedule: NoiseSchedule, num_inference_steps: int, *, skip: int = 0, karras: bool = False
) -> Sampler:
    """Lay out DPM-Solver++ 2M steps.

    The first step is of first order, because there is no earlier prediction. So is the last,
    because it leads to an infinite signal-to-noise ratio.

    Args:
        num_inference_steps: 1 to the schedule's length.
        skip: how many of the first steps to leave out.
        karras: spread the noise levels as Karras et al. (2206.00364) do, Eq. 5.

    Raises:
        InputError: an argument is out of range.
    """
    levels = solver_levels(schedule, num_inference_steps, karras).without_first(skip)
    (from_latents, from_prediction), _ = schedule.clean_and_noise(
        levels.timesteps, levels.signals[:-1]
    )
    ratio, clean, previous = multistep_weights(levels.signals)
    # The clean picture is linear in latents and prediction, so its weight goes to both.
    coefficients = {
        "latents": ratio + clean * from_latents,
        "prediction": clean * from_prediction,
        "previous": previous,
        "clean_latents": from_latents,
        "clean_prediction": from_prediction,
    }
    return Sampler(levels.timesteps, levels.signals, coefficients, _step, jnp.zeros_like)


def multistep_weights(
    signals: Float[np.ndarray, " levels"],
) -> Float[np.ndarray, "3 levels-1"]:
    """Compute the weights of the three terms that each step adds up.

    The terms are the latents, the clean picture predicted from them, and the clean picture that the
    step before predicted.

    Source: DPM-Solver++ (2211.01095), Algorithm 2.
    """
    noises = np.sqrt(1.0 - signals**2)
    sigmas = noises / signals
    shrink = sigmas[1:] / sigmas[:-1]  # exp(-h), h the step in half log signal-to-noise
    first_order = signals[1:] * (1.0 - shrink)
    steps = -np.log(shrink[:-1])  # the last step is infinite, and is not needed
    extrapolated = np.zeros_like(first_order)
    extrapolated[1:-1] = first_order[1:-1] * steps[1:] / (2.0 * steps[:-1])
    return np.stack([noises[1:] / noises[:-1], first_order + extrapolated, -extrapolated])


def _step(
    latents: Float[Array, "B H W C"],
    prediction: Float[Array, "B H W C"],
    carry: Float[Array, "B H W C"],
    row: dict[str, Float[Array, ""]],
    keys: Key[Array, " B"],
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    following = row["latents"] * latents + row["prediction"] * prediction + row["previous"] * carry
    return following, row["clean_latents"] * latents + row["clean_prediction"] * prediction
