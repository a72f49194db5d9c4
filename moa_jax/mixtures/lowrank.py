"""Experts of low rank: the prior's projections, each with a thin trained product beside it.

`Lora` is what the others stand on. `Mora` lets its ranks gate themselves, and `Mosa` trains the
same weights in parts that take no notice of each other.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert
from moa_jax.method.variant import Moment, Params, Variant
from moa_jax.mixtures.options import require
from moa_jax.mixtures.shared import low_rank, strongest


class LoraExpert(Expert):
    """The prior's attention with a change of low rank to each projection, zero at the start.

    Attributes:
        rank: of each change.
        scale: factor of each change.
    """

    rank: int = 4
    scale: float = 1.0

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places D"]:
        """Apply the prior's projection, and the change to it."""
        change = low_rank(source, name, width, self.rank, self.dtype, self.between)
        return self.prior(source, name) + self.scale * change

    def between(self, low: Float[Array, "*places R"]) -> Float[Array, "*places R"]:
        """Return the activations of the ranks, with which the second factor is multiplied."""
        return low


@dataclass(frozen=True)
class Lora(Variant):
    """An expert that is the prior with a change of low rank to each of its four projections.

    Equation: y = W x + scale B A x; W is the prior's and frozen, B is zero at the start.
    Source: LoRA (arXiv 2106.09685), as remembered.
    Left out: dropout; `scale` is the factor itself, not alpha over the rank.

    Attributes:
        rank: of each change, at least 1.
        scale: factor of each change.
    """

    rank: int = 4
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse options that make no expert."""
        require(self.rank >= 1, "rank", self.rank, "1 or more")
        require(self.scale != 0, "scale", self.scale, "another factor, or nothing learns")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert beside the prior."""
        return {"personalized": partial(LoraExpert, rank=self.rank, scale=self.scale)}


def self_activated(
    low: Float[Array, "*places R"], keep: int, temperature: float, threshold: float
) -> Float[Array, "*places R"]:
    """Let ranks weigh themselves by how strongly the input points at them.

    Args:
        low: the activations A x of the ranks.
        keep: how many ranks may be active.
        temperature: of the softmax over the ranks.
        threshold: a rank whose share of the activations' norm, in [-1, 1], is below it is silent.

    Returns:
        The weighted activations; those of silent ranks are zero.
    """
    exact = low.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(exact**2, axis=-1, keepdims=True) + 1e-12)
    scores = exact / norm
    weights = jax.nn.softmax(scores / temperature, axis=-1)
    active = strongest(scores, keep) & (scores >= threshold)
    return (jnp.where(active, weights, 0.0) * exact).astype(low.dtype)


class SelfActivatedExpert(LoraExpert):
    """A LoRA expert whose ranks gate themselves, see `self_activated`."""

    keep: int = 4
    temperature: float = 1.0
    threshold: float = 0.0

    def between(self, low: Float[Array, "*places R"]) -> Float[Array, "*places R"]:
        """Weigh the ranks by their own activations."""
        return self_activated(low, self.keep, self.temperature, self.threshold)


@dataclass(frozen=True)
class Mora(Lora):
    """Every rank is an expert of its own, and its own activation is its router.

    Equation: s = A x / |A x|, w = softmax(s / temperature); y = W x + scale sum_i w_i B_i (A_i x)
    over the `keep` largest s_i, of those that reach `threshold`.
    Source: Little By Little, MoRA (arXiv 2506.21035), from the abstract and a review's equations.
    Left out: new ranks for every new task, with the old ones frozen: there is one task here. The
    numbers that the authors give temperature and threshold are not known to us.

    Attributes:
        rank: how many ranks there are.
        keep: how many may be active at a pixel.
        temperature: of the softmax over the ranks, above 0.
        threshold: in [-1, 1]; -1 silences no rank.
    """

    rank: int = 8
    keep: int = 4
    temperature: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Refuse options that leave no rank active."""
        super().__post_init__()
        require(1 <= self.keep <= self.rank, "keep", self.keep, f"1 to rank={self.rank}")
        require(self.temperature > 0, "temperature", self.temperature, "a number above 0")
        require(-1 <= self.threshold < 1, "threshold", self.threshold, "a number in [-1, 1)")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the expert whose ranks gate themselves."""
        options = {"rank": self.rank, "scale": self.scale, "keep": self.keep}
        gate = {"temperature": self.temperature, "threshold": self.threshold}
        return {"personalized": partial(SelfActivatedExpert, **options, **gate)}


def parts(path: tuple[str, ...], shape: tuple[int, ...], count: int) -> Int[np.ndarray, "..."]:
    """Tell which of `count` parts each number of a weight belongs to: equally many to each.

    The division is drawn by the weight's path, so that it is the same in every program.
    """
    random = np.random.default_rng(_number(path))
    return random.permutation(int(np.prod(shape))).reshape(shape).astype(np.int32) % count


def _number(path: tuple[str, ...]) -> int:
    return zlib.crc32(".".join(path).encode())


@dataclass(frozen=True)
class Mosa(Lora):
    """The adapter's weights are cut into parts; a step trains one of them, all of them draw.

    Equation: training, for each factor M of B A: M * [part = e], e drawn anew for every factor in
    every step; drawing: the sum over the parts, which is M.
    Source: Split & Merge, MoSA (Mixture of Sparse Adapters), from its code.
    Left out: parts that start from copies and are pruned by size (ours are drawn at random). The
    optimizer's momentum and weight decay also move the parts that a step does not train. A
    batch shares the first picture's draw, so pictures that are computed in two calls get two.

    Attributes:
        modules: number of parts, at least 2.
        split: the factors that are cut: "down", "up" or both; another is shared by all parts.
    """

    exceptions = {
        "gradients": "`up` starts at zero, and the second step mostly draws another part of it; "
        "then no gradient passes to `down` before both parts were trained"
    }

    modules: int = 4
    split: tuple[str, ...] = ("down", "up")

    def __post_init__(self) -> None:
        """Refuse options that cut nothing."""
        super().__post_init__()
        require(self.modules >= 2, "modules", self.modules, "2 or more; Lora is one")
        known = bool(self.split) and set(self.split) <= {"down", "up"}
        require(known, "split", self.split, "a tuple of 'down', 'up' or both")

    def weights(self, params: Params, moment: Moment) -> Params:
        """Keep one part of each factor in training; drawing computes with all of them."""
        if moment.keys is None:
            return params
        flat = flatten_dict(params["unet"])
        for path, leaf in flat.items():
            if path[-3:-2] == ("personalized",) and path[-2].rpartition(".")[2] in self.split:
                key = jax.random.fold_in(moment.keys[0], _number(path))
                drawn = jax.random.randint(key, (), 0, self.modules)
                kept = parts(path, leaf.shape, self.modules) == drawn
                flat[path] = jnp.where(kept, leaf, 0)
        return {**params, "unet": unflatten_dict(flat)}
