"""The two towers of CLIP: one encodes text as the U-Net's context, the other pictures as features.

Modules are named by transformers' keys, so a parameter's path, joined by dots, is its key in the
checkpoint. The tokenizer and the use of the features are elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from moa_jax.backbone.attention_kernels import Attend, xla
from moa_jax.backbone.blocks import LayerNorm
from moa_jax.backbone.supported import require_supported
from moa_jax.errors import InputError

# Mean and standard deviation of the pictures that CLIP was trained on, RGB in [0, 1].
# Source: Radford et al., arXiv 2103.00020, the released preprocessing.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

# Source: GELUs (arXiv 1606.08415): x * sigmoid(1.702 x) approximates the exact form.
ACTIVATIONS = {
    "quick_gelu": lambda hidden: hidden * jax.nn.sigmoid(1.702 * hidden),
    "gelu": lambda hidden: jax.nn.gelu(hidden, approximate=False),
}


@dataclass(frozen=True)
class TextConfig:
    """The settings in `text_encoder/config.json` that change the network.

    Names and defaults are transformers'.
    """

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "TextConfig":
        """Read a `config.json`.

        Raises:
            InputError: it is of another kind of network, or a value is not supported.
        """
        return _read(cls, "clip_text_model", config)


@dataclass(frozen=True)
class VisionConfig:
    """The settings in `image_encoder/config.json` that change the network.

    Names and defaults are transformers'.
    """

    image_size: int = 224
    patch_size: int = 32
    projection_dim: int = 512
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "VisionConfig":
        """Read a `config.json`.

        Raises:
            InputError: it is of another kind of network, or a value is not supported.
        """
        return _read(cls, "clip_vision_model", config)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other.

    Attributes:
        causal: whether a token attends only to itself and the tokens before it; then `attend` is
            not called.
        attend: mixes the values by query and key; see `choose_attend`.
    """

    heads: int
    causal: bool
    dtype: Any = jnp.float32
    attend: Attend = xla

    @nn.compact
    def __call__(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Mix the tokens."""
        width = hidden.shape[-1]
        query, key, value = (
            nn.Dense(width, dtype=self.dtype, name=name)(hidden).reshape(
                *hidden.shape[:2], self.heads, width // self.heads
            )
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attend = self.attend
        if self.causal:
            attend = partial(jax.nn.dot_product_attention, is_causal=True, implementation="xla")
        mixed = attend(query, key, value)
        return nn.Dense(width, dtype=self.dtype, name="out_proj")(mixed.reshape(hidden.shape))


class Layer(nn.Module):
    """Attention and a two-layer perceptron; each normalises its input and adds its result to it."""

    config: TextConfig | VisionConfig
    causal: bool
    dtype: Any = jnp.float32
    attend: Attend = xla

    @nn.compact
    def __call__(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Transform the tokens."""
        config = self.config
        attention = SelfAttention(
            config.num_attention_heads, self.causal, self.dtype, self.attend, name="self_attn"
        )
        hidden = hidden + attention(self._norm("layer_norm1")(hidden))
        inner = self._norm("layer_norm2")(hidden)
        inner = nn.Dense(config.intermediate_size, dtype=self.dtype, name="mlp.fc1")(inner)
        inner = ACTIVATIONS[config.hidden_act](inner)
        return hidden + nn.Dense(config.hidden_size, dtype=self.dtype, name="mlp.fc2")(inner)

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(self.config.layer_norm_eps, dtype=self.dtype, name=name)


class TextEncoder(nn.Module):
    """The text tower: it turns token ids into the U-Net's context."""

    config: TextConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, input_ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Encode token ids, up to `max_position_embeddings` of them.

        Returns:
            The last layer's tokens after the final norm (diffusers' `encoder_hidden_states`).
        """
        config = self.config
        embed = {"features": config.hidden_size, "dtype": self.dtype}
        embeddings = "text_model.embeddings"
        tokens = nn.Embed(config.vocab_size, **embed, name=f"{embeddings}.token_embedding")
        positions = nn.Embed(
            config.max_position_embeddings, **embed, name=f"{embeddings}.position_embedding"
        )
        hidden = tokens(input_ids) + positions(jnp.arange(input_ids.shape[1])[None])
        for index in range(config.num_hidden_layers):
            name = f"text_model.encoder.layers.{index}"
            hidden = Layer(config, causal=True, dtype=self.dtype, name=name)(hidden)
        name = "text_model.final_layer_norm"
        return LayerNorm(config.layer_norm_eps, dtype=self.dtype, name=name)(hidden)


class PatchEmbeddings(nn.Module):
    """Turn a picture into tokens: the class token first, then one for each patch."""

    config: VisionConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B S D"]:
        """Embed patches, row by row."""
        width, size = self.config.hidden_size, (self.config.patch_size,) * 2
        patches = nn.Conv(
            width, size, size, "VALID", use_bias=False, dtype=self.dtype, name="patch_embedding"
        )(pixels)
        patches = patches.reshape(patches.shape[0], -1, width)
        token = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))
        token = jnp.broadcast_to(token.astype(self.dtype), (patches.shape[0], 1, width))
        hidden = jnp.concatenate([token, patches], axis=1)
        count = (self.config.image_size // self.config.patch_size) ** 2 + 1  # 1: the class token
        positions = nn.Embed(count, width, dtype=self.dtype, name="position_embedding")
        return hidden + positions(jnp.arange(count)[None])


class VisionEncoder(nn.Module):
    """The vision tower with its projection: it turns a picture into one vector of features."""

    config: VisionConfig
    dtype: Any = jnp.float32
    attend: Attend = xla

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B F"]:
        """Encode pictures.

        Args:
            pixels: `image_size` rows and columns, normalised by `normalize_pixels`.

        Returns:
            Projected features (transformers' `image_embeds`, not normalised).
        """
        config, norm = self.config, {"epsilon": self.config.layer_norm_eps, "dtype": self.dtype}
        hidden = PatchEmbeddings(config, self.dtype, name="vision_model.embeddings")(pixels)
        hidden = LayerNorm(**norm, name="vision_model.pre_layrnorm")(hidden)  # spelt so on disk
        for index in range(config.num_hidden_layers):
            name = f"vision_model.encoder.layers.{index}"
            layer = Layer(config, causal=False, dtype=self.dtype, attend=self.attend, name=name)
            hidden = layer(hidden)
        # The picture's feature is read from the class token alone.
        pooled = LayerNorm(**norm, name="vision_model.post_layernorm")(hidden[:, 0])
        project = nn.Dense(
            config.projection_dim, use_bias=False, dtype=self.dtype, name="visual_projection"
        )
        return project(pooled)


def normalize_pixels(
    pixels: Real[Array | np.ndarray, "*B H W 3"],
) -> Float[Array, "*B H W 3"]:
    """Normalise pixels in [0, 255] by the mean and deviation of CLIP's training pictures."""
    mean, std = (np.asarray(each, np.float32) for each in (PIXEL_MEAN, PIXEL_STD))
    shape = (1,) * (pixels.ndim - 1) + (3,)
    return (jnp.asarray(pixels, jnp.float32) / 255 - mean.reshape(shape)) / std.reshape(shape)


Config = TypeVar("Config", TextConfig, VisionConfig)


def _read(kind: type[Config], model_type: str, config: Mapping[str, Any]) -> Config:
    fixed = {
        "model_type": (model_type,),
        "hidden_act": tuple(ACTIVATIONS),
        "num_channels": (3,),
    }
    # transformers writes settings of text generation into every configuration: ignore them.
    require_supported(kind.__name__, config, [key for key in config if key not in fixed], fixed)
    names = [field.name for field in fields(kind) if field.name in config]
    for name in (name for name in names if kind.__annotations__[name] is int):
        if not isinstance(config[name], int):
            raise InputError(f"{kind.__name__} {name}={config[name]!r} (supported: an integer)")
    tower = kind(**{name: config[name] for name in names})
    if tower.hidden_size % tower.num_attention_heads:
        raise InputError(
            f"{kind.__name__} hidden_size={tower.hidden_size} is not a multiple of "
            f"num_attention_heads={tower.num_attention_heads}"
        )
    return tower
