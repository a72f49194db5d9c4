"""Styles: LoRA files of the community, merged into MoA's weights.

Not in the paper. A LoRA was trained for the original Stable Diffusion, which is the prior; the
personalized experts began as copies of its attention, so the same change means the same to them.
"""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from moa_jax.backbone.lora import LeafPath, Lora, LowRank, add_changes, match_lora
from moa_jax.errors import InputError
from moa_jax.method.mixture import MixtureOfAttention, counterparts

EXPERTS = ("both", "prior", "personalized")


def apply_lora(
    params: Mapping[str, Any], lora: Lora, weight: float = 1.0, experts: str = "both"
) -> dict[str, Any]:
    """Merge a LoRA into the weights; several, one after the other, add up.

    Args:
        params: of MoA, or of plain Stable Diffusion: a tree with an entry for each network.
        weight: 1 is as trained; may be negative, which takes away.
        experts: "both" changes everything that the file does, and each expert's attention alike;
            "prior" leaves the personalized experts as they are; "personalized" changes nothing
            but their attention, for all else in the file the experts share.

    Returns:
        The tree, its other leaves the same arrays; every leaf keeps its dtype.

    Raises:
        InputError: the file does not fit, see `match_lora`; another word for `experts`; or
            "personalized" where there are no such experts, or for a file without attention.
    """
    if experts not in EXPERTS:
        raise InputError(f"experts={experts!r}: choose one of {', '.join(EXPERTS)}")
    prior = match_lora(params, lora)
    personalized = _personalized(prior, params)
    if experts == "prior":
        return add_changes(params, prior, weight)
    if experts == "both":
        return add_changes(params, {**prior, **personalized}, weight)
    if not personalized:
        raise InputError(_nothing(lora, params))
    return add_changes(params, personalized, weight)


def _personalized(
    changes: Mapping[LeafPath, LowRank], params: Mapping[str, Any]
) -> dict[LeafPath, LowRank]:
    """Find the added experts' counterparts of what changes in the prior's attention."""
    present = flatten_dict(params["unet"]).keys()
    found = {}
    for path, change in changes.items():
        for counterpart in counterparts(path, MixtureOfAttention.added):
            if counterpart[1:] in present:
                found[counterpart] = change
    return found


def _nothing(lora: Lora, params: Mapping[str, Any]) -> str:
    added = set(MixtureOfAttention.added)
    if not any(added & set(path) for path in flatten_dict(params["unet"])):
        return (
            f"{lora.name!r} cannot change the personalized experts alone: there are none, for no "
            "MoA weights are loaded; leave experts at 'both'"
        )
    return (
        f"{lora.name!r} changes no attention of the U-Net, which is all that the personalized "
        "experts have of their own: choose experts='both' or 'prior'"
    )
