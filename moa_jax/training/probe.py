"""Measure, while training goes on, whether the subjects' pictures matter.

A falling loss proves nothing about identity: the prior alone lowers it. So the same noisy picture
is predicted twice, with its own subjects and with other ones. The loop decides when to measure.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moa_jax.config import TrainConfig
from moa_jax.diffusion.schedule import NoiseSchedule, add_noise, training_target
from moa_jax.extension import find
from moa_jax.method.losses import union_mask
from moa_jax.method.model import MoA
from moa_jax.method.trained import combine
from moa_jax.training.objective import draw, encode_batch
from moa_jax.training.step import Batch, Numbers, TrainState, stream

PROBED = 8  # pictures of the batch


def make_probe(
    model: MoA, schedule: NoiseSchedule, seed: int
) -> Callable[[TrainState, Any, Batch], Numbers]:
    """Build `numbers = probe(state, frozen, batch)`, to be jitted.

    Args:
        seed: of the run; the noise and the timesteps are the same in every call.

    Returns:
        A function that gives the numbers of `swap_effect` and swap/count, the number of subjects
        that were swapped. If that is 0, the other numbers mean nothing.
    """

    def probe(state: TrainState, frozen: Any, batch: Batch) -> Numbers:
        params = combine(state.trained, frozen)
        batch = {name: array[:PROBED] for name, array in batch.items()}
        mean, _, features = encode_batch(model, params, batch)
        keys = jax.random.split(stream(seed, "probe"), len(mean))
        draws = draw(keys, mean.shape[1:], schedule.num_train_timesteps, 0.0)
        noisy = add_noise(schedule, mean, draws.noise, draws.timesteps)
        text = model.encode_text(params, batch["input_ids"])

        def predict(subjects: Float[Array, "B K F"]) -> Float[Array, "B H W C"]:
            tokens = batch["subject_tokens"]
            return model.denoise(params, noisy, draws.timesteps, text, subjects, tokens)[0]

        target = training_target(schedule, mean, draws.noise, draws.timesteps)
        union = union_mask(batch["masks"].astype(jnp.float32), mean.shape[1:3])
        swapped, count = swap(features, batch["subject_present"])
        effect = swap_effect(predict(features), predict(swapped), target, union)
        return effect | {"swap/count": count.astype(jnp.float32)}

    return probe


def make_probes(
    model: MoA, schedule: NoiseSchedule, config: TrainConfig
) -> Callable[[TrainState, Any, Batch], Numbers]:
    """Build the function that measures at each log entry, by `make_probe` and `train.probe`.

    Raises:
        InputError: `train.probe` names no function.
    """
    makers = [make_probe, *([find(config.probe, "train.probe")] if config.probe else [])]
    probes = [make(model, schedule, config.seed) for make in makers]

    def measure(state: TrainState, frozen: Any, batch: Batch) -> Numbers:
        return {name: n for probe in probes for name, n in probe(state, frozen, batch).items()}

    return measure


def swap(
    features: Float[Array, "B K F"], present: Bool[Array, "B K"]
) -> tuple[Float[Array, "B K F"], Int[Array, ""]]:
    """Give each subject the features of another one; absent subjects take no part.

    Returns:
        The features, where each subject has those of the next one in the batch; and the number of
        subjects swapped, which is 0 if the batch has fewer than two.
    """
    # Listed by the subject's number first, so that the next one is in another picture if possible.
    listed = features.swapaxes(0, 1).reshape(-1, features.shape[-1])
    here = present.T.reshape(-1)
    count = jnp.sum(here)
    ranks = jnp.cumsum(here) - 1
    subjects = jnp.argsort(~here, stable=True)  # the places of those present, in their order
    others = subjects[(ranks + 1) % jnp.maximum(count, 1)]
    swapped = jnp.where(here[:, None], listed[others], listed)
    back = swapped.reshape(*present.T.shape, -1).swapaxes(0, 1)
    return back, jnp.where(count < 2, 0, count)


def swap_effect(
    own: Float[Array, "B H W C"],
    other: Float[Array, "B H W C"],
    target: Float[Array, "B H W C"],
    mask: Float[Array, "B H W"],
) -> Numbers:
    """Compare predictions with a picture's own subjects and with others.

    Args:
        mask: the union of the subjects' masks; a picture without subjects is all background.

    Returns:
        swap/subject and swap/background: the root mean square of the change in that region;
        swap/loss: how much the other subjects raise the squared error on the subject, which is 0 as
        long as the subjects do not help.
    """

    def over(values: Float[Array, "B H W C"], region: Float[Array, "B H W"]) -> Float[Array, ""]:
        weighted = jnp.mean(values.astype(jnp.float32), axis=-1) * region
        return jnp.sum(weighted) / jnp.maximum(jnp.sum(region), 1e-6)

    changed = jnp.square(own - other)
    harm = (other - own) * (other + own - 2 * target)  # the difference of the squared errors
    return {
        "swap/subject": jnp.sqrt(over(changed, mask)),
        "swap/background": jnp.sqrt(over(changed, 1.0 - mask)),
        "swap/loss": over(harm, mask),
    }
