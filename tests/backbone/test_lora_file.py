"""LoRA files are read in every layout, and refused with what is wrong with them."""

import json

import numpy as np
import pytest

from moa_jax.backbone.lora import match_lora, read_lora
from moa_jax.backbone.stable_diffusion import describe_stable_diffusion
from moa_jax.backbone.unet import UNet, UNetConfig
from moa_jax.errors import InputError
from tests.backbone import full_size_configs
from tests.backbone.loras import ATTENTION, draw, kohya, old_diffusers, peft, write
from tests.backbone.parity import shapes_of


@pytest.fixture(scope="module")
def params(tiny_folder):
    """The shapes of a small Stable Diffusion 1.x."""
    return shapes(tiny_folder)


@pytest.fixture(scope="module")
def params2(tiny_folder_v2):
    return shapes(tiny_folder_v2)


def shapes(folder):
    sd = describe_stable_diffusion(folder)
    return {name: getattr(sd, name).params for name in ("unet", "text_encoder")}


SPELLINGS = {
    "peft's own prefix": {"prefix": "base_model.model."},
    "diffusers' names of the factors": {"roles": (".lora.down", ".lora.up")},
    "those of its text encoder": {"roles": (".lora_linear_layer.down", ".lora_linear_layer.up")},
    "with the adapter's name": {"roles": (".lora_A.default", ".lora_B.default")},
}


@pytest.mark.parametrize("options", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_other_spellings_of_the_same(params, tmp_path, options):
    drawn = draw(params, ATTENTION)
    expected = match_lora(params, read_lora(write(tmp_path, kohya(drawn))))
    other = match_lora(params, read_lora(write(tmp_path, peft(drawn, **options))))
    assert other.keys() == expected.keys()
    for path, layer in other.items():
        np.testing.assert_array_equal(layer.down, expected[path].down)
        assert layer.scale == 1


def test_the_unet_alone_without_its_name(params, tmp_path):
    drawn = {"unet": draw(params, ATTENTION)["unet"]}
    tensors = {key.removeprefix("unet."): value for key, value in old_diffusers(drawn).items()}
    expected = match_lora(params, read_lora(write(tmp_path, kohya(drawn), "other.safetensors")))
    found = match_lora(params, read_lora(write(tmp_path, tensors)))
    assert expected and found.keys() == expected.keys()


def test_the_first_of_two_text_encoders_is_the_text_encoder(params, tmp_path):
    tensors = kohya({"text_encoder": draw(params, ATTENTION)["text_encoder"]})
    renamed = {key.replace("lora_te_", "lora_te1_"): value for key, value in tensors.items()}
    expected = match_lora(params, read_lora(write(tmp_path, tensors, "one.safetensors")))
    found = match_lora(params, read_lora(write(tmp_path, renamed)))
    assert expected and found.keys() == expected.keys()


def test_pefts_settings_lie_beside_its_file(params, tmp_path):
    drawn = draw(params, ATTENTION, rank=4)
    name = "adapter_model.safetensors"
    file = write(tmp_path, peft({"unet": drawn["unet"]}, "base_model.model."), name)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "r": 4}))
    assert {layer.scale for layer in read_lora(file).layers.values()} == {0.5}


def test_a_layers_own_alpha_stands_before_the_settings(params, tmp_path):
    tensors = kohya(draw(params, ATTENTION, rank=4), alpha=1)
    file = write(tmp_path, tensors, lora_adapter_metadata=json.dumps({"unet.lora_alpha": 8}))
    assert {layer.scale for layer in read_lora(file).layers.values()} == {0.25}


def refused(file):
    with pytest.raises(InputError) as caught:
        read_lora(file)
    return str(caught.value)


def test_damaged_and_missing_files_are_refused(params, tmp_path):
    file = write(tmp_path, kohya(draw(params, ATTENTION)))
    file.write_bytes(file.read_bytes()[:-100])
    assert "style.safetensors' is truncated, damaged or no safetensors file" in refused(file)
    file.write_bytes(b"")
    assert "truncated, damaged" in refused(file)
    assert "there is no such LoRA file" in refused(tmp_path / "none.safetensors")
    pickled = tmp_path / "style.pt"
    pickled.write_bytes(b"anything")
    assert "is a pickle" in refused(pickled)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("oft_blocks", "OFT"),
        ("diff", "whole weights"),
    ],
)
def test_what_is_no_lora_but_of_its_family_is_named(params, tmp_path, part, kind):
    tensors = kohya(draw(params, ATTENTION))
    tensors[f"lora_unet_mid_block_attentions_0_proj_in.{part}"] = np.zeros((2, 2))
    text = refused(write(tmp_path, tensors))
    assert f"holds {kind} in 1 keys, but only LoRA is supported: lora_unet_mid_block" in text


def test_unknown_keys_are_listed_and_counted(params, tmp_path):
    weights = {f"down_blocks.{number}.weight": np.zeros(2) for number in range(30)}
    text = refused(write(tmp_path, weights))
    assert "of its 30 keys 30 are not known: down_blocks.0.weight, down_blocks.1.weight" in text
    assert "and 22 more" in text
    tensors = {**kohya(draw(params, ATTENTION)), "strange": np.zeros(2)}
    assert "of its 81 keys 1 are not known: strange" in refused(write(tmp_path, tensors))


def test_incomplete_layers_are_refused(tmp_path):
    down, up = np.zeros((2, 8)), np.zeros((8, 3))
    alone = {"lora_unet_conv_in.lora_down.weight": down}
    assert "is not complete: of lora_unet_conv_in only down" in refused(write(tmp_path, alone))
    unequal = {**alone, "lora_unet_conv_in.lora_up.weight": up}
    text = refused(write(tmp_path, unequal))
    assert "the factors of lora_unet_conv_in do not fit each other: down (2, 8), up (8, 3)" in text
    alpha = {
        **unequal,
        "lora_unet_conv_in.lora_up.weight": up[:, :2],
        "lora_te_x.alpha": down[0, 0],
    }
    assert "only an alpha of lora_te_x" in refused(write(tmp_path, alpha))


def mismatched(params, file):
    with pytest.raises(InputError) as caught:
        match_lora(params, read_lora(file))
    return str(caught.value)


def test_layers_that_the_model_does_not_have_are_listed(params, tmp_path):
    tensors = kohya(draw(params, ATTENTION))
    down, up = np.zeros((2, 8)), np.zeros((8, 2))
    for number in range(10):
        tensors[f"lora_unet_more_{number}.lora_down.weight"] = down
        tensors[f"lora_unet_more_{number}.lora_up.weight"] = up
    text = mismatched(params, write(tmp_path, tensors))
    assert "style.safetensors' does not fit the base model; choose one that was made for" in text
    assert "Of its 50 layers 10 are not in it, or come twice: lora_unet_more_0, " in text
    assert "lora_unet_more_7 and 2 more" in text


def test_a_layer_that_comes_twice_is_refused(params, tmp_path):
    drawn = draw(params, ATTENTION)
    text = mismatched(params, write(tmp_path, {**kohya(drawn), **peft(drawn)}))
    assert "Of its 80 layers 40 are not in it, or come twice" in text


def test_one_of_another_width_is_refused(params, params2, tmp_path):
    """The text encoder's layers, and what attends to it."""
    drawn = draw(params2, ATTENTION)
    text = mismatched(params, write(tmp_path, kohya({"unet": drawn["unet"]})))
    assert "Of its 32 layers 8 have another shape: lora_unet_down_blocks_0" in text
    assert "attn2_to_k (32, 48) instead of (32, 32)" in text
    text = mismatched(params, write(tmp_path, peft({"text_encoder": drawn["text_encoder"]})))
    assert "layers.0.self_attn.k_proj (48, 48) instead of (32, 32)" in text


def context_layers(width, names=("lora_unet_mid_block_attentions_0_transformer_blocks_0",)):
    return {
        f"{name}_attn2_to_k.lora_{role}.weight": np.zeros(shape)
        for name in names
        for role, shape in (("down", (2, width)), ("up", (1280, 2)))
    }


@pytest.mark.parametrize(
    ("width", "names", "kind"),
    [
        (1024, ["lora_unet_mid_block_attentions_0_transformer_blocks_0"], "2.x"),
        (2048, ["lora_unet_mid_block_attentions_0_transformer_blocks_0"], "XL"),
        (768, ["lora_te2_text_model_encoder_layers_0"], "XL"),
        (768, ["lora_unet_input_blocks_4_1_transformer_blocks_0"], "XL"),
    ],
)
def test_one_for_another_stable_diffusion_is_named(tmp_path, width, names, kind):
    unet = UNet(UNetConfig.from_dict(full_size_configs.UNET_SD15))
    file = write(tmp_path, context_layers(width, names))
    text = mismatched({"unet": shapes_of(unet)}, file)
    assert f"like one for Stable Diffusion {kind}, and this is Stable Diffusion 1.x. Of" in text
