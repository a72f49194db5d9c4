"""Experts in a chain: what one has computed, it may look at again."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.method.mixture import Expert
from moa_jax.method.router import EXACT
from moa_jax.method.variant import Variant
from moa_jax.mixtures.options import require_count


class ChainExpert(Expert):
    """An attention layer that is applied to the sum of its input and its own output.

    It cannot be computed for some of the pixels alone: a later step of self-attention needs the
    outputs of all of them.

    Attributes:
        iterations: how often the layer is applied.
    """

    iterations: int = 2

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend step by step; the first step's attention is the observed one."""
        layers: dict[str, nn.Dense] = {}

        def project(source: Array, name: str, width: int, bias: bool = False) -> Array:
            if name not in layers:
                layers[name] = self.projection(name, width, bias)
            return layers[name](source)

        output = self.attended(project, hidden, context, watch)
        for step in range(2, self.iterations + 1):
            state = hidden + output
            zero = nn.initializers.zeros  # so the chain starts as its first step
            score = nn.Dense(1, False, kernel_init=zero, precision=EXACT, name=f"router.{step}")
            gate = jnp.tanh(score(state.astype(jnp.float32))).astype(output.dtype)
            output = output + gate * self.attended(project, state, context, None)
        return output


@dataclass(frozen=True)
class Chain(Variant):
    """A personalized expert that works in steps with the same weights and a router for each.

    Equation: x_1 = Z + E(Z); x_i = x_(i-1) + r_i(x_(i-1)) E(x_(i-1)); output x_C - Z. A step's
        router r_i is tanh(w_i x), 0 at the start, so that training starts at MoA's expert.
    Source: Chain-of-Experts (arXiv 2506.18945), from its code: the residual between the steps, the
        experts they share, and a router for each.
    Left out: the prior's place in the chain, because with the dial at 0 it must be alone; several
        experts in a step, from which a top-k softmax would choose.

    Attributes:
        iterations: number of steps; 1 is MoA.
    """

    iterations: int = 2

    def __post_init__(self) -> None:
        """Refuse a chain without a step."""
        require_count("iterations", self.iterations)

    def experts(self, method, block) -> Mapping[str, partial]:
        """Return the builder of the expert."""
        return {"personalized": partial(ChainExpert, iterations=self.iterations)}
