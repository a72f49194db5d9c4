"""Neighbours that change what the experts read: a text rewritten, or one subject each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.backbone.blocks import LayerNorm
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert, MixtureOfAttention, turn
from moa_jax.method.prompt import MLP, Prompt, SubjectPrompt, replace_tokens
from moa_jax.method.router import EXACT, ROUTER
from moa_jax.method.sparse import compute
from moa_jax.method.variant import Variant
from moa_jax.mixtures.modalities import CrossMixture
from moa_jax.mixtures.options import require, require_count


class SubjectRouter(nn.Module):
    """Match every pixel with every subject; the prior is matched with logit 0.

    Attributes:
        experts: the prior and, in the subjects' order, one for each of them.
        initial_personalized_weight: weight that the subjects share at the start, in (0, 1).
        width: of the space in which pixels and subjects are matched.
    """

    experts: int
    block: int = 0
    initial_personalized_weight: float = 0.1
    width: int = 16

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Weigh the prior and the subjects; a subject that is absent has weight 0."""
        weight = self.initial_personalized_weight
        bias = self.param("bias", nn.initializers.constant(math.log(weight / (1 - weight))), (1,))
        into = partial(nn.Dense, self.width, use_bias=False, precision=EXACT)
        zero = nn.initializers.zeros  # every pixel starts with the same weights
        pixels = into(kernel_init=zero, name="pixels")(hidden.astype(jnp.float32))
        subjects = into(name="subjects")(context.subjects[:, self.block].astype(jnp.float32))
        matches = jnp.einsum("bhwr,bkr->bhwk", pixels, subjects, precision=EXACT)
        present = context.tokens < context.text.shape[1]
        shared = jnp.log(jnp.maximum(1, jnp.sum(present, axis=1)))[:, None, None, None]
        matches = matches + bias[None, None, None] - shared
        matches = jnp.where(present[:, None, None], matches, -jnp.inf)
        return jax.nn.softmax(jnp.pad(matches, [(0, 0)] * 3 + [(1, 0)]), axis=-1)


class PerSubjectMixture(MixtureOfAttention):
    """Mix the prior and, for every subject, the expert's attention to that subject alone.

    In self-attention the expert does the same for all subjects. It is computed once, with the
    weights of all.
    """

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend and mix."""
        tokens, sparse = context.tokens, context.sparse
        router = self.router(experts=1 + tokens.shape[1], block=self.block, name=ROUTER)
        routing = router(hidden, context)
        told: list[Any] = [None]
        if self.cross:
            told = [self._alone(context, number) for number in range(tokens.shape[1])]
        else:
            together = jnp.sum(routing[..., 1:], axis=-1, keepdims=True)
            routing = jnp.concatenate([routing[..., :1], together], axis=-1)
        if context.dial is not None:
            routing = turn(routing, context.dial[self.block])
        chosen = [None] * len(told)
        if sparse is not None:
            routing, chosen = sparse.keep(routing)
        outputs = [self.attended(self.project, hidden, context.text, watch)]
        sizes = {name: getattr(self, name) for name in ("heads", "head_dim", "cross", "block")}
        expert = Expert(**sizes, dtype=self.dtype, attend=self.attend, name="personalized")
        for number, words in enumerate(told):
            if sparse is not None:
                weights = routing[..., 1 + number]
                outputs.append(compute(expert, hidden, words, weights, chosen[number]))
                continue
            seen = tokens[:, number, None] if self.cross else None
            outputs.append(expert(hidden, words, seen))
        return self.finish(outputs, routing)

    def _alone(self, context: Any, number: int) -> Float[Array, "B S D"]:
        """Put one subject into the text."""
        one = slice(number, number + 1)
        subject = context.subjects[:, self.block, one]
        return replace_tokens(context.text, subject, context.tokens[:, one])


@dataclass(frozen=True)
class PerSubject(Variant):
    """Every subject has an expert of its own, which sees no other subject.

    The experts share their weights and differ by their prompts: that of subject k has the k-th
    picture alone, and plain words for the others. So no attention can mix two people up. It costs
    an expert's computation for each subject.

    Equation: R = softmax over (0, <W x, U e_1> + b, ..., <W x, U e_K> + b) for a pixel x and the
        subjects' embeddings e; minus infinity for an absent subject. b starts so that the subjects
        of a picture share the initial weight. output = R_0 prior(text) + sum_k R_k expert(text_k).
    Source: an idea of our own.
    Left out: an order of the subjects; their swap swaps the routing and changes nothing else.

    Attributes:
        width: of the space in which pixels and subjects are matched, at least 1.
    """

    width: int = 16

    def __post_init__(self) -> None:
        """Refuse an empty space."""
        require_count("width", self.width)

    def router(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return the builder of routers."""
        weight = method.initial_personalized_weight
        return partial(SubjectRouter, width=self.width, initial_personalized_weight=weight)

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return the builder of attention layers."""
        return partial(PerSubjectMixture, router=self.router(method), attend=attend)


class FrozenExpert(Expert):
    """Attend exactly as the prior does; only what it attends to may be another."""

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places _width"]:
        """Apply the prior's projection."""
        return self.prior(source, name)


class RewrittenPrompt(Prompt):
    """The prompt in which `subjects` has an embedding for every word: "B blocks S D"."""

    def for_experts(self, block: int, experts: Sequence[str]) -> list[Float[Array, "B S D"]]:
        """Return the text for the prior, and the rewritten text for every other expert."""
        return [self.text] + [self.subjects[:, block]] * len(experts)


class PAdapterPrompt(SubjectPrompt):
    """Rewrite the text, and then bind each subject to its word.

    Attributes:
        count: number of adapters.
    """

    count: int = 2

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B S D"],
        features: Float[Array, "B K F"],
        tokens: Int[Array, "B K"],
        timesteps: Shaped[Array, " B"],
    ) -> Prompt:
        """Make the prompt; the arguments are those of `SubjectPrompt`."""
        prompt = super().__call__(text, features, tokens, timesteps)
        present = (tokens < text.shape[1])[..., None]
        portrait = jnp.sum(jnp.where(present, features, 0), axis=1)
        portrait /= jnp.maximum(1, jnp.sum(present, axis=1))
        normalised = LayerNorm(dtype=jnp.float32, name="norm_gate")(portrait)
        logits = nn.Dense(self.count, name="gate")(normalised)
        gates = jax.nn.softmax(logits, axis=-1).astype(text.dtype)
        for number in range(self.count):
            adapter = MLP(text.shape[-1], self.dtype, silent=True, name=f"adapter{number}")
            text = text + gates[:, number, None, None] * adapter(prompt.text)
        bind = jax.vmap(replace_tokens, in_axes=(None, 1, None), out_axes=1)
        return RewrittenPrompt(*prompt._replace(subjects=bind(text, prompt.subjects, tokens)))


@dataclass(frozen=True)
class PAdapters(Variant):
    """Small networks rewrite the prompt's embeddings for a model that stays as it is.

    Nothing is learnt in the U-Net but routers: the personalized expert is the prior itself, and
    reads another text. This is the smallest end of MoA. Only cross-attention is mixed.

    Equation: text' = text + sum_n g_n MLP_n(text), with g = softmax(W LN(mean of the portraits'
        features)); then each subject replaces its word. The MLPs start as the zero function.
    Source: P-Adapters, from the abstract; the residual form, the gate and its input are our choice.
    Left out: the prompt chosen by a classifier that was trained on annotated prompts; here g is
        soft, and learnt with all else.

    Attributes:
        count: number of adapters, at least 2, so that there is a choice.
    """

    count: int = 2

    def __post_init__(self) -> None:
        """Refuse a mixture of less than two."""
        require(self.count >= 2, "count", self.count, "2 or more adapters to choose from")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": FrozenExpert}

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return a builder of mixtures in cross-attention."""
        experts = partial(self.experts, method)
        return partial(CrossMixture, router=self.router(method), experts=experts, attend=attend)

    def prompt(self, method: MethodConfig, layers: int, dtype: Any) -> nn.Module:
        """Return the network that makes the context of text and subjects."""
        plain = super().prompt(method, layers, dtype)
        return PAdapterPrompt(layers, plain.conditioning, dtype, count=self.count)
