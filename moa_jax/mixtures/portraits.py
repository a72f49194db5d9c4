"""What `vision` and `views` see of a portrait, and where its further tokens stand in the text.

A portrait's pooled features are MoA's. Beside them come maps: the image encoder's patches, and the
latents of the VAE. Both encoders stay frozen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from moa_jax.backbone.attention import attention_weights
from moa_jax.backbone.attention_kernels import xla
from moa_jax.backbone.blocks import LayerNorm
from moa_jax.backbone.clip import normalize_pixels
from moa_jax.method.mixture import Expert
from moa_jax.method.prompt import replace_tokens
from moa_jax.method.variant import Networks, Params
from moa_jax.mixtures.options import require

HEADS = 4  # of the attention to a portrait
SMALL = nn.initializers.normal(0.02)
Pictures = UInt8[Array, "N H W 3"]


def pooled_and_patches(
    networks: Networks, params: Params, pictures: Pictures
) -> tuple[Float[Array, "N F"], Float[Array, "N n C"]]:
    """Encode pictures: their pooled features, and the patches that enter the last layer.

    The last layer's own output has learnt nothing about patches: only the class token is read.
    """
    encoder = networks.image_encoder
    layers = encoder.config.num_hidden_layers
    source = f"encoder.layers.{layers - 2}" if layers > 1 else "pre_layrnorm"
    source = f"vision_model.{source}"
    pooled, state = encoder.apply(
        {"params": params["image_encoder"]},
        normalize_pixels(pictures),
        capture_intermediates=lambda module, _: module.name == source,
    )
    return pooled, state["intermediates"][source]["__call__"][0][:, 1:]  # 0: the class token


def patches(networks: Networks, params: Params, pictures: Pictures) -> Float[Array, "N n C"]:
    """Give the image encoder's tokens of the patches."""
    return pooled_and_patches(networks, params, pictures)[1]


def latents(networks: Networks, params: Params, pictures: Pictures) -> Float[Array, "N n C"]:
    """Give the mean latents of the VAE, at the U-Net's scale."""
    pixels = pictures.astype(jnp.float32) / 127.5 - 1.0
    mean, _ = networks.vae.apply({"params": params["vae"]}, pixels, method="encode")
    scaled = networks.vae.config.scaling_factor * mean
    return scaled.reshape(len(scaled), -1, scaled.shape[-1])


MAPS: Mapping[str, Callable[..., Array]] = {"patches": patches, "latents": latents}


def look_closely(
    networks: Networks,
    params: Params,
    images: UInt8[Array, "B K H W 3"],
    maps: Mapping[str, int],
    grid: int,
) -> Float[Array, "B K F"]:
    """Compute the pooled features of portraits and, after them, maps of `grid` x `grid` tokens.

    Args:
        maps: names of `MAPS` with the width of a token; a narrower one is filled up with zeros, so
            that `split_features` knows the parts without knowing the networks.

    Raises:
        InputError: a network's tokens are wider.
    """
    pictures = images.reshape(-1, *images.shape[2:])
    found = [pooled_and_patches(networks, params, pictures)[0].astype(jnp.float32)]
    for name, width in maps.items():
        tokens = MAPS[name](networks, params, pictures).astype(jnp.float32)
        own, side = tokens.shape[-1], math.isqrt(tokens.shape[1])
        require(own <= width, "widths", tuple(maps.values()), f"{own} or more for {name}")
        squares = tokens.reshape(len(tokens), side, side, own)
        squares = jax.image.resize(squares, (len(tokens), grid, grid, own), "linear")
        squares = jnp.pad(squares, [(0, 0)] * 3 + [(0, width - own)])
        found.append(squares.reshape(len(tokens), -1))
    return jnp.concatenate(found, axis=-1).reshape(*images.shape[:2], -1)


def split_features(
    features: Float[Array, "B K F"], maps: Mapping[str, int], grid: int
) -> tuple[Float[Array, "B K P"], dict[str, Float[Array, "B K n _"]]]:
    """Take apart what `look_closely` gives: the pooled features, and the maps by name."""
    sizes = [grid * grid * width for width in maps.values()]
    ends = [features.shape[-1] - sum(sizes[place:]) for place in range(len(sizes))]
    pooled, *parts = jnp.split(features, ends, axis=-1)
    lead = features.shape[:2]
    named = zip(maps.items(), parts, strict=True)
    return pooled, {name: part.reshape(*lead, -1, width) for (name, width), part in named}


def further_places(tokens: Int[Array, "B K"], size: int, further: int) -> Int[Array, "B K further"]:
    """Choose the places of each subject's further tokens: the last of the text, from the end.

    There the text has the words that fill it up. What stands there is not replaced but added to, so
    that a long caption loses nothing.

    Args:
        tokens: position of each subject's word; `size`, the text's length, means no subject, and
            then the places are outside of the text too.
        further: how many tokens a subject has beside its word.
    """
    subjects = tokens.shape[1]
    places = size - 1 - jnp.arange(subjects * further).reshape(1, subjects, further)
    return jnp.where((tokens < size)[..., None], places, size)


def bind_tokens(
    text: Float[Array, "B S D"], embedded: Float[Array, "B K T D"], tokens: Int[Array, "B K"]
) -> Float[Array, "B S D"]:
    """Replace each subject's word by its first token, and add its further ones at their places."""
    text = replace_tokens(text, embedded[:, :, 0], tokens)
    size, further = text.shape[1], embedded.shape[2] - 1
    here = jax.nn.one_hot(further_places(tokens, size, further), size, dtype=text.dtype)
    added = embedded[:, :, 1:].astype(text.dtype)
    return text + jnp.einsum("bkts,bktd->bsd", here, added, precision=jax.lax.Precision.HIGHEST)


class Reader(nn.Module):
    """Attend from queries to the tokens of one map of a portrait.

    Attributes:
        dtype: of the computation.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, queries: Float[Array, "N L D"], tokens: Float[Array, "N S W"]
    ) -> Float[Array, "N L D"]:
        """Read; a place has an embedding of its own, which learns."""
        width = queries.shape[-1]
        dense = partial(nn.Dense, width, dtype=self.dtype)
        places = self.param("places", SMALL, (tokens.shape[1], width)).astype(self.dtype)
        known = LayerNorm(dtype=self.dtype, name="norm")(dense(name="into")(tokens) + places[None])
        sides = (queries, known, known)
        query, key, value = (
            dense(use_bias=False, name=name)(side).reshape(*side.shape[:2], HEADS, -1)
            for name, side in zip(("to_q", "to_k", "to_v"), sides, strict=True)
        )
        return xla(query, key, value).reshape(queries.shape)


class TokensExpert(Expert):
    """MoA's expert, of which the attention to all tokens of a subject is observed, as one sum.

    Attributes:
        count: tokens of a subject, its word among them.
    """

    count: int = 1

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B H W D"],
        context: Any,
        watch: Int[Array, "B K"] | None = None,
        pixels: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B H W D"]:
        """Attend from every pixel; the arguments are those of `Expert`."""
        projected: dict[str, Array] = {}

        def project(source: Array, name: str, width: int, bias: bool = False) -> Array:
            projected[name] = self.project(source, name, width, bias)
            return projected[name]

        output = self.attended(project, hidden, context, None, pixels)
        if watch is not None:
            query, key = (
                projected[name].reshape(*projected[name].shape[:2], self.heads, self.head_dim)
                for name in ("to_q", "to_k")
            )
            further = further_places(watch, key.shape[1], self.count - 1)
            places = jnp.concatenate([watch[..., None], further], axis=-1)
            weights = attention_weights(query, key, places.reshape(len(watch), -1))
            weights = weights.reshape(*weights.shape[:3], *places.shape[1:]).sum(-1)
            batch, heads, _, subjects = weights.shape
            shape = (batch, heads, *hidden.shape[1:3], subjects)
            self.sow("intermediates", "attention", weights.reshape(shape))
        return output


def require_maps(names: Sequence[str], widths: Sequence[int], grid: int) -> None:
    """Refuse options of `look_closely` that have no meaning."""
    known = len(names) > 0 and set(names) <= set(MAPS) and len(set(names)) == len(names)
    require(known, "vision", names, f"one or more of {', '.join(MAPS)}, each once")
    fits = len(widths) == len(names) and all(width > 0 for width in widths)
    require(fits, "widths", widths, "the width of a token for each of vision")
    require(grid > 0, "grid", grid, "1 or more")
