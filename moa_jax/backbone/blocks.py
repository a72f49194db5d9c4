"""The parts that U-Net and VAE share: convolutions, norms, residual blocks and resampling.

Feature maps are channels-last, `B H W C`. Normalisation runs in float32 whatever the dtype.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Name of what the forward pass of an attention kernel leaves for the backward pass.
ATTENDED = "attended"


def conv3(channels: int, dtype: Any, name: str, **options: Any) -> nn.Conv:
    """Build a 3x3 convolution with PyTorch's symmetric padding of 1 unless told otherwise."""
    return nn.Conv(channels, (3, 3), **{"padding": 1, **options}, dtype=dtype, name=name)


def remat(block: type[nn.Module]) -> type[nn.Module]:
    """Recompute a block in the backward pass, all but what attention kernels leave for it.

    That is their output and a number for each query. It is what costs most to compute again and
    takes least to keep: of a self-attention at 4,096 tokens, 2.8 MB a picture.
    """
    return nn.remat(block, policy=jax.checkpoint_policies.save_only_these_names(ATTENDED))


class _Passes:
    """How often a norm reads its input to find the variance: as often as its precision asks for.

    In float32 twice, as PyTorch does. In half precision once, as E[x^2] - E[x]^2, which is Flax's
    own way: on a TPU both sums come with the convolution before. The difference cancels by (mean /
    deviation)^2 roundings of float32. Up to means of ten deviations that is less than the rounding
    of the result.
    """

    def __post_init__(self) -> None:
        """Choose, unless it is told."""
        if self.use_fast_variance is None:
            self.use_fast_variance = self.dtype is not None and jnp.finfo(self.dtype).bits < 32
        super().__post_init__()


class GroupNorm(_Passes, nn.GroupNorm):
    """Group normalisation that finds the variance as `_Passes` says."""

    use_fast_variance: bool | None = None


class LayerNorm(_Passes, nn.LayerNorm):
    """Layer normalisation with PyTorch's epsilon, and the variance of `_Passes`."""

    epsilon: float = 1e-5  # Flax's own default is 1e-6
    use_fast_variance: bool | None = None


class ResnetBlock(nn.Module):
    """Two convolutions with a residual connection; the time embedding is added between them.

    Attributes:
        channels: channels of the output.
        groups: of the group norms.
        epsilon: of the group norms.
    """

    channels: int
    groups: int
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W C"], time_embedding: Float[Array, "B E"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Transform the feature map."""
        residual = hidden
        hidden = self._convolve(hidden, "norm1", "conv1")
        if time_embedding is not None:
            shift = nn.Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(
                jax.nn.silu(time_embedding)
            )
            hidden = hidden + shift[:, None, None, :]
        hidden = self._convolve(hidden, "norm2", "conv2")
        # As in diffusers, whose blocks have this layer only where the width changes.
        if residual.shape[-1] != self.channels:
            shortcut = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="conv_shortcut")
            residual = shortcut(residual)
        return residual + hidden

    def _convolve(
        self, hidden: Float[Array, "B H W C"], norm: str, convolution: str
    ) -> Float[Array, "B H W D"]:
        hidden = GroupNorm(self.groups, epsilon=self.epsilon, dtype=self.dtype, name=norm)(hidden)
        return conv3(self.channels, self.dtype, convolution)(jax.nn.silu(hidden))


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution.

    Attributes:
        padding: (before, after) of rows and columns; the VAE's encoder pads only after.
    """

    channels: int
    padding: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        """Convolve with stride 2."""
        options = {"strides": 2, "padding": (self.padding, self.padding)}
        return conv3(self.channels, self.dtype, "conv", **options)(hidden)


class Upsample(nn.Module):
    """Enlarge by nearest neighbour, then convolve."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B h w C"], size: tuple[int, int] | None = None
    ) -> Float[Array, "B H W D"]:
        """Enlarge.

        Args:
            size: rows and columns of the result; None means twice the input's.
        """
        rows, columns = hidden.shape[1:3]
        enlarged = resize_nearest(hidden, size or (2 * rows, 2 * columns))
        return conv3(self.channels, self.dtype, "conv")(enlarged)


def resize_nearest(
    hidden: Float[Array, "B h w C"], size: tuple[int, int]
) -> Float[Array, "B H W C"]:
    """Resize as PyTorch's `nearest` does: pixel i of n comes from floor(i * in / n)."""
    for axis, length in zip((1, 2), size, strict=True):
        index = jnp.arange(length) * hidden.shape[axis] // length
        hidden = jnp.take(hidden, index, axis=axis)
    return hidden
