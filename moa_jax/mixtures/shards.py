"""Experts of low rank whose factors are put together from shards that all layers share."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert
from moa_jax.method.variant import Flat, Moment, Params
from moa_jax.mixtures.lowrank import Lora
from moa_jax.mixtures.options import require

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
FACTORS = ("down", "up")


class Gathered(NamedTuple):
    """One factor of one projection.

    Attributes:
        path: where the expert finds it in the U-Net's parameters.
        factor: "down" or "up".
        shards: "rank pieces", places in the factor's pool; a row makes one vector.
        width: of a vector; what its last shard has beyond that is not used.
    """

    path: tuple[str, ...]
    factor: str
    shards: Int[np.ndarray, "rank pieces"]
    width: int


class GatheredExpert(Expert):
    """A LoRA expert without weights of its own: `Mos.weights` puts its factors into the tree.

    Attributes:
        scale: factor of each change.
    """

    scale: float = 1.0

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places D"]:
        """Apply the prior's projection, and the change to it."""
        before = self.prior(source, name)
        if self.is_initializing():  # what is stored is asked for, and here nothing is
            return before
        down, up = (self.get_variable("params", f"{name}.{factor}") for factor in FACTORS)
        low = source @ down.astype(self.dtype)
        return before + self.scale * (low @ up.astype(self.dtype))


@dataclass(frozen=True)
class Mos(Lora):
    """The low-rank factors of all layers are put together from two small pools of shards.

    Equation: y = W x + scale B A x; every row of A, and every column of B, is a chain of shards
    from A's, or B's, pool, at places that are drawn once.
    Source: MoS, Mixture of Shards (arXiv 2410.00938), from a review; its code was not read.
    Left out: pools for each kind of projection; one pair serves all widths here, and where a width
    is no multiple of a shard's length, the last shard is cut.

    Attributes:
        rank: of each change.
        length: of a shard.
        shards: how many of each pool are shared by all layers.
        private: how many of a change's ranks are made of shards that are used nowhere else.
        seed: of the places.
    """

    length: int = 32
    shards: int = 128
    private: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options that make no pool."""
        super().__post_init__()
        for option in ("length", "shards"):
            value = getattr(self, option)
            require(value >= 1, option, value, "1 or more")
        private = 0 <= self.private <= self.rank
        require(private, "private", self.private, f"0 to rank={self.rank}")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of an expert that reads factors which `weights` makes."""
        return {"personalized": partial(GatheredExpert, scale=self.scale)}

    def layout(self, prior: Flat) -> list[Gathered]:
        """Tell which shards each factor is made of; private ones lie behind the shared ones."""
        taken, found = dict.fromkeys(FACTORS, self.shards), []
        for path, kernel in sorted(prior.items(), key=lambda item: item[0]):
            layer, name, last = path[:-2], path[-2], path[-1]
            if layer[-1:] not in (("attn1",), ("attn2",)) or (name, last) not in _KERNELS:
                continue
            for factor, width in zip(FACTORS, kernel.shape, strict=True):
                own = (*layer, "personalized", f"{name}.{factor}")
                random = np.random.default_rng([self.seed, zlib.crc32(".".join(own).encode())])
                pieces = -(-width // self.length)
                size, private = (self.rank - self.private, pieces), self.private * pieces
                # Subset selection: no shard twice in a factor, if there are enough.
                public = random.choice(self.shards, size, replace=self.shards < np.prod(size))
                behind = np.arange(taken[factor], taken[factor] + private).reshape(-1, pieces)
                taken[factor] += private
                found.append(Gathered(own, factor, np.concatenate([public, behind]), width))
        return found

    def shared(self, prior: Flat, key: Array) -> Flat:
        """Return the two pools; B's is zero, so that every change starts as zero."""
        layout = self.layout(prior)
        sizes = dict.fromkeys(FACTORS, self.shards)
        for gathered in layout:
            sizes[gathered.factor] += self.private * gathered.shards.shape[1]
        inputs = np.mean([gathered.width for gathered in layout if gathered.factor == "down"])
        down = jax.random.normal(key, (sizes["down"], self.length)) / np.sqrt(inputs)
        return {("down",): down, ("up",): jnp.zeros((sizes["up"], self.length))}

    def weights(self, params: Params, moment: Moment) -> Params:
        """Put the factors together from the shards, and into the tree where experts find them."""
        flat = flatten_dict(params["unet"])
        for path, factor, shards, width in self.layout(flat):
            vectors = params["variant"][factor][shards].reshape(self.rank, -1)[:, :width]
            flat[path] = vectors.T if factor == "down" else vectors
        return {**params, "unet": unflatten_dict(flat)}


_KERNELS = {(name, "kernel") for name in PROJECTIONS}
