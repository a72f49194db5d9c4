"""Experts that are merged into one layer, because only the time chooses among them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.backbone.attention import Attention
from moa_jax.backbone.attention_kernels import Attend
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import turn
from moa_jax.method.router import ROUTER
from moa_jax.method.variant import Variant
from moa_jax.mixtures.options import require, require_count
from moa_jax.mixtures.routers import NoiseRouter
from moa_jax.mixtures.shared import low_rank


class MergedAttention(Attention):
    """One attention, whose projections are the prior's and the experts' changes to them.

    Attributes:
        router: builds the router, which gives all pixels of a picture the same weights.
        number: of experts beside the prior.
        rank: of an expert's change to a projection.
    """

    router: Callable[..., nn.Module] = NoiseRouter
    number: int = 2
    rank: int = 4

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend once."""
        routing = self.router(experts=1 + self.number, block=self.block, name=ROUTER)(
            hidden, context
        )
        if context.dial is not None:
            routing = turn(routing, context.dial[self.block])
        self.sow("intermediates", "routing", routing)
        weights = routing[:, 0, 0, 1:]  # of one pixel, as of all
        told = None
        if self.cross:
            text, prompt = context.for_experts(self.block, ("personalized",))
            share = jnp.sum(weights, axis=-1)[:, None, None].astype(text.dtype)
            told = text + share * (prompt - text)
        beside = context.keys is not None or self.is_initializing()
        project = partial(self._beside if beside else self._merged, weights)
        return self.attended(project, hidden, told, watch)

    def _beside(
        self,
        weights: Float[Array, "B E"],
        source: Float[Array, "B *places C"],
        name: str,
        width: int,
        bias: bool = False,
    ) -> Float[Array, "B *places _D"]:
        """Compute the changes beside the prior, so that a batch needs no kernels of its own."""
        scale = jnp.repeat(weights, self.rank, axis=-1).astype(self.dtype)
        scale = scale.reshape(len(source), *(1,) * (source.ndim - 2), -1)
        rank = self.number * self.rank
        change = low_rank(source, name, width, rank, self.dtype, lambda low: scale * low)
        return self.project(source, name, width, bias) + change

    def _merged(
        self,
        weights: Float[Array, "B E"],
        source: Float[Array, "B *places C"],
        name: str,
        width: int,
        bias: bool = False,
    ) -> Float[Array, "B *places _D"]:
        """Add the changes to the prior's kernel, once for each picture."""
        own = self.variables["params"]
        down, up, kernel = (own[f"{name}{part}"]["kernel"] for part in (".down", ".up", ""))
        scale = jnp.repeat(weights, self.rank, axis=-1)
        change = jnp.einsum("cr,br,rd->bcd", down, scale, up)
        merged = (kernel[None] + change).astype(self.dtype)
        projected = jnp.einsum("b...c,bcd->b...d", source.astype(self.dtype), merged)
        if not bias:
            return projected
        shift = own[name]["bias"].astype(self.dtype)
        return projected + shift.reshape(*(1,) * (source.ndim - 1), -1)


@dataclass(frozen=True)
class Merged(Variant):
    """Experts whose weights depend on the noise alone, so that drawing merges them into one layer.

    An expert is a change of low rank to each projection of the prior. Noise has one level in a
    picture; so all pixels share the merged projections, and a layer attends once. Training computes
    the changes beside the prior, which is the same function.

    Equation: W(t) = W + sum_e R_e(t) B_e A_e for each of the four projections; the context is
        text + s (prompt - text), with s = sum_e R_e(t) over the experts beside the prior. R is the
        router of `NoiseOnly`. With the dial at 0 it is the prior.
    Source: MoDE (arXiv 2412.12953), from its code: the router that sees the noise alone, and
        experts that are fused before they are used, as the router's choice is known.
    Left out: experts that are networks of two layers; mixing of outputs, in whose place the weights
        are mixed; a store of fused experts for each noise level, as they are merged in every step;
        the load-balancing loss; the object loss, because no expert has an attention of its own; a
        prior in int8.

    Attributes:
        number: experts beside the prior.
        top: how many of all experts, the prior with them, weigh in at a time.
        rank: of an expert's change to a projection.
    """

    number: int = 2
    top: int = 2
    rank: int = 4

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for name in ("number", "top", "rank"):
            require_count(name, getattr(self, name))
        most = self.number + 1
        require(self.top <= most, "top", self.top, f"at most {most}, the experts with the prior")

    def router(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return the builder of the router."""
        weight = method.initial_personalized_weight
        return partial(NoiseRouter, initial_personalized_weight=weight, top=self.top)

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return a builder of attention layers."""
        sizes = {"number": self.number, "rank": self.rank}
        return partial(MergedAttention, router=self.router(method), attend=attend, **sizes)
