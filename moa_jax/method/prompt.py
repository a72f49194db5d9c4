"""The multimodal prompt: pictures of subjects, bound to words of the text.

Source: MoA (arXiv 2404.11565); fusion from FastComposer's released code (arXiv 2305.10431);
features of time and layer from NeTI (arXiv 2305.15391), as remembered. A subject is bound to a
word, not to a place in the picture. This tells several subjects apart without masks or layouts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from moa_jax.backbone.blocks import LayerNorm
from moa_jax.method.sparse import Sparse


class Prompt(NamedTuple):
    """What the experts of a mixture attend to.

    Attributes:
        text: "B S D", the text embeddings; the prior sees these alone.
        subjects: "B blocks K D", the embeddings that replace the subjects' words in each
            transformer block.
        tokens: "B K", position of each subject's word in the text; S means no subject.
        timesteps: "B", for routers that want the time.
        dial: "blocks", how strongly the added experts take part, see `turn`; None means as the
            router chose.
        sparse: how much of the experts is computed; None means all of it.
        keys: "B" random keys, one for each picture; None outside of training.
        progress: "B", share of the training that is over; None outside of training.
        shared: the variant's arrays that belong to no single layer, by name.
    """

    text: Array
    subjects: Array
    tokens: Array
    timesteps: Array
    dial: Array | None = None
    sparse: Sparse | None = None
    keys: Array | None = None
    progress: Array | None = None
    shared: Any = None

    def for_experts(self, block: int, experts: Sequence[str]) -> list[Float[Array, "B S D"]]:
        """Return the text for the prior, and the multimodal prompt for every other expert."""
        prompt = replace_tokens(self.text, self.subjects[:, block], self.tokens)
        return [self.text] + [prompt] * len(experts)


def replace_tokens(
    text: Float[Array, "B S D"], subjects: Float[Array, "B K D"], tokens: Int[Array, "B K"]
) -> Float[Array, "B S D"]:
    """Replace each subject's word by its embedding; a position of S replaces nothing."""
    places = jnp.arange(text.shape[1])[None]
    # `where` instead of a scatter, which would gather a batch that is split over devices.
    for subject in range(tokens.shape[1]):
        here = (places == tokens[:, subject, None])[:, :, None]
        text = jnp.where(here, subjects[:, subject, None].astype(text.dtype), text)
    return text


class MLP(nn.Module):
    """Norm, linear, GELU, linear: the block that FastComposer's fusion is made of.

    Attributes:
        width: of the hidden layer and the output.
        silent: whether it starts as the zero function.
    """

    width: int
    dtype: Any = jnp.float32
    silent: bool = False

    @nn.compact
    def __call__(self, hidden: Float[Array, "*batch C"]) -> Float[Array, "*batch D"]:
        """Transform the last axis."""
        hidden = LayerNorm(dtype=self.dtype, name="norm")(hidden)
        hidden = nn.gelu(nn.Dense(self.width, dtype=self.dtype, name="fc1")(hidden), False)
        kernel = nn.initializers.zeros if self.silent else nn.linear.default_kernel_init
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=kernel, name="fc2")(hidden)


class Fusion(nn.Module):
    """Fuse a word's embedding with the image features of its subject.

    Source: FastComposer's released code.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, word: Float[Array, "B K D"], image: Float[Array, "B K F"]
    ) -> Float[Array, "B K D"]:
        """Fuse each word with its subject."""
        width = word.shape[-1]
        both = jnp.concatenate([word, image.astype(word.dtype)], axis=-1)
        fused = MLP(width, self.dtype, name="mlp1")(both) + word
        fused = MLP(width, self.dtype, name="mlp2")(fused) + fused
        return LayerNorm(dtype=self.dtype, name="norm")(fused)


def fourier_features(
    timesteps: Shaped[Array, " B"], layers: int, sigmas: tuple[float, float], count: int
) -> Float[Array, "B layers F"]:
    """Map time and layer (t, l) to random Fourier features of unit norm.

    Source: NeTI, as remembered; that MoA's are these is our choice. The frequencies are fixed
    draws, the same in every program.

    Args:
        timesteps: 0 to T-1.
        layers: number of layers; l runs from 0 to layers-1.
        sigmas: standard deviation of the frequencies of t, and of those of l.
        count: number of frequencies; the result has a sine and a cosine for each.
    """
    draws = np.random.RandomState(0).standard_normal((2, count)).astype(np.float32)
    phases_of_time = jnp.outer(timesteps.astype(jnp.float32), sigmas[0] * draws[0])
    phases_of_layer = jnp.outer(jnp.arange(layers, dtype=jnp.float32), sigmas[1] * draws[1])
    phases = phases_of_time[:, None, :] + phases_of_layer[None, :, :]
    # The squares of each sine and cosine sum to 1, so the norm would be sqrt(count).
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1) / np.sqrt(count)


class SubjectResidual(nn.Module):
    """Add a subject to its word, the same at every time and in every layer.

    The embedding is the word plus MLP(LN(m)). The MLP starts silent, so training starts at the
    prior, with no random embedding to unlearn. `TimeLayerConditioning` is compared with this class;
    the two differ by the places alone. The form is our choice.

    Attributes:
        layers: number of transformer blocks of the U-Net; l counts them from the input.
    """

    layers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        word: Float[Array, "B K D"],
        subjects: Float[Array, "B K D"],
        timesteps: Shaped[Array, " B"],
    ) -> Float[Array, "B layers K D"]:
        """Embed every subject, once for each layer."""
        width = subjects.shape[-1]
        subjects = LayerNorm(dtype=self.dtype, name="norm_subject")(subjects)
        both = subjects[:, None, :, :] + self.places(timesteps, width)[:, :, None, :]
        embedded = word[:, None] + MLP(width, self.dtype, silent=True, name="mlp")(both)
        return jnp.broadcast_to(embedded, (len(word), self.layers, *word.shape[1:]))

    def places(self, timesteps: Shaped[Array, " B"], width: int) -> Float[Array, "_b _layers D"]:
        """Embed the places (times and layers) that a subject's embedding depends on: none here."""
        return jnp.zeros((1, 1, width), self.dtype)


class TimeLayerConditioning(SubjectResidual):
    """Let a subject's embedding depend on the diffusion time and the U-Net's layer.

    Source: MoA has it; the form MLP(LN(m) + LN(PE(t, l))) as remembered. How the places are
    projected, and all that `SubjectResidual` says, are our choice.

    Attributes:
        sigmas: see `fourier_features`.
        frequencies: see `fourier_features`.
    """

    sigmas: tuple[float, float] = (0.03, 2.0)
    frequencies: int = 128

    def places(self, timesteps: Shaped[Array, " B"], width: int) -> Float[Array, "_b _layers D"]:
        """Embed each time and layer."""
        places = fourier_features(timesteps, self.layers, self.sigmas, self.frequencies)
        places = nn.Dense(width, dtype=self.dtype, name="project")(places)
        return LayerNorm(dtype=self.dtype, name="norm_place")(places)


class SubjectPrompt(nn.Module):
    """Make the multimodal prompt from text embeddings and image features.

    Attributes:
        layers: number of transformer blocks of the U-Net.
        conditioning: builds the module that adds subjects to their words; called with layers, dtype
            and name. `SubjectResidual` keeps them the same at every time and in every layer.
    """

    layers: int
    conditioning: Any = TimeLayerConditioning
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B S D"],
        features: Float[Array, "B K F"],
        tokens: Int[Array, "B K"],
        timesteps: Shaped[Array, " B"],
    ) -> Prompt:
        """Bind each subject to its word.

        Args:
            features: image features of each subject's picture.
            tokens: position of each subject's word; S means no subject.
        """
        # S is clipped to the last word; `replace_tokens` then leaves this subject out.
        word = jnp.take_along_axis(text, tokens[:, :, None], axis=1, mode="clip")
        subjects = Fusion(self.dtype, name="fusion")(word, features)
        conditioning = self.conditioning(layers=self.layers, dtype=self.dtype, name="conditioning")
        conditioned = conditioning(word, subjects, timesteps)
        return Prompt(text, conditioned, tokens, timesteps)
