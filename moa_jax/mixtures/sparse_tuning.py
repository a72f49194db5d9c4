"""Fine-tuning of a few numbers alone, which were found by tuning all of them; runs add up.

`LtSft` is a run that tunes a few numbers of the expert, and `ComposedSft` begins with the sum of
such runs.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from moa_jax.config import MethodConfig
from moa_jax.method.mixture import Expert, counterpart
from moa_jax.method.variant import Flat, Moment, Params, Variant
from moa_jax.mixtures.options import require
from moa_jax.mixtures.runs import read_run

MASK = ".mask"  # ends the name of what says which numbers of a weight are tuned


class MaskedExpert(Expert):
    """MoA's expert with a mask for each of its weights; `LtSft.weights` applies the masks."""

    def project(
        self, source: Float[Array, "B *places C"], name: str, width: int, bias: bool = False
    ) -> Float[Array, "B *places D"]:
        """Apply the projection, whose masks are stored beside it."""
        shapes = {"kernel": (source.shape[-1], width)} | ({"bias": (width,)} if bias else {})
        for part, shape in shapes.items():
            self.param(f"{name}.{part}{MASK}", lambda _, shape: jnp.ones(shape, bool), shape)
        return super().project(source, name, width, bias)


@dataclass(frozen=True)
class LtSft(Variant):
    """Tune all, keep the few numbers that changed most, and tune those again from the start.

    The expert differs from the prior in a share of its numbers alone. So runs can be added up: one
    of a style and one of subjects, say, see `ComposedSft`.

    Equation: expert = prior + m * delta, m = [|dense - prior| among the `share` largest over all
        weights of all experts]; dense is a finished run of MoA, and delta starts at 0.
    Source: Composable Sparse Fine-Tuning, LT-SFT (arXiv 2110.07560), from its code: the threshold
        over all weights, and the rewinding.
    Left out: several rounds of growing masks; its loss on |delta|; language and task, in whose
        place any two runs stand. Routers and the prompt learn as MoA's.

    Attributes:
        dense: folder of the finished run of MoA; without one the numbers are drawn at random, which
            the paper compares with. It is read when a training starts.
        share: of the experts' numbers that are tuned, in (0, 1].
    """

    exceptions = {"gradients": "of a small weight, such as a bias, no number may be in the mask"}

    dense: str = ""
    share: float = 0.05

    def __post_init__(self) -> None:
        """Refuse to tune nothing."""
        require(0 < self.share <= 1, "share", self.share, "in (0, 1]")

    def experts(self, method: MethodConfig, block: int) -> Mapping[str, Callable[..., nn.Module]]:
        """Return the builder of the expert."""
        return {"personalized": MaskedExpert}

    def start(self, added: Flat, prior: Flat) -> Flat:
        """Return the prior's weights for the expert, and the masks."""
        begun = super().start(added, prior)
        dense = read_run(self.dense, Variant)[1] if self.dense else None
        scores = {}
        for path in begun:
            if dense is None:
                random = np.random.default_rng(zlib.crc32(_joined(path).encode()))
                scores[path] = random.random(begun[path].shape, np.float32)
            else:
                change = dense[_joined(path)] - np.asarray(begun[path], np.float32)
                scores[path] = np.abs(change)
        every = np.concatenate([score.ravel() for score in scores.values()])
        place = every.size - max(1, round(self.share * every.size))
        least = np.partition(every, place)[place]
        masks = {(*path[:-2], ".".join(path[-2:]) + MASK): scores[path] >= least for path in begun}
        return begun | masks

    def learns(self, path: str) -> bool:
        """Tell whether a weight learns: masks do not."""
        return not path.endswith(MASK)

    def weights(self, params: Params, moment: Moment) -> Params:
        """Put the prior's numbers where the mask is not."""
        flat = flatten_dict(params["unet"])
        for path in [path for path in flat if path[-1].endswith(MASK)]:
            name, _, part = path[-1].removesuffix(MASK).rpartition(".")
            own = (*path[:-1], name, part)
            prior = flat[counterpart(own)[1]].astype(flat[own].dtype)
            flat[own] = jnp.where(flat[path], flat[own], prior)
        return {**params, "unet": unflatten_dict(flat)}


@dataclass(frozen=True)
class ComposedSft(Variant):
    """MoA whose expert begins as the prior with the changes of several sparse runs added.

    Attributes:
        runs: folders of finished runs of `LtSft`; their routers and prompts are not taken over.
    """

    runs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a composition of nothing."""
        require(len(self.runs) > 0, "runs", self.runs, "a tuple of one or more folders")

    def start(self, added: Flat, prior: Flat) -> Flat:
        """Return the sum."""
        begun = super().start(added, prior)
        runs = [read_run(folder, LtSft)[1] for folder in self.runs]
        return {path: _composed(_joined(path), leaf, runs) for path, leaf in begun.items()}


def _composed(key: str, prior: Any, runs: list[dict[str, np.ndarray]]) -> np.ndarray:
    exact = np.asarray(prior, np.float32)
    changes = [np.where(run[key + MASK], run[key] - exact, 0) for run in runs]
    return exact + sum(changes)


def _joined(path: tuple[str, ...]) -> str:
    return ".".join(("unet", *path))
