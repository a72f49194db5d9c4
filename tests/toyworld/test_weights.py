"""The committed weights do what they were trained for, on scenes they were not trained on."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moa_jax.toyworld
from moa_jax.backbone.clip import normalize_pixels
from moa_jax.backbone.folder import read_config
from moa_jax.backbone.stable_diffusion import parameter_shapes
from moa_jax.backbone.weights import load_params
from moa_jax.toyworld.architecture import make_module
from moa_jax.toyworld.people import draw_look
from moa_jax.toyworld.scenes import render, render_portrait, training_scene

BASE = Path(moa_jax.toyworld.__file__).parent / "weights" / "base"
HELD_OUT = 5  # a stream that nothing was trained on


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
