"""What learns: one answer, and functions that split and join the parameters by it.

`learns` is that answer: gradient, optimizer, checkpoints and the exported file follow it. Both
halves of the parameters keep the structure of the entire tree; `optax.MaskedNode`, a node without
leaves, stands where the other half's leaves are. So gradients and optimizer state hold nothing of
the frozen half.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from moa_jax.backbone.quantization import is_quantized
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.variant import resolve

# In the U-Net's attention layers and feed-forward networks, all but Stable Diffusion's own weights.
_ADDED = re.compile(
    r"^unet\.(?:.*\.)?(?:"
    r"attn[12]\.(?!(?:to_q|to_k|to_v|to_out\.0)\.(?:kernel|bias)$)"
    r"|ff\.(?!(?:net\.0\.proj|net\.2)\.(?:kernel|bias)$))"
)
_VISION_LAYER = re.compile(r"^image_encoder\.(?:.*\.)?layers\.(\d+)\.")


def learns(path: str, method: MethodConfig, vision_layers: int) -> bool:
    """Say whether the parameter at `path` learns: the one answer in this project.

    Source: MoA (arXiv 2404.11565): only what MoA adds is trained; the last layers of the image
    encoder besides, and not its head, as in FastComposer's released code.

    Args:
        path: the parameter's place in the tree joined by ".", as `leaf_paths` gives it.
        vision_layers: number of transformer layers in the image encoder; the last
            `method.image_encoder_layers` of them learn.
    """
    if layer := _VISION_LAYER.match(path):
        return int(layer[1]) >= vision_layers - method.image_encoder_layers
    return is_added(path) and resolve(method.mixture).learns(path)


def is_added(path: str) -> bool:
    """Tell whether MoA added the parameter at `path`; otherwise it is Stable Diffusion's."""
    return path.startswith(("prompt.", "variant.")) or _ADDED.match(path) is not None


def fixed_additions(params: Any) -> dict[str, Any]:
    """List the leaves that MoA added, by path; `params` is the half that does not learn."""
    return {path: leaf for path, leaf in leaf_paths(params).items() if is_added(path)}


def learning_mask(params: Mapping[str, Any], method: MethodConfig) -> Any:
    """Apply `learns` to every leaf; return a tree of bool in the shape of `params`.

    Raises:
        InputError: more layers of the image encoder should learn than it has.
    """
    layers = [int(found[1]) for path in leaf_paths(params) if (found := _VISION_LAYER.match(path))]
    vision_layers = max(layers, default=-1) + 1
    if method.image_encoder_layers > vision_layers:
        raise InputError(
            f"method.image_encoder_layers={method.image_encoder_layers}, but the image encoder has "
            f"{vision_layers} layers: choose 0 to {vision_layers}"
        )
    return map_paths(lambda path, _: learns(path, method, vision_layers), params)


def leaf_paths(tree: Any) -> dict[str, Any]:
    """List a tree's leaves under their paths, joined by "." as the names on disk are.

    A kernel in int8 is one leaf.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_quantized)
    return {_join(path): leaf for path, leaf in leaves}


def count_added(params: Any) -> int:
    """Count the weights, or shapes of them, that stand beside the prior's in the U-Net.

    Routers and what a variant shares between layers count; the prompt's networks do not.
    """
    parts = {part: params[part] for part in ("unet", "variant") if part in params}
    leaves = leaf_paths(parts).items()
    return sum(math.prod(leaf.shape) for path, leaf in leaves if is_added(path))


def partition(params: Any, mask: Any) -> tuple[Any, Any]:
    """Split parameters into the trained and the frozen half.

    Args:
        mask: tree of bool in the shape of `params`, true where a leaf learns.

    Returns:
        (trained, frozen), each with MaskedNode in the places of the other's leaves.
    """
    trained = jax.tree.map(lambda leaf, on: leaf if on else optax.MaskedNode(), params, mask)
    frozen = jax.tree.map(lambda leaf, on: optax.MaskedNode() if on else leaf, params, mask)
    return trained, frozen


def combine(trained: Any, frozen: Any) -> Any:
    """Put the two halves of `partition` together again."""
    return jax.tree.map(
        lambda one, other: other if isinstance(one, optax.MaskedNode) else one,
        trained,
        frozen,
        # Without this the map would pass over MaskedNode, which has no leaves.
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )


def map_paths(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Apply `function(path, leaf)` to every leaf; for paths see `leaf_paths`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(_join(path), leaf), tree, is_leaf=is_quantized
    )


def _join(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
