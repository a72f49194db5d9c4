"""The U-Net of Stable Diffusion 1.x and 2.x: it predicts noise or velocity from noisy latents.

`Encoder` is the down half and the middle; this module adds the up half. Residuals of ControlNets
may be added, whatever the attention layers are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from moa_jax.backbone.blocks import GroupNorm, Upsample, conv3
from moa_jax.backbone.supported import require_supported
from moa_jax.backbone.unet_encoder import (
    FIXED,
    READ,
    Encoder,
    EncoderConfig,
    Stage,
    read_encoder,
    transformer_blocks,
    which_attend,
)

__all__ = ["Residuals", "UNet", "UNetConfig", "transformer_blocks"]

UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}


@dataclass(frozen=True)
class UNetConfig(EncoderConfig):
    """The settings in `unet/config.json` that change the network.

    Attributes:
        up_attention: whether each level attends in the up half, from coarse to fine.
    """

    out_channels: int
    up_attention: tuple[bool, ...]

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "UNetConfig":
        """Read a `config.json`.

        Raises:
            InputError: a value is not supported; the message says which values are.
        """
        read = (*READ, "out_channels", "up_block_types")
        fixed = {**FIXED, "conv_out_kernel": (3,)}
        required = ("block_out_channels", "down_block_types", "up_block_types")
        require_supported("UNet2DConditionModel", config, read, fixed, required)
        return cls(
            **read_encoder("UNet", config),
            out_channels=config.get("out_channels", 4),
            up_attention=which_attend("UNet", config, "up_block_types", UP_BLOCKS),
        )

    def stages(self) -> list[Stage]:
        """List the stages that attend, in the order of the computation."""
        up = [
            Stage(f"up_blocks.{number}", self.layers[level] + 1, self.depths[level])
            for number, level in enumerate(reversed(range(len(self.channels))))
            if self.up_attention[number]
        ]
        return [*super().stages(), *up]


class Residuals(NamedTuple):
    """What a ControlNet adds to a U-Net's feature maps, each "B h w D" or "B 1 1 D".

    Attributes:
        skips: one for each feature map that the down half hands to the up half, in the order of
            the computation.
        middle: for the output of the middle block.
    """

    skips: tuple[Array, ...]
    middle: Array


class UNet(Encoder):
    """Predict the noise, or the velocity, of noisy latents."""

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "B H W C"],
        timesteps: Shaped[Array, " B"],
        context: Any,
        residuals: Residuals | None = None,
    ) -> Float[Array, "B H W O"]:
        """Predict.

        Args:
            latents: any rows and columns, with at least one pixel at the coarsest level.
            timesteps: of the noise schedule, 0 to T-1; may be fractional.
            context: what cross-attention attends to; `Float[Array, "B S D"]` for `Attention`.
            residuals: what ControlNets add; None means there is no ControlNet.
        """
        config = self.config
        hidden, skips, time = self._encode(latents, timesteps, context)
        if residuals is not None:
            skips = [_add(skip, more) for skip, more in zip(skips, residuals.skips, strict=True)]
            hidden = _add(hidden, residuals.middle)
        hidden = self._up(hidden, skips, time, context)
        norm = GroupNorm(
            config.groups, epsilon=config.epsilon, dtype=self.dtype, name="conv_norm_out"
        )
        return conv3(config.out_channels, self.dtype, "conv_out")(jax.nn.silu(norm(hidden)))

    def _up(self, hidden: Array, skips: list[Array], time: Array, context: Any) -> Array:
        config = self.config
        for number, level in enumerate(reversed(range(len(config.channels)))):
            stage = f"up_blocks.{number}"
            # One layer more than on the way down: conv_in and each downsampler left a skip too.
            for layer in range(config.layers[level] + 1):
                hidden = jnp.concatenate([hidden, skips.pop()], axis=-1)
                hidden = self._resnet(stage, layer, level)(hidden, time)
                if config.up_attention[number]:
                    hidden = self._transformer(stage, layer, level)(hidden, context)
            if level > 0:
                upsample = Upsample(hidden.shape[-1], self.dtype, name=f"{stage}.upsamplers.0")
                # To the size of the next skip, because an odd side was rounded up when halved.
                hidden = upsample(hidden, skips[-1].shape[1:3])
        return hidden


def _add(hidden: Array, more: Array) -> Array:
    return hidden + more.astype(hidden.dtype)  # a ControlNet may compute in another dtype
