"""A gate that no training moves: which modalities are there decides who may draw."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.config import MethodConfig
from moa_jax.method.mixture import PRIOR
from moa_jax.method.variant import Variant


class PresenceRouter(nn.Module):
    """Route as another router does where a picture has a subject, and else to the prior.

    Attributes:
        weigh: builds the other router.
    """

    experts: int
    weigh: Callable[..., nn.Module]
    block: int = 0

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W D"], context: Any) -> Float[Array, "B H W E"]:
        """Weigh the experts at every pixel."""
        routing = self.weigh(experts=self.experts, block=self.block, name="weigh")(hidden, context)
        present = jnp.any(context.tokens < context.text.shape[1], axis=1)
        prior = jax.nn.one_hot(PRIOR, self.experts)[None, None, None]
        return jnp.where(present[:, None, None, None], routing, prior)


@dataclass(frozen=True)
class Presence(Variant):
    """The base is frozen, and a rule without weights turns an expert on where its modality is.

    Without a subject the trained model is Stable Diffusion to the bit, so the negative half of
    classifier-free guidance is the prior's. The rule alone, without weights for each pixel, is
    `method.router=personalized`.

    Equation: R' = R where the picture has a subject, else R' = (1, 0).
    Source: Phi-4-Mini's Mixture-of-LoRAs, as remembered.
    Left out: experts of low rank, since any expert may stand behind the gate; its other modalities,
        of which speech has no meaning here.
    """

    def router(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return a builder of the config's routers, behind the gate."""
        return partial(PresenceRouter, weigh=super().router(method))
