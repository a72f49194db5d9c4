"""The random checkpoint: read by our loader and by diffusers, and alike in both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.diffusion import NoiseSchedule
from moa_jax.toyworld.architecture import write_checkpoint
from moa_jax.toyworld.tokenizer import WORDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def sd(folder):
    return load_stable_diffusion(folder)


def apply(component, *inputs, method=None):
    run = jax.jit(component.module.apply, static_argnames="method")
    return run({"params": component.params}, *inputs, method=method)


def test_it_is_a_small_stable_diffusion_1_of_all_parts(sd):
    networks = [sd.unet, sd.vae, sd.text_encoder, sd.image_encoder]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(network.params)) for network in networks]
    assert sum(sizes) < 2_000_000 and sd.vae.module.config.downscale == 8
    schedule = NoiseSchedule.from_config(sd.scheduler_config)
    assert (schedule.spacing, schedule.prediction_type) == ("leading", "epsilon")
    assert len(sd.tokenizer(" ".join(WORDS[:50]))["input_ids"]) == 52  # a token a word, two marks


def test_the_seed_decides_the_weights(folder, tmp_path):
    write_checkpoint(tmp_path / "same")
    write_checkpoint(tmp_path / "other", seed=1)
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_the_random_networks_listen_to_what_they_are_given(sd):
    """Text reaches the prediction and latents the picture: a demo on dead weights shows nothing."""
    prompts = ["a man in the snow", "a kid on the beach"]
    ids = sd.tokenizer(prompts, padding="max_length", return_tensors="np")["input_ids"]
    context = apply(sd.text_encoder, jnp.asarray(ids))
    latents = jnp.tile(jax.random.normal(jax.random.key(0), (1, 8, 8, 4)), (2, 1, 1, 1))
    predictions = apply(sd.unet, latents, jnp.array([500.0, 500.0]), context)
    assert np.isfinite(predictions).all() and predictions.std() > 0.1
    assert np.abs(predictions[0] - predictions[1]).max() > 0.01
    first, second = (apply(sd.vae, x / 0.18215, method="decode") for x in (latents, -latents))
    assert first.shape == (2, 64, 64, 3) and 0.1 < first.std() < 3.0
    assert np.abs(first - second).mean() > 0.1


def test_diffusers_reads_the_folder_and_draws_with_it(folder):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler"
    with torch.no_grad():
        picture = pipeline("a man", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (128, 128, 3) and np.isfinite(picture).all()
