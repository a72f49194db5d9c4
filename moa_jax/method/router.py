"""Routers: at every pixel they weigh the experts of a layer.

Source: the router is MoA's (arXiv 2404.11565); what it is made of, and its start, are our choice.
"""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ROUTER = "router"  # a router's name in the tree; see `is_router`
EXACT = jax.lax.Precision.HIGHEST  # a TPU's default multiplies float32 in bfloat16


def is_router(path: str) -> bool:
    """Tell whether a weight is a router's; these stay float32 and replicated, and may learn late.

    Args:
        path: the weight's place in the tree; anything that is not a letter may join its names.
    """
    return re.search(rf"\b{ROUTER}\b", path) is not None


def initial_logits(experts: int, personalized_weight: float) -> Float[Array, " E"]:
    """Compute logits whose softmax gives the added experts together `personalized_weight`."""
    added = personalized_weight / (experts - 1)
    return jnp.log(jnp.array([1 - personalized_weight] + [added] * (experts - 1), jnp.float32))


class LinearRouter(nn.Module):
    """Route with one linear layer on the layer's normalised input, in float32.

    Source: the router is MoA's; that it is linear, and its start, are our choice.

    Attributes:
        experts: number of experts, with the prior.
        block: the transformer block that it serves, counted from the U-Net's input.
        initial_personalized_weight: weight that the added experts share at the start, in (0, 1).
    """

    experts: int
    block: int = 0
    initial_personalized_weight: float = 0.1

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Weigh the experts at every pixel."""
        return jax.nn.softmax(self._logits(hidden.astype(jnp.float32)), axis=-1)

    def _logits(self, hidden: Float[Array, "B H W D"]) -> Float[Array, "B H W E"]:
        return nn.Dense(
            self.experts,
            kernel_init=nn.initializers.zeros,  # every pixel starts with the same weights
            bias_init=lambda *_: initial_logits(self.experts, self.initial_personalized_weight),
            precision=EXACT,
            name="logits",
        )(hidden)


class MLPRouter(LinearRouter):
    """Route with one hidden layer that is as wide as the input; an alternative of our own."""

    def _logits(self, hidden: Float[Array, "B H W D"]) -> Float[Array, "B H W E"]:
        hidden = nn.Dense(hidden.shape[-1], precision=EXACT, name="hidden")(hidden)
        return super()._logits(nn.gelu(hidden, approximate=False))


class FixedRouter(nn.Module):
    """Give every pixel the same weights: `(1, 0)` holds the network at the prior.

    Attributes:
        weights: one for each expert.
    """

    experts: int
    block: int = 0
    weights: tuple[float, ...] = (1.0, 0.0)

    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Repeat the weights at every pixel."""
        weights = jnp.array(self.weights, jnp.float32)
        return jnp.broadcast_to(weights, (*hidden.shape[:3], self.experts))


class PersonalizedRouter(FixedRouter):
    """Hold the network at the personalized expert: a single tuned branch, without prior or router.

    MoA is compared with this. It is FastComposer's way, in which all attention is tuned.

    Attributes:
        initial_personalized_weight: not read; it is here because every router of ROUTERS takes it.
    """

    weights: tuple[float, ...] = (0.0, 1.0)
    initial_personalized_weight: float = 1.0


ROUTERS: dict[str, type[nn.Module]] = {
    "linear": LinearRouter,
    "mlp": MLPRouter,
    "personalized": PersonalizedRouter,
}
