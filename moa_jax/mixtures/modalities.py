"""Neighbours that tell modalities apart: by the token, or by the group of experts.

Here the modalities are the words of the text, the subjects' tokens and the picture's pixels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import PRIOR, Expert, MixtureOfAttention
from moa_jax.method.prompt import Prompt, replace_tokens
from moa_jax.method.router import EXACT, LinearRouter
from moa_jax.method.sparse import largest, put, take
from moa_jax.method.variant import Variant
from moa_jax.mixtures.options import require, require_count

OF_TOKENS = ("to_k", "to_v")  # the projections of what cross-attention attends to


class CrossMixture(MixtureOfAttention):
    """Mix in cross-attention alone; self-attention, which sees no prompt, is the prior's."""

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend, and mix if this is cross-attention."""
        if not self.cross:
            return self.attended(self.project, hidden, None, watch)
        return super().__call__(hidden, context, watch)


class MarkedPrompt(Prompt):
    """The prompt whose tokens say what they are: a last channel is 1 for a subject, else 0."""

    def for_experts(self, block: int, experts: Sequence[str]) -> list[Float[Array, "B S _D"]]:
        """Return the plain text for the prior, and the marked prompt for every other expert."""
        text, *prompts = super().for_experts(block, experts)
        batch, subjects = self.tokens.shape
        nothing = jnp.zeros((*text.shape[:2], 1), text.dtype)
        marks = replace_tokens(nothing, jnp.ones((batch, subjects, 1), text.dtype), self.tokens)
        return [text, *(jnp.concatenate([each, marks], axis=-1) for each in prompts)]


class MarkedMixture(CrossMixture):
    """Mix experts that attend to a `MarkedPrompt`."""

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend and mix."""
        return super().__call__(hidden, MarkedPrompt(*context), watch)

    def finish(
        self, outputs: Sequence[Float[Array, "B H W D"]], routing: Float[Array, "B H W E"]
    ) -> Float[Array, "B H W D"]:
        """Mix as the prior plus differences, so that no rounding is left where experts agree."""
        self.sow("intermediates", "routing", routing)
        prior = outputs[PRIOR].astype(jnp.float32)
        differences = [
            routing[..., number, None] * (output.astype(jnp.float32) - prior)
            for number, output in enumerate(outputs[1:], start=1)
        ]
        return sum(differences, prior).astype(outputs[PRIOR].dtype)


class SubjectTokensExpert(Expert):
    """Attend with the prior's projections, and project subjects' tokens by weights of its own.

    Attributes:
        own: which projections subjects' tokens have of their own.
    """

    own: tuple[str, ...] = OF_TOKENS

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places _width"]:
        """Project each token by the weights of its modality."""
        if name not in OF_TOKENS:
            return self.prior(source, name)
        tokens, marks = source[..., :-1], source[..., -1:]
        text = self.prior(tokens, name)
        if name not in self.own:
            return text
        return jnp.where(marks > 0, self.projection(name, width, bias)(tokens), text)


@dataclass(frozen=True)
class SubjectTokens(Variant):
    """Every modality has projections of its own, under one attention over all tokens.

    The personalized expert differs from the prior by the keys and values of subjects' tokens alone.
    All else is the prior's: the words, the pixels' queries, the output, and all self-attention.
    Without a subject the trained model is Stable Diffusion, to the bit.

    Equation: a token x of modality m has key W_K^m x and value W_V^m x; one softmax runs over the
        tokens of all modalities. W^text is the prior's and frozen, W^subject starts as its copy.
    Source: Mixture-of-Transformers, from its code.
    Left out: a norm and a feed-forward network for each modality, since subjects' tokens enter this
        U-Net in attention alone; pixels and words in one softmax.

    Attributes:
        own: which projections subjects' tokens have of their own: to_k, to_v or both.
    """

    own: tuple[str, ...] = OF_TOKENS

    def __post_init__(self) -> None:
        """Refuse what is not a projection of tokens."""
        fits = bool(self.own) and not set(self.own) - set(OF_TOKENS)
        require(fits, "own", self.own, f"one or both of {OF_TOKENS}")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(SubjectTokensExpert, own=tuple(self.own))}

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return a builder of mixtures in cross-attention."""
        experts = partial(self.experts, method)
        return partial(MarkedMixture, router=self.router(method), experts=experts, attend=attend)


class ExpertChoiceRouter(LinearRouter):
    """Let every expert beside the prior choose the pixels at which it scores best.

    Attributes:
        capacity: share of a picture's pixels that each expert takes, in (0, 1].
    """

    capacity: float = 0.5

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Weigh the experts at every pixel."""
        scores = self._logits(hidden.astype(jnp.float32))
        if context.keys is not None:  # training: chance decides between near scores
            keys = jax.vmap(lambda key: jax.random.fold_in(key, self.block))(context.keys)
            # The difference of two Gumbel draws is logistic.
            scores += jax.vmap(lambda key: jax.random.logistic(key, scores.shape[1:]))(keys)
        taken = [self._choose(each) for each in jnp.moveaxis(jax.nn.sigmoid(scores), -1, 0)]
        weights = jnp.stack(taken, axis=-1)
        weights /= jnp.maximum(1.0, jnp.sum(weights, axis=-1, keepdims=True))
        prior = jnp.maximum(0.0, 1.0 - jnp.sum(weights, axis=-1, keepdims=True))
        return jnp.concatenate([prior, weights], axis=-1)

    def _choose(self, scores: Float[Array, "B H W"]) -> Float[Array, "B H W"]:
        pixels, flat = largest(scores, self.capacity), scores.reshape(len(scores), -1, 1)
        return put(take(flat, pixels), pixels, flat.shape[1]).reshape(scores.shape)

    def _logits(self, hidden: Float[Array, "B H W D"]) -> Float[Array, "B H W _E"]:
        added = self.experts - 1
        weight = self.initial_personalized_weight / added
        return nn.Dense(
            added,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(math.log(weight / (1 - weight))),
            precision=EXACT,
            name="logits",
        )(hidden)


@dataclass(frozen=True)
class ExpertChoice(Variant):
    """Experts stand in groups, one a modality, and within a group each expert chooses its pixels.

    The groups are the prior, which serves all pixels, and the personalized experts. Each of these
    takes the same number of pixels in every picture; the prior has what they leave. Draw with the
    same capacity (`Settings(capacity=...)`), and each expert is computed at its own pixels alone:
    the picture stays the same.

    Equation: s_e = sigmoid(w_e x + G' - G''), with Gumbel noise in training alone;
        R_e = s_e [x among the C best of e] / max(1, sum of these over e);
        R_prior = 1 - sum of the R_e.
    Source: MoMa, from the abstract; the Gumbel noise as remembered. That the prior takes the rest
        is our choice.
    Left out: mixture of depths; the second router that causal decoding needs.

    Attributes:
        capacity: share of a picture's pixels that each expert takes, in (0, 1].
        count: number of personalized experts. The object loss reads the first.
    """

    capacity: float = 0.5
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a capacity or a number of experts that has no meaning."""
        fits = 0 < self.capacity <= 1
        require(fits, "capacity", self.capacity, "a share of the pixels in (0, 1]")
        require_count("count", self.count)

    def router(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return the builder of routers."""
        weight = method.initial_personalized_weight
        return partial(
            ExpertChoiceRouter, capacity=self.capacity, initial_personalized_weight=weight
        )

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builders of the personalized experts."""
        further = (f"personalized_{number}" for number in range(2, self.count + 1))
        return dict.fromkeys(("personalized", *further), Expert)
