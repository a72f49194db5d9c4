"""A ControlNet's folder is read as diffusers wrote it, and refused with what is wrong with it."""

import json

import pytest

from moa_jax.backbone.controlnet import load_controlnet, require_fits
from moa_jax.backbone.unet import UNetConfig
from moa_jax.errors import InputError
from tests.backbone import full_size_configs
from tests.backbone.controls import BASE, UP_BLOCKS, make_inputs, to_torch, torch_controlnet, worst
from tests.backbone.parity import apply


@pytest.fixture
def folder(tmp_path):
    torch_controlnet().save_pretrained(tmp_path / "control")
    return tmp_path / "control"


def edit(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def message(folder, **options):
    with pytest.raises(InputError) as caught:
        load_controlnet(folder, **options)
    return str(caught.value)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_that_diffusers_wrote_is_read(tmp_path, variant):
    torch = pytest.importorskip("torch")

    theirs = torch_controlnet()
    saved = theirs.to(torch.float16) if variant else theirs
    saved.save_pretrained(tmp_path, variant=variant)
    loaded = load_controlnet(tmp_path, variant=variant)
    inputs = make_inputs(loaded.module.config, (8, 12), batch=1)
    skips, middle = theirs.float()(*to_torch(*inputs), return_dict=False)
    assert worst(apply(loaded.module, loaded.params, *inputs), skips, middle) <= 1e-5
    assert loaded.config["_class_name"] == "ControlNetModel"
    assert len(loaded.fingerprint) == 64


def test_what_is_no_controlnet_is_refused(folder, tiny_folder):
    text = message(tiny_folder / "unet")
    assert "unet/config.json' says _class_name='UNet2DConditionModel'" in text
    assert "is a whole pipeline: give a ControlNet's own folder" in message(tiny_folder)
    edit(folder, _class_name="T2IAdapter")
    assert "_class_name='T2IAdapter', which is no ControlNet" in message(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    assert "ControlNetModel.from_single_file(FILE).save_pretrained(FOLDER)" in message(weights)


def test_one_for_stable_diffusion_xl_is_refused(folder):
    edit(folder, addition_embed_type="text_time", cross_attention_dim=2048)
    text = message(folder)
    assert "config.json': ControlNetModel config not supported: addition_embed_type=" in text
    assert "A cross_attention_dim of 2048 is Stable Diffusion XL's. Choose a ControlNet" in text


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"controlnet_conditioning_channel_order": "rbg"}, "='rbg' (supported: 'rgb' or 'bgr')"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type='UNetMidBlock2D'"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"down_block_types": ["DownBlock2D"]}, "needs 2 of CrossAttnDownBlock2D, DownBlock2D"),
        ({"attention_head_dim": [4]}, "ControlNet config attention_head_dim=[4]"),
    ],
)
def test_an_unsupported_value_is_named(folder, change, fault):
    edit(folder, **change)
    assert fault in message(folder)


def test_weights_that_do_not_fit_their_configuration_are_listed(folder):
    edit(folder, cross_attention_dim=16)
    assert "misshaped: down_blocks.0.attentions.0.transformer_blocks.0.attn2" in message(folder)


def test_a_damaged_file_is_refused(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "truncated or damaged" in message(folder)
    file.unlink()
    assert "has no *.safetensors" in message(folder)


def test_one_that_was_made_for_another_base_is_refused(folder):
    control = load_controlnet(folder)
    fitting = UNetConfig.from_dict(
        {**BASE, "conditioning_embedding_out_channels": None, "up_block_types": UP_BLOCKS}
    )
    require_fits(control, "canny", fitting, downscale=8)
    unet = UNetConfig.from_dict(full_size_configs.UNET_SD15)
    with pytest.raises(InputError) as caught:
        require_fits(control, "canny", unet, downscale=4)
    for part in (
        "the ControlNet 'canny' does not fit the base model: cross_attention_dim is 24, the base",
        "block_out_channels is (16, 32), the base model's is (320, 640, 1280, 1280)",
        "layers_per_block is (1, 1), the base model's is (2, 2, 2, 2)",
        "pixels per latent is 8, the base model's is 4",
    ):
        assert part in str(caught.value)
