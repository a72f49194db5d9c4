"""A tiny pipeline with MoA weights as training might have left them, and pictures for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from moa_jax import Pipeline
from moa_jax.config import Config, MethodConfig
from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.method.model import build
from moa_jax.method.trained import learning_mask
from moa_jax.method.weights import Identity, MoaCard, save_moa

PROMPT = "a man in the snow"
MARKED = f"a man {IMAGE_MARKER} and a woman {IMAGE_MARKER} in the snow"


def portrait(seed, size=(40, 56)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="session")
def plain(tiny_folder):
    return Pipeline.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def moa_folder(plain, tmp_path_factory):
    """MoA weights with routers and experts drawn at random, as training might have left them."""
    method = MethodConfig(image_encoder_layers=1, fourier_features=8, max_subjects=2)
    _, params = build(plain.base, method, dtype=jnp.float32, key=jax.random.key(1))
    mask = learning_mask(params, method)
    random = np.random.default_rng(0)
    trained = jax.tree.map(
        lambda leaf, learns: (
            leaf + 0.3 * random.standard_normal(leaf.shape, np.float32) if learns else None
        ),
        params,
        mask,
    )
    folder = tmp_path_factory.mktemp("moa")
    card = MoaCard(Config(method=method), Identity.of(plain.base), step=7)
    save_moa(folder, trained, card)
    return folder


@pytest.fixture(scope="session")
def personal(tiny_folder, moa_folder):
    return Pipeline.from_pretrained(tiny_folder, moa_folder)


def pixels(result):
    return np.stack([np.asarray(image, np.int16) for image in result.images])
