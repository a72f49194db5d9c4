"""A merged LoRA predicts what diffusers and peft predict with the same file loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax.backbone.clip import TextConfig, TextEncoder
from moa_jax.backbone.lora import Lora, match_lora, merge_lora, read_lora
from moa_jax.backbone.lora_file import LowRank
from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.backbone.unet import UNet, UNetConfig
from tests.backbone import full_size_configs
from tests.backbone.loras import ATTENTION, draw, kohya, old_diffusers, peft, write
from tests.backbone.parity import apply, channels_last, relative_error, shapes_of

random = np.random.default_rng(0)
LATENTS = random.normal(size=(1, 8, 6, 4)).astype(np.float32)
IDS = random.integers(0, 40, size=(1, 77))
TIMES = np.array([300])


@pytest.fixture(scope="module")
def sd(tiny_folder):
    return load_stable_diffusion(tiny_folder)


@pytest.fixture(scope="module")
def sd2(tiny_folder_v2):
    return load_stable_diffusion(tiny_folder_v2)


def params_of(sd):
    return {name: getattr(sd, name).params for name in ("unet", "text_encoder", "vae")}


def outputs(sd, params):
    """The text embedding, and the U-Net's prediction under it."""
    context = apply(sd.text_encoder.module, params["text_encoder"], IDS.astype(np.int32))
    return context, apply(sd.unet.module, params["unet"], LATENTS, TIMES, context)


@pytest.fixture
def pipeline(tiny_folder, monkeypatch):
    return torch_pipeline(tiny_folder, monkeypatch)


def torch_pipeline(folder, monkeypatch):
    pytest.importorskip("torch")
    import diffusers
    import transformers.integrations.peft

    peft = pytest.importorskip("peft")
    # transformers may ask for a peft that is not out yet, though all that is used here is there.
    asks = (transformers.integrations.peft, "MIN_PEFT_VERSION", peft.__version__)
    monkeypatch.setattr(*asks, raising=False)
    return diffusers.StableDiffusionPipeline.from_pretrained(folder)


def torch_outputs(pipeline):
    import torch

    with torch.no_grad():
        context = pipeline.text_encoder(torch.tensor(IDS)).last_hidden_state
        latents = torch.tensor(LATENTS).movedim(-1, 1)
        return context, channels_last(pipeline.unet(latents, torch.tensor(TIMES), context).sample)


def errors(ours, theirs):
    return [relative_error(*pair) for pair in zip(ours, theirs, strict=True)]


def assert_same(sd, params, pipeline):
    """Both networks predict the same; and not what they did without the LoRA."""
    theirs = torch_outputs(pipeline)
    assert max(errors(outputs(sd, params), theirs)) <= 1e-5
    assert min(errors(outputs(sd, params_of(sd)), theirs)) > 0.01


LAYOUTS = {
    "kohya, every layer": lambda params: kohya(draw(params), alpha=2),
    "kohya, attention, rank as alpha": lambda params: kohya(draw(params, ATTENTION)),
    "diffusers of old": lambda params: old_diffusers(draw(params, ATTENTION)),
    "peft, every layer": lambda params: peft(draw(params)),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_means_what_diffusers_takes_it_for(sd, pipeline, tmp_path, layout):
    file = write(tmp_path, layout(params_of(sd)))
    pipeline.load_lora_weights(file)
    assert_same(sd, merge_lora(params_of(sd), read_lora(file)), pipeline)


def test_stable_diffusion_2_has_linear_projections(sd2, tiny_folder_v2, monkeypatch, tmp_path):
    pipeline = torch_pipeline(tiny_folder_v2, monkeypatch)
    file = write(tmp_path, kohya(draw(params_of(sd2)), alpha=2))
    pipeline.load_lora_weights(file)
    assert_same(sd2, merge_lora(params_of(sd2), read_lora(file)), pipeline)


def test_what_diffusers_saves_with_its_settings_is_read(
    sd, pipeline, tiny_folder, monkeypatch, tmp_path
):
    """Ranks and alphas by layer, rank-stabilised: they are in the file's metadata only."""
    torch = pytest.importorskip("torch")
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    torch.manual_seed(0)
    networks = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    by_layer = {"rank_pattern": {"proj_in": 2}, "alpha_pattern": {"proj_in": 3, r"attn2\.to_q": 7}}
    layers = ["to_q", "to_k", "conv1", "proj_in"]
    pipeline.unet.add_adapter(LoraConfig(r=4, target_modules=layers, lora_alpha=10, **by_layer))
    layers, stabilised = ["q_proj", "fc1"], {"lora_alpha": 6, "use_rslora": True}
    pipeline.text_encoder.add_adapter(LoraConfig(r=4, target_modules=layers, **stabilised))
    for network in networks.values():
        for name, value in network.named_parameters():
            if "lora_B" in name:  # starts as zero
                value.data.normal_(std=0.3)
    weights = {
        f"{name}_lora_layers": get_peft_model_state_dict(network)
        for name, network in networks.items()
    }
    pipeline.save_lora_weights(tmp_path, **weights, **_collate_lora_metadata(networks))
    file = tmp_path / "pytorch_lora_weights.safetensors"
    again = torch_pipeline(tiny_folder, monkeypatch)
    again.load_lora_weights(file)
    assert_same(sd, merge_lora(params_of(sd), read_lora(file)), again)
    assert max(errors(torch_outputs(pipeline), torch_outputs(again))) <= 1e-5


def test_several_with_weights_are_what_set_adapters_makes_of_them(sd, pipeline, tmp_path):
    first = write(tmp_path, kohya(draw(params_of(sd), seed=1), alpha=2), "first.safetensors")
    second = write(tmp_path, peft(draw(params_of(sd), ATTENTION, seed=2)), "second.safetensors")
    for name, file in (("first", first), ("second", second)):
        pipeline.load_lora_weights(file, adapter_name=name)
    pipeline.set_adapters(["first", "second"], [0.6, -0.8])
    merged = merge_lora(params_of(sd), read_lora(first), 0.6)
    merged = merge_lora(merged, read_lora(second), -0.8)
    assert_same(sd, merged, pipeline)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_files_and_weights(sd, tmp_path, dtype):
    drawn = draw(params_of(sd), ATTENTION)
    file = write(tmp_path, {key: value.astype(dtype) for key, value in kohya(drawn).items()})
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params_of(sd))
    changed = flatten_dict(merge_lora(params, read_lora(file)))
    down, up = (factor.astype(dtype).astype(np.float32) for factor in drawn["unet"][Q])
    [path] = [path for path in changed if ".".join(path) == f"unet.{Q}.kernel"]
    before = flatten_dict(params)[path].astype(np.float32)
    assert changed[path].dtype == dtype
    np.testing.assert_array_equal(changed[path], (before + (up @ down).T).astype(dtype))


Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
CONV = "down_blocks.0.resnets.0.conv1"


def change(sd, file):
    """What a file changes: the differences of the leaves that differ."""
    before, after = (flatten_dict(each) for each in (params_of(sd), merged(sd, file)))
    return {
        path: np.asarray(leaf) - np.asarray(before[path])
        for path, leaf in after.items()
        if leaf is not before[path]
    }


def merged(sd, file):
    return merge_lora(params_of(sd), read_lora(file))


def test_a_convolution_with_its_kernel_in_the_middle_is_three_convolutions(sd, tmp_path):
    torch = pytest.importorskip("torch")

    shapes = {"down": (3, 32, 1, 1), "mid": (3, 3, 3, 3), "up": (32, 3, 1, 1)}
    factors = {role: random.normal(size=shape) for role, shape in shapes.items()}
    layer = "lora_unet_" + CONV.replace(".", "_")
    tensors = {f"{layer}.lora_{role}.weight": factor for role, factor in factors.items()}
    tensors[f"{layer}.alpha"] = np.array(6.0)
    [(path, kernel)] = change(sd, write(tmp_path, tensors)).items()
    assert ".".join(path) == f"unet.{CONV}.kernel"
    conv = torch.nn.functional.conv2d
    picture = torch.tensor(random.normal(size=(1, 32, 5, 6)))
    down, mid, up = (torch.tensor(factors[role]) for role in ("down", "mid", "up"))
    expected = 2 * conv(conv(conv(picture, down), mid, padding=1), up)
    found = conv(picture, torch.tensor(kernel.transpose(3, 2, 0, 1)).double(), padding=1)
    assert relative_error(found, expected) <= 1e-5


def test_a_1x1_convolution_and_a_linear_layer_are_one(sd, sd2, tmp_path):
    """Of SD 1.x and SD 2.x, each given the other's kind of file."""
    for base in (sd, sd2):
        drawn = draw(params_of(base), r".*proj_in")
        plain = write(tmp_path, kohya(drawn), "plain.safetensors")
        swapped = {
            component: {name: tuple(map(swap, factors)) for name, factors in layers.items()}
            for component, layers in drawn.items()
        }
        other = write(tmp_path, kohya(swapped), "other.safetensors")
        ours = change(base, plain)
        assert ours
        for path, difference in change(base, other).items():
            np.testing.assert_array_equal(difference, ours[path])


def swap(factor):
    return factor[..., None, None] if factor.ndim == 2 else factor[..., 0, 0]


def test_adding_and_taking_away_is_nothing(sd, tmp_path):
    lora = read_lora(write(tmp_path, kohya(draw(params_of(sd)))))
    there = merge_lora(params_of(sd), lora, 0.7)
    back = merge_lora(there, lora, -0.7)
    for path, leaf in flatten_dict(params_of(sd)).items():
        np.testing.assert_allclose(flatten_dict(back)[path], leaf, atol=1e-6)
    assert there["vae"] == params_of(sd)["vae"]  # the same arrays


def test_every_layer_of_the_full_size_model_has_a_name_of_its_own():
    """Of SD 1.5: kohya's names are unique though they lose the dots, and all are found."""
    modules = {
        "unet": UNet(UNetConfig.from_dict(full_size_configs.UNET_SD15)),
        "text_encoder": TextEncoder(TextConfig.from_dict(full_size_configs.TEXT_SD15)),
    }
    params = {name: shapes_of(module) for name, module in modules.items()}
    kernels = [path for path in flatten_dict(params) if path[-1] == "kernel"]
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    layers = {}
    for path in kernels:
        *kernel, width, out = flatten_dict(params)[path].shape
        factors = np.zeros((1, width, *kernel)), np.zeros((out, 1, *[1] * len(kernel)))
        layers[prefix[path[0]] + "_".join(path[1:-1]).replace(".", "_")] = LowRank(
            *factors, None, 1
        )
    assert match_lora(params, Lora("all", layers)).keys() == set(kernels)
    assert len(kernels) == 282 + 72
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0" in layers
    assert "lora_te_text_model_encoder_layers_11_mlp_fc2" in layers
