"""The entire MoA: Stable Diffusion with mixtures in its U-Net, and the multimodal prompt.

`build` turns a loaded Stable Diffusion into the networks and one tree of parameters; the methods of
`MoA` are pure functions of that tree. Training, sampling and evaluation all go through `denoise`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, Key, Shaped, UInt8

from moa_jax.backbone.remember import remember
from moa_jax.backbone.stable_diffusion import StableDiffusion
from moa_jax.backbone.unet import Residuals, UNet, UNetConfig, transformer_blocks
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.sparse import Sparse
from moa_jax.method.trained import is_added
from moa_jax.method.variant import Flat, Moment, Observations, Variant, resolve

__all__ = ["MoA", "Observations", "build"]

Params = Mapping[str, Any]


@dataclass(frozen=True)
class MoA:
    """The networks; their parameters are one tree, with an entry of the same name for each.

    Attributes:
        blocks: paths of the U-Net's transformer blocks, in the order of the computation.
        variant: says which parts of MoA are replaced; `Variant()` is the paper's MoA.
    """

    unet: nn.Module
    prompt: nn.Module
    image_encoder: nn.Module
    text_encoder: nn.Module
    vae: nn.Module
    blocks: tuple[str, ...]
    variant: Variant = Variant()

    def encode_text(self, params: Params, input_ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Embed the tokens of a prompt."""
        return self.text_encoder.apply({"params": params["text_encoder"]}, input_ids)

    def encode_subjects(
        self, params: Params, images: UInt8[Array, "B K H W 3"]
    ) -> Float[Array, "B K F"]:
        """Compute the image features of every subject's picture."""
        return self.variant.look(self, params, images)

    def feature_width(self, params: Params) -> int:
        """Return the width of a subject's features."""
        tower = self.image_encoder.config
        if not self.variant.replaces("look"):
            return tower.projection_dim
        picture = jax.ShapeDtypeStruct((1, 1, tower.image_size, tower.image_size, 3), jnp.uint8)
        # A variant may compute features of another width; only their shape is traced.
        return jax.eval_shape(self.encode_subjects, params, picture).shape[-1]

    def denoise(
        self,
        params: Params,
        latents: Float[Array, "B H W C"],
        timesteps: Shaped[Array, " B"],
        text: Float[Array, "B S D"],
        features: Float[Array, "B K F"],
        tokens: Int[Array, "B K"],
        residuals: Residuals | None = None,
        dial: Float[Array, " blocks"] | None = None,
        sparse: Sparse | None = None,
        keys: Key[Array, " B"] | None = None,
        progress: Float[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B H W C"], Observations]:
        """Predict the noise (or velocity) of pictures of subjects.

        Args:
            text: from `encode_text`.
            features: from `encode_subjects`.
            tokens: position of each subject's word in the text; S means no subject.
            residuals: what ControlNets add; both experts see their effect.
            dial: where the dial stands in each block, see `turn`; None means as the router chose.
            sparse: how much of the experts is computed; None means all of it.
            keys: random keys, for a variant that draws at random in training.
            progress: share of the training that is over, for a variant that changes with it.

        Returns:
            The prediction, and what the layers did.
        """
        params = self.variant.weights(params, Moment(timesteps, progress, keys))
        prompt = self.prompt.apply({"params": params["prompt"]}, text, features, tokens, timesteps)

        def run(context: Any) -> tuple[Array, Observations]:
            prediction, state = self.unet.apply(
                {"params": params["unet"]},
                latents,
                timesteps,
                context,
                residuals,
                mutable=["intermediates"],
            )
            return prediction, _observe(state["intermediates"])

        shared = params.get("variant")
        context = prompt._replace(
            dial=dial, sparse=sparse, keys=keys, progress=progress, shared=shared
        )
        return self.variant.predict(run, context)

    def router_loss_layers(self, skip: int) -> tuple[str, ...]:
        """Name the blocks that L_router averages over.

        Args:
            skip: how many blocks to leave out at either end; they carry low-level features.
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
    """Sort what the modules sowed; each value is a tuple `(value,)` under its path and name."""
    routing, attention, extra = {}, {}, {}
    for path, values in flatten_dict(intermediates).items():
        value = values[0] if len(values) == 1 else values  # sown more than once
        if path[-1] == "routing":
            routing[".".join(path[:-1])] = value
        elif path[-2:] == ("personalized", "attention"):
            # Of all subjects, or sown once for each.
            attention[".".join(path[:-2])] = jnp.concatenate(values, axis=-1)
        else:
            extra[".".join(path)] = value
    return Observations(routing, attention, extra)


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
        key: for what starts at random: routers and the prompt's networks. None means that nothing
            is computed: what is added is given as shapes, and its weights can be read from a file.
        remat: recompute the U-Net's blocks in the backward pass.

    Returns:
        The networks and their parameters. These are the base's own arrays and, in float32, what is
        added: the experts (copies of the prior), routers, the prompt, and what the variant shares.

    Raises:
        InputError: there is no such variant, the base has no image encoder, or L_router would read
            no layer.
    """
    variant = resolve(method.mixture)
    if base.image_encoder is None:
        raise InputError(
            f"{base.name!r} has no image encoder, which MoA needs to see its subjects: name a "
            "CLIP vision tower, e.g. model.image_encoder=openai/clip-vit-large-patch14 "
            "(--image-encoder)"
        )
    config = UNetConfig.from_dict(base.unet.config)
    blocks = transformer_blocks(config)
    if method.router_loss_skip >= len(blocks) / 2:
        raise InputError(
            f"method.router_loss_skip={method.router_loss_skip} leaves none of the U-Net's "
            f"{len(blocks)} transformer blocks to L_router: choose 0 to {(len(blocks) - 1) // 2}"
        )
    attention = variant.attention(method, base.attend)
    model = MoA(
        unet=UNet(config, attention, dtype, remat, variant.feed_forward(method)),
        prompt=variant.prompt(method, len(blocks), dtype),
        image_encoder=base.image_encoder.module,
        text_encoder=base.text_encoder.module,
        vae=base.vae.module,
        blocks=blocks,
        variant=variant,
    )
    params = {
        "unet": base.unet.params,
        "image_encoder": base.image_encoder.params,
        "text_encoder": base.text_encoder.params,
        "vae": base.vae.params,
    }
    return model, params | _added(model, config, params, key)


def _added(
    model: MoA, config: UNetConfig, params: Params, key: Array | None
) -> dict[str, dict[str, Any]]:
    """Make the parts of the tree that MoA changes; without a key, the leaves it adds are shapes."""
    variant, prior = model.variant, flatten_dict(params["unet"])
    features = model.feature_width(params)

    def shared_by_all(key: Array, prior: Flat) -> Flat:
        return variant.shared(prior, jax.random.fold_in(key, 2))

    sizes: Flat = {}
    if variant.replaces("shared"):  # the usual start traces nothing
        sizes = jax.eval_shape(lambda prior: shared_by_all(jax.random.key(0), prior), prior)

    def everything(key: Array) -> dict[str, Any]:
        zeros = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in sizes.items()}
        prompt, unet = _initialize(model, config, features, unflatten_dict(zeros), key)
        added = {path: leaf for path, leaf in unet.items() if is_added(_joined("unet", path))}
        return {"prompt": prompt, "unet": unflatten_dict(added)}

    of = (model.unet, model.prompt, features)
    # A later process reads the shapes from disk instead of tracing the U-Net.
    shapes = remember(of, lambda: jax.eval_shape(lambda: everything(jax.random.key(0))))
    added = flatten_dict(shapes["unet"])
    if key is None:
        unet, prompt, shared = added, shapes["prompt"], sizes
    else:
        start = {path: _copy(leaf) for path, leaf in variant.start(added, prior).items()}

        @jax.jit
        def at_random(key: Array) -> dict[str, Any]:
            """Initialise what has no given start; the compiler drops everything else."""
            made = everything(key)
            unet = flatten_dict(made["unet"])
            return {**made, "unet": {path: unet[path] for path in unet if path not in start}}

        made, shared = at_random(key), shared_by_all(key, prior)
        unet, prompt = {**made["unet"], **start}, made["prompt"]
    tree = {"unet": unflatten_dict({**prior, **unet}), "prompt": prompt}
    return tree | ({"variant": unflatten_dict(shared)} if shared else {})


def _copy(leaf: Any) -> Array:
    # A copy even of float32: a training step takes over the buffers of what learns.
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return jnp.array(leaf, dtype=jnp.float32 if floating else None, copy=True)


def _joined(network: str, path: tuple[str, ...]) -> str:
    return ".".join((network, *path))


def _initialize(
    model: MoA, config: UNetConfig, features: int, shared: Params, key: Array
) -> tuple[Any, Flat]:
    """Initialise the prompt's network and the U-Net."""
    side = 2 ** (len(config.channels) - 1)  # the smallest that every stage can halve
    latents = jnp.zeros((1, side, side, config.in_channels))
    times, tokens = jnp.zeros(1), jnp.zeros((1, 1), jnp.int32)
    text, picture = jnp.zeros((1, 2, config.context_width)), jnp.zeros((1, 1, features))
    prompt_key, unet_key = jax.random.split(key)
    prompt, variables = model.prompt.init_with_output(prompt_key, text, picture, tokens, times)
    context = prompt._replace(shared=shared)
    unet = model.unet.init(unet_key, latents, times, context)["params"]
    return variables["params"], flatten_dict(unet)
