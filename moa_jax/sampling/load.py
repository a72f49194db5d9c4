"""Read everything that a pipeline draws with: a checkpoint, MoA weights, ControlNets."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moa_jax.backbone.attention_kernels import choose_attend
from moa_jax.backbone.controlnet import load_controlnet, require_fits
from moa_jax.backbone.quantization import choose_place
from moa_jax.backbone.stable_diffusion import Component, StableDiffusion, load_stable_diffusion
from moa_jax.backbone.unet import UNetConfig
from moa_jax.method.identity import Identity
from moa_jax.method.model import MoA, build
from moa_jax.method.router import is_router
from moa_jax.method.source import find_moa
from moa_jax.method.trained import map_paths
from moa_jax.method.weights import load_moa, read_moa_card


class Loaded(NamedTuple):
    """The arguments of `Engine`, in their order."""

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
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    quantization: str | None = None,
) -> Loaded:
    """Load a checkpoint, and MoA weights trained on it.

    Args:
        base: the diffusers folder of a Stable Diffusion 1.x or 2.x checkpoint, its hub id, or a
            single .safetensors file, on the hub as "owner/name/file.safetensors".
        moa: the folder with `moa.safetensors` and `moa.json`, here or in a bucket (gs://...), or a
            hub id, "owner/name" or "owner/name@revision"; None means plain Stable Diffusion.
        dtype: of the computation and the weights, e.g. "bfloat16"; None means bfloat16 on TPU
            and GPU, float32 on a CPU.
        variant: "fp16" reads `*.fp16.safetensors`.
        image_encoder: a CLIP folder or hub id; None means the one that the MoA weights were
            trained with.
        attention: "auto", or one of the implementations in `moa_jax.backbone.attention_kernels`.
        controlnets: folders or hub ids of ControlNets; a call may then give each a picture.
        allow_other_base: accept another checkpoint than the one that the MoA weights were trained
            on, such as one fine-tuned from it. A warning then says so.
        tokenizer: a folder or hub id; None means the checkpoint's own, or for a single file, which
            has none, that of its kind from the hub.
        prediction_type: "epsilon" or "v_prediction", what the U-Net predicts; None means as the
            MoA weights were trained with or, without them, as the checkpoint says.
        quantization: "int8" keeps frozen kernels of U-Net and ControlNets so; None is as `dtype`.

    Raises:
        InputError: something is missing, damaged or unsupported, or parts do not fit each other.
    """
    dtype = choose_dtype(dtype)
    attend = choose_attend(attention, jax.default_backend())
    place = choose_place(quantization, dtype)
    options = (dtype, variant, attend, place)
    named = {"place": place, "attend": attend, "tokenizer": tokenizer}
    read = partial(load_stable_diffusion, base, dtype, variant, **named)
    if moa is None:
        plain = read(image_encoder, prediction_type=prediction_type)
        return Loaded(plain, None, None, 0, _load_controlnets(controlnets, plain, *options))
    moa = find_moa(moa)
    card = read_moa_card(moa)  # before the networks: it names the image encoder
    trained_with = card.config.model.image_encoder
    encoder = image_encoder or trained_with
    prior = read(encoder, prediction_type=prediction_type or card.config.model.prediction_type)
    controls = _load_controlnets(controlnets, prior, *options)
    # No key: what MoA adds is not initialised, since `load_moa` reads all of it.
    model, params = build(prior, card.config.method, dtype=dtype, key=None)
    params = map_paths(partial(stored, dtype), params)
    identity = Identity.of(prior, encoder and str(encoder))
    params = load_moa(moa, params, identity, allow_other_base)
    return Loaded(prior, model, params, card.config.method.max_subjects, controls)


def choose_dtype(dtype: Any = None) -> np.dtype:
    """Return the given dtype; None means float32 on a CPU and bfloat16 on other hardware."""
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(dtype)


def stored(dtype: Any, path: str, leaf: Any) -> Any:
    """Set the dtype that a weight is stored in for drawing.

    A floating-point weight that is given as a shape gets `dtype`, in which it is computed. Routers
    keep theirs, because they compute in float32. Integers, and weights that have been read already,
    also stay as they are.
    """
    if not isinstance(leaf, jax.ShapeDtypeStruct):  # the prior's, read already
        return leaf
    cast = jnp.issubdtype(leaf.dtype, jnp.floating) and not is_router(path)
    return jax.ShapeDtypeStruct(leaf.shape, dtype if cast else leaf.dtype)


def _load_controlnets(
    names: Sequence[str | Path], base: StableDiffusion, *options: Any
) -> list[Component]:
    loaded = [load_controlnet(name, *options) for name in names]
    unet = UNetConfig.from_dict(base.unet.config)
    for name, controlnet in zip(names, loaded, strict=True):
        require_fits(controlnet, str(name), unet, base.vae.module.config.downscale)
    return loaded
