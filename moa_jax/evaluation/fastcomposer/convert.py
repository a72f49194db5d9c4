"""From FastComposer's checkpoint to a base folder and MoA weights that this package draws with.

FastComposer trains the whole U-Net, so that its U-Net is the base here. The text encoder and the
VAE are in its file too; the tokenizer, the scheduler's settings and all configurations come from
the Stable Diffusion that it started from. The MoA weights are the fusion alone.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.backbone.clip import VisionConfig, VisionEncoder
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.stable_diffusion import (
    Component,
    StableDiffusion,
    describe_stable_diffusion,
    save_stable_diffusion,
)
from moa_jax.backbone.weights import read_params
from moa_jax.config import Config, MethodConfig, ModelConfig
from moa_jax.errors import InputError
from moa_jax.evaluation.fastcomposer.state import PREFIXES, read_networks
from moa_jax.evaluation.fastcomposer.variant import FastComposer
from moa_jax.method.identity import Identity
from moa_jax.method.model import build
from moa_jax.method.variant import name_of
from moa_jax.method.weights import MoaCard, save_moa

BASE = "base"  # the folder, beside the MoA weights
# The settings of openai/clip-vit-large-patch14's vision tower, from which FastComposer starts.
CLIP_VIT_L_14 = {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": 224,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}


class Imported(NamedTuple):
    """FastComposer's networks, over the memory of its file.

    Attributes:
        base: the networks that a base folder holds; their arrays keep the dtypes of the file.
        prompt: the parameters of the prompt's network: the fusion.
        method: the settings with which `build` makes FastComposer.
    """

    base: StableDiffusion
    prompt: dict[str, Any]
    method: MethodConfig


def convert(
    file: str | Path,
    base: str | Path,
    image_encoder: str | Path | None = None,
    on_tensor: Callable[[], None] = lambda: None,
) -> Imported:
    """Read a FastComposer checkpoint, and check every key and shape of it.

    Args:
        file: `pytorch_model.bin`.
        base: the Stable Diffusion 1.5 that it was trained from: a diffusers folder, its hub id, or
            a single file. Its weights are not read, and a folder need not hold them.
        image_encoder: a CLIP folder or hub id, of which the configuration is read; None means the
            base's own or, where it has none, CLIP ViT-L/14's.
        on_tensor: called at each tensor.

    Raises:
        InputError: as `read_networks`; the base cannot be read; or keys are missing, unknown or of
            another shape, and the message lists all of them.
    """
    tensors = read_networks(file)
    described = described_base(base, image_encoder)
    faults: list[str] = []

    def read(network: str, shapes: Any) -> tuple[dict[str, Any], str]:
        place = partial(_keep, on_tensor)
        try:
            return read_params(Path(file), [tensors[network]], shapes, place=place)
        except InputError as error:
            _, _, lines = str(error).partition("\n")
            faults.append(f"of {PREFIXES[network]}*\n{lines}")
            return {}, ""

    components = {}
    for network in PREFIXES:
        if network != "fusion":
            component = getattr(described, network)
            params, fingerprint = read(network, parameter_shapes(component.module))
            components[network] = dataclasses.replace(
                component, params=params, fingerprint=fingerprint
            )
    method = fastcomposer_method()
    _, shapes = build(described, method, dtype=jnp.float32, key=None)
    fusion = flatten_dict(shapes["prompt"])
    released = {_released(path): leaf for path, leaf in fusion.items()}
    found = flatten_dict(read("fusion", unflatten_dict(released))[0])
    if faults:
        raise InputError(f"{str(file)!r} does not fit base={str(base)!r}:\n" + "\n".join(faults))
    prompt = unflatten_dict({path: found[_released(path)] for path in fusion})
    return Imported(dataclasses.replace(described, **components), prompt, method)


def _released(path: tuple[str, ...]) -> tuple[str, ...]:
    """Give FastComposer's name for a parameter of the prompt's network, which is the fusion's."""
    _, *names = path
    norm = "layer_norm" if names[0] == "norm" else "layernorm"
    return tuple(norm if name == "norm" else name for name in names)


def described_base(base: str | Path, image_encoder: str | Path | None = None) -> StableDiffusion:
    """Read the configurations of the base, the tokenizer and the scheduler's settings.

    `convert` explains the arguments.
    """
    described = describe_stable_diffusion(base, image_encoder=image_encoder)
    if described.image_encoder is not None:
        return described
    module = VisionEncoder(VisionConfig.from_dict(CLIP_VIT_L_14))
    tower = Component(module, parameter_shapes(module), dict(CLIP_VIT_L_14), "")
    return dataclasses.replace(described, image_encoder=tower)


def fastcomposer_method() -> MethodConfig:
    """Return the settings of FastComposer's network."""
    return MethodConfig(
        mixture=name_of(FastComposer()),
        router="personalized",
        time_layer_conditioning=False,
        image_encoder_layers=0,  # the base folder has FastComposer's own image encoder
        router_loss_weight=0.0,
    )


def require_new(folder: Path) -> None:
    """Refuse a folder that holds something, so that no other weights are overwritten.

    Raises:
        InputError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"OUT={str(folder)!r} is there already: name a new folder, or remove it")


def write(folder: str | Path, imported: Imported) -> None:
    """Write the base folder, and the MoA weights for it: `--base FOLDER/base --moa FOLDER`.

    Raises:
        InputError: the folder holds something already, or cannot be written to.
    """
    folder = Path(folder)
    require_new(folder)
    base = dataclasses.replace(imported.base, name=str(folder / BASE), path=folder / BASE)
    model = ModelConfig(base=base.name)
    card = MoaCard(Config(model=model, method=imported.method), Identity.of(base), step=0)
    try:
        save_stable_diffusion(folder / BASE, base)
        save_moa(folder, {"prompt": imported.prompt}, card)
    except Exception as error:  # safetensors and the tokenizer have errors of their own
        raise InputError(
            f"OUT={str(folder)!r} cannot be written to ({error}): remove it, make room, and try "
            "again"
        ) from error


def _keep(on_tensor: Callable[[], None], path: str, array: np.ndarray) -> np.ndarray:
    """Leave a tensor where it is: in the file."""
    on_tensor()
    return array
