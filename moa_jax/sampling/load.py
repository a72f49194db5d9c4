"""Read all that a pipeline draws with: a checkpoint, MoA weights, ControlNets."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moa_jax.backbone.attention_kernels import choose_attend
from moa_jax.backbone.controlnet import load_controlnet, require_fits
from moa_jax.backbone.stable_diffusion import Component, StableDiffusion, load_stable_diffusion
from moa_jax.backbone.unet import UNetConfig
from moa_jax.method.identity import Identity
from moa_jax.method.mixture import is_router
from moa_jax.method.model import MoA, build
from moa_jax.method.weights import load_moa, read_moa_card


class Loaded(NamedTuple):
    """What `Engine` is made of, in its order."""

    base: StableDiffusion
    model: MoA | None
    params: Any
    max_subjects: int
    controlnets: Sequence[Component]


def load(
    base: str | Path,
    moa: str | Path | None = None,
    dtype: Any = None,
    *,
    variant: str | None = None,
    image_encoder: str | Path | None = None,
    attention: str = "auto",
    controlnets: Sequence[str | Path] = (),
    allow_other_base: bool = False,
) -> Loaded:
    """Load a diffusers folder, and MoA weights trained on it.

    Args:
        base: the folder of a Stable Diffusion 1.x or 2.x checkpoint, or its hub id.
        moa: the folder with `moa.safetensors` and `moa.json`.
        dtype: of the computation and the weights, e.g. "bfloat16"; by default bfloat16 on TPU
            and GPU, float32 on a CPU.
        variant: "fp16" reads `*.fp16.safetensors`.
        image_encoder: a CLIP folder or hub id; by default what the MoA weights were trained
            with.
        attention: "auto", or one of the implementations in `moa_jax.backbone.attention_kernels`.
        controlnets: folders or hub ids of ControlNets, which a call then gives pictures.
        allow_other_base: whether MoA weights may be put on another checkpoint than the one they
            were trained on, such as one fine-tuned from it; then a warning says so.

    Raises:
        InputError: something is missing, damaged, unsupported or does not belong together.
    """
    dtype = choose_dtype(dtype)
    attend = choose_attend(attention, jax.default_backend())
    read = partial(load_stable_diffusion, base, dtype, variant, attend=attend)
    options = (dtype, variant, attend)
    if moa is None:
        plain = read(image_encoder)
        return Loaded(plain, None, None, 0, _load_controlnets(controlnets, plain, *options))
    card = read_moa_card(moa)
    trained_with = card.config.model.image_encoder
    encoder = image_encoder or trained_with
    prior = read(encoder)
    controls = _load_controlnets(controlnets, prior, *options)
    model, params = build(prior, card.config.method, dtype=dtype, key=None)
    params = jax.tree_util.tree_map_with_path(partial(stored, dtype), params)
    identity = Identity.of(prior, encoder and str(encoder))
    params = load_moa(moa, params, identity, allow_other_base)
    return Loaded(prior, model, params, card.config.method.max_subjects, controls)


def choose_dtype(dtype: Any = None) -> np.dtype:
    """Take the dtype asked for, or bfloat16 where the hardware computes in it: not on a CPU."""
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(dtype)


def stored(dtype: Any, path: Any, leaf: Any) -> Any:
    """Set the dtype in which a weight, given as a shape, is stored for drawing.

    What is computed in `dtype` is stored in it; routers compute in float32, and whole numbers stay
    what they are, as do weights that have been read.
    """
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    cast = jnp.issubdtype(leaf.dtype, jnp.floating) and not is_router(jax.tree_util.keystr(path))
    return jax.ShapeDtypeStruct(leaf.shape, dtype if cast else leaf.dtype)


def _load_controlnets(
    names: Sequence[str | Path], base: StableDiffusion, *options: Any
) -> list[Component]:
    loaded = [load_controlnet(name, *options) for name in names]
    unet = UNetConfig.from_dict(base.unet.config)
    for name, controlnet in zip(names, loaded, strict=True):
        require_fits(controlnet, str(name), unet, base.vae.module.config.downscale)
    return loaded
