"""Subjects as a few attributes, drawn from a distribution, with an attention of their own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import MixtureOfAttention, turn
from moa_jax.method.prompt import Fusion, Prompt, SubjectPrompt
from moa_jax.method.router import ROUTER
from moa_jax.method.sparse import compute, unbound
from moa_jax.method.variant import Flat, Forward, Variant
from moa_jax.mixtures.options import require, require_count

OWN_KEY = 3  # folded into a picture's key


def divergence(
    statistics: Float[Array, "B K Z2"], present: Shaped[Array, "B K"]
) -> Float[Array, " B"]:
    """Compute the KL divergence from N(0, 1), mean over each picture's subjects.

    Args:
        statistics: mean and log-variance of every attribute, one after the other.
        present: 1 for a subject that there is, 0 for another.
    """
    mean, log_variance = jnp.split(statistics.astype(jnp.float32), 2, axis=-1)
    each = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1.0 - log_variance, axis=-1)
    counted = present.astype(jnp.float32)
    return jnp.sum(each * counted, axis=1) / jnp.maximum(1.0, jnp.sum(counted, axis=1))


class AttributesPrompt(Prompt):
    """The prompt in which `subjects` has the statistics of the attributes: "B blocks K Z2".

    `shared` has the decoder, which makes tokens of attributes.
    """

    def attributes(self) -> Float[Array, "B K Z"]:
        """Give the attributes: in training drawn for each picture, otherwise their means."""
        mean, log_variance = jnp.split(self.subjects[:, 0].astype(jnp.float32), 2, axis=-1)
        if self.keys is None:
            return mean
        keys = jax.vmap(lambda key: jax.random.fold_in(key, OWN_KEY))(self.keys)
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        return mean + jnp.exp(0.5 * log_variance) * noise

    def decoded(self) -> Float[Array, "B _tokens _D"]:
        """Give the tokens of all subjects; a last channel is 1, and 0 where there is no subject."""
        decoder, width = self.shared["decoder"], self.text.shape[-1]
        hidden = nn.gelu(jnp.einsum("bkz,zh->bkh", self.attributes(), decoder["into"]))
        tokens = jnp.einsum("bkh,he->bke", hidden, decoder["out"]).astype(self.text.dtype)
        tokens = tokens.reshape(*tokens.shape[:2], -1, width)
        present = (self.tokens < self.text.shape[1])[..., None, None]
        marks = jnp.broadcast_to(present, (*tokens.shape[:3], 1)).astype(tokens.dtype)
        return jnp.concatenate([tokens, marks], axis=-1).reshape(len(tokens), -1, width + 1)


class StatisticsPrompt(SubjectPrompt):
    """Encode every subject as mean and log-variance of its attributes.

    Attributes:
        size: number of attributes.
    """

    size: int = 16

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B S D"],
        features: Float[Array, "B K F"],
        tokens: Int[Array, "B K"],
        timesteps: Shaped[Array, " B"],
    ) -> Prompt:
        """Make the prompt; the arguments are those of `SubjectPrompt`."""
        word = jnp.take_along_axis(text, tokens[:, :, None], axis=1, mode="clip")
        subjects = Fusion(self.dtype, name="fusion")(word, features)
        encoded = nn.Dense(2 * self.size, name="encoder")(subjects.astype(jnp.float32))
        shape = (len(encoded), self.layers, *encoded.shape[1:])
        encoded = jnp.broadcast_to(encoded[:, None], shape)
        return AttributesPrompt(text, encoded, tokens, timesteps)


class AttributesExpert(nn.Module):
    """Attend to the attributes with the prior's queries; what comes out is not yet projected.

    Attributes:
        count: tokens of a subject.
        prior: applies one of the prior's projections, by its name.
    """

    heads: int
    head_dim: int
    count: int
    dtype: Any
    prior: Callable[[Array, str], Array]

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B H W D"],
        context: Float[Array, "B S C"],
        watch: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B H W I"]:
        """Attend; all tokens of all subjects are under one softmax."""
        batch, rows, columns, _ = hidden.shape
        tokens, marks = context[..., :-1], context[..., -1]
        dense = partial(nn.Dense, self.heads * self.head_dim, use_bias=False, dtype=self.dtype)
        key, value = dense(name="to_k"), dense(name="to_v", kernel_init=nn.initializers.zeros)
        query = self.prior(hidden, "to_q").reshape(batch, -1, self.heads, self.head_dim)
        key, value = (each(tokens).reshape(batch, -1, *query.shape[2:]) for each in (key, value))
        products = jnp.einsum("blnd,bsnd->bnls", query, key, preferred_element_type=jnp.float32)
        shown = jnp.broadcast_to(marks[:, None, None] > 0, products.shape)
        scores = jnp.where(shown, products * self.head_dim**-0.5, -1e9)
        weights = jnp.where(shown, jax.nn.softmax(scores, axis=-1), 0.0)
        if watch is not None:
            each = weights.reshape(batch, self.heads, rows, columns, -1, self.count)
            self.sow("intermediates", "attention", each.sum(-1))
        mixed = jnp.einsum("bnls,bsnd->blnd", weights.astype(value.dtype), value)
        return mixed.reshape(batch, rows, columns, -1)


class DecoupledMixture(MixtureOfAttention):
    """Mix the prior's cross-attention with itself plus attention to attributes.

    Self-attention is the prior's.

    Attributes:
        scale: factor of the attention to attributes.
        count: tokens of a subject.
    """

    scale: float = 1.0
    count: int = 4

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any, watch: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        """Attend, and mix if this is cross-attention."""
        if not self.cross:
            return self.attended(self.project, hidden, None, watch)
        present, sparse = context.tokens < context.text.shape[1], context.sparse
        if self.block == 0:  # it is the same in all blocks
            kl = jnp.mean(divergence(context.subjects[:, 0], present))
            self.sow("intermediates", "divergence", kl)
        routing = self.router(experts=2, block=self.block, name=ROUTER)(hidden, context)
        if context.dial is not None:
            routing = turn(routing, context.dial[self.block])
        chosen = [None]
        if sparse is not None:
            routing, chosen = sparse.keep(routing)
        layers: dict[str, Callable[[Array], Array]] = {}
        sources: dict[str, Array] = {}

        def project(source: Array, name: str, width: int, bias: bool = False) -> Array:
            layers[name], sources[name] = self.projection(name, width, bias), source
            projected = layers[name](source)
            if sparse is not None:
                layers[name] = unbound(layers[name])
            return projected

        prior = self.attended(project, hidden, context.text, watch)
        sizes = {"heads": self.heads, "head_dim": self.head_dim, "dtype": self.dtype}
        expert = AttributesExpert(
            **sizes,
            count=self.count,
            prior=lambda source, name: layers[name](source),
            name="personalized",
        )
        tokens = context.decoded()
        if sparse is None:
            seen = expert(hidden, tokens, context.tokens)
        else:
            seen = compute(expert, hidden, tokens, routing[..., 1], chosen[0])
        both = sources["to_out.0"] + self.scale * seen
        return self.finish([prior, layers["to_out.0"](both)], routing)


@dataclass(frozen=True)
class AttributeAdapter(Variant):
    """A subject is a few attributes with an uncertainty, and has an attention beside the text's.

    A conditional variational autoencoder encodes the portrait, given the word, as a distribution
    over attributes; it is kept near N(0, 1), so that it says no more than it must. Training draws
    from it, drawing takes its mean. The text and its attention are the prior's.

    Equation: z = mu + sigma N(0, 1), with (mu, log sigma^2) = W Fusion(word, portrait); output =
        W_out (A(Q, K, V of the text) + scale A(Q, K', V' of MLP(z))); loss = beta KL, the
        divergence of N(mu, sigma) from N(0, 1). V' starts at zero.
    Source: Att-Adapter (arXiv 2503.11937), from the abstract and the project's page.
    Left out: attributes that are known and may be dialled one by one, because the data has no
        column for them: here the portrait is encoded. MoA's conditioning on time and layer.

    Attributes:
        size: number of attributes.
        hidden: width of the decoder.
        count: tokens that a subject's attributes are decoded into.
        scale: factor of the attention to them, above 0.
        beta: weight of the divergence, at least 0.
    """

    size: int = 16
    hidden: int = 64
    count: int = 4
    scale: float = 1.0
    beta: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse options that have no meaning."""
        for name in ("size", "hidden", "count"):
            require_count(name, getattr(self, name))
        require(self.scale > 0, "scale", self.scale, "above 0, or nothing learns")
        require(self.beta >= 0, "beta", self.beta, "at least 0")

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return a builder of attention layers."""
        sizes = {"scale": self.scale, "count": self.count}
        return partial(DecoupledMixture, router=self.router(method), attend=attend, **sizes)

    def prompt(self, method: MethodConfig, layers: int, dtype: Any) -> nn.Module:
        """Return the network that encodes the subjects."""
        return StatisticsPrompt(layers, dtype=dtype, size=self.size)

    def shared(self, prior: Flat, key: Array) -> Flat:
        """Return the decoder, a network of two layers without biases."""
        ends = ("attn2", "to_k", "kernel")
        width = next(leaf.shape[0] for path, leaf in prior.items() if path[-3:] == ends)
        draw = nn.initializers.lecun_normal()
        into, out = jax.random.split(key)
        shape = (self.hidden, self.count * width)
        return {
            ("decoder", "into"): draw(into, (self.size, self.hidden)),
            ("decoder", "out"): draw(out, shape),
        }

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return the divergence."""
        extra = forward.seen.extra
        (found,) = (value for path, value in extra.items() if path.endswith(".divergence"))
        return {"divergence": self.beta * found}
