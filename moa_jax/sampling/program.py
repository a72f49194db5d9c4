"""The few pure functions that a pipeline compiles, from a request to pixels.

`condition` encodes a request once, `predict` runs at every step, and `decode` makes pixels in the
end. No function depends on the sampler or on the number of steps. These functions read no files and
no text, and choose no default for a setting; of the tokenizer they only ask what a window is.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt8

from moa_jax.backbone.controlnet import Residuals, combine
from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.data.captions import caption_length, encode_caption
from moa_jax.diffusion import classifier_free_guidance
from moa_jax.method.model import MoA, Observations
from moa_jax.sampling.batches import in_turn
from moa_jax.sampling.request import Request
from moa_jax.sampling.settings import Steered

# Pixels that a device decodes at once: a picture of 512 x 512. GiB of temporaries on a v5e: 0.39
# for one of these, 3.57 for four at once, 2.27 for eight; 1.52 for one of 1024 x 1024.
DECODED = 512 * 512

Maps = dict[str, Float[Array, "n B _ _ *K"]]


class Networks(NamedTuple):
    """The networks that draw; their parameters come as a tree with an entry for each.

    Attributes:
        base: the checkpoint; the parameters that it holds itself are not read.
        model: the mixtures; None means plain Stable Diffusion.
        controlnets: the ControlNets; the tree has their parameters as a tuple, "controlnets".
    """

    base: StableDiffusion
    model: MoA | None = None
    controlnets: tuple[nn.Module, ...] = ()


class Conditions(NamedTuple):
    """A request as the networks take it: what stays the same in all steps.

    With guidance the rows are doubled: first the negative ones, then the positive ones, as in
    diffusers.

    Attributes:
        text: "B S D", embeddings of the prompts.
        tokens: "B K", position of each subject's word; S means no subject.
        features: "B K F", image features of the subjects; None means that there are no mixtures.
        controls: one picture for each ControlNet, "1 H W 3" in [0, 1].
    """

    text: Any
    tokens: Any
    features: Any = None
    controls: tuple[Any, ...] = ()


class Seen(NamedTuple):
    """What the mixtures did at a step, by the path of the layer.

    Attributes:
        routing: "B h w", the sum of the added experts' weights.
        attention: "B h w K", how much the personalized expert attends to each subject's word, mean
            over the heads; empty if not asked for.
    """

    routing: Any
    attention: Any


def condition(networks: Networks, params: Any, request: Request, *, guided: bool) -> Conditions:
    """Encode a request.

    The negative half has no subjects: both experts attend to the negative prompt.

    Args:
        guided: whether to double the rows; static under `jax.jit`.
    """
    base, model, _ = networks
    text, tokens, features = request.text, request.subject_tokens, request.subject_features
    if text is None:
        text = embed(base, params, request.input_ids, request.weights)
    if model is not None and features is None:
        features = model.encode_subjects(params, request.subject_images)
    if not guided:
        return Conditions(text, tokens, None if model is None else features)
    negative = embed(base, params, request.negative_ids, request.negative_weights)
    text = jnp.concatenate([negative, text])
    tokens = jnp.concatenate([jnp.full_like(tokens, text.shape[1]), tokens])  # S: no subject
    if model is None:
        return Conditions(text, tokens)
    return Conditions(text, tokens, jnp.concatenate([jnp.zeros_like(features), features]))


def without_subjects(conditions: Conditions) -> Conditions:
    """Take the subjects out of a request; every word then keeps its own embedding."""
    size = conditions.text.shape[1]  # at this position there is no word
    return conditions._replace(tokens=jnp.full_like(conditions.tokens, size))


def predict(
    networks: Networks,
    params: Any,
    conditions: Conditions,
    steered: Steered,
    latents: Float[Array, "B H W C"],
    timesteps: Shaped[Array, " B"],
    *,
    watch: bool = False,
) -> tuple[Float[Array, "B H W C"], Seen]:
    """Predict what the sampler asks for, under guidance if there is any.

    Args:
        watch: whether to return the attention to the subjects too; static under `jax.jit`.

    Returns:
        The prediction, and what the mixtures did for the positive half.
    """
    if steered.guidance_scale is None:  # known when compiling: a program with half the work
        return _predict(networks, params, conditions, steered, latents, timesteps, watch)
    doubled = (jnp.concatenate([each, each]) for each in (latents, timesteps))
    both, seen = _predict(networks, params, conditions, steered, *doubled, watch)
    prediction = classifier_free_guidance(
        *jnp.split(both, 2), steered.guidance_scale, steered.guidance_rescale
    )
    # The negative half has no subjects to be seen.
    positive = [{path: maps[len(latents) :] for path, maps in each.items()} for each in seen]
    return prediction, Seen(*positive)


def _predict(
    networks: Networks,
    params: Any,
    conditions: Conditions,
    steered: Steered,
    latents: Array,
    timesteps: Array,
    watch: bool,
) -> tuple[Array, Seen]:
    """Predict for every row of the conditions."""
    base, model, controlnets = networks
    residuals = _residuals(controlnets, params, conditions, steered, latents, timesteps)
    if model is None:
        unet = {"params": params["unet"]}
        prediction = base.unet.module.apply(unet, latents, timesteps, conditions.text, residuals)
        return prediction, Seen({}, {})
    prediction, observed = model.denoise(
        params,
        latents,
        timesteps,
        conditions.text,
        conditions.features,
        conditions.tokens,
        dial=steered.dial,
        sparse=steered.sparse,
        residuals=residuals,
    )
    return prediction, _seen(observed, watch)


def _residuals(
    controlnets: Sequence[nn.Module],
    params: Any,
    conditions: Conditions,
    steered: Steered,
    latents: Array,
    timesteps: Array,
) -> Residuals | None:
    """Ask every ControlNet what to add to the U-Net."""
    if not conditions.controls:
        return None
    added = []
    for network, own, picture in zip(
        controlnets, params["controlnets"], conditions.controls, strict=True
    ):
        # Guidance doubles the rows of the latents, and with them those of the control.
        pictures = jnp.broadcast_to(picture, (len(latents), *picture.shape[1:]))
        added.append(network.apply({"params": own}, latents, timesteps, conditions.text, pictures))
    return combine(added, list(steered.controls))


def _seen(observed: Observations, watch: bool) -> Seen:
    # Expert 0 is the prior, and the others share what it leaves.
    added = {path: jnp.sum(each[..., 1:], axis=-1) for path, each in observed.routing.items()}
    if not watch:
        return Seen(added, {})
    return Seen(added, {path: jnp.mean(each, axis=1) for path, each in observed.attention.items()})


def keep(
    drawn: Float[Array, "1 H W 1"], latents: Float[Array, "B H W C"], known: Float[Array, "B H W C"]
) -> Float[Array, "B H W C"]:
    """Put the known latents where nothing is drawn.

    Args:
        drawn: 1 where the picture is drawn.
    """
    return jnp.where(drawn > 0.5, latents, known)


def embed(
    base: StableDiffusion,
    params: Any,
    ids: Int[Array, "B S"],
    weights: Float[Array, "B S"] | None = None,
) -> Float[Array, "B S D"]:
    """Embed the tokens of prompts, each window by itself, and weigh them.

    Args:
        weights: of the tokens; None means that all are 1.
    """

    def encoded(ids: Any) -> Float[Array, "B S D"]:
        return base.text_encoder.module.apply({"params": params["text_encoder"]}, ids)

    (rows, size), window = ids.shape, caption_length(base.tokenizer)
    if size <= window:
        text = encoded(ids)
    else:
        text = encoded(ids.reshape(-1, window)).reshape(rows, size, -1)
    if weights is None:
        return text
    nothing = encoded(jnp.asarray(encode_caption(base.tokenizer, "").input_ids)[None])
    return weigh(text, weights, jnp.tile(nothing, (1, size // window, 1)))


def weigh(
    text: Float[Array, "B S D"], weights: Float[Array, "B S"], nothing: Float[Array, "1 S D"]
) -> Float[Array, "B S D"]:
    """Lead the embeddings of weighted words away from those of the empty prompt.

    Source: compel's rule for weights above 1, which ComfyUI applies to all weights: nothing +
    w (text - nothing), position by position. Every other word keeps its embedding to the bit, and
    so does a subject that is bound to it. That is why this rule was taken, and not the rule of
    AUTOMATIC1111 and diffusers' lpw_stable_diffusion (a weight multiplies, then everything is
    scaled until the mean is what it was), nor what compel adds below 1 (a blend with a prompt in
    which the word is masked): both change other words too.

    Both experts see the weighted embeddings. The weight of a subject's word is the word's alone: it
    acts before the features of the subject's picture are added. How strongly the subject takes part
    is a matter of `Settings.moa_strength`.

    Args:
        weights: 1 changes nothing, 0 leaves the empty prompt's embedding.
        nothing: embeddings of the empty prompt.

    Returns:
        The embeddings, in the dtype of `text`; they are computed in float32.
    """
    factors, start = weights[..., None], nothing.astype(jnp.float32)
    weighed = start + factors * (text.astype(jnp.float32) - start)
    return jnp.where(factors == 1.0, text, weighed.astype(text.dtype))


def decode(
    base: StableDiffusion, params: Any, latents: Float[Array, "B H W C"], *, shards: int = 1
) -> UInt8[Array, "B _ _ 3"]:
    """Turn the U-Net's latents into 8-bit pixels, rounded as diffusers does.

    Pictures come in turn, as many at once as have no more than DECODED pixels together. That
    changes no picture, and the VAE's maps are the largest of all.

    Args:
        shards: how many devices the pictures are divided among; static under `jax.jit`.
    """
    vae = base.vae.module

    def decoded(latents: Float[Array, "B H W C"]) -> UInt8[Array, "B _ _ 3"]:
        scaled = latents / vae.config.scaling_factor
        pixels = vae.apply({"params": params["vae"]}, scaled, method="decode")
        pixels = jnp.clip(pixels.astype(jnp.float32) / 2 + 0.5, 0, 1)  # the VAE's range is [-1, 1]
        return jnp.round(pixels * 255).astype(jnp.uint8)

    pixels = math.prod(latents.shape[1:3]) * vae.config.downscale**2
    return in_turn(decoded, latents, max(1, DECODED // pixels), shards)


def encode(
    base: StableDiffusion, params: Any, pixels: UInt8[Array, "B _ _ 3"]
) -> Float[Array, "B H W C"]:
    """Turn 8-bit pixels into the U-Net's latents, the mean of the VAE's distribution."""
    vae = base.vae.module
    scaled = pixels.astype(jnp.float32) / 127.5 - 1.0
    mean, _ = vae.apply({"params": params["vae"]}, scaled, method="encode")
    return mean.astype(jnp.float32) * vae.config.scaling_factor
