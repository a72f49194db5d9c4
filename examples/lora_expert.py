"""An expert of low rank: the prior's projections, each plus a trained product of thin matrices.

    python train.py configs/toy.py 'method.mixture=examples.lora_expert:Lora(rank=8)'

It learns and stores a small part of what a full copy of the attention would. The prior's weights
stay frozen; `self.prior` applies them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import flax.linen as nn

from moa_jax.method.mixture import Expert
from moa_jax.method.variant import Variant


class LoraExpert(Expert):
    """The prior's attention plus a change of low rank to each projection, zero at the start.

    Source: LoRA (arXiv 2106.09685), as remembered.

    Attributes:
        rank: rank of each change.
    """

    rank: int = 4

    def project(self, source, name, width, bias=False):
        """Apply the prior's projection, and the change to it."""
        low = nn.Dense(self.rank, use_bias=False, dtype=self.dtype, name=f"{name}.down")(source)
        zero = nn.initializers.zeros  # so the expert starts as the prior
        up = nn.Dense(width, False, kernel_init=zero, dtype=self.dtype, name=f"{name}.up")
        return self.prior(source, name) + up(low)


@dataclass(frozen=True)
class Lora(Variant):
    """MoA whose personalized expert is of low rank."""

    rank: int = 4

    def experts(self, method, block) -> Mapping[str, partial]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(LoraExpert, rank=self.rank)}
