"""Experts that are the prior's own attention, frozen, and a small module that learns beside it.

The multimodal prompt goes through the prior's projections, so that even what does not learn here
sees the subjects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moa_jax.method.mixture import Expert
from moa_jax.method.prompt import Prompt, SubjectPrompt
from moa_jax.method.router import EXACT, LinearRouter, initial_logits
from moa_jax.method.variant import Variant
from moa_jax.mixtures.options import require, require_count
from moa_jax.mixtures.routers import SMALL, layer_number

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
ZERO = nn.initializers.zeros  # what ends in it starts as the prior


class FilmExpert(Expert):
    """The prior's attention with a scale and a shift for each channel.

    Attributes:
        modulated: the projections whose outputs have them.
    """

    modulated: tuple[str, ...] = ("to_out.0",)

    def project(self, source: Array, name: str, width: int, bias: bool = False) -> Array:
        """Apply the prior's projection, and modulate what comes out."""
        output = self.prior(source, name)
        if name not in self.modulated:
            return output
        scale = self.param(f"{name}.scale", ZERO, (width,))
        shift = self.param(f"{name}.shift", ZERO, (width,))
        row = (1,) * (output.ndim - 1) + (width,)
        scale, shift = (each.reshape(row).astype(output.dtype) for each in (scale, shift))
        return (1 + scale) * output + shift


class UncertainRouter(LinearRouter):
    """Route by the mean of several looks at the pixel, each without some of its channels.

    Attributes:
        passes: number of looks in training; without random keys there is one at all channels.
        dropout: share of the channels that a look misses.
    """

    passes: int = 5
    dropout: float = 0.1

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Weigh the experts at every pixel."""
        looks = hidden.astype(jnp.float32)[None]
        if context.keys is not None and self.dropout > 0:
            layer = layer_number(self, self.block)

            def miss(key: Array, picture: Float[Array, "H W D"]) -> Float[Array, "M H W D"]:
                shape = (self.passes, *picture.shape)
                kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - self.dropout, shape)
                return jnp.where(kept, picture[None] / (1 - self.dropout), 0.0)

            looks = jax.vmap(miss, out_axes=1)(context.keys, looks[0])
        start = initial_logits(self.experts, self.initial_personalized_weight)
        score = nn.Dense(
            self.experts,
            kernel_init=SMALL,  # equal experts under equal weights would stay equal
            bias_init=lambda *_: start,
            precision=EXACT,
            name="logits",
        )
        return jnp.mean(jax.nn.softmax(score(looks), axis=-1), axis=0)


@dataclass(frozen=True)
class Film(Variant):
    """Experts that scale and shift the channels of one attention which they share.

    Equation: y = R_0 P(Z) + sum_e R_e ((1 + a_e) * A(Z) + b_e), where A is the prior's attention to
        the multimodal prompt; all experts share it, so that more of them cost next to nothing. R is
        the mean of softmax(W drop_m(Z)) over M looks that miss other channels.
    Source: MoFME (arXiv 2312.16610), from its code: feature-wise linear modulation of one shared
        block, and an uncertainty-aware router that looks M times in training.
    Left out: a_e and b_e as linear functions of the pixel; dividing the weights by the covariance
        of the looks, because in the released form they then do not sum to one; the top-k.

    Attributes:
        number: experts beside the prior.
        modulated: projections that each expert modulates. With more than the last, "to_out.0", each
            expert has an attention of its own to compute.
        passes: looks M of the router in training.
        dropout: share of the channels that a look misses, in [0, 1).
    """

    number: int = 4
    modulated: tuple[str, ...] = ("to_out.0",)
    passes: int = 5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        require_count("number", self.number)
        require_count("passes", self.passes)
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        fits = len(self.modulated) > 0 and set(self.modulated) <= set(PROJECTIONS)
        must = f"a tuple of one or more of {', '.join(PROJECTIONS)}"
        require(fits, "modulated", self.modulated, must)

    def experts(self, method, block) -> Mapping[str, partial]:
        """Return the builders of the experts."""
        names = ["personalized", *(f"expert{place}" for place in range(2, self.number + 1))]
        return dict.fromkeys(names, partial(FilmExpert, modulated=self.modulated))

    def router(self, method) -> Callable[..., nn.Module]:
        """Return the builder of the router."""
        weight = method.initial_personalized_weight
        options = {"passes": self.passes, "dropout": self.dropout}
        return partial(UncertainRouter, initial_personalized_weight=weight, **options)


def low_pass(features: Float[Array, "B H W D"], cutoff: float) -> Float[Array, "B H W D"]:
    """Keep the low frequencies of a feature map, in float32; the mean is always kept.

    Args:
        cutoff: a frequency is low if it has at most `cutoff * min(H, W) / 2` periods over the map,
            along both axes.
    """
    sides = features.shape[1:3]
    reach = cutoff * min(sides) / 2
    rows, columns = (np.abs(np.fft.fftfreq(side, 1 / side)) <= reach for side in sides)
    low = (rows[:, None] & columns[None, :])[None, :, :, None]
    spectrum = jnp.fft.fft2(features.astype(jnp.float32), axes=(1, 2))
    return jnp.real(jnp.fft.ifft2(jnp.where(low, spectrum, 0), axes=(1, 2)))


class FrequencyExpert(Expert):
    """The prior's attention, and three adapters on the frequencies of the feature map.

    It cannot be computed for some of the pixels alone, which have no frequencies.

    Attributes:
        rank: width of an adapter.
        cutoff: see `low_pass`.
    """

    rank: int = 8
    cutoff: float = 0.3

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend, and add what the adapters make of the feature map."""
        attended = self.attended(self.project, hidden, context, watch)
        whole = hidden.astype(jnp.float32)
        low = low_pass(whole, self.cutoff)
        score = nn.Dense(3, precision=EXACT, name="router")
        routing = jax.nn.softmax(score(whole), axis=-1)
        change = jnp.zeros_like(whole)
        for number, (name, part) in enumerate(
            {"all": whole, "low": low, "high": whole - low}.items()
        ):
            inner = nn.Dense(self.rank, dtype=self.dtype, name=f"{name}.down")(part)
            up = nn.Dense(hidden.shape[-1], kernel_init=ZERO, dtype=self.dtype, name=f"{name}.up")
            change += routing[..., number, None] * up(nn.relu(inner)).astype(jnp.float32)
        scale = self.param("scale", nn.initializers.constant(0.1), ())
        return attended + (scale * change).astype(attended.dtype)

    def project(self, source: Array, name: str, width: int, bias: bool = False) -> Array:
        """Apply the prior's projection."""
        return self.prior(source, name)


@dataclass(frozen=True)
class Frequency(Variant):
    """Adapters for the low and the high frequencies of a feature map, mixed at every pixel.

    Equation: y = A(Z) + s sum_i g_i(Z) U_i relu(D_i Z_i), Z_i in (Z, low(Z), Z - low(Z)), g =
        softmax(W Z); low keeps a square around frequency 0, s is learnt and starts at 0.1. A is the
        prior's attention to the multimodal prompt.
    Source: Earth-Adapter (arXiv 2504.06220), from its code. Its square lacks the highest positive
        frequency, so that its filter is not symmetric, and is empty for a map of 6 pixels.
    Left out: tokens that refine the features; a frozen network of its own, which the prior is here.

    Attributes:
        rank: width of each adapter.
        cutoff: share of the frequencies along an axis that are low, in [0, 1].
    """

    rank: int = 8
    cutoff: float = 0.3

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        require_count("rank", self.rank)
        require(0 <= self.cutoff <= 1, "cutoff", self.cutoff, "in [0, 1]")

    def experts(self, method, block) -> Mapping[str, partial]:
        """Return the builder of the expert."""
        return {"personalized": partial(FrequencyExpert, rank=self.rank, cutoff=self.cutoff)}


class PromptBesideText(Prompt):
    """A prompt that hands the experts the text too, in front of it in the channels."""

    def for_experts(self, block: int, experts: Any) -> list[Float[Array, "B S _width"]]:
        """Return the text for the prior, and for the others the text and their prompt."""
        text, *prompts = super().for_experts(block, experts)
        return [text, *(jnp.concatenate([text, prompt], axis=-1) for prompt in prompts)]


class SubjectPromptBesideText(SubjectPrompt):
    """Make MoA's prompt, as `PromptBesideText`."""

    def __call__(self, *given: Array) -> PromptBesideText:
        """Bind each subject to its word."""
        return PromptBesideText(*super().__call__(*given))


class GatedExpert(Expert):
    """The prior's attention, into which a gate for each head lets the subjects' values.

    Attributes:
        rank: width of the adapter on the output.
    """

    rank: int = 8

    def project(self, source: Array, name: str, width: int, bias: bool = False) -> Array:
        """Apply the prior's projection; gate the values, adapt the output."""
        if name == "to_out.0":
            return self._adapt(self.prior(source, name), width)
        if not self.cross or name == "to_q":
            return self.prior(source, name)
        text, prompt = jnp.split(source, 2, axis=-1)
        if name == "to_k":
            return self.prior(prompt, name)
        plain, subject = self.prior(text, name), self.prior(prompt, name)
        score = nn.Dense(self.heads, False, kernel_init=ZERO, dtype=self.dtype, name="gate")
        gate = jnp.tanh(jnp.repeat(score(prompt), self.head_dim, axis=-1))
        return plain + gate * (subject - plain)

    def _adapt(self, output: Array, width: int) -> Array:
        dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
        gate = nn.silu(dense(self.rank, name="adapter.gate")(output))
        inner = gate * dense(self.rank, name="adapter.down")(output)
        return output + dense(width, kernel_init=ZERO, name="adapter.up")(inner)


@dataclass(frozen=True)
class AttentionGate(Variant):
    """A subject's values enter the prior's attention through a gate that starts closed.

    Equation: V = V_text + tanh(G c) (V_c - V_text) for each head, c a token of the multimodal
        prompt; K is that of c; the output has an adapter, o + U(silu(G' o) * D o). At a word
        without a subject, c is the text, and the gate has no effect.
    Source: PILL (arXiv 2311.02126), from its code: the gate for each head, its start at 0, and the
        gated adapter. There a closed gate leaves no value at all; here it leaves the word's.
    Left out: an adapter for each kind of token in a language model's layers; the personalized
        expert's alone is here. The prior's projections are frozen.

    Attributes:
        rank: width of the adapter.
    """

    rank: int = 8

    def __post_init__(self) -> None:
        """Refuse an adapter without width."""
        require_count("rank", self.rank)

    def experts(self, method, block) -> Mapping[str, partial]:
        """Return the builder of the expert."""
        return {"personalized": partial(GatedExpert, rank=self.rank)}

    def prompt(self, method, layers, dtype) -> nn.Module:
        """Return MoA's prompt, which gives the expert the text too."""
        made = super().prompt(method, layers, dtype)
        return SubjectPromptBesideText(made.layers, made.conditioning, made.dtype)
