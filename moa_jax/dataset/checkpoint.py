"""Fetch the weights of a network from the Hugging Face hub, and say which state of them it is."""

from pathlib import Path
from typing import Any

from moa_jax.backbone.hub import download
from moa_jax.errors import InputError
from moa_jax.extension import import_extra

REMEDY = "pip install 'moa_jax[build]'"
FILES = ("*.json", "*.txt", "*.jinja", "*.safetensors")  # no pickles, no code


def fetch(model: str, revision: str | None, licence: str) -> tuple[Path, str]:
    """Find a network's folder, on disk or in the hub's cache.

    Args:
        model: a folder, or a repository on the hub.
        revision: a commit, a tag or a branch; None means the main branch, as it is when it is
            downloaded.
        licence: of its weights, for the card.

    Returns:
        The folder, and a line that names the network, the commit that was found and the licence.

    Raises:
        InputError: it cannot be downloaded.
    """
    if Path(model).is_dir():
        return Path(model), f"the folder {model}, no revision known ({licence})"
    folder = download(model, FILES, revision, f"the model {model!r}")
    return folder, f"{model}, commit {folder.name} ({licence})"


def load(kind: str, processor: str, folder: Path, device: str, dtype: str) -> tuple[Any, Any]:
    """Load a network and its processor by the names of their classes in transformers.

    Args:
        device: as PyTorch names it.
        dtype: of the weights, as PyTorch names it.

    Raises:
        InputError: PyTorch or the class is missing, or the folder does not hold such a network.
    """
    torch = import_extra("torch", f"the network {kind}", REMEDY)
    import_extra("torchvision", f"the network {kind}", REMEDY)
    transformers = import_extra("transformers", f"the network {kind}", REMEDY)
    if not hasattr(transformers, kind):
        version = transformers.__version__
        raise InputError(f"transformers {version} has no {kind}: pip install -U transformers")
    try:
        model = getattr(transformers, kind).from_pretrained(folder, dtype=getattr(torch, dtype))
        return model.to(device).eval(), getattr(transformers, processor).from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        words = " ".join(str(error).split())[:400]
        raise InputError(f"{folder}: no {kind} can be loaded from it: {words}") from error
