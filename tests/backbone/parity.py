"""What the parity tests share: torch networks with random weights, and these in our own tree."""

from functools import cache
from typing import Any

import flax
import jax
import numpy as np

from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.weights import from_checkpoint, to_checkpoint

shapes_of = cache(parameter_shapes)  # each network is traced once


def randomize(network: Any, random: Any = None, spread: float = 0.3) -> Any:
    """Draw every parameter anew: a fresh norm, or a zero bias, would hide a swapped key.

    Args:
        random: a torch generator; one of seed 0 by default.
        spread: standard deviation of norms' scales and of biases.
    """
    import torch

    random = random or torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        draw = torch.randn(value.shape, generator=random)
        if value.ndim > 1:  # keeps the scale of what passes through, bar the embeddings
            draw *= value[0].numel() ** -0.5 if "embedding" not in name else 0.5
        else:  # a norm's scale near 1, a bias near 0
            draw = spread * draw + (1.0 if name.endswith("weight") else 0.0)
        value.data.copy_(draw)
    return network.eval().requires_grad_(False)


def params_of(module: Any, network: Any, prefix: str = "") -> dict[str, Any]:
    """Arrange a torch network's weights as the parameters of ours."""
    state = {f"{prefix}{key}": value.numpy() for key, value in network.state_dict().items()}
    leaves = flax.traverse_util.flatten_dict(shapes_of(module))
    arranged = {
        path: from_checkpoint(path, state.pop(checkpoint_key(path, leaf)))
        for path, leaf in leaves.items()
    }
    assert not state, f"not read: {list(state)}"
    return flax.traverse_util.unflatten_dict(arranged)


def random_params(module: Any, seed: int = 0) -> dict[str, Any]:
    """Draw parameters with numpy; compiling the initialisers of a network takes far longer."""
    random = np.random.default_rng(seed)

    def draw(path: tuple[str, ...], leaf: Any) -> np.ndarray:
        values = random.normal(size=leaf.shape).astype(np.float32)
        if path[-1] == "kernel":
            return values * np.prod(leaf.shape[:-1]).astype(np.float32) ** -0.5
        return np.float32(path[-1] == "scale") + np.float32(0.3) * values

    leaves = flax.traverse_util.flatten_dict(shapes_of(module))
    return flax.traverse_util.unflatten_dict(
        {path: draw(path, leaf) for path, leaf in leaves.items()}
    )


def apply(module: Any, params: Any, *inputs: Any, method: str | None = None) -> Any:
    """Run a network of ours, compiled as a whole, once for each shape of what it is given."""
    return _compiled(module, method)(params, *inputs)


@cache
def _compiled(module: Any, method: str | None) -> Any:
    return jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs, method=method))


def checkpoint_key(path: tuple[str, ...], leaf: Any) -> str:
    return to_checkpoint(path, np.broadcast_to(np.int8(0), leaf.shape))[0]


def checkpoint_shapes(module: Any) -> dict[str, tuple[int, ...]]:
    """Give every key and shape that a checkpoint of this network must have."""
    leaves = flax.traverse_util.flatten_dict(shapes_of(module))
    stand_ins = {path: np.broadcast_to(np.int8(0), leaf.shape) for path, leaf in leaves.items()}
    named = (to_checkpoint(path, stand_in) for path, stand_in in stand_ins.items())
    return {key: array.shape for key, array in named}


def torch_shapes(network: Any, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Give every parameter of a torch network with its shape."""
    return {f"{prefix}{name}": tuple(value.shape) for name, value in network.named_parameters()}


def relative_error(ours: Any, reference: Any) -> float:
    """Largest difference over the largest value of the reference (a torch tensor)."""
    reference = np.asarray(reference)
    ours = np.asarray(ours)
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def channels_last(tensor: Any) -> Any:
    """Move the channels of a torch tensor, `B C H W`, behind."""
    return tensor.movedim(1, -1)
