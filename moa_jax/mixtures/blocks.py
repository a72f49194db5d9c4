"""Self-attention over blocks of the picture, of which every head chooses what its queries see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert
from moa_jax.method.router import EXACT
from moa_jax.method.variant import Variant
from moa_jax.mixtures.options import require


def partition(block: int, rows: int, columns: int, side: int) -> Int[np.ndarray, " L"]:
    """Number the blocks of a feature map, pixel by pixel and row by row.

    Blocks are as even as the map allows, and none is empty.

    Args:
        block: the transformer block. In even ones, blocks are runs of pixels in reading order; in
            odd ones they are tiles.
        side: there are side * side runs, or as many tiles, or fewer on a small map.
    """
    if block % 2 == 0:
        labels = np.arange(rows * columns) * side**2 // (rows * columns)
    else:
        row, column = np.arange(rows) * side // rows, np.arange(columns) * side // columns
        labels = (row[:, None] * side + column[None]).ravel()
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)


def choose(
    gate: Float[Array, "B N L C"], own: Bool[np.ndarray, "L C"], threshold: float
) -> Bool[Array, "B N L C"]:
    """Mark the pairs of query and block that a head keeps: the most similar ones of all.

    Args:
        gate: how similar a query is to a block.
        own: the block that a query is in; it is always kept.
        threshold: share of the head's summed similarity that the kept pairs reach, in (0, 1].
    """
    own = own[None, None]
    low = jnp.min(gate, axis=(2, 3), keepdims=True)
    span = jnp.max(gate, axis=(2, 3), keepdims=True) - low
    similarity = (gate - low) / jnp.where(span > 0, span, 1)
    mine = jnp.sum(similarity * own, axis=(2, 3))
    missing = threshold * jnp.sum(similarity, axis=(2, 3)) - mine
    others = jnp.where(own, -1.0, similarity)  # behind all that can be chosen
    falling = -jnp.sort(-others.reshape(*others.shape[:2], -1))
    before = jnp.cumsum(jnp.maximum(falling, 0), axis=-1) - jnp.maximum(falling, 0)
    needed = (before < missing[..., None]) & (falling >= 0)
    least = jnp.min(jnp.where(needed, falling, jnp.inf), axis=-1)
    return own | (others >= least[..., None, None])  # equal ones are kept together


class BlocksExpert(Expert):
    """Attend to the blocks that a head chooses; sow the share of pairs of pixels that it sees.

    Pixels cannot be left out of `hidden`: every query of a head takes part in the choice.

    Attributes:
        threshold: as in `choose`.
        side: as in `partition`.
    """

    threshold: float = 0.25
    side: int = 4

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend from every pixel; the arguments are those of `Expert`."""
        if self.cross or self.threshold == 1:
            return super().__call__(hidden, context, watch)
        batch, rows, columns, width = hidden.shape
        query, key, value = (
            self.project(hidden, name, self.heads * self.head_dim).reshape(
                batch, -1, self.heads, self.head_dim
            )
            for name in ("to_q", "to_k", "to_v")
        )
        labels = partition(self.block, rows, columns, self.side)
        own = np.eye(labels.max() + 1, dtype=bool)[labels]
        exact = (jax.lax.stop_gradient(each).astype(jnp.float32) for each in (query, key))
        gate = jnp.einsum("blnd,bsnd,sc->bnlc", *exact, own / own.sum(0), precision=EXACT)
        kept = choose(gate, own, self.threshold)
        share = jnp.mean(kept, axis=(1, 2)) * own.mean(0)[None]
        self.sow("intermediates", "density", jnp.sum(share, axis=-1))
        seen = jnp.take(kept, labels, axis=-1)
        mixed = jax.nn.dot_product_attention(query, key, value, mask=seen)
        return self.project(mixed.reshape(*hidden.shape[:3], -1), "to_out.0", width, bias=True)


@dataclass(frozen=True)
class BlockAttention(Variant):
    """Self-attention sees blocks of the picture: each head keeps its most similar pairs.

    A query's router is its own product with the mean key of a block, so nothing is learnt for it,
    and weights that were trained without blocks can be drawn with. Even transformer blocks cut the
    picture into runs of pixels, odd ones into tiles. The personalized expert attends so; the prior
    sees all.

    Equation: g = q . mean(k of the block), s = (g - min g) / (max g - min g) over all queries and
        blocks of a head; kept are every query's own block, and the fewest largest s of the others
        until the sum of s over the kept pairs reaches `threshold` times the sum over all.
    Source: VMoBA (arXiv 2506.23858), from its code, with the threshold for a whole head.
    Left out: the third axis, time, that a picture does not have; the saving, since the number of a
        query's blocks is not known when the program is compiled: scores are computed and masked.

    Attributes:
        threshold: share of a head's similarity that is kept, in (0, 1]; 1 is plain attention.
        side: a picture has side * side blocks.
    """

    exceptions = {"prior_at_start": "a copy of the prior that does not see all of the picture"}

    threshold: float = 0.25
    side: int = 4

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to choose."""
        require(0 < self.threshold <= 1, "threshold", self.threshold, "a share in (0, 1]")
        fits = isinstance(self.side, int) and self.side > 1
        require(fits, "side", self.side, "a whole number above 1, or there is one block")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        made = partial(BlocksExpert, threshold=self.threshold, side=self.side)
        return {"personalized": made}
