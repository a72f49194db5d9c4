"""From a request to pixels, as one pure function: encode, sample under guidance, decode.

`moa_jax.pipeline` compiles it; anything that draws with other parameters calls it the same way.
Knows no files, no prompts as text and no defaults.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from moa_jax.backbone.controlnet import Residuals, combine
from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.diffusion import Denoiser, Sampler, classifier_free_guidance, sample
from moa_jax.diffusion.sampling import Step
from moa_jax.method.mixture import PERSONALIZED
from moa_jax.method.model import MoA, Observations
from moa_jax.request import Request
from moa_jax.settings import Known, Steering

Maps = dict[str, Float[Array, "n B _ _ *K"]]


class Networks(NamedTuple):
    """The networks that draw; their parameters come as a tree with an entry for each.

    Attributes:
        base: whose own parameters are not read.
        model: the mixtures, or None for plain Stable Diffusion.
        controlnets: what draws to a given picture; parameters in a tuple "controlnets".
    """

    base: StableDiffusion
    model: MoA | None = None
    controlnets: tuple[nn.Module, ...] = ()


class Seen(NamedTuple):
    """What the mixtures did at each of the n steps, by the path of the layer.

    Attributes:
        routing: "n B h w", the personalized expert's weight.
        attention: "n B h w K", how much it attends to each subject's word, mean over the heads;
            only if asked for.
    """

    routing: Any
    attention: Any


def generate(
    networks: Networks,
    params: Any,
    request: Request,
    latents: Float[Array, "B H W C"],
    keys: Key[Array, " B"],
    plan: Sampler,
    steering: Steering,
    *,
    watch: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> tuple[UInt8[Array, "B _ _ 3"], Seen]:
    """Draw a batch of pictures; call it under `jax.jit` with the keyword arguments static.

    Args:
        latents: at the noise level of the plan's first step.
        keys: one for each picture, for samplers that add noise.
        watch: whether to give the attention to the subjects too.
        on_step: told the index of each step when it is done.

    Returns:
        The pictures, and what the mixtures did.
    """
    denoise = guide(denoiser(networks, params, request, steering, watch), steering)
    after_step = steering.known and partial(_keep, steering.known)
    latents, seen = sample(denoise, plan, latents, keys, on_step, after_step)
    return decode(networks.base, params, latents), seen


def guide(denoise: Denoiser, steering: Steering) -> Denoiser:
    """Add the guidance, if there is any, to a denoiser of the doubled batch."""
    if steering.guidance_scale is None:
        return denoise
    return classifier_free_guidance(denoise, steering.guidance_scale, steering.guidance_rescale)


def denoiser(
    networks: Networks, params: Any, request: Request, steering: Steering, watch: bool = False
) -> Denoiser:
    """Encode a request into a denoiser, of the doubled batch [negative; positive] if guided.

    The negative half has no subjects: both experts attend to the negative prompt.
    """
    base, model, _ = networks
    guided = steering.guidance_scale is not None
    text, tokens = _text(base, params, request, guided), request.subject_tokens
    if guided:
        tokens = jnp.concatenate([jnp.full_like(tokens, text.shape[1]), tokens])
    control = partial(_control, networks.controlnets, params, text, steering.controls)
    if model is None:
        return lambda latents, timesteps, step: (
            base.unet.module.apply(
                {"params": params["unet"]},
                latents,
                timesteps,
                text,
                control(latents, timesteps, step),
            ),
            Seen({}, {}),
        )
    features = request.subject_features
    if features is None:
        features = model.encode_subjects(params, request.subject_images)
    if guided:
        features = jnp.concatenate([jnp.zeros_like(features), features])

    def denoise(latents: Array, timesteps: Array, step: Step) -> tuple[Array, Seen]:
        prediction, observed = model.denoise(
            params,
            latents,
            timesteps,
            text,
            features,
            tokens,
            strength=None if steering.strength is None else jnp.asarray(steering.strength)[step],
            residuals=control(latents, timesteps, step),
        )
        return prediction, _seen(observed, watch)

    return denoise


def _text(
    base: StableDiffusion, params: Any, request: Request, guided: bool
) -> Float[Array, "_ S D"]:
    """Embed the prompts, below the negative ones if guided, in one pass of the encoder."""
    given = request.text
    ids = [request.negative_ids] * guided + [request.input_ids] * (given is None)
    parts = [embed(base, params, jnp.concatenate(ids))] if ids else []
    return jnp.concatenate(parts + ([] if given is None else [given]))


def embed(base: StableDiffusion, params: Any, ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """Embed the tokens of prompts."""
    return base.text_encoder.module.apply({"params": params["text_encoder"]}, ids)


def decode(
    base: StableDiffusion, params: Any, latents: Float[Array, "B H W C"]
) -> UInt8[Array, "B _ _ 3"]:
    """Turn the U-Net's latents into 8-bit pixels, rounded as diffusers does."""
    vae = base.vae.module
    scaled = latents / vae.config.scaling_factor
    pixels = vae.apply({"params": params["vae"]}, scaled, method="decode")
    pixels = jnp.clip(pixels.astype(jnp.float32) / 2 + 0.5, 0, 1)
    return jnp.round(pixels * 255).astype(jnp.uint8)


def encode(
    base: StableDiffusion, params: Any, pixels: UInt8[Array, "B _ _ 3"]
) -> Float[Array, "B H W C"]:
    """Turn 8-bit pixels into the U-Net's latents: the mean of what the VAE gives."""
    vae = base.vae.module
    scaled = pixels.astype(jnp.float32) / 127.5 - 1.0
    mean, _ = vae.apply({"params": params["vae"]}, scaled, method="encode")
    return mean.astype(jnp.float32) * vae.config.scaling_factor


def invert(
    networks: Networks,
    params: Any,
    request: Request,
    latents: Float[Array, "B H W C"],
    plan: Sampler,
    steering: Steering,
    *,
    on_step: Callable[[int], None] | None = None,
) -> Float[Array, "_ B H W C"]:
    """Lead the latents of photos back to the noise that a request draws them from.

    Args:
        latents: clean, of `encode`.
        plan: of `ddim_inversion`.
        steering: as `generate` will have it.

    Returns:
        The latents that each row of the plan starts from, and the noise that it ends with.
    """
    denoise = guide(denoiser(networks, params, request, steering), steering)

    def recording(latents: Array, timesteps: Array, step: Step) -> tuple[Array, Array]:
        return denoise(latents, timesteps, step)[0], latents

    noise, path = sample(recording, plan, latents, jax.random.key(0), on_step)
    return jnp.concatenate([path, noise[None]])


def _keep(known: Known, latents: Float[Array, "B H W C"], step: Step) -> Float[Array, "B H W C"]:
    return jnp.where(known.drawn > 0.5, latents, known.latents[:, step])


def _control(
    controlnets: Sequence[nn.Module],
    params: Any,
    text: Float[Array, "B S D"],
    controls: Sequence[tuple[Array, Array]],
    latents: Float[Array, "B H W C"],
    timesteps: Array,
    step: Step,
) -> Residuals | None:
    """Ask every ControlNet what to add to the U-Net."""
    if not controls:
        return None
    added = []
    for network, own, (picture, _) in zip(
        controlnets, params["controlnets"], controls, strict=True
    ):
        pictures = jnp.broadcast_to(picture, (len(latents), *picture.shape[1:]))
        added.append(network.apply({"params": own}, latents, timesteps, text, pictures))
    return combine(added, [jnp.asarray(scale)[step] for _, scale in controls])


def _seen(observed: Observations, watch: bool) -> Seen:
    routing = {path: weight[..., PERSONALIZED] for path, weight in observed.routing.items()}
    if not watch:
        return Seen(routing, {})
    return Seen(
        routing, {path: jnp.mean(each, axis=1) for path, each in observed.attention.items()}
    )
