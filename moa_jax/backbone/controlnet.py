"""ControlNet for Stable Diffusion 1.x and 2.x: a picture of edges, depth or a pose leads the U-Net.

A copy of the U-Net's down half and middle sees the latents and the control picture; what it finds
is added to the U-Net's skips and middle (`Residuals`). Module names carry diffusers' key parts.
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
    """What of a ControlNet's `config.json` changes the network.

    Attributes:
        picture_channels: of the control picture.
        picture_widths: channels of the convolutions on the control picture; all but the first
            halve its resolution.
        bgr: the control picture's channels are reversed first.
        pool: every residual is its mean over all pixels.
    """

    picture_channels: int
    picture_widths: tuple[int, ...]
    bgr: bool
    pool: bool

    @property
    def downscale(self) -> int:
        """Give the pixels of the control picture along one latent."""
        return 2 ** (len(self.picture_widths) - 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ControlNetConfig":
        """Read a `config.json`.

        Raises:
            InputError: a value that is not supported, named with what is.
        """
        widths = "conditioning_embedding_out_channels"
        order = "controlnet_conditioning_channel_order"
        read = (*READ, "conditioning_channels", widths, "global_pool_conditions")
        fixed = {**FIXED, order: ("rgb", "bgr")}
        require_supported(KIND, config, read, fixed, ("block_out_channels", "down_block_types"))
        return cls(
            **read_encoder("ControlNet", config),
            picture_channels=config.get("conditioning_channels", 3),
            picture_widths=tuple(config.get(widths) or (16, 32, 96, 256)),
            bgr=config.get(order) == "bgr",
            pool=config.get("global_pool_conditions", False),
        )


class PictureEmbedding(nn.Module):
    """Convolve the control picture down to the resolution and the width of the U-Net's latents.

    Attributes:
        width: of the result.
        widths: of the convolutions before it.
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
    """Find what to add to a U-Net so that its picture follows a control picture."""

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
            latents: what the U-Net is given.
            timesteps: of the noise schedule, 0 to T-1; may be fractional.
            context: what cross-attention attends to; `Float[Array, "B S D"]` for `Attention`.
            picture: in [0, 1], as `prepare_control_image` gives it: `config.downscale` pixels for
                each latent.

        Raises:
            ValueError: the picture is of another size.
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
    side = 2 ** (len(config.channels) - 1)
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
    """Sum what several ControlNets found, each times its scale.

    Args:
        residuals: of each ControlNet, for one U-Net.
        scales: of each; 1 is as trained, 0 is no control. May be traced.

    Raises:
        ValueError: not a scale for each.
    """
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
        attend: what its attention layers attend with.
        place: puts a parameter where it belongs, see `load_params`.

    Raises:
        InputError: no such folder, a file missing or damaged, another kind of network, one that is
            not supported, or weights that do not fit its configuration.
    """
    folder = _find(name_or_path, variant)
    config = read_config(folder)
    module = ControlNet(_read(folder, config), partial(Attention, attend=attend), dtype)
    params, fingerprint = load_params(folder, parameter_shapes(module), dtype, variant, place)
    return Component(module, params, config, fingerprint)


def require_fits(controlnet: Component, name: str, unet: EncoderConfig, downscale: int) -> None:
    """Refuse a ControlNet whose residuals are not of a U-Net's shapes, or that reads another text.

    Args:
        controlnet: from `load_controlnet`.
        name: what messages call it.
        unet: the U-Net's configuration.
        downscale: of the VAE, pixels along one latent.

    Raises:
        InputError: naming every value that differs.
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
