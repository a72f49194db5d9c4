"""MoA as a whole: Stable Diffusion whose U-Net attends by mixtures, and the multimodal prompt.

`build` turns a loaded Stable Diffusion into the networks and one tree of parameters; the methods of
`MoA` are pure functions of that tree. Training, sampling and evaluation all go through `denoise`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, Shaped, UInt8

from moa_jax.backbone.clip import normalize_pixels
from moa_jax.backbone.remember import remember
from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.backbone.unet import Residuals, UNet, UNetConfig, transformer_blocks
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.mixture import ROUTERS, MixtureOfAttention, counterparts
from moa_jax.method.prompt import SubjectPrompt, SubjectResidual, TimeLayerConditioning

Params = Mapping[str, Any]


class Observations(NamedTuple):
    """What the mixtures did in one pass, by the path of the layer.

    Attributes:
        routing: "B h w E", the weight of every expert, for all layers.
        attention: "B N h w K", the personalized expert's attention to the subjects' words, for
            cross-attention layers.
    """

    routing: dict[str, Array]
    attention: dict[str, Array]


@dataclass(frozen=True)
class MoA:
    """The networks; their parameters are one tree with an entry of the same name for each.

    Attributes:
        blocks: the U-Net's transformer blocks by their path, in the order of the computation.
    """

    unet: nn.Module
    prompt: nn.Module
    image_encoder: nn.Module
    text_encoder: nn.Module
    vae: nn.Module
    blocks: tuple[str, ...]

    def encode_text(self, params: Params, input_ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Embed the tokens of a prompt."""
        return self.text_encoder.apply({"params": params["text_encoder"]}, input_ids)

    def encode_subjects(
        self, params: Params, images: UInt8[Array, "B K H W 3"]
    ) -> Float[Array, "B K F"]:
        """Give the image features of every subject's picture."""
        batch, subjects = images.shape[:2]
        pixels = normalize_pixels(images.reshape(batch * subjects, *images.shape[2:]))
        features = self.image_encoder.apply({"params": params["image_encoder"]}, pixels)
        return features.reshape(batch, subjects, -1)

    def denoise(
        self,
        params: Params,
        latents: Float[Array, "B H W C"],
        timesteps: Shaped[Array, " B"],
        text: Float[Array, "B S D"],
        features: Float[Array, "B K F"],
        tokens: Int[Array, "B K"],
        residuals: Residuals | None = None,
        strength: Float[Array, " blocks"] | None = None,
    ) -> tuple[Float[Array, "B H W C"], Observations]:
        """Predict the noise (or velocity) of pictures of subjects.

        Args:
            text: from `encode_text`.
            features: from `encode_subjects`.
            tokens: position of each subject's word in the text; S for no subject.
            residuals: what ControlNets add; both experts see their effect.
            strength: of the personalized expert in each block, see `turn`.

        Returns:
            The prediction, and what the mixtures did.
        """
        prompt = self.prompt.apply({"params": params["prompt"]}, text, features, tokens, timesteps)
        prediction, state = self.unet.apply(
            {"params": params["unet"]},
            latents,
            timesteps,
            prompt._replace(strength=strength),
            residuals,
            mutable=["intermediates"],
        )
        return prediction, _observe(state["intermediates"])

    def router_loss_layers(self, skip: int) -> tuple[str, ...]:
        """Name the blocks that L_router averages over.

        Args:
            skip: blocks left out at either end, which carry low-level features.
        """
        return self.blocks[skip : len(self.blocks) - skip]

    def object_loss_layers(self) -> tuple[str, ...]:
        """Name the blocks that L_object reads: all but those of the finest resolution's stages.

        Source: FastComposer's released code (the five middle stages of SD 1.5's seven).
        """
        stages = [path.split(".attentions.")[0] for path in self.blocks]
        outer = {stages[0], stages[-1]}
        return tuple(p for p, stage in zip(self.blocks, stages, strict=True) if stage not in outer)


def _observe(intermediates: Params) -> Observations:
    """Sort what the layers sowed: `(value,)` under the module's path and the value's name."""
    routing, attention = {}, {}
    for path, (value,) in flatten_dict(intermediates).items():
        if path[-1] == "routing":
            routing[".".join(path[:-1])] = value
        elif path[-2:] == ("personalized", "attention"):
            attention[".".join(path[:-2])] = value
    return Observations(routing, attention)


def build(
    base: StableDiffusion,
    method: MethodConfig,
    *,
    dtype: Any,
    key: Array | None,
    remat: bool = False,
) -> tuple[MoA, dict[str, Any]]:
    """Put mixtures into a loaded Stable Diffusion.

    Args:
        dtype: of the computation.
        key: for what starts at random: routers and the prompt's networks. None computes nothing:
            what is added is then given as shapes, for weights to be read into.
        remat: recompute the U-Net's blocks in the backward pass.

    Returns:
        The networks, and their parameters: the base's own arrays, and the added experts (copies of
        the prior), routers and prompt in float32.

    Raises:
        InputError: the base has no image encoder, or L_router would read no layer.
    """
    if base.image_encoder is None:
        raise InputError(
            f"{base.name!r} has no image_encoder/ folder, which MoA needs to see its subjects: "
            "name a CLIP vision tower, e.g. model.image_encoder=openai/clip-vit-large-patch14"
        )
    config = UNetConfig.from_dict(base.unet.config)
    router = partial(
        ROUTERS[method.router], initial_personalized_weight=method.initial_personalized_weight
    )
    attention = partial(MixtureOfAttention, router=router, attend=base.attend)
    blocks = transformer_blocks(config)
    if method.router_loss_skip >= len(blocks) / 2:
        raise InputError(
            f"method.router_loss_skip={method.router_loss_skip} leaves none of the U-Net's "
            f"{len(blocks)} transformer blocks to L_router: choose 0 to {(len(blocks) - 1) // 2}"
        )
    model = MoA(
        unet=UNet(config, attention, dtype, remat),
        prompt=_prompt(method, len(blocks), dtype),
        image_encoder=base.image_encoder.module,
        text_encoder=base.text_encoder.module,
        vae=base.vae.module,
        blocks=blocks,
    )
    features = base.image_encoder.module.config.projection_dim
    added = _initialize(model, config, features, key)
    params = {
        "unet": add_experts(base.unet.params, added["unet"], MixtureOfAttention.added),
        "prompt": added["prompt"],
        "image_encoder": base.image_encoder.params,
        "text_encoder": base.text_encoder.params,
        "vae": base.vae.params,
    }
    return model, params


def _prompt(method: MethodConfig, layers: int, dtype: Any) -> SubjectPrompt:
    if not method.time_layer_conditioning:
        return SubjectPrompt(layers, SubjectResidual, dtype)
    conditioning = partial(
        TimeLayerConditioning,
        sigmas=(method.sigma_t, method.sigma_l),
        frequencies=method.fourier_features,
    )
    return SubjectPrompt(layers, conditioning, dtype)


def _initialize(model: MoA, config: UNetConfig, features: int, key: Array | None) -> dict[str, Any]:
    """Initialise the prompt and the routers alone: the compiler drops the rest of the U-Net."""

    def initialize(key: Array) -> dict[str, Any]:
        side = 2 ** (len(config.channels) - 1)
        latents = jnp.zeros((1, side, side, config.in_channels))
        times, tokens = jnp.zeros(1), jnp.zeros((1, 1), jnp.int32)
        text, picture = jnp.zeros((1, 2, config.context_width)), jnp.zeros((1, 1, features))
        prompt_key, unet_key = jax.random.split(key)
        prompt, variables = model.prompt.init_with_output(prompt_key, text, picture, tokens, times)
        unet = flatten_dict(model.unet.init(unet_key, latents, times, prompt)["params"])
        routers = {path: leaf for path, leaf in unet.items() if "router" in path}
        return {"prompt": variables["params"], "unet": unflatten_dict(routers)}

    if key is None:
        of = (model.unet, model.prompt, features)
        return remember(of, lambda: jax.eval_shape(lambda: initialize(jax.random.key(0))))
    return jax.jit(initialize)(key)


def add_experts(prior: Params, routers: Params, experts: tuple[str, ...]) -> dict[str, Any]:
    """Join a Stable Diffusion U-Net, float32 copies of its attention for each expert, and routers.

    Args:
        prior: the U-Net's parameters.
        routers: parameters under the same paths, in each attention layer's `router`; where they
            are shapes, so are the experts.
        experts: names of the added experts.
    """
    flat, added = flatten_dict(prior), flatten_dict(routers)
    joined = {**flat, **added}
    shapes = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in added.values())
    for path, leaf in flat.items():
        for counterpart in counterparts(path, experts):
            joined[counterpart] = (
                jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
                if shapes
                else jnp.array(leaf, dtype=jnp.float32, copy=True)
            )
    return unflatten_dict(joined)
