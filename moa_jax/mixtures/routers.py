"""Routers of other mixtures of experts, and experts in only some of the blocks.

The experts are MoA's full copies of the prior. Equal experts that get equal weights would learn the
same for ever; therefore a router of several experts starts with small random weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.method.mixture import Expert
from moa_jax.method.router import EXACT, LinearRouter
from moa_jax.method.variant import Forward, Variant
from moa_jax.mixtures.options import require


def copies(number: int) -> dict[str, type[Expert]]:
    """Return so many builders of MoA's expert; the first is the observed one, `personalized`."""
    names = ["personalized", *(f"expert{place}" for place in range(2, number + 1))]
    return dict.fromkeys(names[:number], Expert)


class PyramidRouter(nn.Module):
    """Weigh the prior against the layer's experts, and give these to the best of them.

    Attributes:
        experts: number of experts with the prior; with one there is nothing to learn.
        branches: builds the router of the prior and the experts together.
    """

    experts: int
    block: int = 0
    branches: Callable[..., nn.Module] = LinearRouter

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Weigh the experts at every pixel."""
        if self.experts == 1:
            return jnp.ones((*hidden.shape[:3], 1), jnp.float32)
        branches = self.branches(experts=2, block=self.block, name="branches")(hidden, context)
        if self.experts == 2:
            return branches
        number = self.experts - 1
        score = nn.Dense(number, use_bias=False, precision=EXACT, name="gate")
        gate = jax.nn.softmax(score(hidden.astype(jnp.float32)), axis=-1)
        best = jax.nn.one_hot(jnp.argmax(gate, axis=-1), number)
        shares = jnp.mean(best, axis=(1, 2)) * jnp.mean(gate, axis=(1, 2))
        self.sow("intermediates", "balance", number * jnp.sum(shares, axis=-1))
        added = branches[..., 1:] * gate * best
        return jnp.concatenate([1 - jnp.sum(added, axis=-1, keepdims=True), added], axis=-1)


@dataclass(frozen=True)
class Pyramid(Variant):
    """A residual mixture with another number of experts in each block, and none in some.

    Equation: y = (1 - c g_e) P(Z) + c g_e E_e(Z), e = argmax_i g_i; c (of MoA's router) and g are
        softmaxes of the pixel. Of one expert, g = 1 and the layer is MoA's; of none it is P(Z).
    Source: DeepSpeed-MoE (arXiv 2201.05596), its PR-MoE, from its code; the balance is of the
        Switch Transformer, as remembered. There the prior's weight is 1 - c.
    Left out: Mixture-of-Students, capacities, noise on the gate, and experts spread over devices.

    Attributes:
        counts: experts beside the prior in each block, from the U-Net's input. As it stands, those
            of the toy world's fine resolution.
        balance: weight of the loss that spreads the pixels over the experts of a layer; it is
            `balance` for an even spread and grows to the number of experts times that.
    """

    counts: tuple[int, ...] = (1, 0, 0, 0, 0, 1, 1)
    balance: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what is no number of experts."""
        whole = all(isinstance(count, int) and count >= 0 for count in self.counts)
        fits = whole and sum(self.counts) > 0
        require(fits, "counts", self.counts, "whole numbers, one for each block, not all of them 0")
        require(self.balance >= 0, "balance", self.balance, "at least 0")

    def experts(self, method, block) -> Mapping[str, type[Expert]]:
        """Return the builders of a block's experts."""
        return copies(self.counts[block])

    def router(self, method) -> Callable[..., nn.Module]:
        """Return the builder of the router."""
        return partial(PyramidRouter, branches=super().router(method))

    def prompt(self, method, layers, dtype) -> nn.Module:
        """Return MoA's prompt, once it is known how many blocks there are."""
        must = f"{layers} numbers: the U-Net has so many transformer blocks"
        require(len(self.counts) == layers, "counts", self.counts, must)
        return super().prompt(method, layers, dtype)

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return the balance of the layers that have several experts."""
        extra = forward.seen.extra
        layers = [value for path, value in extra.items() if path.endswith("router.balance")]
        return {"balance": self.balance * jnp.mean(jnp.stack(layers))} if layers else {}
