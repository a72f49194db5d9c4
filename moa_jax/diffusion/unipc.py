"""UniPC (Zhao et al., 2302.04867): a multistep predictor, and a corrector that costs no prediction.

It is of order 2 with B(h) = e^h - 1 on the clean picture, so the predictor is DPM-Solver++ 2M. The
network's answer at a predicted point also corrects that point, before the next step starts from it.
The network is not asked again.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from moa_jax.diffusion.dpm_solver import multistep_weights
from moa_jax.diffusion.levels import solver_levels
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule

Latents = Float[Array, "B H W C"]


def unipc(
    schedule: NoiseSchedule, num_inference_steps: int, *, skip: int = 0, karras: bool = False
) -> Sampler:
    """Lay out UniPC-2 steps.

    The first step is of first order, because there is no earlier prediction. So is the last,
    because it leads to an infinite signal-to-noise ratio. The picture after the last step is not
    corrected.

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
    coefficients = {
        "clean_latents": from_latents,
        "clean_prediction": from_prediction,
        "latents": ratio,
        "clean": clean,
        "previous": previous,
        **_corrector(levels.signals),
    }
    return Sampler(levels.timesteps, levels.signals, coefficients, _step, _init)


def _corrector(signals: Float[np.ndarray, " levels"]) -> dict[str, Float[np.ndarray, " levels-1"]]:
    """Compute the weights that make up each row's corrected latents; the first row keeps its own.

    Source: UniPC (2302.04867), Theorem 3.1, for the prediction of the clean picture (Sec. 3.3).
    """
    noises = np.sqrt(1.0 - signals[:-1] ** 2)
    sigmas = noises / signals[:-1]
    steps = np.log(sigmas[:-1] / sigmas[1:])  # h of the steps that are corrected: all but the last
    change = np.expm1(-steps)  # B(h)
    once = change / -steps - 1.0
    twice = once / -steps - 0.5
    # The weights solve [[1, 1], [r, 1]] (earlier, new) = right; without an earlier picture, 1/2.
    right = np.stack([once / change, 2.0 * twice / change])
    position = -steps[:-1] / steps[1:]  # r: where the earlier picture lies, over the step
    earlier = (right[0, 1:] - right[1, 1:]) / (1.0 - position)
    new = np.append(np.full(min(1, len(steps)), 0.5), right[0, 1:] - earlier)
    earlier = np.append(np.zeros(min(1, len(steps))), earlier / position)
    whole = -signals[1:-1] * change
    row = {
        "uncorrected": np.zeros(len(steps)),
        "corrected_last": noises[1:] / noises[:-1],
        "corrected_new": whole * new,
        "corrected_previous": whole * (1.0 - earlier - new),
        "corrected_earlier": whole * earlier,
    }
    return {name: np.append(float(name == "uncorrected"), values) for name, values in row.items()}


def _init(latents: Latents) -> tuple[Latents, Latents, Latents]:
    """Start without a past: the first row gives all three parts of the carry weight 0."""
    return (jnp.zeros_like(latents),) * 3


def _step(
    latents: Latents,
    prediction: Latents,
    carry: tuple[Latents, Latents, Latents],
    row: dict[str, Float[Array, ""]],
    keys: Key[Array, " B"],
) -> tuple[Latents, tuple[Latents, Latents, Latents]]:
    # The row before's corrected latents, and the clean pictures of the two rows before.
    last, previous, earlier = carry
    clean = row["clean_latents"] * latents + row["clean_prediction"] * prediction
    corrected = (
        row["uncorrected"] * latents
        + row["corrected_last"] * last
        + row["corrected_new"] * clean
        + row["corrected_previous"] * previous
        + row["corrected_earlier"] * earlier
    )
    following = row["latents"] * corrected + row["clean"] * clean + row["previous"] * previous
    return following, (corrected, clean, previous)
