"""Mixture of attention: in every attention layer a router decides, pixel by pixel, who draws.

Source: MoA (arXiv 2404.11565). Expert 0 is the prior, the layer of Stable Diffusion with
its own parameters under its own names; the added experts are copies of it that learn. The context
gives each expert what it attends to; this file does not know what the context is made of.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.backbone.attention import Attention
from moa_jax.method.router import ROUTER, LinearRouter
from moa_jax.method.sparse import Sparse, compute, unbound

PRIOR = 0  # the first of the experts


@runtime_checkable
class ExpertContext(Protocol):
    """What a mixture's cross-attention needs of its context."""

    tokens: Int[Array, "B K"]
    dial: Float[Array, " blocks"] | None  # see `turn`, for each transformer block
    sparse: Sparse | None  # None computes every expert everywhere

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


class Expert(Attention):
    """An expert beside the prior: an attention layer of its own, with four projections.

    A subclass may use the prior's projections, which stay frozen: `self.prior(source, "to_q")`.
    Mostly it overrides `project`.

    Attributes:
        prior: applies one of the prior's projections, by its name.
    """

    prior: Callable[[Array, str], Array] | None = None

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B H W D"],
        context: Any,
        watch: Int[Array, "B K"] | None = None,
        pixels: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B H W D"]:
        """Attend from every pixel of `hidden`.

        Args:
            hidden: the feature map or, when routing is sparse, some of its pixels as "B 1 P D".
            context: as in `Attention`; so is `watch`.
            pixels: the feature map that self-attention attends to; None means `hidden`.
        """
        return self.attended(self.project, hidden, context, watch, pixels)


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
        made = self.builders(hidden, context)
        attended = [None] * (1 + len(made))
        if self.cross:
            attended = context.for_experts(self.block, tuple(made))
        if len(attended) != 1 + len(made):
            raise ValueError(
                f"the context serves {len(attended)} experts; the mixture has {1 + len(made)}"
            )
        router = self.router(experts=1 + len(made), block=self.block, name=ROUTER)
        routing = router(hidden, context)
        if context.dial is not None:
            routing = turn(routing, context.dial[self.block])
        sparse, chosen = context.sparse, [None] * len(made)
        if sparse is not None:
            routing, chosen = sparse.keep(routing)
        layers: dict[str, Callable[[Array], Array]] = {}  # the prior's, experts may apply them too

        def project(source: Array, name: str, width: int, bias: bool = False) -> Array:
            layer = self.projection(name, width, bias)
            projected = layer(source)
            layers[name] = layer if sparse is None else unbound(layer)
            return projected

        def prior(source: Array, name: str) -> Array:
            return layers[name](source)

        outputs = [self.attended(project, hidden, attended[PRIOR], watch)]
        for number, (name, make) in enumerate(made.items(), start=1):
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
            tokens, pixels = attended[number], chosen[number - 1]
            if sparse is not None:
                outputs.append(compute(expert, hidden, tokens, routing[..., number], pixels))
                continue
            # In self-attention there are no words to watch.
            outputs.append(expert(hidden, tokens, context.tokens if self.cross else None))
        return self.finish(outputs, routing)

    def builders(
        self, hidden: Float[Array, "B H W D"], context: ExpertContext
    ) -> Mapping[str, Callable[..., nn.Module]]:
        """Return a builder for each expert beside the prior, by the expert's name.

        A subclass may give its experts something of the context beyond what they attend to.
        """
        return self.experts(self.block)

    def finish(
        self, outputs: Sequence[Float[Array, "B H W D"]], routing: Float[Array, "B H W E"]
    ) -> Float[Array, "B H W D"]:
        """Sow the routing, and mix.

        Args:
            outputs: one for each expert, the prior's first.
            routing: the weights to mix with.
        """
        self.sow("intermediates", "routing", routing)
        return mix(outputs, routing)
