"""LoRA files as the community ships them: safetensors in the layouts of kohya, diffusers and peft.

Every layout holds the same under other names: a layer, two factors of low rank, and sometimes an
alpha. `address` gives a layer the same name in every layout. Reading a file needs no network.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp  # numpy can read bfloat16 only with jax's types
import numpy as np
from safetensors import SafetensorError, safe_open

from moa_jax.backbone.folder import read_config
from moa_jax.errors import InputError

_WEIGHT = re.compile(
    r"(?P<layer>.+?)[._]lora(?:_|\.|_linear_layer\.)(?P<role>down|up|mid|A|B)(?:\.default)?\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+?)(?:[._]lora(?:_linear_layer)?)?\.alpha")
_ROLES = {"A": "down", "B": "up"}
# By the prefix of its layers: the network. kohya's prefixes end in "_", the others in a dot.
_PREFIXES = {
    "lora_unet_": "unet",
    "unet.": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "text_encoder.": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "text_encoder_2.": "text_encoder_2",
    "text_model.": "text_encoder",
}
# Older files name the attention projections of the text encoder so.
_OLD_TEXT_ATTENTION = re.compile(r"self_attn_to_(q|k|v|out)$")
# Parts of the keys of other adapters, which the same tools train and the same sites share.
_OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    ".diff": "whole weights",
}
_METADATA_KEY = "lora_adapter_metadata"  # diffusers keeps its adapters' settings under it
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_LISTED = 8  # names in a message: a file of another model has hundreds


class LowRank(NamedTuple):
    """The change of one layer, in PyTorch's order of axes.

    Attributes:
        down: "rank in"; for a convolution "rank in rows columns".
        up: "out rank"; for a convolution "out rank 1 1".
        mid: "rank rank rows columns", where a convolution's kernel is a factor of its own; else
            None.
        scale: alpha / rank.
    """

    down: np.ndarray
    up: np.ndarray
    mid: np.ndarray | None
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Give the shape of the change: out, in, and a convolution's rows and columns."""
        kernel = self.down if self.mid is None else self.mid
        return (self.up.shape[0], self.down.shape[1], *kernel.shape[2:])


@dataclass(frozen=True)
class Lora:
    """What a LoRA file holds.

    Attributes:
        name: the file, for messages.
        layers: the change of every layer, under the file's own name for the layer.
    """

    name: str
    layers: Mapping[str, LowRank]


def read_lora(path: str | Path) -> Lora:
    """Read a LoRA file.

    Raises:
        InputError: there is no such file, it is damaged or not safetensors, or it has keys that
            are not a LoRA's; the message lists them.
    """
    path = Path(path).expanduser()
    tensors, settings = _read(path)
    factors, alphas = _sort(path, tensors)
    layers = {
        layer: _low_rank(path, layer, roles, alphas.pop(layer, None), settings)
        for layer, roles in factors.items()
    }
    if alphas:
        raise InputError(f"{str(path)!r} is not complete: only an alpha of {listed(alphas)}")
    return Lora(str(path), layers)


def address(layer: str) -> tuple[str, str]:
    """Find a layer's network and its name (see `flatten`) from its name in any layout."""
    component, name = _split(layer)
    return component, flatten(name)


def flatten(name: str) -> str:
    """Turn a layer's name into the form that is the same for all layouts.

    Args:
        name: from the root of its network, joined by dots or, as kohya does, by underscores.
    """
    name = name.replace(".processor.", ".").replace(".", "_").removeprefix("text_model_")
    name = _OLD_TEXT_ATTENTION.sub(r"self_attn_\1_proj", name)
    return re.sub(r"_to_out_0$", "_to_out", name)


def listed(names: Collection[str]) -> str:
    """Join the first few names, and say how many more there are."""
    more = len(names) - _LISTED
    return ", ".join(list(names)[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _split(layer: str) -> tuple[str, str]:
    name = layer.replace("base_model.model.", "")  # peft's wrapper around the network
    for prefix, component in _PREFIXES.items():
        if name.startswith(prefix):
            return component, name.removeprefix(prefix).removeprefix("text_model.")
    return "unet", name  # diffusers' oldest files are of the U-Net alone


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file's tensors, and its adapter's settings if it has any."""
    if not path.is_file():
        raise InputError(f"{str(path)!r}: there is no such LoRA file")
    if path.suffix in _PICKLES:
        raise InputError(
            f"{str(path)!r} is a pickle, which can run any code when it is read: only safetensors "
            "is read; look for the LoRA's .safetensors file"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name).astype(jnp.float32) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{str(path)!r} is truncated, damaged or no safetensors file ({error}): download or "
            "copy it again"
        ) from error
    if _METADATA_KEY not in metadata:
        beside = path.parent / "adapter_config.json"  # peft's own
        is_peft = path.name == "adapter_model.safetensors" and beside.is_file()
        return tensors, read_config(beside.parent, beside.name) if is_peft else {}
    try:
        return tensors, dict(json.loads(metadata[_METADATA_KEY]))
    except ValueError as error:
        raise InputError(f"{str(path)!r}: its {_METADATA_KEY} is not JSON: {error}") from error


def _sort(
    path: Path, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """Sort a file's tensors by layer and role, and its alphas by layer."""
    factors, alphas, others = {}, {}, []
    for key, tensor in tensors.items():
        if found := _WEIGHT.fullmatch(key):
            role = _ROLES.get(found["role"], found["role"])
            factors.setdefault(found["layer"], {})[role] = tensor
        elif (found := _ALPHA.fullmatch(key)) and tensor.size == 1:
            alphas[found["layer"]] = float(tensor.reshape(()))
        else:
            others.append(key)
    if kinds := {kind for key in others for part, kind in _OTHER_KINDS.items() if part in key}:
        raise InputError(
            f"{str(path)!r} holds {' and '.join(sorted(kinds))} in {len(others)} keys, but only "
            f"LoRA is supported: {listed(others)}"
        )
    if others or not factors:
        raise InputError(
            f"{str(path)!r} is not a LoRA as kohya, diffusers or peft write it: of its "
            f"{len(tensors)} keys {len(others)} are not known: {listed(others)}"
        )
    return factors, alphas


def _low_rank(
    path: Path,
    layer: str,
    roles: Mapping[str, np.ndarray],
    alpha: float | None,
    settings: Mapping[str, Any],
) -> LowRank:
    """Put one layer's factors together."""
    if not {"down", "up"} <= roles.keys():
        raise InputError(f"{str(path)!r} is not complete: of {layer} only {', '.join(roles)}")
    down, up, mid = (roles.get(role) for role in ("down", "up", "mid"))
    if not _fit(down, up, mid):
        shapes = ", ".join(f"{role} {tensor.shape}" for role, tensor in roles.items())
        raise InputError(f"{str(path)!r}: the factors of {layer} do not fit each other: {shapes}")
    return LowRank(down, up, mid, _scale(layer, len(down), alpha, settings))


def _fit(down: np.ndarray, up: np.ndarray, mid: np.ndarray | None) -> bool:
    if down.ndim not in (2, 4) or up.ndim not in (2, 4):
        return False
    rank, ones = len(down), (1, 1)
    if up.shape not in ((len(up), rank), (len(up), rank, *ones)):
        return False
    # A `mid` holds the kernel's rows and columns, so `down` then has none.
    return mid is None or (
        mid.ndim == 4 and mid.shape[:2] == (rank, rank) and down.size == rank * down.shape[1]
    )


def _scale(layer: str, rank: int, alpha: float | None, settings: Mapping[str, Any]) -> float:
    """Divide alpha by the rank.

    A layer's own alpha goes before the adapter's; without either, alpha equals the rank.

    Source: peft, LoraConfig: alpha_pattern holds expressions for the end of a layer's name, and
    use_rslora divides by the square root.
    """
    if alpha is not None:
        return alpha / rank
    component, name = _split(layer)

    def setting(key: str) -> Any:
        return settings.get(f"{component}.{key}", settings.get(key))

    alphas = [
        value
        for pattern, value in (setting("alpha_pattern") or {}).items()
        if re.fullmatch(rf"(.*\.)?({pattern})", name)
    ]
    alpha = (alphas or [setting("lora_alpha") or rank])[0]
    return alpha / (math.sqrt(rank) if setting("use_rslora") else rank)
