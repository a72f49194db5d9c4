"""What all trainings on the toy world's latents share: encoding pictures, and the objective.

This is plain Stable Diffusion training: noise at a random timestep, and the schedule's target. The
objective knows neither which network predicts nor which weights learn.
"""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int32, UInt8

from moa_jax.backbone.stable_diffusion import Component
from moa_jax.cli import track
from moa_jax.diffusion.schedule import NoiseSchedule, add_noise, training_target
from moa_jax.method.trained import combine
from moa_jax.toyworld.pretraining.autoencoder import to_pixels
from moa_jax.toyworld.pretraining.contrast import either_caption
from moa_jax.training.mesh import place_batch
from moa_jax.training.step import Batch, Numbers, Objective

CHUNK = 256  # pictures encoded at once

# (parameters, batch, noisy latents, timesteps, text) -> prediction of the schedule's target
Predict = Callable[[Any, Batch, Array, Array, Array], Array]


def encode_pictures(
    vae: Component, pictures: UInt8[np.ndarray, "n H W 3"], mesh: Mesh
) -> Iterator[np.ndarray]:
    """Encode pictures, chunk by chunk.

    Yields:
        Latents "m h w 2C": means and standard deviations, at the U-Net's scale.
    """
    scale = vae.config["scaling_factor"]

    @jax.jit
    def encode(params: Any, batch: Batch) -> Array:
        pixels = to_pixels(batch["pictures"])
        mean, log_variance = vae.module.apply({"params": params}, pixels, method="encode")
        return scale * jnp.concatenate([mean, jnp.exp(0.5 * log_variance)], axis=-1)

    for first in track(range(0, len(pictures), CHUNK), "encoding the pictures"):
        part = np.asarray(pictures[first : first + CHUNK])
        # Chunks of one size share one compiled program.
        padded = np.pad(part, [(0, CHUNK - len(part)), (0, 0), (0, 0), (0, 0)])
        encoded = encode(vae.params, place_batch(mesh, {"pictures": padded}))
        yield np.asarray(encoded)[: len(part)]


def denoising_objective(
    text: nn.Module,
    predict: Predict,
    schedule: NoiseSchedule,
    condition_dropout: float,
    empty: Int32[np.ndarray, " S"],
    described: float = 0.0,
) -> Objective:
    """Predict the schedule's target from noisy latents and the caption.

    Args:
        text: the text tower; its parameters are named "text_encoder".
        condition_dropout: share of the captions that are left out, for guidance.
        empty: token ids of the empty caption.
        described: share of the captions that name attributes of people.
    """

    def objective(trained: Any, frozen: Any, batch: Batch, keys: Array) -> tuple[Array, Numbers]:
        params = combine(trained, frozen)
        mean, deviation = jnp.split(batch["latents"].astype(jnp.float32), 2, axis=-1)

        def draw(key: Array) -> tuple[Array, Array, Array, Array]:
            encoding, noise, time, coin = jax.random.split(key, 4)
            return (
                jax.random.normal(encoding, mean.shape[1:]),
                jax.random.normal(noise, mean.shape[1:]),
                jax.random.randint(time, (), 0, schedule.num_train_timesteps),
                jax.random.bernoulli(coin, condition_dropout),
            )

        encoding, noise, timesteps, dropped = jax.vmap(draw)(keys)
        # A new sample of the encoding in every step.
        latents = mean + deviation * encoding
        said = either_caption(batch, keys, described) if described else batch["input_ids"]
        ids = jnp.where(dropped[:, None], jnp.asarray(empty)[None], said)
        context = text.apply({"params": params["text_encoder"]}, ids)
        noisy = add_noise(schedule, latents, noise, timesteps)
        prediction = predict(params, batch, noisy, timesteps, context)
        target = training_target(schedule, latents, noise, timesteps)
        loss = jnp.mean(jnp.square(prediction.astype(jnp.float32) - target))
        return loss, {"loss/total": loss}

    return objective
