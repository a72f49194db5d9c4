"""Subjects with two views of their portraits: of the whole, and of its quarters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from moa_jax.backbone.blocks import LayerNorm
from moa_jax.config import MethodConfig
from moa_jax.method.prompt import MLP, Prompt, SubjectPrompt
from moa_jax.method.variant import Moment, Networks, Params, Variant
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

QUARTERS = 4


def nucleus(scores: Float[Array, "*places n"], share: float) -> Bool[Array, "*places n"]:
    """Mark the likeliest until they have the share; of equal ones, the first come first.

    Args:
        scores: the logits of a softmax.
        share: in [0, 1]; 1 marks all, 0 the likeliest alone.
    """
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
    one, other = weights[..., :, None], weights[..., None, :]
    earlier = jnp.tri(weights.shape[-1], k=-1, dtype=bool)
    earlier = jnp.broadcast_to(earlier, jnp.broadcast_shapes(one.shape, other.shape))
    before = (other > one) | ((other == one) & earlier)
    return jnp.sum(jnp.where(before, other, 0.0), axis=-1) <= share


def cosine(tokens: Float[Array, "B K n D"], word: Float[Array, "B K D"]) -> Float[Array, "B K n"]:
    """Compute the cosine of the angle between each token and its subject's word, in float32."""
    tokens, word = tokens.astype(jnp.float32), word.astype(jnp.float32)
    norms = jnp.linalg.norm(tokens, axis=-1) * jnp.linalg.norm(word, axis=-1)[..., None]
    return jnp.einsum("bknd,bkd->bkn", tokens, word) / (norms + 1e-6)


class Resampler(nn.Module):
    """Sum up tokens in a few, by learnt queries.

    Attributes:
        count: number of queries.
        width: of what comes out.
    """

    count: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "N S W"]) -> Float[Array, "N count D"]:
        """Attend from the queries."""
        queries = self.param("queries", SMALL, (self.count, self.width)).astype(self.dtype)
        queries = jnp.broadcast_to(queries, (len(tokens), *queries.shape))
        return Reader(self.dtype, name="reader")(queries, tokens)


def quarters(tokens: Float[Array, "N n W"]) -> Float[Array, "N 4 _quarter W"]:
    """Cut a square map into its four quarters, row by row."""
    half = int(tokens.shape[1] ** 0.5) // 2
    square = tokens.reshape(len(tokens), 2, half, 2, half, tokens.shape[-1])
    return square.swapaxes(2, 3).reshape(len(tokens), QUARTERS, half * half, -1)


class TwoViewsPrompt(SubjectPrompt):
    """Make MoA's prompt of the whole portrait, and add its quarters at places of their own.

    Attributes:
        width: of a patch's token.
        grid: rows and columns of the patches.
        queries: tokens to which a quarter is reduced.
        share: see `nucleus`.
        temperature: of the softmax over the local tokens.
    """

    width: int = 128
    grid: int = 8
    queries: int = 1
    share: float = 0.75
    temperature: float = 1.0

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B S D"],
        features: Float[Array, "B K F"],
        tokens: Int[Array, "B K"],
        timesteps: Shaped[Array, " B"],
    ) -> Prompt:
        """Make the prompt; the arguments are those of `SubjectPrompt`."""
        pooled, maps = split_features(features, {"patches": self.width}, self.grid)
        lead, width = tokens.shape, text.shape[-1]
        patches = maps["patches"].reshape(-1, self.grid**2, self.width).astype(text.dtype)
        score = nn.Dense(2, kernel_init=nn.initializers.zeros, name="global_gate")
        gates = jax.nn.softmax(score(pooled.astype(jnp.float32)), axis=-1).astype(text.dtype)
        plain = MLP(width, self.dtype, name="global_mlp")(pooled.astype(text.dtype))
        resampled = Resampler(1, width, self.dtype, name="global_resampler")(patches)
        whole = gates[..., :1] * plain + gates[..., 1:] * resampled.reshape(plain.shape)
        prompt = super().__call__(text, whole, tokens, timesteps)

        cut = quarters(patches).reshape(-1, patches.shape[1] // QUARTERS, self.width)
        few = Resampler(self.queries, width, self.dtype, name="local_resampler")(cut)
        few = LayerNorm(dtype=self.dtype, name="local_norm")(few.reshape(*lead, -1, width))
        word = jnp.take_along_axis(text, tokens[:, :, None], axis=1, mode="clip")
        chosen = nucleus(cosine(few, word) / self.temperature, self.share)
        local = MLP(width, self.dtype, silent=True, name="local_out")(few)
        local = jnp.where(chosen[..., None], local, 0)[:, None]
        local = jnp.broadcast_to(local, (len(local), self.layers, *local.shape[2:]))
        embedded = jnp.concatenate([prompt.subjects[..., None, :], local], axis=-2)
        bind = jax.vmap(bind_tokens, in_axes=(None, 1, None), out_axes=1)
        return RewrittenPrompt(*prompt._replace(subjects=bind(text, embedded, tokens)))


@dataclass(frozen=True)
class TwoViews(Variant):
    """A subject is seen as a whole and in quarters, and its word chooses among the quarters.

    The whole becomes the subject's word, as in MoA. Each quarter is reduced to a few tokens by
    learnt queries; those that are chosen stand at places of their own at the end of the text. The
    two halves of the prompt's network learn in turn: in the first third of the training the global
    one, in the second the local one, and in the last both.

    Equation: global = g_0 MLP(pooled) + g_1 R_1(patches), with g = softmax(W pooled); local =
        MLP(R_q(patches of a quarter)), for the likeliest tokens under softmax(cos(R_q, word) / T)
        that have `share` of it together; R_n is attention from n learnt queries.
    Source: Beyond LLaVA-HD, SliME (arXiv 2406.08487), from its code: the two adapters under a gate,
        the reduction, the choice by cosine and share, and the three stages.
    Left out: pictures of a higher resolution, in whose place the quarters stand; noise on the gate
        and on the cosines; freezing the network that reads the prompt, here the experts, in the
        first two stages. The optimizer's momentum still moves a half that does not learn.

    Attributes:
        width: of the image encoder's tokens.
        grid: rows and columns to which the patches are resized, an even number.
        queries: tokens to which a quarter is reduced.
        share: of the softmax, that the chosen tokens have together; 1 keeps all.
        temperature: of the softmax, above 0.
    """

    exceptions = {
        "gradients": "at one moment of the training, one half of the prompt's network stands still"
    }

    width: int = 128
    grid: int = 8
    queries: int = 1
    share: float = 0.75
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse options that have no meaning."""
        require_maps(("patches",), (self.width,), self.grid)
        require(self.grid % 2 == 0, "grid", self.grid, "even, so that there are quarters")
        require_count("queries", self.queries)
        require(0 <= self.share <= 1, "share", self.share, "in [0, 1]")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")

    def look(
        self, networks: Networks, params: Params, images: UInt8[Array, "B K H W 3"]
    ) -> Float[Array, "B K F"]:
        """Compute the pooled features and the patches, one after the other."""
        return look_closely(networks, params, images, {"patches": self.width}, self.grid)

    def prompt(self, method: MethodConfig, layers: int, dtype: Any) -> nn.Module:
        """Return the network that makes the context of text and subjects."""
        plain = super().prompt(method, layers, dtype)
        options = {"queries": self.queries, "share": self.share, "temperature": self.temperature}
        sizes = {"width": self.width, "grid": self.grid}
        return TwoViewsPrompt(layers, plain.conditioning, dtype, **sizes, **options)

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(TokensExpert, count=1 + QUARTERS * self.queries)}

    def weights(self, params: Params, moment: Moment) -> Params:
        """Let one half of the prompt's network stand still, in the first two stages."""
        if moment.progress is None:
            return params
        stage = jnp.floor(3 * moment.progress[0])  # a batch has one progress
        prompt = {}
        for name, part in params["prompt"].items():
            learns = stage != (0 if name.startswith("local_") else 1)
            hold = partial(_hold, learns)
            prompt[name] = jax.tree.map(hold, part)
        return {**params, "prompt": prompt}


def _hold(learns: Bool[Array, ""], leaf: Array) -> Array:
    return jnp.where(learns, leaf, jax.lax.stop_gradient(leaf))
