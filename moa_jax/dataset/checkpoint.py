"""Fetch a network from the Hugging Face hub, say which state of it this is, and load it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from moa_jax.backbone.hub import download
from moa_jax.errors import InputError
from moa_jax.extension import import_extra

REMEDY = "pip install 'moa_jax[build]'"
Colour = tuple[float, float, float]  # of red, green and blue
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
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


def load(kind: str, folder: Path, device: str, dtype: str) -> Any:
    """Load a network by the name of its class in transformers.

    Args:
        device: as PyTorch names it.
        dtype: of the weights, as PyTorch names it.

    Raises:
        InputError: PyTorch or the class is missing, or the folder does not hold such a network.
    """
    torch = import_extra("torch", f"the network {kind}", REMEDY)
    model = _read(kind, folder, dtype=getattr(torch, dtype))
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # the latter of a PyTorch without CUDA
        raise InputError(f"device {device!r}: {_words(error)}; choose another") from error


def load_processor(kind: str, folder: Path) -> Any:
    """Load what prepares a network's input, by the name of its class in transformers.

    Raises:
        InputError: as `load`.
    """
    return _read(kind, folder)


def _read(kind: str, folder: Path, **options: Any) -> Any:
    transformers = import_extra("transformers", kind, REMEDY)
    if not hasattr(transformers, kind):
        version = transformers.__version__
        raise InputError(f"transformers {version} has no {kind}: pip install -U transformers")
    try:
        return getattr(transformers, kind).from_pretrained(folder, **options)
    except (ImportError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"{folder}: no {kind} can be loaded from it: {_words(error)}") from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


@dataclass(frozen=True)
class Pixels:
    """How a network wants its pictures: resized to a size that it was trained on, and normalised.

    transformers prepares pictures for these networks by torchvision only, whose builds must match
    those of PyTorch; this does the same by Pillow. The two round differently, by a grey level.

    Attributes:
        side: of the square, in pixels; the shape of the picture is not kept.
        mean: of red, green and blue in [0, 1], which is taken away.
        std: by which the rest is divided.
    """

    side: int
    mean: Colour
    std: Colour

    @classmethod
    def read(cls, folder: Path, side: int, mean: Colour = MEAN, std: Colour = STD) -> "Pixels":
        """Read them from a network's folder.

        Args:
            side: the network's own, where the folder says none; so for `mean` and `std`.

        Raises:
            InputError: the folder's file is damaged.
        """
        found: dict[str, Any] = {}
        for name in ("processor_config.json", "preprocessor_config.json"):
            file = folder / name
            try:
                read = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            except ValueError as error:
                raise InputError(f"{file}: not JSON ({error}); download it again") from error
            found |= read.get("image_processor", read)
        size = found.get("size") or {"height": side}
        side = size.get("height") or size.get("longest_edge") or side
        mean, std = found.get("image_mean", mean), found.get("image_std", std)
        return cls(side, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def prepare(self, image: Image.Image) -> Float32[np.ndarray, "1 3 H W"]:
        """Resize a picture, by bilinear interpolation, and normalise it."""
        resized = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        values = np.asarray(resized, np.float32) / 255
        normal = (values - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[None], np.float32)
