"""LoRA: find the layers that a file changes, and merge the changes into their weights.

Source: LoRA (arXiv 2106.09685): W + alpha / rank * up @ down. Networks are given as their trees of
parameters.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from moa_jax.backbone.lora_file import Lora, LowRank, address, flatten, listed, read_lora
from moa_jax.backbone.quantization import Quantized, alike
from moa_jax.backbone.supported import STABLE_DIFFUSION_OF_WIDTH
from moa_jax.errors import InputError

__all__ = ["Lora", "LowRank", "add_changes", "match_lora", "merge", "merge_lora", "read_lora"]

Params = Mapping[str, Any]
Kernel = Array | Quantized
LeafPath = tuple[str, ...]  # from the root of the tree of all networks

COMPONENTS = ("unet", "text_encoder")
# Layers of Stable Diffusion XL's second text encoder, and of its U-Net as kohya names them.
_XL_NAMES = ("lora_te2_", "text_encoder_2.", "lora_unet_input_blocks_", "lora_unet_output_blocks_")
_CONTEXT_LAYER = "attn2_to_k"  # its input is as wide as the context


def match_lora(params: Params, lora: Lora) -> dict[LeafPath, LowRank]:
    """Find the kernel that each change of a LoRA is for.

    Args:
        params: a tree with an entry for each network; its leaves need only a `shape`.

    Raises:
        InputError: a layer is not in this model, or has another shape. The message lists such
            layers, and says which model the file looks made for.
    """
    kernels = {
        (component, flatten(".".join(path[:-1]))): ((component, *path), tuple(leaf.shape))
        for component in COMPONENTS
        for path, leaf in flatten_dict(params.get(component, {})).items()
        if path[-1] == "kernel"
    }
    matched, unknown, misshaped = {}, [], []
    for layer, change in lora.layers.items():
        path, shape = kernels.get(address(layer), (None, (0, 0)))
        expected = (shape[-1], shape[-2], *shape[:-2])  # in PyTorch's order of axes
        if path is None or path in matched:
            unknown.append(layer)
        elif _without_ones(change.shape) != _without_ones(expected):
            misshaped.append(f"{layer} {change.shape} instead of {expected}")
        else:
            matched[path] = change
    faults = {"are not in it, or come twice": unknown, "have another shape": misshaped}
    if any(faults.values()):
        found = "; ".join(f"{len(of)} {fault}: {listed(of)}" for fault, of in faults.items() if of)
        raise InputError(
            f"{lora.name!r} does not fit the base model; {_looks(lora, kernels)}. Of its "
            f"{len(lora.layers)} layers {found}"
        )
    return matched


def add_changes(
    params: Params, changes: Mapping[LeafPath, LowRank], weight: float
) -> dict[str, Any]:
    """Add each change, `weight` times, to the kernel at its path.

    Args:
        changes: as `match_lora` gives them.
        weight: 1 is as trained; a negative weight subtracts the change.

    Returns:
        The changed tree. Its other leaves are the same arrays, and every leaf keeps its dtype.
    """
    flat = flatten_dict(params, keep_empty_nodes=True)
    merged = {path: merge(flat[path], [(change, weight)]) for path, change in changes.items()}
    return unflatten_dict(flat | merged)


def merge(kernel: Kernel, changes: Sequence[tuple[LowRank, float]]) -> Kernel:
    """Add changes to a kernel, each times its weight: sum in float32, then round once.

    A kernel in int8 becomes one in int8 again, with scales of its own.
    """
    terms = [(*factors, np.float32(weight * scale)) for (*factors, scale), weight in changes]
    return _merge(kernel, terms)


def merge_lora(params: Params, lora: Lora, weight: float = 1.0) -> dict[str, Any]:
    """Merge a LoRA into the weights of Stable Diffusion.

    Args:
        params: a tree with an entry for each network.
        weight: 1 is as trained.

    Raises:
        InputError: as `match_lora`.
    """
    return add_changes(params, match_lora(params, lora), weight)


@jax.jit
def _merge(kernel: Kernel, terms: Sequence[tuple[Array, Array, Array | None, Array]]) -> Kernel:
    change = sum(scale * _product(down, up, mid) for down, up, mid, scale in terms)
    return alike(kernel, kernel.astype(jnp.float32) + change.reshape(kernel.shape))


def _product(down: Array, up: Array, mid: Array | None) -> Array:
    """Multiply the factors of a change into "places in out"; places are rows times columns."""
    exact = jax.lax.Precision.HIGHEST  # TPUs would multiply in bfloat16
    (rank, width), out = down.shape[:2], up.shape[0]
    up = up.reshape(out, rank)
    if mid is None:
        change = jnp.einsum("or,ri->oi", up, down.reshape(rank, -1), precision=exact)
    else:
        down = down.reshape(rank, width)
        change = jnp.einsum("op,pqhw,qi->oihw", up, mid, down, precision=exact)
    return change.reshape(out, width, -1).transpose(2, 1, 0)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the rows and columns of a 1x1 convolution, which is a linear layer.

    SD 1.x has such convolutions where SD 2.x has linear layers.
    """
    return (*shape[:2], *(side for side in shape[2:] if side != 1))


def _looks(lora: Lora, kernels: Mapping[tuple[str, str], Any]) -> str:
    """Say which Stable Diffusion the file is for and which the base model is, if both are known."""
    widths = [
        change.shape[1] for layer, change in lora.layers.items() if _is_context(address(layer)[1])
    ]
    is_xl = any(layer.startswith(_XL_NAMES) for layer in lora.layers)
    theirs = "XL" if is_xl else _first(STABLE_DIFFUSION_OF_WIDTH.get(width) for width in widths)
    own = [shape[0] for (_, name), (_, shape) in kernels.items() if _is_context(name)]
    ours = _first(STABLE_DIFFUSION_OF_WIDTH.get(width) for width in own)
    if theirs is None or theirs == ours:
        return "choose one that was made for its kind"
    here = f"Stable Diffusion {ours}" if ours else "another model"
    return f"it looks like one for Stable Diffusion {theirs}, and this is {here}"


def _is_context(name: str) -> bool:
    return name.endswith(_CONTEXT_LAYER)


def _first(found: Iterable[str | None]) -> str | None:
    return next((each for each in found if each), None)
