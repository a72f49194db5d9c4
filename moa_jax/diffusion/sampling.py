"""Sampling as one compiled scan over a plan of timesteps.

A sampler is a plan (tables made in float64, one row a step) and a pure step function; adding one is
adding one file like `ddim.py` and its line in `SAMPLERS`. A multistep sampler keeps earlier
predictions in the carry that `init` starts. Whatever a sampler's paper scales its latents by, here
they are the network's own, `x_t = signal * x_0 + sqrt(1 - signal^2) * noise`, and float32 from the
first step to the last, whatever the network computes in. Knows no network: the denoiser is a
function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

# (latents "B H W C", timesteps " B", step "") -> (prediction "B H W C", aux: pytree of "B ...");
# `step` counts the plan's rows, for whatever else changes on the way.
Step = int | Int[Array, ""] | Int[np.ndarray, ""]
Denoiser = Callable[[Array, Array, Step], tuple[Array, Any]]
Table = Array | np.ndarray


def no_carry(latents: Float[Array, "B H W C"]) -> tuple[()]:
    """Start a sampler that remembers nothing between steps."""
    return ()


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["timesteps", "signals", "coefficients", "init_noise_sigma"],
    meta_fields=["step", "init"],
)
@dataclass(frozen=True, eq=False)
class Sampler:
    """A plan of steps, noisiest first, and the function that takes one.

    A pytree: a compiled program serves every plan of one length and step function.

    Attributes:
        timesteps: "n", what the denoiser is asked at each step.
        signals: "n+1", share of the picture in the latents at each timestep, and after the last
            step: 1 is the clean picture.
        coefficients: "n" each, tables made in float64, one row a step; `step` gets its row in
            float32.
        step: `(latents, prediction, carry, row, keys) -> (latents, carry)`, all latents float32.
        init: makes the first carry from the first latents.
        init_noise_sigma: standard deviation of the latents that sampling from scratch starts with.
    """

    timesteps: Any  # Any, as for every pytree: jax puts other things than arrays in their place
    signals: Any
    coefficients: dict[str, Any]
    step: Callable[[Array, Array, Any, dict[str, Array], Array], tuple[Array, Any]]
    init: Callable[[Array], Any] = no_carry
    init_noise_sigma: Any = 1.0

    def noisy(
        self, clean: Float[Array, "B H W C"], noise: Float[Array, "B H W C"], step: Step
    ) -> Float[Array, "B H W C"]:
        """Bring a clean picture's latents to the noise level that a step starts from."""
        signal = jnp.asarray(self.signals, jnp.float32)[step]
        return signal * clean + jnp.sqrt(1.0 - signal**2) * noise


def sample(
    denoise: Denoiser,
    sampler: Sampler,
    latents: Float[Array, "B H W C"],
    key: Key[Array, "*B"],
    on_step: Callable[[int], None] | None = None,
    after_step: Callable[[Array, Array], Array] | None = None,
) -> tuple[Float[Array, "B H W C"], Any]:
    """Follow the sampler's plan from noise to a picture; call it under `jax.jit`.

    Args:
        denoise: asked once per step, with the step's timestep repeated for every picture.
        latents: at the first timestep's noise level; from scratch, `init_noise_sigma` times normal
            draws.
        key: for samplers that add noise: one key for all, or one per picture, which then gets the
            same noise in any batch.
        on_step: told the index of each finished step, from the running program; calls may come out
            of order.
        after_step: `(latents, step) -> latents`, what to make of the latents a step has given.

    Returns:
        The latents after the last step, and `denoise`'s aux stacked over steps: leaves "n B ...".
    """
    keys = key if key.ndim else jax.random.split(key, len(latents))

    def step(state, plan):
        latents, carry = state
        index, timestep, row = plan
        prediction, aux = denoise(latents, jnp.broadcast_to(timestep, (len(latents),)), index)
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        latents, carry = sampler.step(
            latents, prediction.astype(jnp.float32), carry, row, step_keys
        )
        if after_step is not None:
            latents = after_step(latents, index)
        if on_step is not None:
            # The unused number ties the report to the step's result: not before it is there.
            jax.debug.callback(lambda i, _: on_step(int(i)), index, latents[0, 0, 0, 0])
        return (latents, carry), aux

    latents = latents.astype(jnp.float32)
    rows = {name: jnp.asarray(table, jnp.float32) for name, table in sampler.coefficients.items()}
    kind = jnp.int32 if jnp.issubdtype(sampler.timesteps.dtype, jnp.integer) else jnp.float32
    timesteps = jnp.asarray(sampler.timesteps, kind)
    plan = (jnp.arange(len(timesteps)), timesteps, rows)
    (latents, _), aux = jax.lax.scan(step, (latents, sampler.init(latents)), plan)
    return latents, aux


def normal_like(
    latents: Float[Array, "B H W C"], keys: Key[Array, " B"]
) -> Float[Array, "B H W C"]:
    """Draw standard normal noise, each picture from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:], jnp.float32))(keys)
