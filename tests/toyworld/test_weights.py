"""The committed weights do what they were trained for, on scenes they were not trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.clip import normalize_pixels
from moa_jax.backbone.folder import read_config
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.weights import load_params
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.pretraining.architecture import make_module
from moa_jax.toyworld.readers.reading import Readers
from moa_jax.toyworld.world.people import draw_look
from moa_jax.toyworld.world.scenes import render, render_portrait, training_scene

BASE = WEIGHTS / "base"
HELD_OUT = 5  # a stream that nothing was trained on


def test_diffusers_draws_the_same_picture():
    """From the same folder and the same latents, with the folder's own scheduler."""
    torch = pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    prompt = "a woman and a kid waving with a balloon on the beach at sunset"
    options = {"num_images_per_prompt": 2, "num_inference_steps": 12, "guidance_scale": 4.0}
    latents = np.random.default_rng(3).standard_normal((2, 8, 8, 16)).astype(np.float32)
    oracle = StableDiffusionPipeline.from_pretrained(BASE)
    oracle.set_progress_bar_config(disable=True)
    start = torch.tensor(latents).permute(0, 3, 1, 2)
    expected = np.stack(oracle(prompt, latents=start, **options).images).astype(int)
    drawn = Pipeline.from_pretrained(BASE)(
        prompt,
        num_images=2,
        num_inference_steps=12,
        guidance_scale=4.0,
        latents=latents,
        sampler="checkpoint",
    )
    difference = np.abs(np.stack(drawn.images).astype(int) - expected)
    assert expected.std() > 30
    assert difference.mean() <= 1 and (difference > 2).mean() < 1e-3


@pytest.mark.slow
def test_the_prior_draws_what_the_words_ask_for():
    """Each picture of four prompts, read by the readers; people it makes up itself."""
    prompts = {
        "a man waving with a ball on the beach at sunset": ("beach", "sunset", "waving", 1),
        "a kid standing with a dog in the city at night": ("city", "night", "standing", 1),
        "a woman and a kid cheering in the forest by day": ("forest", "day", "cheering", 2),
        "a man and a woman waving at the castle by day": ("castle", "day", "waving", 2),
    }
    pipe, readers, right, shirts = Pipeline.from_pretrained(BASE), Readers.load(), [], []
    for prompt, (place, time, pose, people) in prompts.items():
        drawn = pipe(prompt, num_images=8, num_inference_steps=20, guidance_scale=4.0)
        for read in readers.read(np.stack(drawn.images)):
            context, wanted = read.context, {"place": place, "time": time, "pose": pose}
            right += [context[field] == value for field, value in wanted.items()]
            right.append(len(read.people) == people)
            shirts += [person.attributes["shirt"] for person in read.people]
    assert np.mean(right) > 0.85
    assert np.std(shirts, axis=0).min() > 0.1


def network(name):
    config = read_config(BASE / name)
    module = make_module(name, config)
    return module, load_params(BASE / name, parameter_shapes(module), jnp.float32)[0]


@pytest.fixture(scope="module")
def pictures():
    return np.stack([render(training_scene(HELD_OUT, 4 * i))[0] for i in range(32)])


def test_the_autoencoder_keeps_what_a_person_looks_for(pictures):
    module, params = network("vae")
    drawn = jax.jit(lambda x: module.apply({"params": params}, x))(pictures / 127.5 - 1)
    error = np.clip((np.asarray(drawn) + 1) * 127.5, 0, 255) - pictures
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 25  # dB


def test_latents_have_about_unit_variance(pictures):
    module, params = network("vae")
    encode = jax.jit(lambda x: module.apply({"params": params}, x, method="encode"))
    mean, log_variance = encode(pictures / 127.5 - 1)
    variance = np.var(mean) + np.mean(np.exp(log_variance))
    assert module.config.scaling_factor**2 * variance == pytest.approx(1.0, abs=0.1)


def test_the_image_encoder_knows_a_person_again_before_another_wall():
    module, params = network("image_encoder")
    random = np.random.default_rng(HELD_OUT)
    looks = [draw_look(random, "woman") for _ in range(24)]
    views = [
        np.stack([render_portrait(look, seed=first + i) for i, look in enumerate(looks)])
        for first in (100, 200)
    ]
    views[1] = np.roll(views[1], 3, axis=2)  # and not quite in the middle
    encode = jax.jit(lambda x: module.apply({"params": params}, normalize_pixels(x)))
    first, second = (np.asarray(encode(view)) for view in views)
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    found = np.argmax(first @ second.T, axis=1) == np.arange(len(looks))
    assert found.mean() > 0.9
