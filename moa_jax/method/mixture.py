"""Mixture of attention: in every attention layer a router decides, pixel by pixel, who draws.

Source: MoA (arXiv 2404.11565). Expert 0 is the prior, the layer of Stable Diffusion with
its own parameters under its own names; the added experts are copies of it that learn. What an
expert attends to comes with the context; this file does not know what it is made of.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.backbone.attention import Attention

PRIOR, PERSONALIZED = 0, 1
EXACT = jax.lax.Precision.HIGHEST  # a TPU's default multiplies float32 in bfloat16


@runtime_checkable
class ExpertContext(Protocol):
    """What a mixture's cross-attention needs of its context."""

    tokens: Int[Array, "B K"]
    strength: Float[Array, " blocks"] | None  # see `turn`, for each transformer block

    def for_experts(self, block: int) -> Sequence[Float[Array, "B S D"]]:
        """Give each expert, prior first, what it attends to in a transformer block."""
        ...


def mix(
    outputs: Sequence[Float[Array, "B H W D"]], routing: Float[Array, "B H W E"]
) -> Float[Array, "B H W D"]:
    """Sum the experts' outputs, each weighted pixel by pixel.

    Source: MoA, the sum over n of R_n times Attention_n.

    Args:
        outputs: of each expert.
        routing: weights in [0, 1] that sum to one over the experts.

    Returns:
        The mixture, summed in float32, in the outputs' dtype.
    """
    weighted = [
        routing[..., expert, None] * output.astype(jnp.float32)
        for expert, output in enumerate(outputs)
    ]
    return sum(weighted[1:], weighted[0]).astype(outputs[0].dtype)


def turn(
    routing: Float[Array, "B H W E"], strength: float | Float[Array, ""]
) -> Float[Array, "B H W E"]:
    """Turn the added experts up or down; the prior takes what they leave.

    Ours, not the paper's: a dial for whoever draws.

    Args:
        routing: weights in [0, 1] that sum to one over the experts.
        strength: what the added experts' weights are multiplied by, at least 0: 0 is the prior
            alone, exactly; 1 what the router chose, exactly; beyond it, up to their taking all.
    """
    added = routing[..., 1:]
    limit = 1.0 / jnp.sum(added, axis=-1, keepdims=True)  # infinite where nothing can grow
    added = added * jnp.minimum(strength, limit)
    prior = 1.0 - jnp.sum(added, axis=-1, keepdims=True)
    return jnp.where(strength == 1.0, routing, jnp.concatenate([prior, added], axis=-1))


def counterparts(path: tuple[str, ...], experts: Sequence[str]) -> list[tuple[str, ...]]:
    """List the paths at which the added experts keep their own copies of a U-Net's weight.

    Args:
        path: of the prior's weight. A weight outside of the attention layers has no copies.
    """
    layer = next((i for i, name in enumerate(path) if name in ("attn1", "attn2")), None)
    if layer is None:
        return []
    return [(*path[: layer + 1], expert, *path[layer + 1 :]) for expert in experts]


def initial_logits(experts: int, personalized_weight: float) -> Float[Array, " E"]:
    """Compute logits whose softmax gives the added experts together `personalized_weight`."""
    added = personalized_weight / (experts - 1)
    return jnp.log(jnp.array([1 - personalized_weight] + [added] * (experts - 1), jnp.float32))


class LinearRouter(nn.Module):
    """Route with one linear layer on the layer's normalised input, in float32.

    Source: the router is MoA's; that it is linear, and its start, are our choice.

    Attributes:
        experts: how many there are.
        block: the transformer block it serves, counted from the U-Net's input.
        initial_personalized_weight: what the added experts share at the start, in (0, 1).
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
            kernel_init=nn.initializers.zeros,
            bias_init=lambda *_: initial_logits(self.experts, self.initial_personalized_weight),
            precision=EXACT,
            name="logits",
        )(hidden)


class MLPRouter(LinearRouter):
    """Route with one hidden layer of the width of the input. Our choice, as an alternative."""

    def _logits(self, hidden: Float[Array, "B H W D"]) -> Float[Array, "B H W E"]:
        hidden = nn.Dense(hidden.shape[-1], precision=EXACT, name="hidden")(hidden)
        return super()._logits(nn.gelu(hidden, approximate=False))


class FixedRouter(nn.Module):
    """Give every pixel the same weights: `(1, 0)` holds the network at the prior.

    Attributes:
        weights: of each expert.
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

    What MoA is compared with: FastComposer's way, all attention tuned.

    Attributes:
        initial_personalized_weight: not read; every router of ROUTERS takes it.
    """

    weights: tuple[float, ...] = (0.0, 1.0)
    initial_personalized_weight: float = 1.0


ROUTERS: dict[str, type[nn.Module]] = {
    "linear": LinearRouter,
    "mlp": MLPRouter,
    "personalized": PersonalizedRouter,
}


class MixtureOfAttention(Attention):
    """An attention layer with several experts and a router.

    Source: MoA. The prior's parameters are this layer's own (`to_q`, ...), so that the
    tree without the experts' and the router's names is Stable Diffusion's. Each added expert has
    its own four projections; the outputs are mixed after the last of them (our choice).

    Sows `routing` (B H W E) and, in cross-attention, the experts' `attention` to the subjects'
    tokens (B N H W K) as intermediates.

    Attributes:
        router: builds the router; called with experts, block and name.
        added: the names of the experts next to the prior.
    """

    router: Callable[..., nn.Module] = LinearRouter
    added: tuple[str, ...] = ("personalized",)

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B H W D"],
        context: ExpertContext,
        watch: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B H W D"]:
        """Attend with every expert and mix."""
        experts = 1 + len(self.added)
        contexts = context.for_experts(self.block) if self.cross else [None] * experts
        if len(contexts) != experts:
            raise ValueError(
                f"the context serves {len(contexts)} experts; the mixture has {experts}"
            )
        outputs = [super().__call__(hidden, contexts[PRIOR], watch)]
        for name, attended in zip(self.added, contexts[1:], strict=True):
            expert = Attention(
                self.heads,
                self.head_dim,
                self.cross,
                self.block,
                self.dtype,
                self.attend,
                name=name,
            )
            outputs.append(expert(hidden, attended, context.tokens if self.cross else None))
        router = self.router(experts=experts, block=self.block, name="router")
        routing = router(hidden, context)
        if context.strength is not None:
            routing = turn(routing, context.strength[self.block])
        self.sow("intermediates", "routing", routing)
        return mix(outputs, routing)
