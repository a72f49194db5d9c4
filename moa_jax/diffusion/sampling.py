"""Sampling: Python follows a table of steps.

A sampler is a set of tables (made in float64, one row a step) and a pure step function. To add one,
add a file like `ddim.py` and its line in `SAMPLERS`. A multistep sampler keeps earlier predictions
in the carry, which `init` starts. However a sampler's paper scales its latents, here they are the
network's own, `x_t = signal * x_0 + sqrt(1 - signal^2) * noise`. They are float32 from the first
step to the last, whatever the network computes in. No network is imported here: the denoiser is a
function.

The loop runs in Python, so no compiled program depends on the number of steps. The caller compiles
the denoiser; the step function is compiled here. The device does not wait for Python, which hands
it the next steps while it computes one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

# (latents "B H W C", timesteps " B" float32, step) -> (prediction "B H W C", aux: any pytree);
# `step` is the number of the step, for whatever else changes from step to step.
Denoiser = Callable[[Array, np.ndarray, int], tuple[Array, Any]]

# (step, its latents "B H W C") -> None; what it raises ends the sampling.
OnStep = Callable[[int, Array], None]

AHEAD = 2  # steps queued on the device beyond the one that Python waits for


def no_carry(latents: Float[Array, "B H W C"]) -> tuple[()]:
    """Start a sampler that remembers nothing between steps."""
    return ()


@dataclass(frozen=True, eq=False)
class Sampler:
    """Tables of the steps, noisiest first, and the function that takes one step.

    Attributes:
        timesteps: the timestep at which each row asks the denoiser.
        signals: share of the picture in the latents before each row, and after the last row; 1 is
            the clean picture.
        coefficients: tables made in float64, one row a step; `step` gets its row in float32.
        step: `(latents, prediction, carry, row, keys) -> (latents, carry)`, all latents float32.
        init: makes the first carry from the first latents.
        init_noise_sigma: standard deviation of the latents that sampling from scratch starts with.
        steps: the step that each row belongs to, for tables that take several rows for a step or go
            backwards; None means row i is step i.
    """

    timesteps: Num[np.ndarray, " n"]
    signals: Float[np.ndarray, " n+1"]
    coefficients: dict[str, Float[np.ndarray, " n"]]
    step: Callable[[Array, Array, Any, dict[str, Array], Array], tuple[Array, Any]]
    init: Callable[[Array], Any] = no_carry
    init_noise_sigma: float = 1.0
    steps: Int[np.ndarray, " n"] | None = None

    @property
    def last_rows(self) -> Int[np.ndarray, " steps"]:
        """The last row of each step, in the order in which the steps are taken."""
        steps = np.arange(len(self.timesteps)) if self.steps is None else self.steps
        return np.flatnonzero(np.diff(steps, append=-1))

    def noisy(
        self, clean: Float[Array, "B H W C"], noise: Float[Array, "B H W C"], row: int
    ) -> Float[Array, "B H W C"]:
        """Bring a clean picture's latents to the noise level that a row starts from."""
        return _noisy(clean, noise, np.float32(self.signals[row]))


def sample(
    denoise: Denoiser,
    sampler: Sampler,
    latents: Float[Array, "B H W C"],
    key: Key[Array, "*B"],
    on_step: OnStep | None = None,
    after_step: Callable[[Array, int], Array] | None = None,
) -> tuple[Float[Array, "B H W C"], list[Any]]:
    """Follow the sampler from noise to a picture; not to be called under `jax.jit`.

    Args:
        denoise: asked once per row, with the row's timestep repeated for every picture; compiled
            by the caller.
        latents: latents at the first row's noise level; to sample from scratch, normal draws times
            `init_noise_sigma`.
        key: for samplers that add noise: one key for all pictures, or one for each. A picture with
            a key of its own gets the same noise in any batch.
        on_step: called with the index of each row and the latents after it, when these are
            computed, in order; an exception that it raises ends the sampling.
        after_step: changes the latents after each row, as `(latents, step) -> latents`.

    Returns:
        The latents after the last step, and `denoise`'s aux of every row.
    """
    keys = key if key.ndim else jax.random.split(key, len(latents))
    latents = jnp.asarray(latents, jnp.float32)
    carry, seen = sampler.init(latents), []
    under_way: deque[tuple[int, Array]] = deque()

    def settle(most: int) -> None:
        """Wait until no more than `most` rows are under way."""
        while len(under_way) > most:
            row, result = under_way.popleft()
            result.block_until_ready()
            if on_step is not None:
                on_step(row, result)

    for row, timestep in enumerate(sampler.timesteps):
        step = row if sampler.steps is None else int(sampler.steps[row])
        timesteps = np.full(len(latents), timestep, np.float32)
        prediction, aux = denoise(latents, timesteps, step)
        numbers = {name: np.float32(table[row]) for name, table in sampler.coefficients.items()}
        latents, carry = _advance(
            sampler.step, latents, prediction, carry, numbers, keys, np.int32(row)
        )
        if after_step is not None:
            latents = after_step(latents, step)
        seen.append(aux)
        under_way.append((row, latents))
        settle(AHEAD)
    settle(0)
    return latents, seen


def normal_like(
    latents: Float[Array, "B H W C"], keys: Key[Array, " B"]
) -> Float[Array, "B H W C"]:
    """Draw standard normal noise, each picture from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:], jnp.float32))(keys)


@partial(jax.jit, static_argnums=0)
def _advance(
    step: Callable[..., tuple[Array, Any]],
    latents: Array,
    prediction: Array,
    carry: Any,
    numbers: dict[str, Array],
    keys: Array,
    row: Array,
) -> tuple[Array, Any]:
    """Take one row's step, with that row's own keys."""
    row_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, row)
    return step(latents, prediction.astype(jnp.float32), carry, numbers, row_keys)


@jax.jit
def _noisy(clean: Array, noise: Array, signal: Array) -> Array:
    return signal * clean + jnp.sqrt(1.0 - signal**2) * noise
