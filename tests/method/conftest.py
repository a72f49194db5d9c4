"""A small U-Net, plain and with mixtures, and something for it to look at."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.backbone.unet import UNet, UNetConfig, transformer_blocks
from moa_jax.method.mixture import MixtureOfAttention
from moa_jax.method.prompt import SubjectPrompt
from moa_jax.method.trained import is_added
from moa_jax.method.variant import Variant
from tests.method.prompts import speak

CONFIG = UNetConfig.from_dict(
    {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
)


BLOCKS = transformer_blocks(CONFIG)
PROMPTER = SubjectPrompt(len(BLOCKS))
KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster


@pytest.fixture(scope="session")
def said() -> SimpleNamespace:
    """Two prompts: one with two subjects (words 1 and 4), one with one (word 2)."""
    drawn = jax.jit(_draw_prompt)(KEY)
    return SimpleNamespace(config=CONFIG, blocks=BLOCKS, prompter=PROMPTER, **drawn)


@pytest.fixture(scope="session")
def scene(said) -> SimpleNamespace:
    """These prompts, and pictures of 8x6 latents with the networks to draw them."""
    drawn = jax.jit(_draw_networks)(KEY, said.text, said.timesteps, said.prompt)
    return SimpleNamespace(**vars(said), **drawn)


def _draw_prompt(key):
    keys = jax.random.split(key, 7)
    text = jax.random.normal(keys[0], (2, 7, 24))
    features = jax.random.normal(keys[1], (2, 2, 20))
    tokens, timesteps = jnp.array([[1, 4], [2, 7]]), jnp.array([3, 900])
    prompt_params = speak(PROMPTER.init(keys[3], text, features, tokens, timesteps)["params"])
    prompt = PROMPTER.apply({"params": prompt_params}, text, features, tokens, timesteps)
    return {
        "text": text,
        "features": features,
        "tokens": tokens,
        "timesteps": timesteps,
        "prompt_params": prompt_params,
        "prompt": prompt,
    }


def _draw_networks(key, text, timesteps, prompt):
    keys = jax.random.split(key, 7)
    latents = jax.random.normal(keys[2], (2, 8, 6, 4))
    prior = UNet(CONFIG).init(keys[4], latents, timesteps, text)["params"]
    mixed = UNet(CONFIG, MixtureOfAttention).init(keys[5], latents, timesteps, prompt)["params"]
    added = {
        path: leaf
        for path, leaf in flatten_dict(mixed).items()
        if is_added(".".join(("unet", *path)))
    }
    routers = {
        path: 0.5 * jax.random.normal(keys[6], leaf.shape)
        for path, leaf in added.items()
        if "router" in path
    }
    flat = flatten_dict(prior)
    params = unflatten_dict({**flat, **routers, **Variant().start(added, flat)})
    return {"latents": latents, "prior": prior, "params": params}
