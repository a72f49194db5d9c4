"""Read a checkpoint of Stable Diffusion 1.x or 2.x, and write it as a diffusers folder.

It holds the networks with their weights and configurations, the tokenizer and the scheduler's
settings. Reading checks that they fit together. Sampling and training are elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moa_jax.backbone.attention import Attention
from moa_jax.backbone.attention_kernels import Attend, xla
from moa_jax.backbone.checkpoint import (
    NETWORKS,
    SCHEDULER_FILE,
    Checkpoint,
    Load,
    find_checkpoint,
)
from moa_jax.backbone.clip import TextConfig, TextEncoder, VisionConfig, VisionEncoder
from moa_jax.backbone.folder import read_config, resolve, write_config
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.tokenizer import load_tokenizer
from moa_jax.backbone.unet import UNet, UNetConfig
from moa_jax.backbone.vae import VAE, VAEConfig
from moa_jax.backbone.weights import Place, load_params, save_params
from moa_jax.errors import InputError

# What a complete CLIP model holds besides the vision tower and its projection.
CLIP_TEXT_KEYS = ("text_model.", "text_projection.", "logit_scale")


@dataclass(frozen=True)
class Component:
    """One network of a checkpoint.

    Attributes:
        params: the tree of its parameters, from the network's own root.
        config: its `config.json`, as read.
        fingerprint: tells which weights these are; see `load_params`.
    """

    module: nn.Module
    params: dict[str, Any]
    config: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True)
class StableDiffusion:
    """A checkpoint that has been read.

    Attributes:
        image_encoder: a CLIP vision tower; None means there is none.
        tokenizer: transformers' CLIPTokenizer.
        scheduler_config: `scheduler_config.json` as read.
        path: the folder or single file it was read from.
        name: the folder, file or hub id that was asked for.
        attend: the function that the attention layers call, but for the text encoder's.
    """

    unet: Component
    vae: Component
    text_encoder: Component
    image_encoder: Component | None
    tokenizer: Any
    scheduler_config: dict[str, Any]
    path: Path
    name: str
    attend: Attend = xla


def load_stable_diffusion(
    name_or_path: str | Path,
    dtype: Any = jnp.float32,
    variant: str | None = None,
    image_encoder: str | Path | None = None,
    place: Place | None = None,
    attend: Attend = xla,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> StableDiffusion:
    """Read a diffusers folder, or a single .safetensors file.

    Args:
        name_or_path: the folder, or its id on the Hugging Face hub; or the file, on the hub as
            "owner/name/file.safetensors".
        dtype: of the computation, and of the parameters unless `place` is given.
        variant: "fp16" reads `*.fp16.safetensors` of a folder.
        image_encoder: a folder or hub id of CLIP, complete or only its vision tower with the
            projection; None means the checkpoint's own `image_encoder/`, if it has one.
        place: puts a parameter where it belongs. It is called as `place("unet.conv_in.kernel",
            array)`, with an array of the file's dtype.
        attend: the function that the attention layers call, but for the text encoder's.
        tokenizer: a folder or hub id; None means the checkpoint's own, or for a single file, which
            has none, that of its kind from the hub.
        prediction_type: "epsilon" or "v_prediction", what the U-Net predicts; None means as the
            checkpoint says. See `read_single_file` for what a single file says.

    Raises:
        InputError: there is no such folder, a file is missing or damaged, a network is not
            supported, weights do not fit their configuration, or networks do not fit each other.
    """
    read = partial(_load_weights, place=place)
    found = find_checkpoint(name_or_path, variant, True, tokenizer, prediction_type)
    encoder = resolve(image_encoder) if image_encoder is not None else None
    return _assemble(found, str(name_or_path), dtype, encoder, variant, read, attend)


def describe_stable_diffusion(
    name_or_path: str | Path,
    dtype: Any = jnp.float32,
    image_encoder: str | Path | None = None,
    attend: Attend = xla,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    place: Place | None = None,
) -> StableDiffusion:
    """Read a checkpoint without its weights, which in a folder need not be there.

    Args:
        dtype: of the computation, and of the parameters unless `place` is given.
        place: as in `load_stable_diffusion`; it gets the parameter's shape, in float32.

    Returns:
        A checkpoint whose parameters are `jax.ShapeDtypeStruct`s and whose fingerprints are empty.

    Raises:
        InputError: as in `load_stable_diffusion`, except for what concerns weights.
    """

    def read(load: Load, name: str, module: nn.Module, config: dict[str, Any]) -> Component:
        def to(path: Any, leaf: Any) -> Any:
            if place is None:
                return jax.ShapeDtypeStruct(leaf.shape, dtype)
            return place(f"{name}.{jax.tree_util.keystr(path, simple=True, separator='.')}", leaf)

        shapes = jax.tree_util.tree_map_with_path(to, parameter_shapes(module))
        return Component(module, shapes, config, "")

    found = find_checkpoint(name_or_path, None, False, tokenizer, prediction_type)
    encoder = resolve(image_encoder, weights=False) if image_encoder is not None else None
    return _assemble(found, str(name_or_path), dtype, encoder, None, read, attend)


def save_stable_diffusion(folder: str | Path, sd: StableDiffusion) -> None:
    """Write a folder that diffusers' StableDiffusionPipeline.from_pretrained loads."""
    folder = Path(folder)
    scheduler = sd.scheduler_config.get("_class_name", "DDIMScheduler")
    index = pipeline_index(scheduler, sd.image_encoder is not None)
    index["_diffusers_version"] = version("diffusers")
    for name in NETWORKS:
        component = getattr(sd, name)
        save_params(folder / name, component.params, component.config)
    if sd.image_encoder is not None:
        save_params(folder / "image_encoder", sd.image_encoder.params, sd.image_encoder.config)
    sd.tokenizer.save_pretrained(folder / "tokenizer")
    write_config(folder / "scheduler", sd.scheduler_config, SCHEDULER_FILE)
    write_config(folder, index, "model_index.json")


def pipeline_index(scheduler: str, image_encoder: bool) -> dict[str, Any]:
    """Give `model_index.json` of a StableDiffusionPipeline, without the version of diffusers.

    It names the class that loads each folder; [None, None] marks what the pipeline lacks.

    Args:
        scheduler: the scheduler's class.
        image_encoder: whether there is one.
    """
    tower = ["transformers", "CLIPVisionModelWithProjection"]
    return {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", scheduler],
        "image_encoder": tower if image_encoder else [None, None],
    }


# Makes a network: (what reads its weights, its name, its module, its config).
_Read = Callable[[Load, str, nn.Module, dict[str, Any]], Component]


def _assemble(
    found: Checkpoint,
    name: str,
    dtype: Any,
    encoder: Path | None,
    variant: str | None,
    read: _Read,
    attend: Attend,
) -> StableDiffusion:
    """Build the networks of a checkpoint and check that they fit.

    Args:
        encoder: the folder of another image encoder; None means the checkpoint's own.
        variant: of the checkpoint's own image encoder; another one names its files itself.
    """
    configs = found.configs
    modules = {
        "unet": UNet(
            UNetConfig.from_dict(configs["unet"]), partial(Attention, attend=attend), dtype
        ),
        "vae": VAE(VAEConfig.from_dict(configs["vae"]), dtype, attend),
        "text_encoder": TextEncoder(TextConfig.from_dict(configs["text_encoder"]), dtype),
    }
    tokenizer = load_tokenizer(found.tokenizer)
    _check_fit(found.path, modules, tokenizer)  # before any weights are read
    networks = {
        network: read(found.load(network), network, modules[network], configs[network])
        for network in NETWORKS
    }
    image_encoder = None
    if encoder is not None:
        image_encoder = _image_encoder(encoder, dtype, None, read, attend)
    elif found.image_encoder is not None:
        image_encoder = _image_encoder(found.image_encoder, dtype, variant, read, attend)
    return StableDiffusion(
        **networks,
        image_encoder=image_encoder,
        tokenizer=tokenizer,
        scheduler_config=configs["scheduler"],
        path=found.path,
        name=name,
        attend=attend,
    )


def _load_weights(
    load: Load, name: str, module: nn.Module, config: dict[str, Any], *, place: Place | None
) -> Component:
    to = place and _prefixed(place, name)
    params, fingerprint = load(parameter_shapes(module), module.dtype, place=to)
    return Component(module, params, config, fingerprint)


def _prefixed(place: Place, name: str) -> Callable[..., Any]:
    return lambda path, array: place(f"{name}.{path}", array)


def _image_encoder(
    folder: Path, dtype: Any, variant: str | None, read: _Read, attend: Attend
) -> Component:
    config, ignore = read_config(folder), ()
    if config.get("model_type") == "clip":  # a complete model, not the vision tower alone
        config, ignore = _vision_part(config), CLIP_TEXT_KEYS
    module = VisionEncoder(VisionConfig.from_dict(config), dtype, attend)
    load = partial(load_params, folder, variant=variant, ignore=ignore)
    return read(load, "image_encoder", module, config)


def _vision_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Take the vision tower's configuration out of a complete CLIP model's."""
    older = config.get("vision_config_dict") or {}  # overrides the other where both are written
    return {
        **(config.get("vision_config") or {}),
        **older,
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "projection_dim": config.get("projection_dim", 512),
    }


def _check_fit(path: Path, modules: Mapping[str, Any], tokenizer: Any) -> None:
    unet, vae, text = (modules[name].config for name in NETWORKS)
    if (unet.in_channels, unet.out_channels) != (vae.latent_channels,) * 2:
        raise InputError(
            f"{str(path)!r}: the U-Net's in_channels={unet.in_channels} and "
            f"out_channels={unet.out_channels} must both be the VAE's latent_channels="
            f"{vae.latent_channels}; inpainting and other conditioned U-Nets are not supported"
        )
    if unet.context_width != text.hidden_size:
        raise InputError(
            f"{str(path)!r}: the U-Net's cross_attention_dim is {unet.context_width}, the text "
            f"encoder's hidden_size is {text.hidden_size}; they are not of one model"
        )
    if len(tokenizer) > text.vocab_size:
        raise InputError(
            f"{str(path)!r}: the tokenizer has {len(tokenizer)} tokens, the text encoder knows "
            f"{text.vocab_size}; they are not of one model"
        )
    # A tokenizer saved without its limit would let prompts grow past the position embedding.
    tokenizer.model_max_length = min(tokenizer.model_max_length, text.max_position_embeddings)
