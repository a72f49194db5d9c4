"""Self-attention with a state of fixed size, in place of a weight for every pair of pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert
from moa_jax.method.router import EXACT
from moa_jax.method.variant import Forward, Variant
from moa_jax.mixtures.options import require, require_count
from moa_jax.mixtures.routers import SMALL, renormalised
from moa_jax.mixtures.shared import balance, strongest


def positive(features: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Map to numbers above 0, whose products take the place of a softmax's exponentials."""
    return nn.elu(features.astype(jnp.float32)) + 1.0


def recall(
    query: Float[Array, "B L N d"],
    key: Float[Array, "B S N d"],
    value: Float[Array, "B S N d"],
    written: Shaped[Array, "B S M"],
    read: Float[Array, "B L M"],
) -> Float[Array, "B L N d"]:
    """Write keys and values into memories, and read these by the queries.

    The cost grows as L and S do, and not as their product.

    Args:
        query: positive, as `key` is.
        written: 1 for the memories that a key and its value go into, else 0.
        read: how much a query takes of each memory; one without entries gives nothing.

    Returns:
        The sum over the memories of `read` times the mean of the memory's values, weighted by the
        products of the query and their keys.
    """
    value = value.astype(jnp.float32)
    into = written.astype(jnp.float32)
    states = jnp.einsum("bsm,bsnd,bsne->bmnde", into, key, value)
    totals = jnp.einsum("bsm,bsnd->bmnd", into, key)
    found = jnp.einsum("blnd,bmnde->blmne", query, states)
    total = jnp.einsum("blnd,bmnd->blmn", query, totals)
    share = jnp.where(total > 0, read[..., None] / jnp.where(total > 0, total, 1.0), 0.0)
    return jnp.einsum("blmn,blmne->blne", share, found)


class MemoriesExpert(Expert):
    """MoA's expert, of which self-attention goes through memories.

    Attributes:
        memories: how many there are, beside the shared one.
        keep: how many a pixel writes into and reads.
        shared: whether there is one that all pixels write into and read.
    """

    memories: int = 4
    keep: int = 2
    shared: bool = True

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B H W D"],
        context: Any,
        watch: Int[Array, "B K"] | None = None,
        pixels: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B H W D"]:
        """Attend from every pixel; the arguments are those of `Expert`."""
        if self.cross:
            return self.attended(self.project, hidden, context, watch)
        batch, rows, columns, width = hidden.shape
        flat = hidden.reshape(batch, -1, width)
        source = flat if pixels is None else pixels
        query, key, value = (
            self.project(side, name, self.heads * self.head_dim).reshape(
                batch, -1, self.heads, self.head_dim
            )
            for name, side in (("to_q", flat), ("to_k", source), ("to_v", source))
        )
        gates = nn.Dense(
            self.memories, use_bias=False, kernel_init=SMALL, precision=EXACT, name="gates"
        )
        reads, writes = (
            jax.nn.softmax(gates(side.astype(jnp.float32)), axis=-1) for side in (flat, source)
        )
        chosen, written = (strongest(each, self.keep) for each in (reads, writes))
        shape = (batch, rows, columns, self.memories)
        self.sow("intermediates", "balance", balance(reads.reshape(shape), chosen.reshape(shape)))
        sides = positive(query), positive(key), value
        found = recall(*sides, written, renormalised(reads, chosen))
        if self.shared:
            everywhere = (jnp.ones((*each.shape[:2], 1)) for each in (source, flat))
            found = 0.5 * (found + recall(*sides, *everywhere))
        mixed = found.astype(self.dtype).reshape(batch, rows, columns, -1)
        return self.project(mixed, "to_out.0", width, bias=True)


@dataclass(frozen=True)
class MixtureOfMemories(Variant):
    """Self-attention through several memories of fixed size, of which a pixel uses a few.

    The personalized expert's pixels write keys and values into memories, and read from those that
    they write into. So its cost grows with the number of pixels, and not with its square, and
    pixels of different memories do not disturb each other. Cross-attention is MoA's.

    Equation: M_m = sum over the pixels i of memory m of phi(k_i) v_i^T, n_m = sum of phi(k_i);
        o = sum_m g_m phi(q) M_m / (phi(q) n_m), with g the `keep` largest of softmax(W x) divided
        by their sum; phi = elu + 1. With a shared memory of all pixels, o is the mean of it and
        this. The balance loss is that of `shared.balance`.
    Source: MoM (arXiv 2502.13685), from its code: the top-k gate, the shared memory, one projection
        of keys and values for all memories (an option there), and linear attention.
    Left out: causality, as a picture has none, and with it the gated delta rule; an output norm, in
        whose place the mean stands; capacities; the saving of what a memory's other pixels cost, as
        they are computed and masked.

    Attributes:
        memories: how many there are, beside the shared one.
        keep: how many a pixel writes into and reads.
        share: whether there is a memory of all pixels.
        balance: weight of the loss that keeps all memories in use, at least 0.
    """

    exceptions = {"prior_at_start": "linear attention is another function than the prior's softmax"}

    memories: int = 4
    keep: int = 2
    share: bool = True
    balance: float = 0.01

    def __post_init__(self) -> None:
        """Refuse options that have no meaning."""
        require_count("memories", self.memories)
        fits = isinstance(self.keep, int) and 1 <= self.keep <= self.memories
        require(fits, "keep", self.keep, f"1 to memories={self.memories}")
        require(self.balance >= 0, "balance", self.balance, "at least 0")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        options = {"memories": self.memories, "keep": self.keep, "shared": self.share}
        return {"personalized": partial(MemoriesExpert, **options)}

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return the balance loss, a mean over the layers."""
        extra = forward.seen.extra.items()
        layers = [value for path, value in extra if path.endswith(".personalized.balance")]
        return {"balance": self.balance * jnp.mean(jnp.stack(layers))}
