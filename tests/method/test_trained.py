"""What learns, and the parameters split and joined by it."""

import jax
import jax.numpy as jnp
import pytest

from moa_jax.config import MethodConfig
from moa_jax.method.trained import combine, learning_mask, learns, partition

METHOD = MethodConfig(image_encoder_layers=2)
FROZEN = MethodConfig(image_encoder_layers=0)
LAYER = "image_encoder.vision_model.encoder.layers"
PARAMS = {"a": {"kernel": jnp.full((2, 2), 3.0)}, "b": {"kernel": jnp.full((3,), 4.0)}}
MASK = {"a": {"kernel": True}, "b": {"kernel": False}}


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.personalized.to_q.kernel", True),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.router.logits.bias", True),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.kernel", False),
        ("unet.conv_in.kernel", False),
        ("prompt.fusion.mlp1.fc1.kernel", True),
        (f"{LAYER}.21.mlp.fc1.kernel", False),
        (f"{LAYER}.22.mlp.fc1.kernel", True),
        (f"{LAYER}.23.layer_norm1.scale", True),
        (f"{LAYER}.2.mlp.fc1.kernel", False),
        ("image_encoder.vision_model.post_layernorm.scale", False),  # FastComposer's released code
        ("image_encoder.visual_projection.kernel", False),
        ("image_encoder.vision_model.pre_layrnorm.scale", False),
        ("text_encoder.text_model.encoder.layers.11.mlp.fc1.kernel", False),
        ("vae.decoder.mid_block.attentions.0.to_q.kernel", False),
    ],
)
def test_what_learns(path, answer):
    assert learns(path, METHOD, vision_layers=24) == answer


def test_a_frozen_tower_has_no_layer_that_learns():
    assert not learns(f"{LAYER}.23.mlp.fc1.kernel", FROZEN, vision_layers=24)


def test_the_mask_counts_the_towers_layers():
    layers = {f"vision_model.encoder.layers.{place}": {"scale": jnp.ones(1)} for place in range(3)}
    params = {"image_encoder": layers, "prompt": {"bias": jnp.ones(1)}}
    mask = learning_mask(params, MethodConfig(image_encoder_layers=2))
    assert [leaf["scale"] for leaf in mask["image_encoder"].values()] == [False, True, True]


def test_partition_and_combine_are_inverse():
    trained, frozen = partition(PARAMS, MASK)
    assert [leaf.shape for leaf in jax.tree.leaves(trained)] == [(2, 2)]
    assert [leaf.shape for leaf in jax.tree.leaves(frozen)] == [(3,)]
    joined = combine(trained, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(PARAMS)
    for one, other in zip(jax.tree.leaves(joined), jax.tree.leaves(PARAMS), strict=True):
        assert one is other
