"""Styles: LoRA files of the community, merged into MoA's weights.

Not in the paper. A LoRA was trained for the original Stable Diffusion, which is the prior; the
personalized experts began as copies of its attention, so the same change means the same to them.
Half-precision weights round what is added to them, so several are added at once, and taken back by
putting back what was there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from moa_jax.backbone.lora import LeafPath, Lora, LowRank, add_changes, match_lora, merge
from moa_jax.errors import InputError
from moa_jax.method.mixture import counterpart
from moa_jax.method.trained import is_added

_NOTHING = 1e-6  # a weight below it is none: in floats, 0.1 + 0.2 - 0.3 is not 0

Weighted = tuple[LowRank, float]


class _Kernel(NamedTuple):
    """A kernel without LoRAs, with all of them, and which they are."""

    original: Array
    merged: Array
    changes: tuple[Weighted, ...]


class Styles:
    """The LoRAs in force in a tree of weights.

    Each kernel is merged from what it was without any of them: the sum of the changes is rounded
    once, and a kernel whose changes are all taken back is the same array as before. It counts as
    without LoRAs if it is not the one that `add` returned last, but was replaced.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._kernels: dict[LeafPath, _Kernel] = {}

    def add(
        self, params: Mapping[str, Any], lora: Lora, weight: float = 1.0, experts: str = "both"
    ) -> dict[str, Any]:
        """Put a LoRA in force; the same at -weight takes it back.

        For arguments, the tree returned and errors see `apply_lora`.
        """
        found = _match(params, lora, experts)
        flat = flatten_dict(params, keep_empty_nodes=True)
        kernels = {
            path: kernel
            for path, kernel in self._kernels.items()
            if kernel.merged is flat.get(path)
        }
        for path, change in found.items():
            original, _, changes = kernels.pop(path, _Kernel(flat[path], flat[path], ()))
            flat[path] = original
            if changes := _joined(changes, (change, weight)):
                flat[path] = merge(original, changes)
                kernels[path] = _Kernel(original, flat[path], changes)
        self._kernels = kernels
        return unflatten_dict(flat)


def apply_lora(
    params: Mapping[str, Any], lora: Lora, weight: float = 1.0, experts: str = "both"
) -> dict[str, Any]:
    """Merge a LoRA into the weights; several, see `Styles`.

    Args:
        params: of MoA, or of plain Stable Diffusion: a tree with an entry for each network.
        weight: 1 is as trained; may be negative, which takes away.
        experts: "both" changes everything that the file does, and each expert's attention alike;
            "prior" leaves the added experts as they are; the name of an added expert, such as
            "personalized", changes nothing but its attention, for all else in the file the experts
            share.

    Returns:
        The tree, its other leaves the same arrays; every leaf keeps its dtype.

    Raises:
        InputError: the file does not fit, see `match_lora`; another word for `experts`; or the name
            of an expert where there is none, or for a file without attention.
    """
    return add_changes(params, _match(params, lora, experts), weight)


def _match(params: Mapping[str, Any], lora: Lora, experts: str) -> dict[LeafPath, LowRank]:
    """Find the kernel that each of a LoRA's changes is for, in the experts whose it is to be."""
    names = {name for name, *_ in _counterparts(params)}
    if experts not in {"both", "prior", "personalized", *names}:
        choices = ", ".join(["both", "prior", *sorted(names or {"personalized"})])
        raise InputError(f"experts={experts!r}: choose one of {choices}")
    prior = match_lora(params, lora)
    if experts == "prior":
        return prior
    added = {
        path: prior[origin]
        for name, path, origin in _counterparts(params)
        if origin in prior and experts in ("both", name)
    }
    if experts == "both":
        return {**prior, **added}
    if not added:
        raise InputError(_nothing(lora, experts, experts in names))
    return added


def _counterparts(params: Mapping[str, Any]) -> list[tuple[str, LeafPath, LeafPath]]:
    """List the weights of added experts that the prior has too.

    Returns:
        For each the expert's name, its path, and the path of the prior's.
    """
    flat = flatten_dict({"unet": params["unet"]})
    named = [(path, *counterpart(path)) for path in flat if is_added(".".join(path))]
    return [(expert, path, origin) for path, expert, origin in named if origin in flat]


def _joined(changes: Sequence[Weighted], added: Weighted) -> tuple[Weighted, ...]:
    """Add a change to some, or its weight to that of the same one among them."""
    change, weight = added
    others = tuple(each for each in changes if not _same(each[0], change))
    weight += sum(each[1] for each in changes if _same(each[0], change))
    return others if abs(weight) < _NOTHING else (*others, (change, weight))


def _same(one: LowRank, other: LowRank) -> bool:
    """Say whether two changes are of one file, which may have been read twice."""
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def _nothing(lora: Lora, experts: str, present: bool) -> str:
    if not present:
        return (
            f"{lora.name!r} cannot change the {experts} experts alone: there are none, for no "
            "MoA weights are loaded; leave experts at 'both'"
        )
    return (
        f"{lora.name!r} changes no attention of the U-Net, which is all that the {experts} "
        "experts have of their own: choose experts='both' or 'prior'"
    )
