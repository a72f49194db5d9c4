"""Mixtures in the feed-forward network, which Stable Diffusion's attention layers lead to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.backbone.transformer import FeedForward
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import mix, turn
from moa_jax.method.router import EXACT, ROUTER
from moa_jax.method.variant import Forward
from moa_jax.mixtures.lowrank import Lora
from moa_jax.mixtures.options import require
from moa_jax.mixtures.shared import balance, low_rank, strongest

BALANCE = "balance"  # under this name every network sows how unevenly it uses its experts


class LoraExpertsFeedForward(FeedForward):
    """LoRA experts that share the frozen feed-forward network, `keep` of them at every pixel.

    The second product is shared too: it is linear, so the experts' hidden layers are mixed before
    it. The dial fades from the experts to the network as it was.

    Attributes:
        experts: number of experts.
        keep: how many compute a pixel.
        rank: of an expert's change to each of the two products.
    """

    experts: int = 4
    keep: int = 2
    rank: int = 4

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any = None
    ) -> Float[Array, "B H W D"]:
        """Transform every pixel by the experts that its router chooses."""
        width, numbers = hidden.shape[-1], range(self.experts)
        routing = self._route(hidden)
        if context.dial is not None:
            routing = turn(routing, context.dial[self.block])

        def change(source: Array, expert: int, name: str, width: int) -> Array:
            return low_rank(source, f"experts.{expert}.{name}", width, self.rank, self.dtype)

        def gated(projected: Array) -> Array:
            value, gate = jnp.split(projected, 2, axis=-1)
            return value * jax.nn.gelu(gate, approximate=False)

        common = nn.Dense(8 * width, dtype=self.dtype, name="net.0.proj")(hidden)
        changed = [common + change(hidden, e, "net.0.proj", 8 * width) for e in numbers]
        inner = [gated(projected) for projected in (common, *changed)]
        output = nn.Dense(width, dtype=self.dtype, name="net.2")(mix(inner, routing))
        changes = [change(inner[1 + e], e, "net.2", width) for e in numbers]
        return output + mix(changes, routing[..., 1:])

    def _route(self, hidden: Float[Array, "B H W D"]) -> Float[Array, "B H W _"]:
        """Weigh the network as it was, with zero, and the experts; sow the balance."""
        start = nn.initializers.normal(0.02)
        layer = nn.Dense(
            self.experts, use_bias=False, kernel_init=start, precision=EXACT, name=ROUTER
        )
        weights = jax.nn.softmax(layer(hidden.astype(jnp.float32)), axis=-1)
        chosen = strongest(weights, self.keep)
        self.sow("intermediates", BALANCE, balance(weights, chosen))
        kept = jnp.where(chosen, weights, 0.0)
        kept = kept / jnp.sum(kept, axis=-1, keepdims=True)
        return jnp.concatenate([jnp.zeros_like(kept[..., :1]), kept], axis=-1)


@dataclass(frozen=True)
class MixLora(Lora):
    """LoRA experts in the feed-forward network, the best few at every pixel, kept in balance.

    Equation: p = softmax(G x), g = p over the `keep` largest, divided by their sum;
    y = sum_e g_e FF(x; W + B_e A_e); loss: balance E sum_e (mean p_e) (share of choices of e).
    Attention has one LoRA expert beside the prior, as `Lora`.
    Source: MixLoRA, from its code; the balance as remembered.
    Left out: jitter of the router's input. Where experts were not chosen they are computed all the
    same, and multiplied by zero.

    Attributes:
        experts_in_ff: number of experts in each feed-forward network.
        keep: how many of them compute a pixel.
        balance: weight of the balance in the loss.
    """

    exceptions: ClassVar[Mapping[str, str]] = {
        "gradients": "an expert that no pixel has chosen in two steps has no gradient yet"
    }

    experts_in_ff: int = 4
    keep: int = 2
    balance: float = 0.01

    def __post_init__(self) -> None:
        """Refuse options that leave nothing to choose from."""
        super().__post_init__()
        some = 1 <= self.keep <= self.experts_in_ff
        require(some, "keep", self.keep, f"1 to experts_in_ff={self.experts_in_ff}")
        require(self.balance >= 0, "balance", self.balance, "0 or more")

    def feed_forward(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return the builder of the mixture of LoRA experts."""
        options = {"experts": self.experts_in_ff, "keep": self.keep, "rank": self.rank}
        return partial(LoraExpertsFeedForward, **options)

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return the mean over the networks of how unevenly experts are used."""
        extra = forward.seen.extra.items()
        found = [value for path, value in extra if path.endswith(f".ff.{BALANCE}")]
        return {"balance": self.balance * sum(found) / len(found)}
