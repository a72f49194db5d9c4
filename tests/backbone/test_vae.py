"""The VAE equals diffusers' AutoencoderKL, and refuses what it does not implement."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.vae import VAE, VAEConfig
from moa_jax.errors import InputError
from tests.backbone import full_size_configs
from tests.backbone.parity import (
    apply,
    channels_last,
    checkpoint_shapes,
    params_of,
    random_params,
    randomize,
    relative_error,
    torch_shapes,
)

BASE = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
FOUR_LEVELS = {
    "block_out_channels": [4, 8, 8, 12],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
CONFIGS = {
    "two levels": {},
    "four levels as SD": {**FOUR_LEVELS, "layers_per_block": 2},
    "other latents": {"latent_channels": 3, "norm_num_groups": 8},
    "no quant convs": {"use_quant_conv": False, "use_post_quant_conv": False},
    "no mid attention": {"mid_block_add_attention": False},
}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def pair(request):
    """Our VAE, its parameters and diffusers' of the same random weights."""
    pytest.importorskip("torch")
    import diffusers

    config = {**BASE, **request.param}
    theirs = randomize(diffusers.AutoencoderKL(**config))
    ours = VAE(VAEConfig.from_dict(dict(theirs.config)))
    return ours, params_of(ours, theirs), theirs


@pytest.mark.parametrize("size", [(16, 24), (27, 21)])  # oblong, odd
def test_encode_is_diffusers(pair, size):
    import torch

    ours, params, theirs = pair
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    mean, logvar = apply(ours, params, pixels, method="encode")
    reference = theirs.encode(torch.from_numpy(pixels).movedim(-1, 1)).latent_dist
    assert relative_error(mean, channels_last(reference.mean)) <= 1e-5
    assert relative_error(logvar, channels_last(reference.logvar)) <= 1e-5


@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
def test_decode_is_diffusers(pair, size):
    import torch

    ours, params, theirs = pair
    shape = (2, *size, ours.config.latent_channels)
    latents = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    pixels = apply(ours, params, latents, method="decode")
    reference = theirs.decode(torch.from_numpy(latents).movedim(-1, 1)).sample
    assert relative_error(pixels, channels_last(reference)) <= 1e-5


@pytest.mark.parametrize("config", ["VAE_SD15", "VAE_SD21"])
def test_every_key_and_shape_of_the_full_size(config):
    torch = pytest.importorskip("torch")
    import diffusers

    values = getattr(full_size_configs, config)
    with torch.device("meta"):
        theirs = torch_shapes(diffusers.AutoencoderKL.from_config(values))
    assert checkpoint_shapes(VAE(VAEConfig.from_dict(values))) == theirs
    assert sum(np.prod(shape) for shape in theirs.values()) == 83_653_863


def test_downscale_is_the_size_of_a_latent():
    config = VAEConfig.from_dict(full_size_configs.VAE_SD15)
    assert (config.downscale, config.scaling_factor) == (8, 0.18215)
    vae = VAE(VAEConfig.from_dict(BASE))
    encode = functools.partial(vae.apply, method="encode")
    pixels = jax.ShapeDtypeStruct((1, 16, 32, 3), jnp.float32)
    mean, _ = jax.eval_shape(encode, {"params": parameter_shapes(vae)}, pixels)
    assert mean.shape == (1, 16 // vae.config.downscale, 32 // vae.config.downscale, 4)


def test_bfloat16_computes_in_bfloat16_near_float32():
    config = VAEConfig.from_dict(BASE)
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    params = random_params(VAE(config))
    low = apply(VAE(config, jnp.bfloat16), params, pixels)
    assert low.dtype == jnp.bfloat16
    assert relative_error(low.astype(jnp.float32), apply(VAE(config), params, pixels)) < 0.05


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("act_fn", "relu", ("act_fn='relu'", "'silu'")),
        ("down_block_types", ["AttnDownEncoderBlock2D"] * 2, ("Attn", "'DownEncoderBlock2D'")),
        ("up_block_types", ["UpDecoderBlock2D"], ("up_block_types", "(8, 16)")),
        ("in_channels", 4, ("in_channels=4", "3")),
        ("latents_mean", [0.0] * 4, ("latents_mean", "None")),
        ("shift_factor", 0.1, ("shift_factor=0.1", "None")),
        ("gadget", 7, ("gadget=7", "None or False")),
    ],
)
def test_an_unsupported_value_is_named(key, value, words):
    with pytest.raises(InputError) as caught:
        VAEConfig.from_dict({**BASE, key: value})
    assert all(word in str(caught.value) for word in words)


def test_unknown_keys_that_are_off_are_accepted():
    VAEConfig.from_dict({**BASE, "gadget": None, "gizmo": False, "_made_by": "someone"})
