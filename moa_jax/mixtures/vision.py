"""Subjects that are read from their portraits by several vision networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt8

from moa_jax.backbone.blocks import LayerNorm
from moa_jax.config import MethodConfig
from moa_jax.method.prompt import MLP, Prompt, SubjectPrompt
from moa_jax.method.variant import Networks, Params, Variant
from moa_jax.mixtures.options import require, require_count
from moa_jax.mixtures.portraits import (
    SMALL,
    Reader,
    TokensExpert,
    bind_tokens,
    look_closely,
    require_maps,
    split_features,
)
from moa_jax.mixtures.prompts import RewrittenPrompt
from moa_jax.mixtures.routers import renormalised
from moa_jax.mixtures.shared import strongest

ZERO = nn.initializers.zeros


class VisionExpertsPrompt(SubjectPrompt):
    """Make MoA's prompt, and let every token of a subject read the maps of its portrait.

    Attributes:
        maps: names of the maps, and the width of a token of each.
        grid: rows and columns of a map.
        count: tokens of a subject.
        keep: how many maps a subject reads.
    """

    maps: tuple[tuple[str, int], ...] = ()
    grid: int = 8
    count: int = 4
    keep: int = 2

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B S D"],
        features: Float[Array, "B K F"],
        tokens: Int[Array, "B K"],
        timesteps: Shaped[Array, " B"],
    ) -> Prompt:
        """Make the prompt; the arguments are those of `SubjectPrompt`."""
        pooled, maps = split_features(features, dict(self.maps), self.grid)
        prompt = super().__call__(text, pooled, tokens, timesteps)
        subjects = jnp.moveaxis(prompt.subjects, 2, 1)  # "B K blocks D"
        batch, number, blocks, width = subjects.shape
        known = LayerNorm(dtype=self.dtype, name="norm_query")(subjects)
        logits = nn.Dense(len(maps), kernel_init=ZERO, name="gate")(known.astype(jnp.float32))
        gates = jax.nn.softmax(logits, axis=-1)
        if self.keep < len(maps):
            gates = renormalised(gates, strongest(gates, self.keep))
        own = self.param("tokens", SMALL, (self.count, width)).astype(known.dtype)
        queries = known[..., None, :] + own[None, None, None]
        found = queries
        for place, (name, each) in enumerate(maps.items()):
            each = each.reshape(batch * number, *each.shape[2:]).astype(text.dtype)
            flat = queries.reshape(batch * number, -1, width)
            read = Reader(self.dtype, name=f"read_{name}")(flat, each).reshape(queries.shape)
            found = found + gates[..., place, None, None].astype(read.dtype) * read
        change = MLP(width, self.dtype, silent=True, name="out")(found)
        embedded = change.at[..., 0, :].add(subjects)
        bind = jax.vmap(bind_tokens, in_axes=(None, 2, None), out_axes=1)
        return RewrittenPrompt(*prompt._replace(subjects=bind(text, embedded, tokens)))


@dataclass(frozen=True)
class VisionExperts(Variant):
    """Each subject's tokens read its portrait by several vision networks, under a gate.

    The base is MoA's pooled vector. The experts are two frozen networks that are here already: the
    image encoder, of which the patches are read, and the VAE, whose latents hold colour and shape.
    A subject has `count` tokens, its word and further places at the end of the text; in each block
    of the U-Net they read anew. At the start nothing is read, and the prompt is MoA's.

    Equation: x_t = word or place t, plus MLP(q_t + sum_e g_e A_e(q_t, map_e)); q_t = LN(subject) +
        a learnt vector of the token; g = softmax(W LN(subject)), of which the `keep` largest are
        kept and divided by their sum; A_e is attention to the tokens of map e.
    Source: MoVA (arXiv 2404.13046), from its code: the adapter's gate and cross-attention to each
        expert, and their start at zero.
    Left out: the choice of experts by a language model, in whose place the option `vision` and the
        gate stand; the adapter's self-attention and its further layers; rotary positions.

    Attributes:
        vision: the experts, "patches", "latents" or both.
        widths: of a token of each expert.
        grid: rows and columns to which each expert's map is resized.
        count: tokens of a subject.
        keep: how many experts a subject reads.
    """

    vision: tuple[str, ...] = ("patches", "latents")
    widths: tuple[int, ...] = (128, 16)
    grid: int = 8
    count: int = 4
    keep: int = 2

    def __post_init__(self) -> None:
        """Refuse options that have no meaning."""
        require_maps(self.vision, self.widths, self.grid)
        require_count("count", self.count)
        fits = 1 <= self.keep <= len(self.vision)
        require(fits, "keep", self.keep, f"1 to {len(self.vision)}, the number of experts")

    def _maps(self) -> tuple[tuple[str, int], ...]:
        return tuple(zip(self.vision, self.widths, strict=True))

    def look(
        self, networks: Networks, params: Params, images: UInt8[Array, "B K H W 3"]
    ) -> Float[Array, "B K F"]:
        """Compute the pooled features and the maps, one after the other."""
        return look_closely(networks, params, images, dict(self._maps()), self.grid)

    def prompt(self, method: MethodConfig, layers: int, dtype: Any) -> nn.Module:
        """Return the network that makes the context of text and subjects."""
        plain = super().prompt(method, layers, dtype)
        sizes = {"maps": self._maps(), "grid": self.grid, "count": self.count, "keep": self.keep}
        return VisionExpertsPrompt(layers, plain.conditioning, dtype, **sizes)

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(TokensExpert, count=self.count)}
