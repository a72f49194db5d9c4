"""Which layers and subjects the terms read, what they weigh, and what is logged of the routing.

On networks that are a line each. Of which pictures, noise and times the denoising term is made,
tests/training/test_objective.py says.
"""

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.vae import VAEConfig
from moa_jax.config import MethodConfig
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.errors import InputError
from moa_jax.method.losses import object_loss
from moa_jax.method.model import MoA, Observations
from moa_jax.training.objective import loss, loss_weights, summarize

BLOCKS = tuple(
    f"{path}.transformer_blocks.0"
    for path in (
        "down_blocks.0.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.1.attentions.0",
        "up_blocks.1.attentions.1",
    )
)
LAYERS = [f"{block}.{layer}" for block in BLOCKS for layer in ("attn1", "attn2")]
SCALE = 0.2
METHOD = MethodConfig(router_loss_weight=0.3, object_loss_weight=0.7, mask_probability=0.5)
SCHEDULE = NoiseSchedule.from_config(
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
)


class Blocks(nn.Module):
    """An autoencoder of 8x8 pixels to a latent: their mean, and less than it for a variance."""

    config: VAEConfig = VAEConfig(scaling_factor=SCALE)

    def encode(self, pixels):
        blocks = pixels.reshape(-1, 4, 8, 4, 8, 3).mean((2, 4))
        mean = jnp.concatenate([blocks, blocks.mean(-1, keepdims=True)], axis=-1)
        return mean, mean - 1.0


@dataclass(frozen=True)
class Lines(MoA):
    """A model that adds up what it is given, and shows what its parameters hold."""

    def encode_text(self, params, input_ids):
        return jnp.stack([0.01 * input_ids, 0.03 * input_ids], axis=-1)

    def encode_subjects(self, params, images):
        return images.astype(jnp.float32).mean((2, 3)) / 255

    def denoise(self, params, latents, timesteps, text, features, tokens, keys, progress):
        each = timesteps / 1000 + text.mean((1, 2)) + features.mean((1, 2)) + tokens.sum(1) / 100
        shown = Observations(params["unet"]["routing"], params["unet"]["attention"], {"own": keys})
        return 0.5 * latents + each[:, None, None, None], shown


MODEL = Lines(*[nn.Module()] * 4, Blocks(), BLOCKS)


@pytest.fixture(scope="module")
def given():
    """(parameters, batch, the keys of its pictures)."""
    random = np.random.default_rng(0)
    masks = np.kron(random.integers(0, 2, (3, 2, 4, 4)), np.ones((8, 8))).astype(np.uint8)
    shares = {path: random.random((3, 1, 1)) for path in LAYERS}  # of the prior, in each picture
    attention = {path: random.random((3, 2, 4, 4, 2)) for path in LAYERS[1::2]}
    sides = dict(zip(LAYERS, (4, 4, 2, 2, 4, 4, 4, 4), strict=True))
    routing = {
        path: np.broadcast_to(np.stack([share, 1 - share], -1), (3, sides[path], sides[path], 2))
        for path, share in shares.items()
    }
    unet = {"routing": routing, "attention": attention}
    batch = {
        "image": random.integers(0, 256, (3, 32, 32, 3), np.uint8),
        "masks": masks,
        "subject_images": random.integers(0, 256, (3, 2, 8, 8, 3), np.uint8),
        "subject_tokens": np.array([[1, 3], [2, 5], [5, 5]], np.int32),
        "subject_present": np.array([[True, True], [True, False], [False, False]]),
        "input_ids": random.integers(0, 40, (3, 5)).astype(np.int32),
    }
    params = jax.tree.map(np.float32, {"unet": unet, "vae": {}})
    return params, batch, jax.random.split(jax.random.key(0), 3)


@pytest.fixture(scope="module")
def numbers(given):
    return run(*given)


def run(params, batch, keys, method=METHOD):
    compute = jax.jit(lambda *arguments: loss(MODEL, SCHEDULE, method, *arguments))
    total, found = jax.device_get(compute(params, batch, keys))
    assert total == found["loss/total"]
    return found


def union_of(batch):
    return batch["masks"].max(axis=1)[:, ::8, ::8]


def test_the_router_term_reads_the_prior_of_the_blocks_between(given, numbers):
    params, batch, _ = given
    prior = np.mean([params["unet"]["routing"][path][:, 0, 0, 0] for path in LAYERS[2:6]], axis=0)
    expected = np.mean(((1 - union_of(batch)) * (1 - prior)[:, None, None]) ** 2)
    np.testing.assert_allclose(numbers["loss/router"], expected, rtol=1e-5)


def test_the_router_term_may_read_each_layer_by_itself(given, numbers):
    params, batch, keys = given
    found = run(params, batch, keys, replace(METHOD, router_loss="layers"))
    prior = np.stack([params["unet"]["routing"][path][:, 0, 0, 0] for path in LAYERS[2:6]])
    assert np.all(union_of(batch).min(axis=(1, 2)) == 0)  # each picture has a background
    np.testing.assert_allclose(found["loss/router"], np.mean((1 - prior) ** 2), rtol=1e-4)
    assert found["loss/router"] > numbers["loss/router"]
    assert found["loss/object"] == numbers["loss/object"]


def test_the_object_term_reads_the_middle(given, numbers):
    params, batch, _ = given
    middle = jnp.asarray(params["unet"]["attention"][f"{BLOCKS[1]}.attn2"])
    masks = jnp.asarray(batch["masks"], jnp.float32)
    expected = object_loss([middle], masks, jnp.asarray(batch["subject_present"]))
    np.testing.assert_allclose(numbers["loss/object"], expected, rtol=1e-5)


def test_the_total_weighs_the_terms(numbers):
    weighed = numbers["loss/denoising"] + 0.3 * numbers["loss/router"]
    expected = weighed + 0.7 * numbers["loss/object"]
    np.testing.assert_allclose(numbers["loss/total"], expected, rtol=1e-6)
    assert loss_weights(METHOD) == {"denoising": 1.0, "router": 0.3, "object": 0.7}
    single = MethodConfig(router="personalized", router_loss_weight=0.3)
    assert loss_weights(single)["router"] == 0.0


def test_what_is_logged_of_the_routing_is_its_mean_over_each_region(given, numbers):
    params, batch, _ = given
    logged, union = summarize(jax.tree.map(jnp.asarray, numbers)), union_of(batch)
    routing = params["unet"]["routing"]
    personalized = np.mean([routing[path][:, :1, :1, 1] for path in LAYERS], axis=0) * (union >= 0)
    found = logged["routing/subject"], logged["routing/background"]
    expected = personalized[union == 1].mean(), personalized[union == 0].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for path in LAYERS:
        share = routing[path][..., 0].mean()
        np.testing.assert_allclose(logged[f"routing/prior/{path}"], share, rtol=1e-5)


def latents_of(batch):
    """Mean and standard deviation, at the U-Net's scale."""
    pixels = batch["image"] / 127.5 - 1
    blocks = pixels.reshape(3, 4, 8, 4, 8, 3).mean((2, 4))
    mean = np.concatenate([blocks, blocks.mean(-1, keepdims=True)], axis=-1)
    return SCALE * mean, SCALE * np.exp((mean - 1) / 2)


def test_pictures_encoded_before_have_the_same_loss(given, numbers):
    params, batch, keys = given
    features = batch["subject_images"].mean((2, 3)) / 255
    before = {"latents": np.concatenate(latents_of(batch), axis=-1), "features": features}
    rest = {key: value for key, value in batch.items() if not key.endswith(("image", "images"))}
    found = run(params, {**rest, **jax.tree.map(np.float32, before)}, keys)
    assert found.keys() == numbers.keys()
    for name, value in numbers.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def of_the_pass(forward, weight=1.0):
    """What a plug-in would write: it may read the pass, and all that was sown."""
    assert forward.seen.extra["own"].shape == forward.timesteps.shape
    return {"mine": weight * jnp.mean(forward.union) + 0.0 * jnp.mean(forward.target)}


def under_a_name_that_is_taken(forward):
    return {"router": jnp.zeros(())}


def test_a_term_of_ones_own_is_added_and_logged(given, numbers):
    method = replace(METHOD, extra_loss=f"{__name__}:of_the_pass(weight=0.5)")
    found = run(*given, method)
    union = union_of(given[1]).mean()
    np.testing.assert_allclose(found["loss/mine"], 0.5 * union, rtol=1e-5)
    assert found["loss/denoising"] == numbers["loss/denoising"]
    np.testing.assert_allclose(
        found["loss/total"] - numbers["loss/total"], found["loss/mine"], rtol=1e-4
    )


def test_a_second_term_of_a_name_is_refused(given):
    method = replace(METHOD, extra_loss=f"{__name__}:under_a_name_that_is_taken")
    with pytest.raises(InputError, match="there is a term 'router' already"):
        run(*given, method)
