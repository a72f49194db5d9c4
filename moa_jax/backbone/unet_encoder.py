"""The down half and the middle of the U-Net; a ControlNet is a copy of these.

Modules are named by diffusers' keys, so a parameter's path, joined by dots, is its key in the
checkpoint. The class of the attention layers is an argument; they get the context unchanged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from moa_jax.backbone.attention import Attention
from moa_jax.backbone.blocks import Downsample, ResnetBlock, conv3, remat
from moa_jax.backbone.transformer import FeedForward, SpatialTransformer
from moa_jax.errors import InputError

DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}

# The keys that `EncoderConfig` reads, and the supported values of those that it does not.
READ = (
    *("in_channels", "block_out_channels", "layers_per_block", "down_block_types"),
    *("attention_head_dim", "num_attention_heads", "transformer_layers_per_block"),
    *("cross_attention_dim", "norm_num_groups", "norm_eps", "freq_shift", "use_linear_projection"),
    # Sizes of options that are off, and ways to compute the same: no change to the network.
    *("sample_size", "addition_embed_type_num_heads", "upcast_attention"),
)
FIXED = {
    "act_fn": ("silu", "swish"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "conv_in_kernel": (3,),
    "downsample_padding": (1,),
    "dropout": (0, 0.0),
    "flip_sin_to_cos": (True,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
}


class Stage(NamedTuple):
    """One of diffusers' blocks that attend: transformer blocks that follow each other.

    Attributes:
        name: its path in the tree.
        layers: how many spatial transformers it has.
        depth: how many transformer blocks each of these has.
    """

    name: str
    layers: int
    depth: int


@dataclass(frozen=True)
class EncoderConfig:
    """The settings in a `config.json` that change the down half and the middle.

    Attributes:
        down_attention: whether each level attends, from fine to coarse.
        heads: attention heads per level, from fine to coarse.
        depths: transformer blocks in each spatial transformer of a level, from fine to coarse.
    """

    in_channels: int
    channels: tuple[int, ...]
    down_attention: tuple[bool, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    depths: tuple[int, ...]
    context_width: int
    groups: int
    epsilon: float
    freq_shift: int
    linear_projection: bool

    def stages(self) -> list[Stage]:
        """List the stages that attend, in the order of the computation."""
        attending = [level for level, attends in enumerate(self.down_attention) if attends]
        down = [
            Stage(f"down_blocks.{level}", self.layers[level], self.depths[level])
            for level in attending
        ]
        return [*down, Stage("mid_block", 1, self.depths[-1])]


def read_encoder(network: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of `EncoderConfig` from a `config.json` that passed `require_supported`.

    Args:
        network: its name in messages.

    Raises:
        InputError: a value is of the wrong kind, or there is not one for each level.
    """
    levels = len(config["block_out_channels"])
    # By an old mistake of diffusers, attention_head_dim is the number of heads.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    width = config.get("cross_attention_dim", 1280)
    if not isinstance(width, int):
        raise InputError(f"{network} config cross_attention_dim={width}: needs one integer")

    def per_level(key: str, value: Any) -> tuple[int, ...]:
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
        if len(values) != levels or not all(isinstance(each, int) for each in values):
            needs = "needs one integer, or one for each level"
            raise InputError(f"{network} config {key}={value}: {needs}")
        return values

    depths = config.get("transformer_layers_per_block", 1)
    return {
        "in_channels": config.get("in_channels", 4),
        "channels": tuple(config["block_out_channels"]),
        "down_attention": which_attend(network, config, "down_block_types", DOWN_BLOCKS),
        "layers": per_level("layers_per_block", config.get("layers_per_block", 2)),
        "heads": per_level("attention_head_dim", heads),
        "depths": per_level("transformer_layers_per_block", depths),
        "context_width": width,
        "groups": config.get("norm_num_groups", 32),
        "epsilon": config.get("norm_eps", 1e-5),
        "freq_shift": config.get("freq_shift", 0),
        "linear_projection": config.get("use_linear_projection", False),
    }


def which_attend(
    network: str, config: Mapping[str, Any], key: str, kinds: Mapping[str, bool]
) -> tuple[bool, ...]:
    """Say for each block that `config[key]` names whether it attends.

    Raises:
        InputError: a name is not in `kinds`, or there is not one for each level.
    """
    names, levels = config[key], len(config["block_out_channels"])
    if len(names) != levels or any(name not in kinds for name in names):
        raise InputError(f"{network} config {key}={names}: needs {levels} of {', '.join(kinds)}")
    return tuple(kinds[name] for name in names)


def transformer_blocks(config: EncoderConfig) -> tuple[str, ...]:
    """Name every transformer block by its path in the tree, in the order of the computation."""
    return tuple(
        f"{stage}.attentions.{layer}.transformer_blocks.{block}"
        for stage, layers, depth in config.stages()
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
    # The order that diffusers calls flip_sin_to_cos.
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


class Encoder(nn.Module):
    """The base class of U-Net and ControlNet: everything up to the middle.

    Attributes:
        attention: builds an attention layer (see `Attention`), which gets the context unchanged.
        dtype: of the computation.
        remat: whether to recompute each residual and transformer block in the backward pass; see
            `moa_jax.backbone.blocks.remat` for what is kept.
        feed_forward: builds the network after each pair of attention layers; see
            `TransformerBlock`.
    """

    config: EncoderConfig
    attention: Callable[..., nn.Module] = Attention
    dtype: Any = jnp.float32
    remat: bool = False
    feed_forward: Callable[..., nn.Module] = FeedForward

    def _encode(
        self, latents: Array, timesteps: Array, context: Any, hint: Array | None = None
    ) -> tuple[Array, list[Array], Array]:
        """Compute the output of the middle, the skips for the up half, and the embedded time.

        Args:
            hint: added to the latents once they have the network's width; None means nothing.
        """
        width = self.config.channels[0]
        sinusoids = timestep_embedding(timesteps, width, self.config.freq_shift)
        # Four times the first width, as in diffusers.
        time = TimestepMLP(4 * width, self.dtype, name="time_embedding")(sinusoids)
        hidden = conv3(width, self.dtype, "conv_in")(latents)
        if hint is not None:
            hidden = hidden + hint
        hidden, skips = self._down(hidden, time, context)
        hidden = self._resnet("mid_block", 0, -1)(hidden, time)
        hidden = self._transformer("mid_block", 0, -1)(hidden, context)
        return self._resnet("mid_block", 1, -1)(hidden, time), skips, time

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

    def _resnet(self, stage: str, layer: int, level: int) -> nn.Module:
        config = self.config
        block = remat(ResnetBlock) if self.remat else ResnetBlock
        name = f"{stage}.resnets.{layer}"
        return block(config.channels[level], config.groups, config.epsilon, self.dtype, name=name)

    def _transformer(self, stage: str, layer: int, level: int) -> nn.Module:
        config = self.config
        name = f"{stage}.attentions.{layer}"
        block = remat(SpatialTransformer) if self.remat else SpatialTransformer
        return block(
            attention=self.attention,
            heads=config.heads[level],
            blocks=tuple(
                place
                for place, path in enumerate(transformer_blocks(config))
                if path.startswith(f"{name}.")  # the dot: attentions.1 is not attentions.10
            ),
            groups=config.groups,
            linear_projection=config.linear_projection,
            dtype=self.dtype,
            feed_forward=self.feed_forward,
            name=name,
        )
