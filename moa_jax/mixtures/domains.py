"""Adapters beside the feed-forward network, one for each domain, and a gate over them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.backbone.attention_kernels import Attend
from moa_jax.backbone.transformer import FeedForward
from moa_jax.config import MethodConfig
from moa_jax.method.losses import EPSILON
from moa_jax.method.mixture import mix, turn
from moa_jax.method.router import EXACT, ROUTER
from moa_jax.method.variant import Flat, Forward, Variant
from moa_jax.mixtures.modalities import CrossMixture
from moa_jax.mixtures.options import require, require_count
from moa_jax.mixtures.prompts import FrozenExpert
from moa_jax.mixtures.runs import read_run
from moa_jax.mixtures.shared import low_rank

CHANGE = "change"  # under this name every network sows the size of what it adds


class DomainFeedForward(FeedForward):
    """The frozen network, and adapters beside it that a small attention lets in.

    At every pixel the attention asks with what the network reads. Its keys and values are the
    network's output and those of the adapters; the network's own always counts in full.

    Attributes:
        adapters: number of adapters.
        rank: width of an adapter.
        gate: width of the gate's queries and keys.
    """

    adapters: int = 3
    rank: int = 8
    gate: int = 16

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B H W D"], context: Any = None
    ) -> Float[Array, "B H W D"]:
        """Transform every pixel, and add what the adapters of its domains know."""
        known, width = super().__call__(hidden), hidden.shape[-1]
        gelu = partial(nn.gelu, approximate=False)
        added = [
            low_rank(hidden, f"adapters.{number}", width, self.rank, self.dtype, gelu)
            for number in range(self.adapters)
        ]
        exact = partial(nn.Dense, self.gate, use_bias=False, precision=EXACT)
        query = exact(name=f"{ROUTER}.query")(hidden.astype(jnp.float32))
        keys = jnp.stack([known, *added], axis=-2).astype(jnp.float32)
        keys = exact(name=f"{ROUTER}.key")(keys)
        logits = jnp.einsum("bhwg,bhweg->bhwe", query, keys, precision=EXACT) / self.gate**0.5
        weights = jax.nn.softmax(logits, axis=-1)
        if context.dial is not None:
            weights = turn(weights, context.dial[self.block])
        change = mix(added, weights[..., 1:])
        self.sow("intermediates", CHANGE, jnp.mean(jnp.square(change.astype(jnp.float32)), -1))
        return known + change


@dataclass(frozen=True)
class MixDa(Variant):
    """What a domain knows stands in an adapter beside the network that knows everything else.

    It is trained in two stages. In the first a run has one adapter, for one domain: the data's
    pictures are of men, say. The second puts the adapters of such runs side by side, keeps them as
    they are, and trains the gate on pictures of all.

    Equation: y = F(x) + sum_e w_e v_e, v_e = U_e gelu(D_e x), w = softmax(<Q x, K v>) over v_0 =
        F(x) and the v_e; loss: replay times the mean square of what the adapters add
        outside of the subjects, where the old domain is to stay.
    Source: MixDA (ACL 2023), from its code: adapters in parallel to the frozen network, a gate that
        attends to both outputs, and the loss that keeps the old output on data of the old domain.
    Left out: masked language modelling; values of the gate that are projected, so that the network
        stays what it was where the gate closes; samples of an old data set, in whose place the
        background stands. Attention is the prior's, to the multimodal prompt, and frozen; the runs'
        prompts are left behind, and the prompt is learnt anew.

    Attributes:
        number: of adapters.
        rank: width of each.
        runs: folders of finished runs of this class with number=1, one for each adapter.
        replay: weight of the loss.
    """

    exceptions = {"prior_at_start": "adapters of finished runs are not silent at the start"}

    number: int = 1
    rank: int = 8
    runs: tuple[str, ...] = ()
    replay: float = 1.0

    def __post_init__(self) -> None:
        """Refuse options that do not belong together."""
        require_count("number", self.number)
        require_count("rank", self.rank)
        fits = len(self.runs) in (0, self.number)
        require(fits, "runs", self.runs, f"empty or number={self.number} folders")
        require(self.replay >= 0, "replay", self.replay, "0 or more")

    def feed_forward(self, method: MethodConfig) -> Callable[..., nn.Module]:
        """Return the builder of the network with its adapters."""
        return partial(DomainFeedForward, adapters=self.number, rank=self.rank)

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the one expert, which is the prior's attention."""
        return {"personalized": FrozenExpert}

    def attention(self, method: MethodConfig, attend: Attend) -> Callable[..., nn.Module]:
        """Return a builder of mixtures in cross-attention."""
        experts = partial(self.experts, method)
        return partial(CrossMixture, router=self.router(method), experts=experts, attend=attend)

    def start(self, added: Flat, prior: Flat) -> Flat:
        """Return the adapters of the finished runs."""
        found = super().start(added, prior)
        first = {"rank": self.rank, "number": 1}
        runs = [read_run(folder, MixDa, **first)[1] for folder in self.runs]
        for path in added:
            key = ".".join(("unet", *path))
            if runs and (adapter := _ADAPTER.search(key)):
                alone = key.replace(adapter[0], ".ff.adapters.0.")
                found[path] = runs[int(adapter[1])][alone]
        return found

    def learns(self, path: str) -> bool:
        """Tell whether a weight learns: the adapters of finished runs do not."""
        return not (self.runs and _ADAPTER.search(path))

    def losses(self, forward: Forward) -> Mapping[str, Float[Array, ""]]:
        """Return what the adapters add to the background, as a mean over the networks."""
        found = []
        for path, change in forward.seen.extra.items():
            if path.endswith(f".ff.{CHANGE}"):
                old = 1 - jax.image.resize(forward.union, change.shape, "linear")
                total = jnp.sum(old * change, axis=(1, 2))
                found.append(jnp.mean(total / (jnp.sum(old, axis=(1, 2)) + EPSILON)))
        return {"replay": self.replay * sum(found) / len(found)}


_ADAPTER = re.compile(r"\.ff\.adapters\.(\d+)\.")
