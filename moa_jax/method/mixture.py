"""Mixture of attention: in every attention layer a router decides, pixel by pixel, who draws.

Source: MoA (arXiv 2404.11565). Expert 0 is the prior, the layer of Stable Diffusion with
its own parameters under its own names; the added experts are copies of it that learn. The context
gives each expert what it attends to; this file does not know what the context is made of.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.backbone.attention import Attention

PRIOR = 0  # the first of the experts
ROUTER = "router"  # a router's name in the tree; see `is_router`
EXACT = jax.lax.Precision.HIGHEST  # a TPU's default multiplies float32 in bfloat16


@runtime_checkable
class ExpertContext(Protocol):
    """What a mixture's cross-attention needs of its context."""

    tokens: Int[Array, "B K"]
    dial: Float[Array, " blocks"] | None  # see `turn`, for each transformer block

    def for_experts(self, block: int, experts: Sequence[str]) -> Sequence[Float[Array, "B S D"]]:
        """Return what the prior, and then each of the named experts, attends to in a block."""
        ...


def mix(
    outputs: Sequence[Float[Array, "B H W D"]], routing: Float[Array, "B H W E"]
) -> Float[Array, "B H W D"]:
    """Sum the experts' outputs, each weighted pixel by pixel.

    Source: MoA, the sum over n of R_n times Attention_n.

    Args:
        outputs: one for each expert.
        routing: weights in [0, 1] that sum to one over the experts.

    Returns:
        The mixture in the outputs' dtype; the sum is taken in float32.
    """
    weighted = [
        routing[..., expert, None] * output.astype(jnp.float32)
        for expert, output in enumerate(outputs)
    ]
    return sum(weighted[1:], weighted[0]).astype(outputs[0].dtype)


def turn(
    routing: Float[Array, "B H W E"], dial: float | Float[Array, ""]
) -> Float[Array, "B H W E"]:
    """Turn the added experts up or down; the prior takes what they leave.

    The dial is ours, not the paper's; it is for the person who draws.

    Args:
        routing: weights in [0, 1] that sum to one over the experts.
        dial: factor of the added experts' weights, at least 0. 0 is exactly the prior alone, and 1
            is exactly what the router chose. Above 1 they gain, until they take everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from moa_jax.method.mixture import turn
        >>> routing = jnp.array([[[[0.75, 0.25]]]])  # one pixel; the prior's weight comes first
        >>> [turn(routing, dial).ravel().tolist() for dial in (0.0, 2.0, 9.0)]
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    added = routing[..., 1:]
    limit = 1.0 / jnp.sum(added, axis=-1, keepdims=True)  # infinite where nothing can grow
    added = added * jnp.minimum(dial, limit)
    prior = 1.0 - jnp.sum(added, axis=-1, keepdims=True)
    # At 1 the sums above would round what the router chose.
    return jnp.where(dial == 1.0, routing, jnp.concatenate([prior, added], axis=-1))


def counterpart(path: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Tell which expert a weight belongs to, and at which path the prior has its counterpart.

    Args:
        path: the path of an added expert's weight in the U-Net's parameters.

    Returns:
        The expert's name, and the path without that name. Outside of attention layers, the name is
        "" and the path is unchanged.
    """
    layer = next((i for i, name in enumerate(path) if name in ("attn1", "attn2")), None)
    if layer is None:
        return "", path
    return path[layer + 1], path[: layer + 1] + path[layer + 2 :]


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


class Expert(Attention):
    """An expert beside the prior: an attention layer of its own, with four projections.

    A subclass may use the prior's projections, which stay frozen: `self.prior(source, "to_q")`.
    Mostly it overrides `project`.

    Attributes:
        prior: applies one of the prior's projections, by its name.
    """

    prior: Callable[[Array, str], Array] | None = None


def one_expert(block: int) -> Mapping[str, Callable[..., nn.Module]]:
    """Return MoA's experts beside the prior: the same single one in every block."""
    return {"personalized": Expert}


class MixtureOfAttention(Attention):
    """An attention layer with several experts and a router.

    Source: MoA. The prior's parameters are this layer's own (`to_q`, ...), so that the
    tree without the experts' and the router's names is Stable Diffusion's. Each added expert has
    its own four projections; the outputs are mixed after the last of them (our choice).

    It sows `routing` (B H W E) and, in cross-attention, the experts' `attention` to the subjects'
    tokens (B N H W K) as intermediates.

    Attributes:
        router: builds the router; called with experts, block and name.
        experts: called with a transformer block; returns a builder for each expert beside the
            prior, by the expert's name.
    """

    router: Callable[..., nn.Module] = LinearRouter
    experts: Callable[[int], Mapping[str, Callable[..., nn.Module]]] = one_expert

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B H W D"],
        context: ExpertContext,
        watch: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B H W D"]:
        """Attend with every expert and mix."""
        made = self.experts(self.block)
        attended = [None] * (1 + len(made))
        if self.cross:
            attended = context.for_experts(self.block, tuple(made))
        if len(attended) != 1 + len(made):
            raise ValueError(
                f"the context serves {len(attended)} experts; the mixture has {1 + len(made)}"
            )
        layers: dict[str, nn.Dense] = {}  # the prior's, which experts may apply as well

        def project(source: Array, name: str, width: int, bias: bool = False) -> Array:
            layers[name] = self.projection(name, width, bias)
            return layers[name](source)

        def prior(source: Array, name: str) -> Array:
            return layers[name](source)

        outputs = [self.attended(project, hidden, attended[PRIOR], watch)]
        for (name, make), tokens in zip(made.items(), attended[1:], strict=True):
            expert = make(
                heads=self.heads,
                head_dim=self.head_dim,
                cross=self.cross,
                block=self.block,
                dtype=self.dtype,
                attend=self.attend,
                prior=prior,
                name=name,
            )
            # In self-attention there are no words to watch.
            outputs.append(expert(hidden, tokens, context.tokens if self.cross else None))
        router = self.router(experts=len(outputs), block=self.block, name=ROUTER)
        return self.finish(outputs, router(hidden, context), context)

    def finish(
        self,
        outputs: Sequence[Float[Array, "B H W D"]],
        routing: Float[Array, "B H W E"],
        context: ExpertContext,
    ) -> Float[Array, "B H W D"]:
        """Turn the dial, sow the routing, and mix.

        Args:
            outputs: one for each expert, the prior's first.
            routing: from the router.
        """
        if context.dial is not None:
            routing = turn(routing, context.dial[self.block])
        self.sow("intermediates", "routing", routing)
        return mix(outputs, routing)
