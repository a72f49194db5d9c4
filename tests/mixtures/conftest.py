"""One attention layer with mixtures, and something for it to look at."""

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.backbone.attention_kernels import xla
from moa_jax.config import MethodConfig
from moa_jax.method.prompt import Prompt

WIDTH = 16


def attention(variant, cross=False):
    """Make an attention layer of a variant."""
    made = variant.attention(MethodConfig(initial_personalized_weight=0.4), xla)
    return made(heads=2, head_dim=WIDTH // 2, cross=cross)


def moved(params):
    """Move every weight away from its start, each by numbers of its own."""
    flat = flatten_dict(params)
    keys = dict(zip(flat, jax.random.split(jax.random.key(7), len(flat)), strict=True))
    return unflatten_dict(
        {
            path: leaf + 0.3 * jax.random.normal(keys[path], leaf.shape)
            for path, leaf in flat.items()
        }
    )


@pytest.fixture(scope="session")
def pixels():
    return jax.random.normal(jax.random.key(1), (2, 4, 3, WIDTH))


@pytest.fixture(scope="session")
def prompt():
    text, subjects = (
        jax.random.normal(jax.random.key(number), shape)
        for number, shape in ((2, (2, 7, 24)), (3, (2, 2, 2, 24)))
    )
    return Prompt(text, subjects, jnp.array([[1, 4], [2, 7]]), jnp.array([3, 900]))
