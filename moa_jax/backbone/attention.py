"""One attention layer of the U-Net.

The U-Net takes the class of its attention layers as an argument. A variant is a subclass of
`Attention`, or a replacement with the same call; nothing here knows which one is used.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.backbone.attention_kernels import Attend, xla


def attention_weights(
    query: Float[Array, "B L N d"], key: Float[Array, "B S N d"], tokens: Int[Array, "B K"]
) -> Float[Array, "B N L K"]:
    """Read how much each query attends to a few tokens of the context.

    The weights of the other tokens are neither returned nor saved for the backward pass.

    Args:
        tokens: positions in the context; a position outside [0, S) has weight 0.
    """
    size, scale = key.shape[1], query.shape[-1] ** -0.5

    def logits(query: Array, key: Array) -> Float[Array, "B N L _"]:
        products = jnp.einsum("blnd,bsnd->bnls", query, key, preferred_element_type=jnp.float32)
        return products * scale

    @jax.checkpoint  # else the backward pass would keep all L x S logits
    def normalizer(query: Array, key: Array) -> Float[Array, "B N L 1"]:
        return jax.nn.logsumexp(logits(query, key), axis=-1, keepdims=True)

    # Gather the keys, because TPUs are slow at gathering from the weights: compiled for a v5e, a
    # layer of 1024 pixels moves 110 MB a picture this way, forward and backward; else 4.3 GB.
    chosen = jnp.take_along_axis(key, tokens[:, :, None, None], axis=1, mode="clip")
    inside = ((tokens >= 0) & (tokens < size))[:, None, None, :]
    watched = jnp.where(inside, logits(query, chosen), -jnp.inf)
    return jnp.exp(watched - normalizer(query, key))


class Attention(nn.Module):
    """Multi-head attention on a feature map, as diffusers' `Attention` computes it.

    Attributes:
        heads: number of heads.
        head_dim: width of one head.
        cross: attend to the context instead of the feature map itself.
        block: the transformer block this layer is in, counted from the U-Net's input.
        dtype: of the computation; the softmax is always float32.
        attend: mixes the values by query and key; see `choose_attend`.
    """

    heads: int
    head_dim: int
    cross: bool = False
    block: int = 0
    dtype: Any = jnp.float32
    attend: Attend = xla

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend from every pixel.

        Args:
            context: `Float[Array, "B S C"]` for cross-attention; ignored by self-attention.
            watch: context tokens whose attention weights, "B N H W K", are sown as the
                intermediate `attention`.
        """
        return self.attended(self.project, hidden, context, watch)

    def attended(
        self,
        project: Callable[..., Array],
        hidden: Float[Array, "B H W D"],
        context: Any,
        watch: Int[Array, "B K"] | None,
        pixels: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B H W D"]:
        """Attend with the given projections.

        Args:
            project: called in place of `self.project`, with the same arguments.
            hidden: as in `__call__`; so are `context` and `watch`.
            pixels: what self-attention attends to; None means `hidden`.
        """
        batch, rows, columns, width = hidden.shape
        queries = hidden.reshape(batch, rows * columns, width)
        source = context if self.cross else queries if pixels is None else pixels
        inner = self.heads * self.head_dim
        query, key, value = (
            project(tokens, name, inner).reshape(*tokens.shape[:2], self.heads, self.head_dim)
            for tokens, name in ((queries, "to_q"), (source, "to_k"), (source, "to_v"))
        )
        if watch is not None:
            weights = attention_weights(query, key, watch)
            shape = (batch, self.heads, rows, columns, watch.shape[1])
            self.sow("intermediates", "attention", weights.reshape(shape))
        mixed = self.attend(query, key, value).reshape(batch, rows, columns, -1)
        return project(mixed, "to_out.0", width, bias=True)

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places _width"]:
        """Apply one of the four projections: to_q, to_k, to_v or to_out.0."""
        return self.projection(name, width, bias)(source)

    def projection(self, name: str, width: int, bias: bool = False) -> nn.Dense:
        """Make a projection with weights of its own."""
        return nn.Dense(width, use_bias=bias, dtype=self.dtype, name=name)
