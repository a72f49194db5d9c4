"""FastComposer's `pytorch_model.bin`: the tensors of its five networks, as numpy arrays.

The file is the state dict of the entire model, as its inference script loads it. PyTorch reads it
without running code from it (`weights_only`), and maps it into memory instead of copying it.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from moa_jax.errors import InputError
from moa_jax.extension import import_extra

# What a key of each network begins with.
PREFIXES = {
    "unet": "unet.",
    "vae": "vae.",
    "text_encoder": "text_encoder.",
    "image_encoder": "image_encoder.",
    "fusion": "postfuse_module.",
}
_EXTRA = "pip install 'moa_jax[import]'"


class Tensors:
    """The tensors of one network, with the methods of safetensors' `safe_open`."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        """Wrap PyTorch's tensors, by their names in the network."""
        self._tensors = dict(tensors)

    def keys(self) -> list[str]:
        """List the names."""
        return list(self._tensors)

    def get_slice(self, name: str) -> Any:
        """Return what tells a tensor's shape, by `get_shape()`."""
        return SimpleNamespace(get_shape=lambda: list(self._tensors[name].shape))

    def get_tensor(self, name: str) -> np.ndarray:
        """Return a tensor as an array over the same memory."""
        tensor = self._tensors[name].detach()  # a parameter is no plain tensor
        if str(tensor.dtype) == "torch.bfloat16":  # numpy has no such type of its own
            torch = import_extra("torch", "a bfloat16 tensor", _EXTRA)
            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()


def read_networks(file: str | Path) -> dict[str, Tensors]:
    """Read a FastComposer checkpoint.

    Args:
        file: `pytorch_model.bin`.

    Returns:
        For each name in PREFIXES the tensors of that network, by their names without the prefix.

    Raises:
        InputError: PyTorch is not installed, the file is missing or cannot be read, or it is not a
            state dict of FastComposer's; the message lists the keys that say so.
    """
    state = _load(Path(file))
    if not isinstance(state, Mapping) or not all(_is_tensor(each) for each in state.values()):
        raise InputError(f"{str(file)!r} is not a state dict: {_CHECKPOINT}")
    networks = {
        network: {
            key.removeprefix(prefix): tensor
            for key, tensor in state.items()
            if key.startswith(prefix)
        }
        for network, prefix in PREFIXES.items()
    }
    unknown = sorted(key for key in state if not key.startswith(tuple(PREFIXES.values())))
    absent = [PREFIXES[network] for network, tensors in networks.items() if not tensors]
    if unknown or absent:
        faults = [f"no key begins with {prefix}" for prefix in absent]
        faults += [f"unknown key: {key}" for key in unknown]
        lines = "\n  ".join(faults)
        raise InputError(f"{str(file)!r} is not of FastComposer: {_CHECKPOINT}\n  {lines}")
    return {network: Tensors(each) for network, each in networks.items()}


_CHECKPOINT = (
    "give pytorch_model.bin of huggingface.co/mit-han-lab/fastcomposer, or what FastComposer's own "
    "training wrote in its place"
)


def _load(file: Path) -> Any:
    torch = import_extra("torch", "import-fastcomposer", _EXTRA)
    if not file.is_file():
        raise InputError(f"{str(file)!r}: there is no such file; {_CHECKPOINT}")
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message recommends to read such a file with weights_only=False.
        raise InputError(
            f"{str(file)!r} holds something else than tensors, or is damaged, and was not read, as "
            f"a pickle can run any code: {_CHECKPOINT}"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise InputError(
            f"{str(file)!r} cannot be read as a PyTorch file ({reason}): download or copy it again"
        ) from error


def _is_tensor(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("numpy", "shape", "dtype"))
