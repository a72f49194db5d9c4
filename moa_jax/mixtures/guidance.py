"""Neighbours that change no weights, but how a prediction is made of several passes."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import Observations, Run, Variant
from moa_jax.mixtures.options import require


@dataclass(frozen=True)
class SelfContrast(Variant):
    """The experts that were not chosen make a weaker prediction, and drawing goes away from it.

    It is trained as MoA is. When drawing, the weak prediction is the prior's, with the same prompt;
    so the picture is pushed towards the subject, as classifier-free guidance pushes it towards the
    prompt. One more pass of the U-Net is made, in which the experts are not computed.

    Equation: prediction = (1 + beta) strong - beta weak.
    Source: SCMoE, from its code.
    Left out: its mask of implausible tokens, since noise has no vocabulary; weak passes under
        another routing than the prior alone.

    Attributes:
        beta: how far to go away from the weak prediction, at least 0; 0 makes no second pass.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        """Refuse to go towards the weak prediction."""
        fits = self.beta >= 0 and math.isfinite(self.beta)
        require(fits, "beta", self.beta, "a number of at least 0, such as 0.5")

    def predict(self, run: Run, context: Any) -> tuple[Array, Observations]:
        """Predict; outside of training, and if beta is not 0, with a second pass."""
        strong, seen = run(context)
        if self.beta == 0 or context.keys is not None:  # training has keys
            return strong, seen
        nobody = jnp.zeros(context.subjects.shape[1])  # the dial of each block
        weak, _ = run(context._replace(dial=nobody, sparse=Sparse()))  # skips the experts
        strong, weak = (each.astype(jnp.float32) for each in (strong, weak))
        return strong + self.beta * (strong - weak), seen
