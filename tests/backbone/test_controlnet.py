"""ControlNets equal diffusers' ControlNetModel, alone, several at once and into the U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.controlnet import ControlNet, ControlNetConfig, combine
from moa_jax.backbone.unet import Residuals, UNet, UNetConfig
from tests.backbone import full_size_configs
from tests.backbone.controls import BASE, UP_BLOCKS, make_inputs, to_torch, torch_controlnet, worst
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

CONFIGS = {
    "SD 1.x": {"layers_per_block": 2},
    "SD 2.x": {
        "attention_head_dim": [2, 4],
        "use_linear_projection": True,
        "controlnet_conditioning_channel_order": "bgr",
    },
    "pooled, grey, 4 pixels a latent": {
        "conditioning_embedding_out_channels": [4, 6, 8],
        "conditioning_channels": 1,
        "global_pool_conditions": True,
        "freq_shift": 1,
    },
}


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("size", [(8, 12), (7, 5)])  # oblong, odd
def test_residuals_are_diffusers(options, size):
    theirs = torch_controlnet(**options)
    ours = ControlNet(ControlNetConfig.from_dict(dict(theirs.config)))
    inputs = make_inputs(ours.config, size)
    skips, middle = theirs(*to_torch(*inputs), return_dict=False)
    assert worst(apply(ours, params_of(ours, theirs), *inputs), skips, middle) <= 1e-5


@pytest.fixture(scope="module")
def pair():
    """A U-Net of diffusers, two ControlNets for it, and what all three are given."""
    torch = pytest.importorskip("torch")
    import diffusers

    controls = [torch_controlnet(seed) for seed in (1, 2)]
    options = {key: value for key, value in BASE.items() if not key.startswith("conditioning")}
    unet = diffusers.UNet2DConditionModel(**options, up_block_types=UP_BLOCKS)
    config = ControlNetConfig.from_dict(dict(controls[0].config))
    latents, timesteps, context, first = make_inputs(config, (8, 12))
    second = np.random.default_rng(1).uniform(size=first.shape).astype(np.float32)
    random = torch.Generator().manual_seed(0)
    return randomize(unet, random), controls, (latents, timesteps, context, first, second)


def test_two_at_once_lead_the_unet_as_in_diffusers(pair):
    from diffusers.models import MultiControlNetModel

    unet, controls, inputs = pair
    latents, timesteps, context, *pictures = to_torch(*inputs)
    scales = [0.7, 1.3]
    skips, middle = MultiControlNetModel(controls)(
        latents, timesteps, context, pictures, scales, return_dict=False
    )
    expected = unet(
        latents,
        timesteps,
        context,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample
    plain = unet(latents, timesteps, context).sample
    assert relative_error(plain, expected) > 0.1  # else the comparison would say nothing

    module = ControlNet(ControlNetConfig.from_dict(dict(controls[0].config)))
    ours = UNet(UNetConfig.from_dict(dict(unet.config)))
    controls_params = [params_of(module, each) for each in controls]

    @jax.jit
    def predict(params, controls_params, scales, latents, timesteps, context, *pictures):
        found = [
            module.apply({"params": each}, latents, timesteps, context, picture)
            for each, picture in zip(controls_params, pictures, strict=True)
        ]
        summed = combine(found, scales)
        return summed, ours.apply({"params": params}, latents, timesteps, context, summed)

    summed, predicted = predict(params_of(ours, unet), controls_params, scales, *inputs)
    assert worst(summed, skips, middle) <= 1e-5
    assert relative_error(predicted, channels_last(expected)) <= 1e-5


def test_no_control_is_the_plain_prediction_to_the_bit(pair):
    unet, _, (latents, timesteps, context, *_) = pair
    ours = UNet(UNetConfig.from_dict(dict(unet.config)))
    params = params_of(ours, unet)
    sizes = [(8, 12, 16), (8, 12, 16), (4, 6, 16), (4, 6, 32)]
    zero = Residuals(tuple(jnp.zeros((2, *size)) for size in sizes), jnp.zeros((2, 4, 6, 32)))
    plain = apply(ours, params, latents, timesteps, context)
    np.testing.assert_array_equal(apply(ours, params, latents, timesteps, context, zero), plain)


def test_the_unet_keeps_its_dtype_whatever_the_controlnets():
    config = UNetConfig.from_dict(
        {**BASE, "conditioning_embedding_out_channels": None, "up_block_types": UP_BLOCKS}
    )
    unet = UNet(config, dtype=jnp.bfloat16)
    skips = [(8, 12, 16), (8, 12, 16), (4, 6, 16), (4, 6, 32)]
    residuals = Residuals(tuple(jnp.ones((1, *skip)) for skip in skips), jnp.ones((1, 4, 6, 32)))
    inputs = jnp.zeros((1, 8, 12, 4)), jnp.zeros(1), jnp.zeros((1, 7, 24)), residuals
    predicted, _ = jax.eval_shape(unet.init_with_output, jax.random.key(0), *inputs)
    assert predicted.dtype == jnp.bfloat16


def test_combining_weighs_and_keeps_the_dtype():
    one = Residuals((jnp.ones((1, 2, 2, 1), jnp.bfloat16),), jnp.full((1, 1, 1, 1), 3.0))
    two = Residuals((jnp.full((1, 2, 2, 1), 2.0, jnp.bfloat16),), jnp.full((1, 1, 1, 1), -1.0))
    summed = jax.jit(combine)([one, two], jnp.array([0.5, 2.0]))
    np.testing.assert_array_equal(summed.skips[0], np.full((1, 2, 2, 1), 4.5))
    np.testing.assert_array_equal(summed.middle, [[[[-0.5]]]])
    assert summed.skips[0].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="argument"):
        combine([one, two], [1.0])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("CONTROLNET_SD15", 361_279_120), ("CONTROLNET_SD21", 364_228_240)],
)
def test_every_key_and_shape_of_the_published_controlnets(name, parameters):
    torch = pytest.importorskip("torch")
    import diffusers

    config = getattr(full_size_configs, name)
    with torch.device("meta"):
        theirs = diffusers.ControlNetModel.from_config(config)
    ours = checkpoint_shapes(ControlNet(ControlNetConfig.from_dict(config)))
    assert ours == torch_shapes(theirs)
    assert sum(np.prod(shape) for shape in ours.values()) == parameters


def test_a_picture_of_another_size_is_refused():
    module = ControlNet(ControlNetConfig.from_dict(BASE))
    latents, timesteps, context, picture = make_inputs(module.config, (8, 12))
    with pytest.raises(ValueError, match=r"picture is \(64, 88\) for latents that need \(64, 96\)"):
        apply(module, random_params(module), latents, timesteps, context, picture[:, :, :88])
