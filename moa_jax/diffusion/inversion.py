"""DDIM inversion: from a clean picture's latents back to the noise that DDIM draws them from.

DDIM's deterministic steps are taken backwards (Song et al., 2010.02502, Sec. 4.3; Dhariwal and
Nichol, 2105.05233, Sec. F). A step `y = a x + b f(x, t)` asks the network at x, the unknown point.
So `x = (y - b f(x, t)) / a` is solved by fixed-point iteration (AIDI, 2309.04907, Sec. 3; ReNoise,
2403.14602, Sec. 3).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from moa_jax.diffusion.ddim import ddim
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.errors import InputError


def ddim_inversion(
    schedule: NoiseSchedule, num_inference_steps: int, iterations: int = 3, *, skip: int = 0
) -> Sampler:
    """Lay out DDIM's steps backwards, from the picture to noise.

    The steps are those of `ddim(schedule, num_inference_steps, skip=skip)` and keep their numbers:
    step 0 is the noisiest and comes last here.

    A step takes `iterations` rows, all at the timestep that it leads to; `ends_of_steps` gives the
    last row of each step. The first guess of a step is its starting point, so one iteration is what
    is usually called DDIM inversion. Each further iteration multiplies the remaining error by about
    `|b / a|` times the network's slope in x. Shorter steps make this product smaller. Where it is
    over 1, as strong guidance can make it, the iteration does not converge.

    Args:
        num_inference_steps: 1 to the schedule's length.
        iterations: how often the network is asked in each step.
        skip: how many of DDIM's first steps to leave out, at the noisy end.

    Raises:
        InputError: an argument is out of range, or the checkpoint's steps cannot be inverted.
    """
    if iterations < 1:
        raise InputError(f"iterations={iterations}: each step asks the network once or more")
    if schedule.prediction_type == "sample":
        # Near the clean picture such a step is nearly its prediction, and b / a has no bound.
        raise InputError(
            "prediction_type='sample' cannot be inverted, the iteration diverges: use an epsilon "
            "or v_prediction checkpoint"
        )
    forwards = ddim(schedule, num_inference_steps, skip=skip)
    taken = num_inference_steps - skip
    shrink, push = (forwards.coefficients[name][::-1] for name in ("latents", "prediction"))
    if (np.abs(shrink) < 1e-6).any():
        raise InputError(
            f"num_inference_steps={num_inference_steps}: one step from nothing but noise to the "
            "clean picture forgets where it came from, so there is no way back; take 2 or more"
        )
    tables = {
        "start": 1.0 / shrink,
        "prediction": -push / shrink,
        "timesteps": forwards.timesteps[::-1],
        "signals": forwards.signals[-2::-1],
        "steps": np.arange(taken)[::-1],
    }
    rows = {name: np.repeat(table, iterations) for name, table in tables.items()}
    timesteps, signals, steps = (rows.pop(name) for name in ("timesteps", "signals", "steps"))
    rows["ends"] = np.tile(np.arange(iterations) == iterations - 1, taken) * 1.0
    # A guess has the noise level of the step's end, whichever iteration it is.
    levels = np.append(forwards.signals[-1], signals)
    return Sampler(timesteps, levels, rows, _step, _remember, steps=steps)


def ends_of_steps(inversion: Sampler) -> Int[np.ndarray, " n"]:
    """Give the last row of each step of a `ddim_inversion`.

    After these rows the latents are at the rows' timesteps: DDIM's own, from the last to the first.
    """
    return np.flatnonzero(inversion.coefficients["ends"])


def _remember(latents: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Start the carry at the picture; it holds the point where the current step began."""
    return latents


def _step(
    latents: Float[Array, "B H W C"],
    prediction: Float[Array, "B H W C"],
    carry: Float[Array, "B H W C"],
    row: dict[str, Float[Array, ""]],
    keys: Key[Array, " B"],
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    """Make a new guess from the starting point of the step, which the carry keeps."""
    guess = row["start"] * carry + row["prediction"] * prediction
    return guess, jnp.where(row["ends"] > 0.0, guess, carry)
