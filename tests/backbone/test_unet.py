"""The U-Net equals diffusers' UNet2DConditionModel, and refuses what it does not implement."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.blocks import resize_nearest
from moa_jax.backbone.unet import UNet, UNetConfig, transformer_blocks
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
    shapes_of,
    torch_shapes,
)

BASE = {
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
THREE_LEVELS = {
    "block_out_channels": [16, 24, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
CONFIGS = {
    "SD 1.x": {**THREE_LEVELS, "layers_per_block": 2},
    "SD 2.x": {**THREE_LEVELS, "attention_head_dim": [2, 3, 4], "use_linear_projection": True},
    "coarse attention only": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2],
    },
    "layers per level, other channels": {
        "layers_per_block": [1, 2],
        "in_channels": 3,
        "out_channels": 6,
        "norm_eps": 1e-3,
        "freq_shift": 1,
    },
}


ODD, EVEN = (13, 10), (8, 12)


@pytest.mark.parametrize(("name", "size"), [("SD 1.x", EVEN), *((name, ODD) for name in CONFIGS)])
def test_prediction_is_diffusers(name, size):
    torch = pytest.importorskip("torch")
    import diffusers

    theirs = randomize(diffusers.UNet2DConditionModel(**{**BASE, **CONFIGS[name]}))
    ours = UNet(UNetConfig.from_dict(dict(theirs.config)))
    random = np.random.default_rng(0)
    latents = random.normal(size=(2, *size, ours.config.in_channels)).astype(np.float32)
    context = random.normal(size=(2, 7, 24)).astype(np.float32)
    timesteps = np.array([3, 801])
    expected = theirs(
        torch.tensor(latents).permute(0, 3, 1, 2), torch.tensor(timesteps), torch.tensor(context)
    ).sample
    params = params_of(ours, theirs)
    assert (
        relative_error(apply(ours, params, latents, timesteps, context), channels_last(expected))
        <= 1e-5
    )


@pytest.mark.parametrize("name", ["UNET_SD15", "UNET_SD21"])
def test_every_key_and_shape_of_the_published_checkpoints(name):
    torch = pytest.importorskip("torch")
    import diffusers

    config = getattr(full_size_configs, name)
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(config)
    ours = UNet(UNetConfig.from_dict(config))
    assert checkpoint_shapes(ours) == torch_shapes(theirs)


def test_transformer_blocks_are_listed_in_the_order_of_the_computation():
    blocks = transformer_blocks(UNetConfig.from_dict(full_size_configs.UNET_SD15))
    assert len(blocks) == 16
    assert blocks[0] == "down_blocks.0.attentions.0.transformer_blocks.0"
    assert blocks[6] == "mid_block.attentions.0.transformer_blocks.0"
    assert blocks[-1] == "up_blocks.3.attentions.2.transformer_blocks.0"
    tree = shapes_of(UNet(UNetConfig.from_dict(full_size_configs.UNET_SD15)))
    paths = {".".join(path) for path in flax.traverse_util.flatten_dict(tree)}
    for block in blocks:
        assert f"{block}.attn1.to_q.kernel" in paths


def test_each_attention_layer_knows_its_block():
    seen = []

    class Spy(flax.linen.Module):
        heads: int
        head_dim: int
        cross: bool
        block: int
        dtype: type

        def __call__(self, hidden, context):
            seen.append((self.block, self.cross, self.heads, context))
            return hidden

    config = UNetConfig.from_dict({**BASE, **CONFIGS["SD 2.x"]})
    marker = object()  # passed through unread
    arguments = (jnp.zeros((1, 8, 8, 4)), jnp.zeros(1))
    jax.eval_shape(lambda key: UNet(config, Spy).init(key, *arguments, marker), jax.random.key(0))
    order = [(block, cross) for block in range(len(transformer_blocks(config))) for cross in (0, 1)]
    assert [(block, cross) for block, cross, _, _ in seen] == order
    assert all(context is marker for *_, context in seen)
    assert [heads for _, _, heads, _ in seen] == [2] * 2 + [3] * 2 + [4] * 2 + [3] * 4 + [2] * 4


def test_remat_computes_the_same_and_its_gradient():
    config = UNetConfig.from_dict(BASE)
    params = random_params(UNet(config))
    latents = jax.random.normal(jax.random.key(0), (1, 8, 6, 4))
    context = jax.random.normal(jax.random.key(1), (1, 5, 24))

    def gradient(remat):
        def loss(context):
            arguments = (latents, jnp.ones(1), context)
            return jnp.sum(UNet(config, remat=remat).apply({"params": params}, *arguments) ** 2)

        return jax.jit(jax.value_and_grad(loss))(context)

    jax.tree.map(
        lambda plain, again: np.testing.assert_allclose(plain, again, rtol=1e-4, atol=1e-4),
        gradient(False),
        gradient(True),
    )


def test_nearest_resizing_is_pytorchs():
    torch = pytest.importorskip("torch")
    picture = jnp.arange(2 * 5 * 7 * 3.0).reshape(2, 5, 7, 3)
    expected = torch.nn.functional.interpolate(
        torch.tensor(np.asarray(picture)).permute(0, 3, 1, 2), (9, 14), mode="nearest"
    )
    np.testing.assert_array_equal(resize_nearest(picture, (9, 14)), channels_last(expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn='gelu' (supported: 'silu' or 'swish')"),
        ({"mid_block_type": None}, "mid_block_type=None"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type='text_time'"),
        ({"down_block_types": ["CrossAttnDownBlock2D"]}, "needs 2 of CrossAttnDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "AttnUpBlock2D"),
        ({"attention_head_dim": [4]}, "attention_head_dim=[4]"),
        ({"cross_attention_dim": [24, 24]}, "cross_attention_dim=[24, 24]"),
    ],
)
def test_an_unsupported_value_is_named_with_what_is_supported(change, message):
    with pytest.raises(InputError) as caught:
        UNetConfig.from_dict({**BASE, **change})
    assert message in str(caught.value)


def test_every_fault_of_a_config_is_listed_at_once():
    faulty = {"act_fn": "relu", "dual_cross_attention": True, "block_out_channels": [16]}
    with pytest.raises(InputError) as caught:
        UNetConfig.from_dict(faulty)
    for fault in ("act_fn='relu'", "dual_cross_attention=True", "down_block_types is missing"):
        assert fault in str(caught.value)


@pytest.mark.slow
def test_the_full_size_unet_predicts_as_diffusers():
    """Stable Diffusion 1.5's U-Net, all 859,520,964 parameters, on oblong latents."""
    torch = pytest.importorskip("torch")
    import diffusers

    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel.from_config(full_size_configs.UNET_SD15)
    theirs = theirs.eval().requires_grad_(False)
    assert sum(value.numel() for value in theirs.parameters()) == 859_520_964
    ours = UNet(UNetConfig.from_dict(full_size_configs.UNET_SD15))
    random = np.random.default_rng(0)
    latents = random.normal(size=(1, 16, 24, 4)).astype(np.float32)
    context = random.normal(size=(1, 77, 768)).astype(np.float32)
    timesteps = np.array([500])
    expected = theirs(
        torch.tensor(latents).permute(0, 3, 1, 2), torch.tensor(timesteps), torch.tensor(context)
    ).sample
    params = params_of(ours, theirs)
    del theirs
    predicted = apply(ours, params, latents, timesteps, context)
    assert relative_error(predicted, channels_last(expected)) <= 1e-5
