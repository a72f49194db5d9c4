"""A folder that diffusers wrote is read whole, and what we write diffusers reads."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.stable_diffusion import (
    NETWORKS,
    load_stable_diffusion,
    save_stable_diffusion,
)
from moa_jax.backbone.tokenizer import load_tokenizer
from moa_jax.errors import InputError
from tests.backbone.parity import apply, channels_last, relative_error

PROMPTS = ["a man reading in the snow", "Two women,  and a DOG!"]
random = np.random.default_rng(0)
LATENTS = random.normal(size=(2, 8, 4, 4)).astype(np.float32)
PIXELS = random.normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def sd(tiny_folder):
    return load_stable_diffusion(tiny_folder)


@pytest.fixture
def copy(tiny_folder, tmp_path):
    """A copy of the folder to spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def message(*arguments, **options):
    with pytest.raises(InputError) as caught:
        load_stable_diffusion(*arguments, **options)
    return str(caught.value)


def run(component, *inputs, **options):
    return apply(component.module, component.params, *inputs, **options)


def torch_outputs(folder):
    """What diffusers' networks of a folder give for our fixed inputs."""
    torch = pytest.importorskip("torch")
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    latents, pixels = (torch.from_numpy(each).movedim(-1, 1) for each in (LATENTS, PIXELS))
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = pipeline.tokenizer(PROMPTS, **options).input_ids
    with torch.no_grad():
        context = pipeline.text_encoder(ids).last_hidden_state
        outputs = {
            "input_ids": ids,
            "context": context,
            "noise": channels_last(pipeline.unet(latents, torch.tensor([3, 700]), context).sample),
            "mean": channels_last(pipeline.vae.encode(pixels).latent_dist.mean),
            "pixels": channels_last(pipeline.vae.decode(latents).sample),
        }
        if pipeline.image_encoder is not None:
            outputs["features"] = pipeline.image_encoder(pixels).image_embeds
    return {name: np.asarray(value) for name, value in outputs.items()}


def our_outputs(sd):
    options = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
    ids = sd.tokenizer(PROMPTS, **options).input_ids.astype(np.int32)
    context = run(sd.text_encoder, ids)
    outputs = {
        "input_ids": ids,
        "context": context,
        "noise": run(sd.unet, LATENTS, np.array([3, 700], np.int32), context),
        "mean": run(sd.vae, PIXELS, method="encode")[0],
        "pixels": run(sd.vae, LATENTS, method="decode"),
    }
    if sd.image_encoder is not None:
        outputs["features"] = run(sd.image_encoder, PIXELS)
    return outputs


@pytest.mark.parametrize("kind", ["tiny_folder", "tiny_folder_v2"])
def test_reads_what_diffusers_wrote_and_writes_what_it_reads(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    theirs = torch_outputs(folder)
    sd = load_stable_diffusion(folder)
    ours = our_outputs(sd)
    assert ours.keys() == theirs.keys()
    for name, reference in theirs.items():
        assert relative_error(ours[name], reference) <= 1e-5, name
    save_stable_diffusion(tmp_path / "again", sd)
    for name, written in torch_outputs(tmp_path / "again").items():
        np.testing.assert_array_equal(written, theirs[name], err_msg=name)
    assert load_stable_diffusion(tmp_path / "again").unet.fingerprint == sd.unet.fingerprint


def test_a_checkpoint_knows_its_name_path_and_scheduler(sd, tiny_folder):
    assert (sd.name, sd.path) == (str(tiny_folder), tiny_folder)
    assert sd.scheduler_config["beta_schedule"] == "scaled_linear"
    assert len({getattr(sd, name).fingerprint for name in NETWORKS}) == 3


def test_fp16_variant_is_read_in_bfloat16(tiny_folder, tmp_path, sd):
    torch = pytest.importorskip("torch")
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder)
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    half = load_stable_diffusion(tmp_path, jnp.bfloat16, variant="fp16")
    for name in (*NETWORKS, "image_encoder"):
        component = getattr(half, name)
        assert {leaf.dtype for leaf in jax.tree.leaves(component.params)} == {jnp.dtype("bfloat16")}
        assert component.module.dtype == jnp.bfloat16
        assert component.fingerprint == getattr(sd, name).fingerprint
    text = message(tmp_path)
    assert "fp16.safetensors" in text and "variant" in text


def test_an_exported_bfloat16_checkpoint_is_one_for_diffusers(tiny_folder, tmp_path):
    theirs = torch_outputs(tiny_folder)
    save_stable_diffusion(tmp_path, load_stable_diffusion(tiny_folder, jnp.bfloat16))
    assert json.loads((tmp_path / "text_encoder/config.json").read_text())["dtype"] == "bfloat16"
    import diffusers
    import torch

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert pipeline.text_encoder.dtype == torch.bfloat16
    ids = torch.from_numpy(theirs["input_ids"])
    context = pipeline.text_encoder.float()(ids).last_hidden_state.detach()
    assert relative_error(context, theirs["context"]) < 0.05


def test_place_gets_the_path_in_the_whole_tree(tiny_folder):
    paths = []
    load_stable_diffusion(tiny_folder, place=lambda path, array: paths.append(path))
    assert len(set(paths)) == len(paths)
    assert {"unet.conv_in.kernel", "vae.decoder.conv_in.bias"} < set(paths)
    assert "text_encoder.text_model.embeddings.token_embedding.embedding" in paths
    assert "image_encoder.vision_model.pre_layrnorm.scale" in paths


@pytest.mark.parametrize("kind", ["whole CLIP", "vision tower"])
def test_the_image_encoder_may_come_from_another_folder(tiny_folder_v2, tmp_path, kind):
    torch = pytest.importorskip("torch")
    import transformers

    assert load_stable_diffusion(tiny_folder_v2).image_encoder is None
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    if kind == "whole CLIP":
        text = {**sizes, "vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
        theirs = transformers.CLIPModel(config)
        call = theirs.get_image_features
    else:
        config = transformers.CLIPVisionConfig(**vision, projection_dim=6)
        theirs = call = transformers.CLIPVisionModelWithProjection(config)
    theirs.eval().save_pretrained(tmp_path / "clip")
    sd = load_stable_diffusion(tiny_folder_v2, image_encoder=str(tmp_path / "clip"))
    with torch.no_grad():
        output = call(torch.from_numpy(PIXELS).movedim(-1, 1))
    reference = output.pooler_output if kind == "whole CLIP" else output.image_embeds
    assert relative_error(run(sd.image_encoder, PIXELS), reference) <= 1e-5
    save_stable_diffusion(tmp_path / "sd", sd)
    written = torch_outputs(tmp_path / "sd")["features"]
    assert relative_error(written, reference) <= 1e-6


def test_the_configuration_of_an_older_whole_clip_folder(copy):
    """`vision_config_dict` is what transformers wrote first, and overrides `vision_config`."""
    file = copy / "image_encoder/config.json"
    vision = json.loads(file.read_text())
    whole = {"model_type": "clip", "projection_dim": vision.pop("projection_dim")}
    whole |= {"vision_config": {**vision, "num_hidden_layers": 99, "projection_dim": 512}}
    whole |= {"vision_config_dict": vision, "text_config_dict": {}}
    file.write_text(json.dumps(whole))
    assert load_stable_diffusion(copy).image_encoder.module.config.num_hidden_layers == 3


@pytest.mark.parametrize("folder", [*NETWORKS, "tokenizer", "scheduler"])
def test_a_missing_folder_is_named(copy, folder):
    shutil.rmtree(copy / folder)
    assert f"lacks the folders {folder}:" in message(copy)


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
        "image_encoder/config.json",
    ],
)
def test_a_missing_file_is_named(copy, file):
    (copy / file).unlink()
    text = message(copy)
    assert str((copy / file).parent) in text
    assert file.split("/")[-1] in text or "*.safetensors" in text


def test_networks_that_do_not_fit_each_other(copy):
    edit(copy / "unet/config.json", cross_attention_dim=40)
    text = message(copy)
    assert "cross_attention_dim is 40" in text and "hidden_size is 32" in text
    edit(copy / "unet/config.json", cross_attention_dim=32, in_channels=9)
    text = message(copy)
    assert "in_channels=9" in text and "latent_channels=4" in text and "inpainting" in text
    edit(copy / "unet/config.json", in_channels=4)
    edit(copy / "text_encoder/config.json", vocab_size=11)
    assert "the text encoder knows 11" in message(copy)


def test_weights_that_do_not_fit_their_configuration(copy):
    edit(copy / "text_encoder/config.json", num_hidden_layers=3)
    text = message(copy)
    assert "missing: text_model.encoder.layers.2.mlp.fc1.weight (64, 32)" in text
    assert str(copy / "text_encoder") in text


def test_a_damaged_tokenizer_is_named(copy):
    (copy / "tokenizer/tokenizer.json").write_text("{")
    assert str(copy / "tokenizer") in message(copy)


def test_the_tokenizer_stops_at_the_position_embedding(copy):
    edit(copy / "tokenizer/tokenizer_config.json", model_max_length=10**30)
    assert load_stable_diffusion(copy).tokenizer.model_max_length == 77


def test_shapes_of_an_unknown_module():
    with pytest.raises(TypeError, match="object"):
        parameter_shapes(object())


def test_the_tokenizer_loads_without_torch_and_without_advice(tiny_folder):
    code = """
import os, sys
sys.modules["torch"] = None
from moa_jax.backbone.tokenizer import load_tokenizer
from pathlib import Path
print(load_tokenizer(Path(sys.argv[1]))("a man").input_ids)
assert "TRANSFORMERS_NO_ADVISORY_WARNINGS" not in os.environ
"""
    folder = tiny_folder / "tokenizer"
    run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert json.loads(run.stdout) == load_tokenizer(folder)("a man").input_ids
