"""Attention heads as experts: pixels choose their heads, or heads choose their pixels."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert
from moa_jax.method.router import EXACT
from moa_jax.method.sparse import largest, put, take
from moa_jax.method.variant import Forward, Variant
from moa_jax.mixtures.options import require
from moa_jax.mixtures.shared import balance, strongest


class HeadsExpert(Expert):
    """Attend with the heads that each pixel chooses; sow how evenly they are chosen.

    Attributes:
        active: share of the heads that a pixel chooses, in (0, 1].
    """

    active: float = 0.5

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B H W D"],
        context: Any,
        watch: Int[Array, "B K"] | None = None,
        pixels: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B H W D"]:
        """Attend from every pixel; the arguments are those of `Expert`."""
        gates = self._gates(hidden)

        def project(source: Array, name: str, width: int, bias: bool = False) -> Array:
            if name == "to_out.0":  # what the heads found, side by side
                heads = source.reshape(*source.shape[:-1], self.heads, self.head_dim)
                source = (gates[..., None].astype(source.dtype) * heads).reshape(source.shape)
            return self.project(source, name, width, bias)

        return self.attended(project, hidden, context, watch, pixels)

    def _gates(self, hidden: Float[Array, "B H W D"]) -> Float[Array, "B H W N"]:
        """Weigh the heads: zero for those not chosen, and 1 in the mean over the chosen ones."""
        logits = nn.Dense(
            self.heads,
            use_bias=False,
            kernel_init=nn.initializers.zeros,  # every head has the same weight at first
            precision=EXACT,
            name="gates",
        )(hidden.astype(jnp.float32))
        shares, count = jax.nn.softmax(logits, axis=-1), math.ceil(self.active * self.heads)
        chosen = strongest(shares, count)
        self.sow("intermediates", "balance", balance(shares, chosen))
        kept = shares * chosen
        return count * kept / jnp.sum(kept, axis=-1, keepdims=True)


@dataclass(frozen=True)
class MixtureOfHeads(Variant):
    """Heads are experts: some always work, and of the others each pixel chooses a few.

    The prior's heads are those that always work, with the prior's weight; the personalized expert's
    are chosen, and share the weight that MoA's router gives that expert.

    Equation: g = k top_k(softmax(W x)) / sum of it, over the personalized heads;
        output = R_prior prior + R_personalized sum_h g_h head_h W_O^h. The balance loss is
        N sum_h (share of the pixels that chose h, over k) (mean of softmax_h): 1 if all are even.
    Source: MoH, from its code; its two weights of shared and chosen heads are MoA's routing here.
    Left out: a gate for the heads that always work, since the prior stays as it is; the saving, as
        heads that are not chosen are computed and masked.

    Attributes:
        active: share of the personalized heads that a pixel chooses, in (0, 1]. With 1, the fresh
            model is the prior.
        balance: weight of the loss that keeps all heads in use, at least 0.
    """

    exceptions = {"prior_at_start": "some of the copied heads are off from the start"}

    active: float = 0.5
    balance: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a share or a weight that has no meaning."""
        require(0 < self.active <= 1, "active", self.active, "a share of the heads in (0, 1]")
        require(self.balance >= 0, "balance", self.balance, "a weight of at least 0")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(HeadsExpert, active=self.active)}

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return the balance loss, a mean over the layers."""
        extra = forward.seen.extra.items()
        layers = [value for path, value in extra if path.endswith(".personalized.balance")]
        return {"balance": self.balance * jnp.mean(jnp.stack(layers))}


class UnionExpert(Expert):
    """Self-attention in which every head takes some pixels, as queries, keys and values.

    Pixels cannot be left out of `hidden`: a head's choice is one among all of them.

    Attributes:
        capacity: share of the pixels that a head takes, in (0, 1].
    """

    capacity: float = 0.5

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend from every pixel; the arguments are those of `Expert`."""
        if self.cross:
            return super().__call__(hidden, context, watch)
        batch, rows, columns, width = hidden.shape
        gate = nn.Dense(self.heads, use_bias=False, precision=EXACT, name="gates")
        gates = self.heads * jax.nn.softmax(gate(hidden.astype(jnp.float32)), axis=-1)

        def of_heads(values: Float[Array, "B H W _w"]) -> Float[Array, "_b L d"]:
            split = values.reshape(batch, rows * columns, self.heads, -1)
            return split.swapaxes(1, 2).reshape(batch * self.heads, rows * columns, -1)

        weights = of_heads(gates)
        taken = largest(weights.reshape(-1, rows, columns), self.capacity)
        query, key, value = (
            take(of_heads(self.project(hidden, name, self.heads * self.head_dim)), taken)
            for name in ("to_q", "to_k", "to_v")
        )
        mixed = self.attend(query[:, :, None], key[:, :, None], value[:, :, None])[:, :, 0]
        mixed = put((mixed * take(weights, taken)).astype(self.dtype), taken, rows * columns)
        mixed = mixed.reshape(batch, self.heads, rows * columns, -1).swapaxes(1, 2)
        return self.project(mixed.reshape(*hidden.shape[:3], -1), "to_out.0", width, bias=True)


@dataclass(frozen=True)
class UnionOfExperts(Variant):
    """Heads are the parts of one layer, and each attends among its own pixels.

    The personalized expert's self-attention is cut into its heads, as it is cut over devices; all
    parts together are the layer. A head takes the pixels at which its gate is largest, and queries,
    keys and values are those pixels'. What scores cost falls with the square of their share.

    Equation: g = N softmax(W x); P_h = the C L pixels of largest g_h; output at a pixel = bias +
        sum over the heads h that took it of g_h attention_h(x; P_h) W_O^h.
    Source: Union of Experts (arXiv 2503.02495), from its code: attention by selected data. That
        outputs are weighted by g is our choice, so that the gate learns from the denoising alone.
    Left out: parts of the MLP; cross-attention, whose keys are words; half of the heads for every
        token, in whose place every head takes equally many pixels, so that shapes are known;
        projecting the pixels that a head takes alone.

    Attributes:
        capacity: share of the pixels that a head takes, in (0, 1].
    """

    exceptions = {"prior_at_start": "heads take some of the pixels from the start, with weights"}

    capacity: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a share that has no meaning."""
        require(0 < self.capacity <= 1, "capacity", self.capacity, "a share in (0, 1]")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(UnionExpert, capacity=self.capacity)}
