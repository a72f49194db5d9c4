"""Attention heads as experts."""

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
from moa_jax.errors import InputError
from moa_jax.method.mixture import Expert
from moa_jax.method.router import EXACT
from moa_jax.method.variant import Forward, Variant
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
        if not 0 < self.active <= 1:
            raise InputError(f"active={self.active}: must be a share of the heads in (0, 1]")
        if not self.balance >= 0:
            raise InputError(f"balance={self.balance}: must be a weight of at least 0")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(HeadsExpert, active=self.active)}

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return the balance loss, a mean over the layers."""
        extra = forward.seen.extra.items()
        layers = [value for path, value in extra if path.endswith(".personalized.balance")]
        return {"balance": self.balance * jnp.mean(jnp.stack(layers))}
