"""A checkpoint before any of its networks is built: a diffusers folder, or a single file.

Both give the same: configurations, a tokenizer's folder, and a way to read each network's weights.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from moa_jax.backbone.folder import read_config, resolve
from moa_jax.backbone.single_file import SingleFile, find_single_file, read_single_file
from moa_jax.backbone.tokenizer import hub_tokenizer, named_tokenizer
from moa_jax.backbone.weights import Place, load_params, read_params
from moa_jax.errors import InputError

NETWORKS = ("unet", "vae", "text_encoder")
FOLDERS = (*NETWORKS, "tokenizer", "scheduler")
SCHEDULER_FILE = "scheduler_config.json"
PREDICTION_TYPES = ("epsilon", "v_prediction")

# Reads a network's weights, as `load_params` does: (shapes, dtype, place=...) -> tree, fingerprint.
Load = Callable[..., tuple[dict[str, Any], str]]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of itself, and how its weights are read.

    Attributes:
        path: the folder or the file.
        configs: `config.json` of each of NETWORKS, and of the "scheduler".
        tokenizer: the folder of the tokenizer.
        image_encoder: the folder of its image encoder; None means there is none.
        load: gives the function that reads the weights of one of NETWORKS.
    """

    path: Path
    configs: dict[str, dict[str, Any]]
    tokenizer: Path
    image_encoder: Path | None
    load: Callable[[str], Load]


def find_checkpoint(
    name_or_path: str | Path,
    variant: str | None = None,
    weights: bool = True,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> Checkpoint:
    """Find a checkpoint here, or on the Hugging Face hub.

    Args:
        name_or_path: a diffusers folder, its hub id, or a single .safetensors file.
        variant: "fp16" reads `*.fp16.safetensors` of a folder; a single file has no variants.
        weights: whether they will be read. A single file has to be there all the same.
        tokenizer: a folder or hub id; None means the checkpoint's own, or for a single file, which
            has none, that of the diffusers folder of its kind on the hub.
        prediction_type: "epsilon" or "v_prediction"; None means as the checkpoint says.

    Raises:
        InputError: there is no such checkpoint, it is not complete or not supported, or there is no
            such tokenizer.
    """
    if prediction_type not in (None, *PREDICTION_TYPES):
        choices = " or ".join(map(repr, PREDICTION_TYPES))
        raise InputError(f"prediction_type={prediction_type!r} (supported: {choices})")
    file = find_single_file(name_or_path)
    if file is not None:
        return _single_file(file, tokenizer, prediction_type)
    path = resolve(name_or_path, (*FOLDERS, "image_encoder"), variant, weights)
    found = _folder(path, variant)
    if tokenizer is not None:
        found = replace(found, tokenizer=named_tokenizer(tokenizer))
    if prediction_type is not None:
        scheduler = found.configs["scheduler"] | {"prediction_type": prediction_type}
        found = replace(found, configs=found.configs | {"scheduler": scheduler})
    return found


def _folder(path: Path, variant: str | None) -> Checkpoint:
    kind = read_config(path, "model_index.json").get("_class_name")
    if missing := [name for name in FOLDERS if not (path / name).is_dir()]:
        raise InputError(
            f"{str(path)!r} ({kind}) lacks the folders {', '.join(missing)}: only Stable Diffusion "
            "1.x and 2.x checkpoints, complete, are supported"
        )
    configs = {network: read_config(path / network) for network in NETWORKS}
    configs["scheduler"] = read_config(path / "scheduler", SCHEDULER_FILE)
    encoder = path / "image_encoder"
    return Checkpoint(
        path,
        configs,
        tokenizer=path / "tokenizer",
        image_encoder=encoder if encoder.is_dir() else None,
        load=lambda network: partial(load_params, path / network, variant=variant),
    )


def _single_file(
    path: Path, tokenizer: str | Path | None, prediction_type: str | None
) -> Checkpoint:
    file = read_single_file(path, prediction_type)
    if not file.decided:
        warnings.warn(
            f"{str(path)!r} does not say what it predicts: it is taken for velocity, as that of "
            "Stable Diffusion 2.x for 768 pixels. If its pictures are nothing but noise, give "
            "prediction_type='epsilon' (--prediction-type, model.prediction_type)",
            stacklevel=4,
        )
    return Checkpoint(
        path,
        file.configs,
        tokenizer=hub_tokenizer(file) if tokenizer is None else named_tokenizer(tokenizer),
        image_encoder=None,
        load=lambda network: partial(_load_part, file, network),
    )


def _load_part(
    file: SingleFile,
    network: str,
    shapes: Any,
    dtype: Any,
    place: Place | None = None,
) -> tuple[dict[str, Any], str]:
    with file.open(network) as tensors:
        return read_params(file.path, [tensors], shapes, dtype, place, strict=False)
