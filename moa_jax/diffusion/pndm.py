"""PNDM (Liu et al., 2202.09778) without Runge-Kutta steps, also called PLMS: four predictions deep.

Each step is DDIM's, with a linear multistep combination of the last predictions in place of the
newest. Earlier ones are not there at first: the first step is taken twice, the second time with the
mean of the predictions at both of its ends, and the order then rises to four.

Source: as diffusers' PNDMScheduler computes it with `skip_prk_steps`, which is how Stable Diffusion
1.x was released.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from moa_jax.diffusion.ddim import steps_between
from moa_jax.diffusion.levels import ddim_levels
from moa_jax.diffusion.sampling import Sampler
from moa_jax.diffusion.schedule import NoiseSchedule

Latents = Float[Array, "B H W C"]

# Weights of the newest prediction and of those before it: Adams and Bashforth's of each order.
ORDERS = np.array(
    [
        [1.0, 0.0, 0.0, 0.0],
        [3 / 2, -1 / 2, 0.0, 0.0],
        [23 / 12, -16 / 12, 5 / 12, 0.0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
)


def pndm(schedule: NoiseSchedule, num_inference_steps: int, *, skip: int = 0) -> Sampler:
    """Lay out PNDM's steps; the network is asked once more than there are steps.

    As with `ddim`, each step leads to the timestep that really comes next. A start from a photo
    takes its own first step twice; diffusers then repeats a step that it does not stand at.

    Args:
        num_inference_steps: 1 to the schedule's length.
        skip: how many of the first steps to leave out.

    Raises:
        InputError: an argument is out of range.
    """
    levels = ddim_levels(schedule, num_inference_steps, schedule.final_alpha_cumprod)
    levels = levels.without_first(skip)
    taken = len(levels.timesteps)
    first_order = steps_between(schedule, levels, eta=0.0).coefficients
    # Of each row: the step it takes, the level at which it asks, and whether it takes it again.
    steps, asked, again = np.arange(taken), np.arange(taken), np.zeros(taken)
    weights = ORDERS[np.minimum(steps, 3)]
    if taken > 1:
        steps, asked, again = (
            np.insert(table, 1, value) for table, value in ((steps, 0), (asked, 1), (again, 1))
        )
        weights = np.insert(weights, 1, [1 / 2, 1 / 2, 0.0, 0.0], axis=0)
    names = ("newest", "second", "third", "fourth")
    coefficients = {
        **{name: table[steps] for name, table in first_order.items()},
        **dict(zip(names, weights.T, strict=True)),
        "again": again,
    }
    signals = np.append(levels.signals[asked], levels.signals[-1])
    timesteps = levels.timesteps[asked]
    return Sampler(timesteps, signals, coefficients, _step, _init, steps=steps)


def _init(latents: Latents) -> tuple[Latents, ...]:
    """Start without a past: where the step begins, and three predictions of weight 0."""
    return (latents, *(jnp.zeros_like(latents),) * 3)


def _step(
    latents: Latents,
    prediction: Latents,
    carry: tuple[Latents, ...],
    row: dict[str, Float[Array, ""]],
    keys: Key[Array, " B"],
) -> tuple[Latents, tuple[Latents, ...]]:
    start, second, third, fourth = carry
    again = row["again"] > 0.0
    start = jnp.where(again, start, latents)
    combined = (
        row["newest"] * prediction
        + row["second"] * second
        + row["third"] * third
        + row["fourth"] * fourth
    )
    following = row["latents"] * start + row["prediction"] * combined
    # What mends the first step is not kept, because the next row asks at the same timestep.
    kept, newer = (second, third, fourth), (prediction, second, third)
    past = (jnp.where(again, *each) for each in zip(kept, newer, strict=True))
    return following, (start, *past)
