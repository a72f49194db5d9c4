"""MoA built on a checkpoint: what is added, what is shared, and how much it is at full size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax.backbone.clip import VisionConfig
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.backbone.unet import Residuals, UNet, UNetConfig, transformer_blocks
from moa_jax.config import MethodConfig
from moa_jax.method.mixture import MixtureOfAttention
from moa_jax.method.model import build
from moa_jax.method.prompt import Prompt, SubjectPrompt
from tests.backbone import full_size_configs


@pytest.fixture(scope="module")
def built(tiny_folder):
    base = load_stable_diffusion(tiny_folder)
    method = MethodConfig(initial_personalized_weight=0.25)
    return base, *build(base, method, dtype=jnp.float32, key=jax.random.key(0))


def test_the_base_is_shared_not_copied(built):
    base, _, params = built
    unet = flatten_dict(params["unet"])
    for path, leaf in flatten_dict(base.unet.params).items():
        assert unet[path] is leaf
    for name in ("vae", "text_encoder", "image_encoder"):
        assert params[name] is getattr(base, name).params


def test_a_pass_observes_every_layer(built):
    base, model, params = built
    images = jax.random.randint(jax.random.key(1), (2, 3, 32, 32, 3), 0, 256).astype(jnp.uint8)
    ids = jnp.ones((2, 77), jnp.int32)
    tokens = jnp.array([[2, 5, 77], [3, 77, 77]])

    @jax.jit
    def run(params, latents):
        text = model.encode_text(params, ids)
        features = model.encode_subjects(params, images)
        return model.denoise(params, latents, jnp.array([10, 500]), text, features, tokens)

    prediction, seen = run(params, jax.random.normal(jax.random.key(2), (2, 8, 6, 4)))
    assert prediction.shape == (2, 8, 6, 4)
    layers = {f"{block}.{layer}" for block in model.blocks for layer in ("attn1", "attn2")}
    assert seen.routing.keys() == layers
    assert seen.attention.keys() == {layer for layer in layers if layer.endswith("attn2")}
    for routing in seen.routing.values():
        np.testing.assert_allclose(routing[..., 1], np.full(routing.shape[:3], 0.25), atol=1e-6)
    for attention in seen.attention.values():
        present = attention.sum((1, 2, 3)) > 0
        np.testing.assert_array_equal(present, [[True, True, False], [True, False, False]])


def test_training_starts_at_stable_diffusion(built):
    """Whatever the routing: both experts are equal, and a subject adds nothing to its word."""
    base, model, params = built
    ids, times = jnp.arange(77)[None] % 40, jnp.array([300])
    features = jax.random.normal(jax.random.key(1), (1, 2, 32))
    latents = jax.random.normal(jax.random.key(2), (1, 8, 6, 4))

    mixed, plain = compare(base, model, params, ids, times, features, latents)
    assert np.abs(plain).max() > 0.1
    np.testing.assert_allclose(mixed, plain, rtol=1e-4, atol=1e-5)
    # What a ControlNet adds reaches both experts, wherever the router leads.
    sizes = [(8, 6, 32), (8, 6, 32), (4, 3, 32), (4, 3, 64)]
    skips = tuple(jax.random.normal(jax.random.key(3), (1, *size)) for size in sizes)
    residuals = Residuals(skips, jax.random.normal(jax.random.key(4), (1, 4, 3, 64)))
    arguments = (base, model, params, ids, times, features, latents, residuals)
    mixed_led, plain_led = compare(*arguments)
    assert np.abs(plain_led - plain).max() > 0.1
    np.testing.assert_allclose(mixed_led, plain_led, rtol=1e-4, atol=1e-5)


def compare(base, model, params, ids, times, features, latents, residuals=None):
    """Predict with MoA and with the U-Net it was built on."""

    @jax.jit
    def both(params):
        text = model.encode_text(params, ids)
        tokens = jnp.array([[2, 5]])
        mixed, _ = model.denoise(params, latents, times, text, features, tokens, residuals)
        prior = {"params": base.unet.params}
        return mixed, base.unet.module.apply(prior, latents, times, text, residuals)

    return both(params)


def test_losses_read_the_layers_that_they_are_meant_to(built):
    """Of SD 1.5's 16 blocks: 14 for the router, FastComposer's five middle stages for objects."""
    _, model, _ = built
    blocks = transformer_blocks(UNetConfig.from_dict(full_size_configs.UNET_SD15))
    full = type(model)(**{**vars(model), "blocks": blocks})
    assert full.router_loss_layers(skip=1) == blocks[1:15]
    assert full.router_loss_layers(skip=0) == blocks
    stages = {path.split(".attentions")[0] for path in full.object_loss_layers()}
    middle = {"down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.1", "up_blocks.2"}
    assert stages == middle
    assert len(full.object_loss_layers()) == 11


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_what_the_full_size_model_adds():
    """93.54 M attention parameters next to the 859.52 M of SD 1.5, plus routers and prompt."""
    config = UNetConfig.from_dict(full_size_configs.UNET_SD15)
    layers = len(transformer_blocks(config))
    prompter = SubjectPrompt(layers)
    features = VisionConfig.from_dict(full_size_configs.VISION_CLIP_L).projection_dim
    arguments = (jnp.zeros((1, 77, 768)), jnp.zeros((1, 4, features)), jnp.zeros((1, 4), jnp.int32))
    initialize = partial(prompter.init_with_output, jax.random.key(0))
    prompt, variables = jax.eval_shape(initialize, *arguments, jnp.zeros(1))
    unet = UNet(config, MixtureOfAttention)
    latents = jnp.zeros((1, 8, 8, 4))
    tree = jax.eval_shape(unet.init, jax.random.key(0), latents, jnp.zeros(1), prompt)
    flat = flatten_dict(tree["params"])
    experts = count([leaf for path, leaf in flat.items() if "personalized" in path])
    routers = count([leaf for path, leaf in flat.items() if "router" in path])
    prior = count(parameter_shapes(UNet(config)))
    assert prior == 859_520_964
    assert round(experts / 1e6, 2) == 93.54
    # Two logits on every layer's width: 32 layers of 320, 640 or 1280 channels.
    assert routers == 2 * 2 * sum(width + 1 for width in [320] * 5 + [640] * 5 + [1280] * 6)
    assert count(flat) == prior + experts + routers
    assert round(count(variables) / 1e6, 2) == 4.34


@pytest.mark.slow
def test_what_the_full_size_model_costs():
    """A dense mixture at 512 pixels: 500 instead of 395 GMAC a pass, as XLA counts them."""
    config = UNetConfig.from_dict(full_size_configs.UNET_SD15)
    text = jax.ShapeDtypeStruct((1, 77, 768), jnp.float32)
    latents = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
    times = jax.ShapeDtypeStruct((1,), jnp.int32)
    subjects = jax.ShapeDtypeStruct((1, len(transformer_blocks(config)), 4, 768), jnp.float32)
    prompt = Prompt(text, subjects, jax.ShapeDtypeStruct((1, 4), jnp.int32), times)
    gmac = []
    for unet, context in ((UNet(config), text), (UNet(config, MixtureOfAttention), prompt)):
        params = jax.eval_shape(unet.init, jax.random.key(0), latents, times, context)
        cost = jax.jit(unet.apply).lower(params, latents, times, context).cost_analysis()
        gmac.append(cost["flops"] / 2e9)
    np.testing.assert_allclose(gmac, [394.8, 499.6], rtol=1e-3)
