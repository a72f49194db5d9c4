"""Does the subject's picture matter? Measured while training goes on.

A falling loss proves nothing about identity: the prior alone lowers it. What tells is the same
noisy picture, predicted once with its own subjects and once with its neighbour's. Knows no loop.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.diffusion.schedule import NoiseSchedule, add_noise
from moa_jax.method.losses import union_mask
from moa_jax.method.model import MoA
from moa_jax.training.learning import combine
from moa_jax.training.objective import draw, encode
from moa_jax.training.step import Batch, Numbers, TrainState

PROBED = 8  # pictures of the batch


def make_probe(model: MoA, schedule: NoiseSchedule) -> Callable[[TrainState, Any, Batch], Numbers]:
    """Build `numbers = probe(state, frozen, batch)`, to be jitted."""

    def probe(state: TrainState, frozen: Any, batch: Batch) -> Numbers:
        params = combine(state.trained, frozen)
        batch = {name: array[:PROBED] for name, array in batch.items()}
        mean, _ = encode(model, params, batch["image"])
        keys = jax.random.split(jax.random.wrap_key_data(state.key), len(mean))
        draws = draw(keys, mean.shape[1:], schedule.num_train_timesteps, 0.0)
        noisy = add_noise(schedule, mean, draws.noise, draws.timesteps)
        text = model.encode_text(params, batch["input_ids"])
        features = model.encode_subjects(params, batch["subject_images"])

        def predict(subjects: Float[Array, "B K F"]) -> Float[Array, "B H W C"]:
            tokens = batch["subject_tokens"]
            return model.denoise(params, noisy, draws.timesteps, text, subjects, tokens)[0]

        change = predict(features) - predict(jnp.roll(features, 1, axis=0))
        union = union_mask(batch["masks"].astype(jnp.float32), mean.shape[1:3])
        return swap_effect(change, union)

    return probe


def swap_effect(change: Float[Array, "B H W C"], mask: Float[Array, "B H W"]) -> Numbers:
    """Give the root mean square of a change on the subjects, and on the background.

    Args:
        mask: the union of the subjects; where there is none, nothing counts as subject.
    """
    squared = jnp.mean(jnp.square(change.astype(jnp.float32)), axis=-1)

    def over(region: Float[Array, "B H W"]) -> Float[Array, ""]:
        return jnp.sqrt(jnp.sum(squared * region) / jnp.maximum(jnp.sum(region), 1e-6))

    return {"swap/subject": over(mask), "swap/background": over(1.0 - mask)}
