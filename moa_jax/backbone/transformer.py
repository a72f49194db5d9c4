"""The U-Net's transformer: self-attention, cross-attention and a feed-forward network.

The classes of its layers are arguments. The context is passed to the layers unchanged.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.backbone.blocks import GroupNorm, LayerNorm


class FeedForward(nn.Module):
    """Gated feed-forward network (GEGLU) of four times the width.

    Attributes:
        block: the transformer block it is in, counted from the U-Net's input.
    """

    dtype: Any = jnp.float32
    block: int = 0

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any = None
    ) -> Float[Array, "B H W D"]:
        """Transform every pixel by itself.

        Args:
            context: not read here; a network that takes this one's place may read it.
        """
        width = hidden.shape[-1]
        # Four times the width, once for the value and once for the gate.
        projected = nn.Dense(8 * width, dtype=self.dtype, name="net.0.proj")(hidden)
        value, gate = jnp.split(projected, 2, axis=-1)
        gated = value * jax.nn.gelu(gate, approximate=False)
        return nn.Dense(width, dtype=self.dtype, name="net.2")(gated)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward network, each with norm and residual.

    Attributes:
        attention: builds an attention layer; called with attributes of `Attention`, as keywords.
        block: this block's place in the U-Net, counted from the input.
        feed_forward: builds the feed-forward network; called with `dtype`, `block` and
            `name`.
    """

    attention: Callable[..., nn.Module]
    heads: int
    block: int
    dtype: Any = jnp.float32
    feed_forward: Callable[..., nn.Module] = FeedForward

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W D"]:
        """Transform the feature map under the context."""
        for number, cross in enumerate((False, True), start=1):
            layer = self.attention(
                heads=self.heads,
                head_dim=hidden.shape[-1] // self.heads,
                cross=cross,
                block=self.block,
                dtype=self.dtype,
                name=f"attn{number}",
            )
            normalised = LayerNorm(dtype=self.dtype, name=f"norm{number}")(hidden)
            hidden = hidden + layer(normalised, context)
        normalised = LayerNorm(dtype=self.dtype, name="norm3")(hidden)
        network = self.feed_forward(dtype=self.dtype, block=self.block, name="ff")
        return hidden + network(normalised, context)


class SpatialTransformer(nn.Module):
    """Transformer blocks between two projections, with one residual around them all.

    Attributes:
        blocks: the place in the U-Net of each transformer block, counted from the input.
        linear_projection: SD 2.x projects with linear layers, SD 1.x with 1x1 convolutions.
        feed_forward: see `TransformerBlock`.
    """

    attention: Callable[..., nn.Module]
    heads: int
    blocks: tuple[int, ...]
    groups: int
    linear_projection: bool
    dtype: Any = jnp.float32
    feed_forward: Callable[..., nn.Module] = FeedForward

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W D"]:
        """Transform the feature map under the context."""
        residual = hidden
        # The epsilon is fixed in diffusers too: the setting norm_eps is for the residual blocks.
        hidden = GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name="norm")(hidden)
        hidden = self._project(hidden, "proj_in")
        for index, block in enumerate(self.blocks):
            name = f"transformer_blocks.{index}"
            layer = TransformerBlock(
                self.attention, self.heads, block, self.dtype, self.feed_forward, name=name
            )
            hidden = layer(hidden, context)
        return residual + self._project(hidden, "proj_out")

    def _project(self, hidden: Float[Array, "B H W D"], name: str) -> Float[Array, "B H W D"]:
        width = hidden.shape[-1]
        if self.linear_projection:
            return nn.Dense(width, dtype=self.dtype, name=name)(hidden)
        return nn.Conv(width, (1, 1), dtype=self.dtype, name=name)(hidden)
