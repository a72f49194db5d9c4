"""The shapes of every network's parameters, from its module alone: no weights, no computation.

Tracing a network for its shapes takes seconds at every start of a command. So shapes are also kept
on disk, beside the compiled programs.
"""

from functools import cache, singledispatch
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moa_jax.backbone.clip import TextEncoder, VisionEncoder
from moa_jax.backbone.remember import remember
from moa_jax.backbone.unet import UNet
from moa_jax.backbone.vae import VAE


@singledispatch
def parameter_shapes(module: nn.Module) -> dict[str, Any]:
    """Give the shape of every parameter of a U-Net, VAE or CLIP tower without computing any."""
    raise TypeError(f"no example input known for {type(module).__name__}")


@parameter_shapes.register
def _(module: UNet) -> dict[str, Any]:
    config = module.config
    size = 2 ** (len(config.channels) - 1)  # the least: one pixel at the coarsest level
    latents, context = (1, size, size, config.in_channels), (1, 1, config.context_width)
    return _shapes(module, _array(*latents), _array(1), _array(*context))


@parameter_shapes.register
def _(module: VAE) -> dict[str, Any]:
    size = module.config.downscale
    return _shapes(module, _array(1, size, size, 3))


@parameter_shapes.register
def _(module: TextEncoder) -> dict[str, Any]:
    return _shapes(module, _array(1, 1, dtype=jnp.int32))


@parameter_shapes.register
def _(module: VisionEncoder) -> dict[str, Any]:
    size = module.config.image_size
    return _shapes(module, _array(1, size, size, 3))


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@cache  # a network takes a second to trace, and is asked for at every load
def _shapes(module: nn.Module, *inputs: jax.ShapeDtypeStruct) -> dict[str, Any]:
    def initialize(*arrays: Any) -> Any:
        return module.init(jax.random.key(0), *arrays)["params"]

    return remember((module, inputs), lambda: jax.eval_shape(initialize, *inputs))
