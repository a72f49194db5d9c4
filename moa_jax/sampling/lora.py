"""Styles: LoRA files of the community, merged into MoA's weights.

Not in the paper. A LoRA was trained for the original Stable Diffusion, which is the prior. The
personalized experts began as copies of its attention, so the same change means the same to them.
Half-precision weights round every sum. So several changes are added at once, and taking all of them
back restores the original arrays.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.backbone.lora import Kernel, LeafPath, Lora, LowRank, add_changes, match_lora, merge
from moa_jax.errors import InputError
from moa_jax.method.mixture import counterpart
from moa_jax.method.trained import is_added

_NOTHING = 1e-6  # a weight below this counts as 0: in floats, 0.1 + 0.2 - 0.3 is not 0

Weighted = tuple[LowRank, float]


class _Kernel(NamedTuple):
    """A kernel before any LoRA, the same with all LoRAs merged, and their changes."""

    original: Kernel
    merged: Kernel
    changes: tuple[Weighted, ...]


class Styles:
    """The LoRAs in force in a tree of weights.

    Each kernel is merged from its original, so the sum of the changes is rounded only once. When
    all changes of a kernel are taken back, it is the original array again. A kernel that was
    replaced since the last call of `add` counts as an original without LoRAs.
    """

    def __init__(self) -> None:
        """Begin without LoRAs."""
        self._kernels: dict[LeafPath, _Kernel] = {}

    def add(
        self, params: Mapping[str, Any], lora: Lora, weight: float = 1.0, experts: str = "both"
    ) -> dict[str, Any]:
        """Add a LoRA; adding the same one at -weight takes it back.

        `apply_lora` explains the arguments, the returned tree and the errors.
        """
        found = _match(params, lora, experts)
        flat = flatten_dict(params, keep_empty_nodes=True)
        kernels = {
            path: kernel
            for path, kernel in self._kernels.items()
            if kernel.merged is flat.get(path)  # otherwise somebody replaced the weights
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
    """Merge a LoRA into the weights; for several LoRAs see `Styles`.

    Args:
        params: the weights of MoA or of plain Stable Diffusion, with an entry for each network.
        weight: factor of the change; 1 is as trained, a negative factor subtracts the change.
        experts: "both" applies the entire file, and changes the attention of every expert alike.
            "prior" does so too, but leaves the added experts as they are. The name of an added
            expert, such as "personalized", changes only the attention of that expert, because the
            experts share everything else that a file can change.

    Returns:
        The tree with the changed kernels. Its other leaves are the same arrays, and every leaf
        keeps its dtype.

    Raises:
        InputError: the file does not fit, see `match_lora`; `experts` is another word; or it names
            an added expert, but there is none, or the file changes no attention.
    """
    return add_changes(params, _match(params, lora, experts), weight)


def _match(params: Mapping[str, Any], lora: Lora, experts: str) -> dict[LeafPath, LowRank]:
    """Find the kernels that a LoRA changes, in the experts that it is to change."""
    counterparts = _counterparts(params)
    names = {name for name, *_ in counterparts}
    # "personalized" passes without MoA weights too: `_nothing` then says that they are missing.
    if experts not in {"both", "prior", "personalized", *names}:
        choices = ", ".join(["both", "prior", *sorted(names or {"personalized"})])
        raise InputError(f"experts={experts!r}: choose one of {choices}")
    prior = match_lora(params, lora)
    if experts == "prior":
        return prior
    added = {
        path: prior[origin]
        for name, path, origin in counterparts
        if origin in prior and experts in ("both", name)
    }
    if experts == "both":
        return {**prior, **added}
    if not added:
        raise InputError(_nothing(lora, experts, experts in names))
    return added


def _counterparts(params: Mapping[str, Any]) -> list[tuple[str, LeafPath, LeafPath]]:
    """List the weights of added experts that have a counterpart in the prior.

    Returns:
        For each weight, the expert's name, the weight's path and the path of the counterpart.
    """
    flat = flatten_dict({"unet": params["unet"]})
    named = [(path, *counterpart(path)) for path in flat if is_added(".".join(path))]
    return [(expert, path, origin) for path, expert, origin in named if origin in flat]


def _joined(changes: Sequence[Weighted], added: Weighted) -> tuple[Weighted, ...]:
    """Append a change; if it is among the others already, add up the two weights instead."""
    change, weight = added
    others = tuple(each for each in changes if not _same(each[0], change))
    weight += sum(each[1] for each in changes if _same(each[0], change))
    return others if abs(weight) < _NOTHING else (*others, (change, weight))


def _same(one: LowRank, other: LowRank) -> bool:
    """Tell whether two changes are equal; the same file may have been read twice."""
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def _nothing(lora: Lora, experts: str, present: bool) -> str:
    if not present:
        return (
            f"{lora.name!r} cannot change the {experts} experts alone: none has weights of its "
            "own here, as without MoA weights; leave experts at 'both'"
        )
    return (
        f"{lora.name!r} changes no attention of the U-Net, which is all that the {experts} "
        "experts have of their own: choose experts='both' or 'prior'"
    )
