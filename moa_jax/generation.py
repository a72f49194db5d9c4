"""From a request to pixels, as one pure function: encode, sample under guidance, decode.

`moa_jax.pipeline` compiles it; anything that draws with other parameters calls it the same way.
Knows no files, no prompts as text and no defaults.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.diffusion import SAMPLERS, Denoiser, NoiseSchedule, classifier_free_guidance, sample
from moa_jax.method.mixture import PERSONALIZED
from moa_jax.method.model import MoA
from moa_jax.request import Request


def generate(
    base: StableDiffusion,
    model: MoA | None,
    schedule: NoiseSchedule,
    params: Any,
    request: Request,
    latents: Float[Array, "B H W C"],
    keys: Key[Array, " B"],
    guidance_scale: float | Float[Array, ""],
    *,
    sampler: str,
    num_inference_steps: int,
    guided: bool,
    on_step: Callable[[int], None] | None = None,
) -> tuple[UInt8[Array, "B _ _ 3"], dict[str, Float[Array, "n B _ _"]]]:
    """Draw a batch of pictures; call it under `jax.jit` with the keyword arguments static.

    Args:
        base: whose networks draw; its own parameters are not read.
        model: the mixtures, or None for plain Stable Diffusion.
        params: a tree with an entry for each network.
        latents: standard normal draws.
        keys: one for each picture, for samplers that add noise.
        guided: whether there is guidance at all; without it half the work.
        on_step: told the index of each step when it is done.

    Returns:
        The pictures, and by layer the personalized expert's weight at each of the n steps.
    """
    plan = SAMPLERS[sampler](schedule, num_inference_steps)
    denoise = denoiser(base, model, params, request, guided)
    if guided:
        denoise = classifier_free_guidance(denoise, guidance_scale)
    latents, routing = sample(denoise, plan, latents * plan.init_noise_sigma, keys, on_step)
    return decode(base, params, latents), routing


def denoiser(
    base: StableDiffusion, model: MoA | None, params: Any, request: Request, guided: bool
) -> Denoiser:
    """Encode a request into a denoiser, of the doubled batch [negative; positive] if guided.

    The negative half has no subjects: both experts attend to the negative prompt.
    """
    ids, tokens = request.input_ids, request.subject_tokens
    if guided:
        ids = jnp.concatenate([request.negative_ids, ids])
        tokens = jnp.concatenate([jnp.full_like(tokens, ids.shape[1]), tokens])
    text = base.text_encoder.module.apply({"params": params["text_encoder"]}, ids)
    if model is None:
        return lambda latents, timesteps: (
            base.unet.module.apply({"params": params["unet"]}, latents, timesteps, text),
            {},
        )
    features = model.encode_subjects(params, request.subject_images)
    if guided:
        features = jnp.concatenate([jnp.zeros_like(features), features])

    def denoise(latents: Array, timesteps: Array) -> tuple[Array, dict[str, Array]]:
        prediction, seen = model.denoise(params, latents, timesteps, text, features, tokens)
        return prediction, {
            path: weight[..., PERSONALIZED] for path, weight in seen.routing.items()
        }

    return denoise


def decode(
    base: StableDiffusion, params: Any, latents: Float[Array, "B H W C"]
) -> UInt8[Array, "B _ _ 3"]:
    """Turn the U-Net's latents into 8-bit pixels, rounded as diffusers does."""
    vae = base.vae.module
    scaled = latents / vae.config.scaling_factor
    pixels = vae.apply({"params": params["vae"]}, scaled, method="decode")
    pixels = jnp.clip(pixels.astype(jnp.float32) / 2 + 0.5, 0, 1)
    return jnp.round(pixels * 255).astype(jnp.uint8)
