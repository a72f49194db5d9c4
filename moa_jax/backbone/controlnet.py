"""ControlNet for Stable Diffusion 1.x and 2.x: a picture of edges, depth or a pose guides it.

A copy of the U-Net's down half and middle sees the latents and the control picture. Its outputs
are added to the U-Net's skips and middle (`Residuals`). Modules are named by diffusers' keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from moa_jax.backbone.attention import Attention
from moa_jax.backbone.attention_kernels import Attend, xla
from moa_jax.backbone.blocks import conv3
from moa_jax.backbone.folder import read_config, resolve
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.stable_diffusion import Component
from moa_jax.backbone.supported import STABLE_DIFFUSION_OF_WIDTH, require_supported
from moa_jax.backbone.unet import Residuals
from moa_jax.backbone.unet_encoder import FIXED, READ, Encoder, EncoderConfig, read_encoder
from moa_jax.backbone.weights import Place, load_params
from moa_jax.errors import InputError

KIND = "ControlNetModel"

Scale = float | int | Float[Array, ""]


@dataclass(frozen=True)
class ControlNetConfig(EncoderConfig):
    """The settings in a ControlNet's `config.json` that change the network.

    Attributes:
        picture_channels: channels of the control picture.
        picture_widths: channels of the convolutions on the control picture; all but the first
            halve its resolution.
        bgr: whether the control picture's channels are reversed first.
        pool: whether every residual is replaced by its mean over all pixels.
    """

    picture_channels: int
    picture_widths: tuple[int, ...]
    bgr: bool
    pool: bool

    @property
    def downscale(self) -> int:
        """Give how many pixels of the control picture lie along one side of a latent."""
        return 2 ** (len(self.picture_widths) - 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ControlNetConfig":
        """Read a `config.json`.

        Raises:
            InputError: a value is not supported; the message says which values are.
        """
        widths = "conditioning_embedding_out_channels"
        order = "controlnet_conditioning_channel_order"
        read = (*READ, "conditioning_channels", widths, "global_pool_conditions")
        fixed = {**FIXED, order: ("rgb", "bgr")}
        require_supported(KIND, config, read, fixed, ("block_out_channels", "down_block_types"))
        return cls(
            **read_encoder("ControlNet", config),
            # The defaults are diffusers'.
            picture_channels=config.get("conditioning_channels", 3),
            picture_widths=tuple(config.get(widths) or (16, 32, 96, 256)),
            bgr=config.get(order) == "bgr",
            pool=config.get("global_pool_conditions", False),
        )


class PictureEmbedding(nn.Module):
    """Convolve the control picture down to the resolution and the width of the U-Net's latents.

    Attributes:
        width: channels of the result.
        widths: channels of the convolutions before the last one.
    """

    width: int
    widths: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Embed."""
        hidden = conv3(self.widths[0], self.dtype, "conv_in")(picture)
        for level, (same, wider) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            hidden = conv3(same, self.dtype, f"blocks.{2 * level}")(jax.nn.silu(hidden))
            halve = conv3(wider, self.dtype, f"blocks.{2 * level + 1}", strides=2)
            hidden = halve(jax.nn.silu(hidden))
        return conv3(self.width, self.dtype, "conv_out")(jax.nn.silu(hidden))


class ControlNet(Encoder):
    """Predict the residuals that make a U-Net's picture follow a control picture."""

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "B h w C"],
        timesteps: Shaped[Array, " B"],
        context: Any,
        picture: Float[Array, "B H W P"],
    ) -> Residuals:
        """Predict.

        Args:
            latents: the same as the U-Net's.
            timesteps: of the noise schedule, 0 to T-1; may be fractional.
            context: what cross-attention attends to; `Float[Array, "B S D"]` for `Attention`.
            picture: the control picture in [0, 1], as `prepare_control_image` gives it, with
                `config.downscale` pixels along each latent.

        Raises:
            ValueError: the picture does not have this size.
        """
        config = self.config
        if picture.shape[1:3] != (size := tuple(config.downscale * n for n in latents.shape[1:3])):
            raise ValueError(f"picture is {picture.shape[1:3]} for latents that need {size}")
        picture = picture[..., ::-1] if config.bgr else picture
        embed = PictureEmbedding(
            config.channels[0], config.picture_widths, self.dtype, name="controlnet_cond_embedding"
        )
        hidden, skips, _ = self._encode(latents, timesteps, context, embed(picture))
        found = [
            self._project(skip, f"controlnet_down_blocks.{place}")
            for place, skip in enumerate(skips)
        ]
        return Residuals(tuple(found), self._project(hidden, "controlnet_mid_block"))

    def _project(self, hidden: Array, name: str) -> Array:
        hidden = nn.Conv(hidden.shape[-1], (1, 1), dtype=self.dtype, name=name)(hidden)
        return hidden.mean((1, 2), keepdims=True) if self.config.pool else hidden


@parameter_shapes.register
def _(module: ControlNet) -> dict[str, Any]:
    config = module.config
    side = 2 ** (len(config.channels) - 1)  # the least latents: one pixel at the coarsest level
    pixels = side * config.downscale
    inputs = (
        jnp.zeros((1, side, side, config.in_channels)),
        jnp.zeros(1),
        jnp.zeros((1, 1, config.context_width)),
        jnp.zeros((1, pixels, pixels, config.picture_channels)),
    )
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def combine(
    residuals: Sequence[Residuals], scales: Sequence[Scale] | Float[Array, " n"]
) -> Residuals:
    """Sum the residuals of several ControlNets, each times its scale.

    Args:
        residuals: one of each ControlNet, all for the same U-Net.
        scales: one for each ControlNet; 1 is as trained, 0 is no control. They may be traced.

    Raises:
        ValueError: there is not one scale for each ControlNet.
    """
    # A scale takes the residual's dtype: a traced float32 scale would widen half precision.
    scaled = [
        jax.tree.map(lambda leaf, scale=scale: leaf * jnp.asarray(scale, leaf.dtype), each)
        for each, scale in zip(residuals, scales, strict=True)
    ]
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *scaled)


def load_controlnet(
    name_or_path: str | Path,
    dtype: Any = jnp.float32,
    variant: str | None = None,
    attend: Attend = xla,
    place: Place | None = None,
) -> Component:
    """Read a ControlNet's folder, as diffusers lays it out.

    Args:
        name_or_path: the folder, or its id on the Hugging Face hub.
        dtype: of the computation, and of the parameters unless `place` is given.
        variant: "fp16" reads `*.fp16.safetensors`.
        attend: the function that its attention layers call; see `choose_attend`.
        place: puts a parameter where it belongs; see `load_params`.

    Raises:
        InputError: there is no such folder, a file is missing or damaged, the network is of
            another or an unsupported kind, or the weights do not fit the configuration.
    """
    folder = _find(name_or_path, variant)
    config = read_config(folder)
    module = ControlNet(_read(folder, config), partial(Attention, attend=attend), dtype)
    params, fingerprint = load_params(folder, parameter_shapes(module), dtype, variant, place)
    return Component(module, params, config, fingerprint)


def require_fits(controlnet: Component, name: str, unet: EncoderConfig, downscale: int) -> None:
    """Refuse a ControlNet whose residuals or context do not have the U-Net's shapes.

    Args:
        controlnet: as `load_controlnet` gives it.
        name: its name in messages.
        unet: the U-Net's configuration.
        downscale: pixels along one side of a latent of the VAE.

    Raises:
        InputError: a value differs; the message names all that do.
    """
    ours = controlnet.module.config
    named = {
        "cross_attention_dim": (ours.context_width, unet.context_width),
        "block_out_channels": (ours.channels, unet.channels),
        "layers_per_block": (ours.layers, unet.layers),
        "in_channels": (ours.in_channels, unet.in_channels),
        "pixels per latent": (ours.downscale, downscale),
    }
    faults = [
        f"{key} is {mine}, the base model's is {its}"
        for key, (mine, its) in named.items()
        if mine != its
    ]
    if faults:
        raise InputError(
            f"the ControlNet {name!r} does not fit the base model: {'; '.join(faults)}. "
            f"{_made_for(ours.context_width)}Choose one that was made for the base model's kind"
        )


def _find(name_or_path: str | Path, variant: str | None) -> Path:
    path = Path(name_or_path).expanduser()
    # Before `resolve`, whose message would advise how to make a pipeline's folder.
    if str(name_or_path) and path.is_file():
        raise InputError(
            f"{str(path)!r} is a file; give a ControlNet's folder (diffusers makes one of a single "
            f"file: {KIND}.from_single_file(FILE).save_pretrained(FOLDER))"
        )
    folder = resolve(name_or_path, ("",), variant)
    if (folder / "model_index.json").is_file():
        raise InputError(
            f"{str(folder)!r} is a whole pipeline: give a ControlNet's own folder, which in a "
            "pipeline that has one is controlnet/"
        )
    return folder


def _read(folder: Path, config: Mapping[str, Any]) -> ControlNetConfig:
    file, kind = str(folder / "config.json"), config.get("_class_name", KIND)
    if kind != KIND:
        raise InputError(
            f"{file!r} says _class_name={kind!r}, which is no ControlNet: give a folder whose "
            f"config.json says {KIND}"
        )
    try:
        return ControlNetConfig.from_dict(config)
    except InputError as error:
        made_for = _made_for(config.get("cross_attention_dim"))
        raise InputError(
            f"{file!r}: {error}. {made_for}Choose a ControlNet that was made for Stable Diffusion "
            "1.x or 2.x"
        ) from error


def _made_for(context_width: Any) -> str:
    kind = STABLE_DIFFUSION_OF_WIDTH.get(context_width)
    return (
        f"A cross_attention_dim of {context_width} is Stable Diffusion {kind}'s. " if kind else ""
    )
