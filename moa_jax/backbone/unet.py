"""The U-Net of Stable Diffusion 1.x and 2.x: noise, or velocity, from noisy latents.

Module names carry diffusers' key parts, so the parameter tree joined by dots is the checkpoint's
list of keys. The class of the attention layers is an argument; the context is passed to them as is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from moa_jax.backbone.attention import Attention
from moa_jax.backbone.blocks import Downsample, GroupNorm, ResnetBlock, Upsample, conv3
from moa_jax.backbone.supported import require_supported
from moa_jax.backbone.transformer import SpatialTransformer
from moa_jax.errors import InputError

DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}

FIXED = {
    "act_fn": ("silu", "swish"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "downsample_padding": (1,),
    "dropout": (0, 0.0),
    "flip_sin_to_cos": (True,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
}
# Sizes of options that are off, and how to compute rather than what: neither changes the network.
UNREAD = ("sample_size", "addition_embed_type_num_heads", "upcast_attention")


@dataclass(frozen=True)
class UNetConfig:
    """What of `unet/config.json` changes the network.

    Attributes:
        down_attention: per level, from fine to coarse: does it attend?
        up_attention: the same on the way up, from coarse to fine.
        heads: attention heads per level, from fine to coarse.
        depths: transformer blocks in each attention of a level, from fine to coarse.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    down_attention: tuple[bool, ...]
    up_attention: tuple[bool, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    depths: tuple[int, ...]
    context_width: int
    groups: int
    epsilon: float
    freq_shift: int
    linear_projection: bool

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "UNetConfig":
        """Read a `config.json`.

        Raises:
            InputError: a value that is not supported, named with what is.
        """
        read = (
            *("in_channels", "out_channels", "block_out_channels", "layers_per_block"),
            *("down_block_types", "up_block_types", "attention_head_dim", "num_attention_heads"),
            *("transformer_layers_per_block", "cross_attention_dim", "norm_num_groups"),
            *("norm_eps", "freq_shift", "use_linear_projection", *UNREAD),
        )
        required = ("block_out_channels", "down_block_types", "up_block_types")
        require_supported("UNet2DConditionModel", config, read, FIXED, required)
        levels = len(config["block_out_channels"])
        # diffusers' attention_head_dim is, by an old mistake, the number of heads.
        heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
        return cls(
            in_channels=config.get("in_channels", 4),
            out_channels=config.get("out_channels", 4),
            channels=tuple(config["block_out_channels"]),
            down_attention=_attends(config, "down_block_types", DOWN_BLOCKS, levels),
            up_attention=_attends(config, "up_block_types", UP_BLOCKS, levels),
            layers=_per_level(
                config, "layers_per_block", config.get("layers_per_block", 2), levels
            ),
            heads=_per_level(config, "attention_head_dim", heads, levels),
            depths=_per_level(
                config,
                "transformer_layers_per_block",
                config.get("transformer_layers_per_block", 1),
                levels,
            ),
            context_width=_context_width(config),
            groups=config.get("norm_num_groups", 32),
            epsilon=config.get("norm_eps", 1e-5),
            freq_shift=config.get("freq_shift", 0),
            linear_projection=config.get("use_linear_projection", False),
        )


def _attends(
    config: Mapping[str, Any], key: str, kinds: Mapping[str, bool], levels: int
) -> tuple[bool, ...]:
    names = config[key]
    if len(names) != levels or any(name not in kinds for name in names):
        raise InputError(f"UNet config {key}={names}: needs {levels} of {', '.join(kinds)}")
    return tuple(kinds[name] for name in names)


def _per_level(config: Mapping[str, Any], key: str, value: Any, levels: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
    if len(values) != levels or not all(isinstance(each, int) for each in values):
        raise InputError(f"UNet config {key}={value}: needs one integer, or one for each level")
    return values


def _context_width(config: Mapping[str, Any]) -> int:
    width = config.get("cross_attention_dim", 1280)
    if not isinstance(width, int):
        raise InputError(f"UNet config cross_attention_dim={width}: needs one integer")
    return width


def transformer_blocks(config: UNetConfig) -> tuple[str, ...]:
    """Name every transformer block by its path in the tree, in the order of the computation."""
    levels = range(len(config.channels))
    stages = [
        (f"down_blocks.{level}", config.layers[level], config.depths[level])
        for level in levels
        if config.down_attention[level]
    ]
    stages.append(("mid_block", 1, config.depths[-1]))
    stages += [
        (f"up_blocks.{stage}", config.layers[level] + 1, config.depths[level])
        for stage, level in enumerate(reversed(levels))
        if config.up_attention[stage]
    ]
    return tuple(
        f"{stage}.attentions.{layer}.transformer_blocks.{block}"
        for stage, layers, depth in stages
        for layer in range(layers)
        for block in range(depth)
    )


def timestep_embedding(
    timesteps: Shaped[Array, " B"], width: int, freq_shift: int = 0
) -> Float[Array, "B E"]:
    """Embed timesteps in sinusoids of geometric frequencies, cosines first."""
    half = width // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(-jnp.log(1e4) * exponents)[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepMLP(nn.Module):
    """Two linear layers on the sinusoids."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: Float[Array, "B E"]) -> Float[Array, "B F"]:
        """Embed."""
        hidden = nn.Dense(self.width, dtype=self.dtype, name="linear_1")(embedding)
        return nn.Dense(self.width, dtype=self.dtype, name="linear_2")(jax.nn.silu(hidden))


class UNet(nn.Module):
    """Predict the noise, or the velocity, of noisy latents.

    Attributes:
        attention: builds an attention layer (see `Attention`); the context goes there unread.
        dtype: of the computation.
        remat: recompute each residual and transformer block in the backward pass.
    """

    config: UNetConfig
    attention: Callable[..., nn.Module] = Attention
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, latents: Float[Array, "B H W C"], timesteps: Shaped[Array, " B"], context: Any
    ) -> Float[Array, "B H W O"]:
        """Predict.

        Args:
            latents: at least one pixel at the coarsest level; rows and columns are free.
            timesteps: of the noise schedule, 0 to T-1; may be fractional.
            context: what cross-attention attends to; `Float[Array, "B S D"]` for `Attention`.
        """
        config = self.config
        width = config.channels[0]
        sinusoids = timestep_embedding(timesteps, width, config.freq_shift)
        time = TimestepMLP(4 * width, self.dtype, name="time_embedding")(sinusoids)
        hidden = conv3(width, self.dtype, "conv_in")(latents)
        hidden, skips = self._down(hidden, time, context)
        hidden = self._resnet("mid_block", 0, -1)(hidden, time)
        hidden = self._transformer("mid_block", 0, -1)(hidden, context)
        hidden = self._resnet("mid_block", 1, -1)(hidden, time)
        hidden = self._up(hidden, skips, time, context)
        norm = GroupNorm(
            config.groups, epsilon=config.epsilon, dtype=self.dtype, name="conv_norm_out"
        )
        return conv3(config.out_channels, self.dtype, "conv_out")(jax.nn.silu(norm(hidden)))

    def _down(self, hidden: Array, time: Array, context: Any) -> tuple[Array, list[Array]]:
        config, skips = self.config, [hidden]
        for level, channels in enumerate(config.channels):
            stage = f"down_blocks.{level}"
            for layer in range(config.layers[level]):
                hidden = self._resnet(stage, layer, level)(hidden, time)
                if config.down_attention[level]:
                    hidden = self._transformer(stage, layer, level)(hidden, context)
                skips.append(hidden)
            if level + 1 < len(config.channels):
                name = f"{stage}.downsamplers.0"
                hidden = Downsample(channels, dtype=self.dtype, name=name)(hidden)
                skips.append(hidden)
        return hidden, skips

    def _up(self, hidden: Array, skips: list[Array], time: Array, context: Any) -> Array:
        config = self.config
        for number, level in enumerate(reversed(range(len(config.channels)))):
            stage = f"up_blocks.{number}"
            for layer in range(config.layers[level] + 1):
                hidden = jnp.concatenate([hidden, skips.pop()], axis=-1)
                hidden = self._resnet(stage, layer, level)(hidden, time)
                if config.up_attention[number]:
                    hidden = self._transformer(stage, layer, level)(hidden, context)
            if level > 0:
                upsample = Upsample(hidden.shape[-1], self.dtype, name=f"{stage}.upsamplers.0")
                hidden = upsample(hidden, skips[-1].shape[1:3])
        return hidden

    def _resnet(self, stage: str, layer: int, level: int) -> nn.Module:
        config = self.config
        block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        name = f"{stage}.resnets.{layer}"
        return block(config.channels[level], config.groups, config.epsilon, self.dtype, name=name)

    def _transformer(self, stage: str, layer: int, level: int) -> nn.Module:
        config = self.config
        name = f"{stage}.attentions.{layer}"
        block = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
        return block(
            attention=self.attention,
            heads=config.heads[level],
            blocks=tuple(
                place
                for place, path in enumerate(transformer_blocks(config))
                if path.startswith(f"{name}.")
            ),
            groups=config.groups,
            linear_projection=config.linear_projection,
            dtype=self.dtype,
            name=name,
        )
