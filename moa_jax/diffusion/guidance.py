"""Classifier-free guidance (Ho and Salimans, 2207.12598), and values for a range of steps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moa_jax.errors import InputError


def over_steps(
    value: float, num_steps: int, start: float = 0.0, end: float = 1.0, outside: float = 0.0
) -> Float[np.ndarray, " n"]:
    """Give `value` to the steps inside a range, and `outside` to the others.

    Args:
        num_steps: how many steps are taken. When a start from a photo leaves out the first steps,
            only the rest count, as in diffusers.
        start: where the range begins: 0 is before the first step, 1 after the last.
        end: where the range ends; a step counts only if all of it lies inside.

    Raises:
        InputError: not 0 <= start < end <= 1, or no step lies in the range.

    Example:
        >>> from moa_jax.diffusion import over_steps
        >>> over_steps(5.0, 4, start=0.25, outside=1.0).tolist()
        [1.0, 5.0, 5.0, 5.0]
    """
    check_range(start, end)
    steps, slack = np.arange(num_steps), 1e-9  # 1/3 of 3 steps is one step, whatever it rounds to
    inside = (steps / num_steps >= start - slack) & ((steps + 1) / num_steps <= end + slack)
    if not inside.any():
        raise InputError(
            f"a range of steps from {start:g} to {end:g} holds none of the {num_steps} steps that "
            f"are taken, for each takes {1 / num_steps:.2g} of the way: make it wider, or take "
            "more steps"
        )
    return np.where(inside, value, outside)


def check_range(start: float, end: float) -> None:
    """Refuse a range of steps that is empty, reversed or not between 0 and 1.

    Raises:
        InputError: not 0 <= start < end <= 1.
    """
    if not 0.0 <= start < end <= 1.0:
        raise InputError(
            f"a range of steps from {start:g} to {end:g}: needs 0 <= start < end <= 1, e.g. 0 0.5 "
            "for the first half"
        )


def classifier_free_guidance(
    unconditional: Float[Array, "B H W C"],
    conditional: Float[Array, "B H W C"],
    guidance_scale: float | Float[Array, ""],
    rescale: float | Float[Array, ""] = 0.0,
) -> Float[Array, "B H W C"]:
    """Push a prediction away from the unconditional one, in float32.

    Args:
        guidance_scale: 1 is the conditional prediction alone, 0 the unconditional one.
        rescale: how far to bring the result's standard deviation back to the conditional
            prediction's, from 0 (not at all, exactly) to 1 (fully). Source: 2305.08891, Sec. 3.4.
    """
    unconditional, conditional = (each.astype(jnp.float32) for each in (unconditional, conditional))
    prediction = unconditional + guidance_scale * (conditional - unconditional)
    factor = 1.0 + rescale * (_deviation(conditional) / _deviation(prediction) - 1.0)
    # Not a Python branch, because `rescale` may be traced.
    return jnp.where(rescale > 0.0, factor, 1.0) * prediction


def _deviation(prediction: Float[Array, "B H W C"]) -> Float[Array, "B 1 1 1"]:
    """Measure each picture's standard deviation."""
    return jnp.std(prediction, axis=(1, 2, 3), keepdims=True, ddof=1)
