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

from moa_jax.backbone.unet_encoder import timestep_embedding
from moa_jax.method.mixture import Expert
from moa_jax.method.router import EXACT, LinearRouter, initial_logits
from moa_jax.method.variant import Forward, Variant
from moa_jax.mixtures.options import require, require_count

SMALL = nn.initializers.normal(0.02)  # MoDE's start of a router


def copies(number: int) -> dict[str, type[Expert]]:
    """Return so many builders of MoA's expert; the first is the observed one, `personalized`."""
    names = ["personalized", *(f"expert{place}" for place in range(2, number + 1))]
    return dict.fromkeys(names[:number], Expert)


def layer_number(router: nn.Module, block: int) -> int:
    """Number the attention layers, so that each draws its own random numbers."""
    return 2 * block + ("attn2" in router.path)


def renormalised(weights: Float[Array, "*places E"], kept: Array) -> Float[Array, "*places E"]:
    """Drop the weights that are not kept, and divide the others by their sum."""
    weights = jnp.where(kept, weights, 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


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


class NoiseRouter(LinearRouter):
    """Weigh the experts by the timestep alone.

    Attributes:
        top: how many experts keep their weight, with the prior.
        width: of the timestep's embedding.
    """

    top: int = 2
    width: int = 16

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Give every pixel of a picture the same weights."""
        noise = timestep_embedding(context.timesteps, self.width)
        dense = partial(nn.Dense, kernel_init=SMALL, precision=EXACT)
        noise = nn.gelu(dense(2 * self.width, name="hidden")(noise), approximate=False)
        start = initial_logits(self.experts, self.initial_personalized_weight)
        logits = dense(self.experts, bias_init=lambda *_: start, name="logits")(noise)
        weights = jax.nn.softmax(logits, axis=-1)
        least = jax.lax.top_k(weights, self.top)[0][..., -1:]
        weights = renormalised(weights, weights >= least)[:, None, None, :]
        return jnp.broadcast_to(weights, (*hidden.shape[:3], self.experts))


@dataclass(frozen=True)
class NoiseOnly(Variant):
    """A router that sees the noise alone: who draws depends on the time, not on the place.

    Equation: R(t) = renormalised top-k of softmax(MLP(embedding of t)), the same at every pixel.
        Drawn with `skip_below`, a step whose share is below it reads none of an expert's weights.
    Source: MoDE (arXiv 2412.12953), from its code: the MLP of one hidden layer with GELU, its
        start, and the top 2.
    Left out: the load-balancing loss, because the prior is one of the experts and has no claim to
        an equal share; drawing the experts at random in training; merging the chosen experts, which
        has no exact form where they are attention layers with a softmax of their own (`Merged` has
        experts of low rank, which can be merged).

    Attributes:
        number: experts beside the prior.
        top: how many of all experts, the prior with them, weigh in at a time.
    """

    number: int = 1
    top: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        require_count("number", self.number)
        require_count("top", self.top)
        most = self.number + 1
        require(self.top <= most, "top", self.top, f"at most {most}, the experts with the prior")

    def experts(self, method, block) -> Mapping[str, type[Expert]]:
        """Return the builders of the experts."""
        return copies(self.number)

    def router(self, method) -> Callable[..., nn.Module]:
        """Return the builder of the router."""
        weight = method.initial_personalized_weight
        return partial(NoiseRouter, initial_personalized_weight=weight, top=self.top)


class DenseToSparseRouter(LinearRouter):
    """Route by a softmax that is warm and noisy at first and cold in the end.

    Attributes:
        hot: temperature at the start of the training.
        cold: temperature at its end, and when drawing.
        threshold: weights that are not above it are dropped.
    """

    hot: float = 2.0
    cold: float = 0.1
    threshold: float = 0.02

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Weigh the experts at every pixel."""
        logits = jax.nn.log_softmax(self._logits(hidden.astype(jnp.float32)), axis=-1)
        temperature = self.cold
        if context.progress is not None:
            progress = context.progress[:, None, None, None]
            temperature = self.hot + (self.cold - self.hot) * progress
        if context.keys is not None:
            layer = layer_number(self, self.block)
            keys = jax.vmap(lambda key: jax.random.fold_in(key, layer))(context.keys)
            logits += jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
        weights = jax.nn.softmax(logits / temperature, axis=-1)
        return renormalised(weights, weights > self.threshold)


@dataclass(frozen=True)
class DenseToSparse(Variant):
    """A gate that begins with all experts and is annealed until a pixel has one.

    Equation: R = softmax((log softmax(W Z) + G) / T), weights not above the threshold dropped and
        the others divided by their sum; G is Gumbel noise in training, and T falls from `hot` to
        `cold` linearly with the training's progress.
    Source: EvoMoE (arXiv 2112.14397), from its code: the Gumbel softmax and the threshold. The two
        temperatures are our choice.
    Left out: spawning the experts from one that was trained first, by random masks; the single best
        expert when drawing, in whose place the cold softmax stands, without noise.

    Attributes:
        number: experts beside the prior.
        hot: temperature at the start.
        cold: temperature at the end, above 0.
        threshold: share of a pixel that is too small to be computed.
    """

    number: int = 1
    hot: float = 2.0
    cold: float = 0.1
    threshold: float = 0.02

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        require_count("number", self.number)
        require(self.cold > 0, "cold", self.cold, "above 0")
        require(self.hot >= self.cold, "hot", self.hot, f"at least cold={self.cold}")
        most = 1 / (self.number + 1)
        must = f"in [0, {most:.3g}), so that the largest weight always passes"
        require(0 <= self.threshold < most, "threshold", self.threshold, must)

    def experts(self, method, block) -> Mapping[str, type[Expert]]:
        """Return the builders of the experts."""
        return copies(self.number)

    def router(self, method) -> Callable[..., nn.Module]:
        """Return the builder of the router."""
        weight = method.initial_personalized_weight
        options = {"hot": self.hot, "cold": self.cold, "threshold": self.threshold}
        return partial(DenseToSparseRouter, initial_personalized_weight=weight, **options)
