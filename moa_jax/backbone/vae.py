"""The autoencoder of Stable Diffusion: pictures to latents and back (diffusers' AutoencoderKL).

Modules are named by diffusers' keys, so a parameter's path, joined by dots, is its key in the
checkpoint. Latents here are as the network gives them: callers multiply by `scaling_factor` before
diffusion and divide by it before decoding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.backbone.attention_kernels import Attend, xla
from moa_jax.backbone.blocks import Downsample, GroupNorm, ResnetBlock, Upsample, conv3
from moa_jax.backbone.supported import require_supported
from moa_jax.errors import InputError

EPSILON = 1e-6  # of every norm; AutoencoderKL has no option for it
FIXED = {
    "act_fn": ("silu", "swish"),
    "in_channels": (3,),
    "out_channels": (3,),
    "shift_factor": (None, 0),
}
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
# The training size, and when diffusers leaves half precision: neither changes the network.
UNREAD = ("sample_size", "force_upcast")


@dataclass(frozen=True)
class VAEConfig:
    """The settings in `vae/config.json` that change the network.

    Names and defaults are diffusers'.
    """

    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "VAEConfig":
        """Read a `config.json`.

        Raises:
            InputError: a value is not supported; the message says which values are.
        """
        read = [field.name for field in fields(cls)]
        require_supported(
            "AutoencoderKL", config, (*read, *BLOCKS, *UNREAD), FIXED, ("block_out_channels",)
        )
        channels = tuple(config["block_out_channels"])
        for key, kind in BLOCKS.items():
            if any(block != kind for block in config.get(key, ())):
                raise InputError(f"VAE config {key}={config[key]!r} (supported: only {kind!r})")
            if len(config.get(key, [kind])) != len(channels):
                raise InputError(
                    f"VAE config {key}={config.get(key)!r}: needs one for each of "
                    f"block_out_channels={channels}"
                )
        given = {key: config[key] for key in read if key in config}
        return cls(**{**given, "block_out_channels": channels})

    @property
    def downscale(self) -> int:
        """Pixels along one side of a latent."""
        return 2 ** (len(self.block_out_channels) - 1)


class MidAttention(nn.Module):
    """Attention of all pixels to each other, with one head and a residual."""

    groups: int
    dtype: Any = jnp.float32
    attend: Attend = xla

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Mix the pixels."""
        channels = hidden.shape[-1]
        normed = GroupNorm(self.groups, epsilon=EPSILON, dtype=self.dtype, name="group_norm")(
            hidden
        )
        pixels = normed.reshape(hidden.shape[0], -1, 1, channels)
        query, key, value = (
            nn.Dense(channels, dtype=self.dtype, name=name)(pixels)
            for name in ("to_q", "to_k", "to_v")
        )
        mixed = self.attend(query, key, value).reshape(hidden.shape)
        return hidden + nn.Dense(channels, dtype=self.dtype, name="to_out.0")(mixed)


class Half(nn.Module):
    """The parts that encoder and decoder share: the middle of the network and its last layers."""

    config: VAEConfig
    dtype: Any = jnp.float32
    attend: Attend = xla

    def _resnet(self, channels: int, name: str) -> ResnetBlock:
        return ResnetBlock(channels, self.config.norm_num_groups, EPSILON, self.dtype, name=name)

    def _middle(self, hidden: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        channels, groups = hidden.shape[-1], self.config.norm_num_groups
        hidden = self._resnet(channels, "mid_block.resnets.0")(hidden)
        if self.config.mid_block_add_attention:
            name = "mid_block.attentions.0"
            hidden = MidAttention(groups, self.dtype, self.attend, name=name)(hidden)
        return self._resnet(channels, "mid_block.resnets.1")(hidden)

    def _out(self, hidden: Float[Array, "B H W C"], channels: int) -> Float[Array, "B H W D"]:
        groups = self.config.norm_num_groups
        hidden = GroupNorm(groups, epsilon=EPSILON, dtype=self.dtype, name="conv_norm_out")(hidden)
        return conv3(channels, self.dtype, "conv_out")(jax.nn.silu(hidden))


class Encoder(Half):
    """The encoder: from pixels to the mean and log-variance of latents."""

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w M"]:
        """Encode."""
        channels = self.config.block_out_channels
        hidden = conv3(channels[0], self.dtype, "conv_in")(pixels)
        for level, width in enumerate(channels):
            block = f"down_blocks.{level}"
            for index in range(self.config.layers_per_block):
                hidden = self._resnet(width, f"{block}.resnets.{index}")(hidden)
            if level < len(channels) - 1:
                name = f"{block}.downsamplers.0"
                # The encoder pads only below and on the right, unlike the U-Net.
                hidden = Downsample(width, (0, 1), self.dtype, name=name)(hidden)
        # Twice the channels: mean and log-variance.
        return self._out(self._middle(hidden), 2 * self.config.latent_channels)


class Decoder(Half):
    """The decoder: from latents to pixels."""

    @nn.compact
    def __call__(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Decode."""
        channels = self.config.block_out_channels[::-1]
        hidden = self._middle(conv3(channels[0], self.dtype, "conv_in")(latents))
        for level, width in enumerate(channels):
            block = f"up_blocks.{level}"
            # AutoencoderKL's decoder has one block more a level than its encoder.
            for index in range(self.config.layers_per_block + 1):
                hidden = self._resnet(width, f"{block}.resnets.{index}")(hidden)
            if level < len(channels) - 1:
                hidden = Upsample(width, self.dtype, name=f"{block}.upsamplers.0")(hidden)
        return self._out(hidden, 3)


class VAE(nn.Module):
    """The variational autoencoder; call its methods `encode` and `decode`."""

    config: VAEConfig
    dtype: Any = jnp.float32
    attend: Attend = xla

    def setup(self) -> None:
        """Make the parts."""
        self.encoder = Encoder(self.config, self.dtype, self.attend)
        self.decoder = Decoder(self.config, self.dtype, self.attend)
        channels = self.config.latent_channels
        if self.config.use_quant_conv:
            self.quant_conv = nn.Conv(2 * channels, (1, 1), dtype=self.dtype)
        if self.config.use_post_quant_conv:
            self.post_quant_conv = nn.Conv(channels, (1, 1), dtype=self.dtype)

    def encode(
        self, pixels: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
        """Encode pixels as the mean and log-variance of latents that are not scaled.

        Args:
            pixels: in [-1, 1].
        """
        moments = self.encoder(pixels)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)  # the limits are AutoencoderKL's

    def decode(self, latents: Float[Array, "B h w C"]) -> Float[Array, "B H W 3"]:
        """Decode latents that are not scaled into pixels in about [-1, 1]."""
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)

    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Reconstruct pixels from the mean of their latents; `init` calls it to make all parts."""
        mean, _ = self.encode(pixels)
        return self.decode(mean)
