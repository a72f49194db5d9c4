"""FastComposer's network as a variant of MoA: one branch, which sees the subjects.

Source: FastComposer's released code (arXiv 2305.10431). There is one U-Net and no prior beside it:
its cross-attention reads the text in which each subject's word is replaced by the word fused with
the subject's picture, the same in every layer and at every time. Here that branch is the
personalized expert, which has no weights of its own but uses the layer's. The "prior" is the same
U-Net without the subjects' pictures, and the router gives it nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert
from moa_jax.method.prompt import SubjectPrompt, SubjectResidual
from moa_jax.method.router import PersonalizedRouter
from moa_jax.method.variant import Variant


class SameLayer(Expert):
    """An expert that is the layer itself: it only attends to another context."""

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places _width"]:
        """Apply the layer's own projection."""
        return self.prior(source, name)


class FusedAlone(SubjectResidual):
    """Take each subject's fused embedding as it is, in every layer and at every time."""

    def __call__(
        self,
        word: Float[Array, "B K D"],
        subjects: Float[Array, "B K D"],
        timesteps: Shaped[Array, " B"],
    ) -> Float[Array, "B layers K D"]:
        """Repeat the embeddings for each layer."""
        shape = (len(subjects), self.layers, *subjects.shape[1:])
        return jnp.broadcast_to(subjects[:, None], shape)


@dataclass(frozen=True)
class FastComposer(Variant):
    """FastComposer: a single branch without a prior, a router, time or layer.

    FastComposer trains the entire U-Net, which here is the base's and stays as it is. Training this
    variant further therefore changes the fusion and the last layers of the image encoder alone.
    """

    def router(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return the router that gives everything to the branch with the subjects."""
        return PersonalizedRouter

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the one expert, which is the layer itself."""
        return {"personalized": SameLayer}

    def prompt(self, method: MethodConfig, layers: int, dtype: Any) -> nn.Module:
        """Return the prompt's network: the fusion alone."""
        return SubjectPrompt(layers, FusedAlone, dtype)
