"""What a training step minimises: the forward pass from pictures to the three losses.

Source: MoA (arXiv 2404.11565). The terms themselves are in `moa_jax.method.losses`; this module
computes what goes into them. Nothing here depends on the optimizer or the devices.
"""

from collections.abc import Mapping, Set
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from moa_jax.config import MethodConfig
from moa_jax.diffusion.schedule import NoiseSchedule, add_noise, training_target
from moa_jax.errors import InputError
from moa_jax.extension import find
from moa_jax.method.losses import (
    masked_denoising_loss,
    mean_routing,
    object_loss,
    router_loss,
    router_loss_by_layer,
    union_mask,
)
from moa_jax.method.mixture import PRIOR
from moa_jax.method.model import MoA, Observations
from moa_jax.method.trained import combine
from moa_jax.method.variant import Forward
from moa_jax.training.packing import Packing
from moa_jax.training.step import Batch, Numbers, Objective

EVERY_SLOT = Packing()
OWN_KEY = 1  # folded into a picture's key, for what a variant draws at random


class Draws(NamedTuple):
    """The random numbers of a batch; each picture's come from its own key."""

    encoding: Float[Array, "B H W C"]
    noise: Float[Array, "B H W C"]
    timesteps: Int[Array, " B"]
    masked: Bool[Array, " B"]


def draw(
    keys: Key[Array, " B"], latents: tuple[int, ...], timesteps: int, mask_probability: float
) -> Draws:
    """Draw the random numbers of a training step.

    Args:
        latents: shape of one picture's latents.
        timesteps: length of the schedule; a picture's timestep is drawn uniformly.
    """

    def one(key: Key[Array, ""]) -> Draws:
        encoding, noise, time, coin = jax.random.split(key, 4)
        return Draws(
            jax.random.normal(encoding, latents),
            jax.random.normal(noise, latents),
            jax.random.randint(time, (), 0, timesteps),
            jax.random.bernoulli(coin, mask_probability),
        )

    return jax.vmap(one)(keys)


def make_objective(
    model: MoA, schedule: NoiseSchedule, method: MethodConfig, packing: Packing = EVERY_SLOT
) -> Objective:
    """Give `loss` as a training step calls it: with trained and frozen parameters apart."""

    def objective(trained: Any, frozen: Any, batch: Batch, keys: Array) -> tuple[Array, Numbers]:
        return loss(model, schedule, method, combine(trained, frozen), batch, keys, packing)

    return objective


def loss(
    model: MoA,
    schedule: NoiseSchedule,
    method: MethodConfig,
    params: Any,
    batch: Batch,
    keys: Key[Array, " B"],
    packing: Packing = EVERY_SLOT,
) -> tuple[Float[Array, ""], Numbers]:
    """Compute the training loss and the numbers to log.

    Source: MoA: L = L_masked + lambda_r L_router + lambda_o L_object.

    Args:
        batch: as `moa_jax.data` gives it.
        keys: one for each picture.
        packing: of the subjects to encode; it changes no number.

    Returns:
        The loss, and numbers that are means over the pictures.
    """
    mean, deviation, features = encode_batch(model, params, batch, packing)
    draws = draw(keys, mean.shape[1:], schedule.num_train_timesteps, method.mask_probability)
    latents = mean + deviation * draws.encoding  # drawn anew in every step
    prediction, seen = model.denoise(
        params,
        add_noise(schedule, latents, draws.noise, draws.timesteps),
        draws.timesteps,
        model.encode_text(params, batch["input_ids"]),
        features,
        batch["subject_tokens"],
        keys=jax.vmap(lambda key: jax.random.fold_in(key, OWN_KEY))(keys),
        progress=batch.get("progress"),
    )
    target = training_target(schedule, latents, draws.noise, draws.timesteps)
    masks = batch["masks"].astype(jnp.float32)
    union = union_mask(masks, latents.shape[1:3])
    terms = {
        "denoising": masked_denoising_loss(prediction, target, union, draws.masked),
        "router": _router_term(model, method, seen, union),
        "object": _object_term(model.object_loss_layers(), seen, masks, batch["subject_present"]),
    }
    weights = loss_weights(method)
    total = sum(weights[name] * term for name, term in terms.items())
    forward = Forward(prediction, target, draws.timesteps, seen, batch, union)
    further = _further_terms(model, method, forward, terms.keys() | {"total"})
    total = sum(further.values(), total)
    numbers = {f"loss/{name}": term for name, term in (terms | further).items()}
    return total, {"loss/total": total, **numbers, **_routing_shares(seen, union)}


def _further_terms(
    model: MoA, method: MethodConfig, forward: Forward, taken: Set[str]
) -> dict[str, Float[Array, ""]]:
    """Give the loss terms of the variant and of `method.extra_loss`.

    Raises:
        InputError: two terms have the same name.
    """
    sources = [(f"method.mixture={method.mixture!r}", model.variant.losses)]
    if method.extra_loss:
        key = "method.extra_loss"
        sources.append((f"{key}={method.extra_loss!r}", find(method.extra_loss, key)))
    further: dict[str, Float[Array, ""]] = {}
    for source, losses in sources:
        terms = losses(forward)
        if twice := terms.keys() & (taken | further.keys()):
            raise InputError(f"{source}: there is a term {min(twice)!r} already, name it otherwise")
        further |= terms
    return further


def loss_weights(method: MethodConfig) -> dict[str, float]:
    """Give each term's weight in the sum; a router that does not learn has no loss."""
    learns = method.router != "personalized"
    return {
        "denoising": 1.0,
        "router": method.router_loss_weight if learns else 0.0,
        "object": method.object_loss_weight,
    }


def summarize(numbers: Numbers) -> Numbers:
    """Turn the mean numbers of all micro-batches into metrics; an empty region gives 0."""
    finished = ("loss/", "routing/")
    metrics = {key: value for key, value in numbers.items() if key.startswith(finished)}
    if "covered" not in numbers:
        return metrics
    covered = numbers["covered"]
    metrics["routing/subject"] = numbers["inside"] / jnp.maximum(covered, 1e-6)
    metrics["routing/background"] = numbers["outside"] / jnp.maximum(1 - covered, 1e-6)
    return metrics


def encode_batch(
    model: MoA, params: Any, batch: Batch, packing: Packing = EVERY_SLOT
) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"], Float[Array, "B K F"]]:
    """Give mean and standard deviation of the latents, and the subjects' image features.

    Args:
        batch: has image or its latents, and subject_images or their features, which may have been
            encoded before.
        packing: of the subjects to encode.
    """
    if "latents" in batch:
        mean, deviation = jnp.split(batch["latents"].astype(jnp.float32), 2, axis=-1)
    else:
        mean, deviation = encode(model, params, batch["image"])
    if "features" in batch:
        return mean, deviation, batch["features"].astype(jnp.float32)
    look = partial(model.encode_subjects, params)
    features = packing.encode(look, batch["subject_images"], batch["subject_present"])
    return mean, deviation, features


def encode(
    model: MoA, params: Any, images: UInt8[Array, "B H W 3"]
) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
    """Give mean and standard deviation of the pictures' latents, at the U-Net's scale."""
    pixels = images.astype(jnp.float32) / 127.5 - 1.0  # in [-1, 1], the range of the VAE
    mean, log_variance = model.vae.apply({"params": params["vae"]}, pixels, method="encode")
    scale = model.vae.config.scaling_factor
    deviation = jnp.exp(0.5 * log_variance.astype(jnp.float32))
    return scale * mean.astype(jnp.float32), scale * deviation


def _router_term(
    model: MoA, method: MethodConfig, seen: Observations, union: Float[Array, "B H W"]
) -> Float[Array, ""]:
    layers = _layers_of(model.router_loss_layers(method.router_loss_skip), seen.routing)
    prior = [weights[..., PRIOR] for weights in layers]
    if not prior:
        return jnp.zeros(())
    if method.router_loss == "layers":
        return router_loss_by_layer(prior, union)
    return router_loss(mean_routing(prior, union.shape[1:]), union)


def _object_term(
    blocks: tuple[str, ...],
    seen: Observations,
    masks: Float[Array, "B K H W"],
    present: Bool[Array, "B K"],
) -> Float[Array, ""]:
    layers = _layers_of(blocks, seen.attention)
    return object_loss(layers, masks, present) if layers else jnp.zeros(())


def _layers_of(blocks: tuple[str, ...], observed: Mapping[str, Array]) -> list[Array]:
    """Select the layers that belong to the given transformer blocks."""
    return [value for path, value in observed.items() if path.rpartition(".")[0] in blocks]


def _routing_shares(seen: Observations, union: Float[Array, "B H W"]) -> Numbers:
    """Give the prior's mean weight in each layer, and the added experts' inside and outside masks.

    `summarize` divides the latter two by the covered share. Without routers, give nothing.
    """
    if not seen.routing:
        return {}
    layers = [jnp.sum(weights[..., 1:], axis=-1) for weights in seen.routing.values()]
    personalized = jax.lax.stop_gradient(mean_routing(layers, union.shape[1:]))
    by_layer = {
        f"routing/prior/{layer}": jax.lax.stop_gradient(jnp.mean(weights[..., PRIOR]))
        for layer, weights in seen.routing.items()
    }
    return by_layer | {
        "inside": jnp.mean(personalized * union),
        "outside": jnp.mean(personalized * (1 - union)),
        "covered": jnp.mean(union),
    }
