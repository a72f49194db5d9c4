"""The objective on networks of one line each, in closed form, and what its random draws must be."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import MethodConfig
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.method.model import MoA
from moa_jax.method.prompt import Prompt
from moa_jax.training.objective import draw, loss

TIMESTEPS, LATENTS = 1000, (8, 8, 4)
SCALE, VARIANCE = 0.2, 0.25  # the VAE's factor, and the variance of its latents before it
METHOD = MethodConfig(router_loss_skip=0, router_loss_weight=0.5, mask_probability=0.5)


def literal_draws(keys):
    """Noise of the encoding, noise, timesteps and coins, each picture's key split in this order."""
    drawn = []
    for key in keys:
        encoding, noise, time, coin = jax.random.split(key, 4)
        drawn.append(
            (
                np.asarray(jax.random.normal(encoding, LATENTS)),
                np.asarray(jax.random.normal(noise, LATENTS)),
                int(jax.random.randint(time, (), 0, TIMESTEPS)),
                bool(jax.random.bernoulli(coin, 0.5)),
            )
        )
    return [np.stack(each) for each in zip(*drawn, strict=True)]


drawn = jax.jit(draw, static_argnums=(1, 2, 3))


def test_draws_are_those_of_the_pictures_own_keys():
    keys = jax.random.split(jax.random.key(3), 4)
    ours = drawn(keys, LATENTS, TIMESTEPS, 0.5)
    for array, expected in zip(ours, literal_draws(keys), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_draws_are_spread_as_they_should_be():
    """Over 4,000 pictures; each bound is five standard deviations or more from the truth."""
    keys = jax.random.split(jax.random.key(4), 4000)
    encoding, noise, timesteps, masked = map(np.asarray, drawn(keys, (2,), TIMESTEPS, 0.3))
    assert timesteps.min() in range(8) and timesteps.max() in range(992, 1000)
    np.testing.assert_allclose(np.histogram(timesteps, 4, (0, 1000))[0], 1000, atol=140)
    np.testing.assert_allclose(masked.mean(), 0.3, atol=0.04)
    columns = np.concatenate([encoding, noise, timesteps[:, None], masked[:, None]], axis=1)
    np.testing.assert_allclose(columns[:, :4].mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(columns[:, :4].std(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(np.corrcoef(columns, rowvar=False), np.eye(6), atol=0.08)


class Pooling(nn.Module):
    """A VAE whose latents are the mean colour of 8x8 pixels, and a fourth channel of grey."""

    config = SimpleNamespace(scaling_factor=SCALE)

    def encode(self, pixels):
        mean = pooled(pixels, jnp)
        return mean, jnp.full_like(mean, np.log(VARIANCE))


def pooled(pixels, module):
    blocks = pixels.reshape(len(pixels), 8, 8, 8, 8, 3).mean(axis=(2, 4))
    return module.concatenate([blocks, blocks.mean(axis=-1, keepdims=True)], axis=-1)


class Words(nn.Module):
    """A text tower: the token ids themselves."""

    def __call__(self, input_ids):
        return input_ids[..., None].astype(jnp.float32)


class Colours(nn.Module):
    """An image encoder: the mean of what it is given."""

    def __call__(self, pixels):
        return pixels.mean(axis=(1, 2))


class Passing(nn.Module):
    """A prompt that hands its inputs on."""

    def __call__(self, text, features, tokens, timesteps):
        return Prompt(text, features[:, None], tokens, timesteps)


class Tinting(nn.Module):
    """A U-Net that adds to its latents what the time, the first word and the picture say."""

    def __call__(self, latents, timesteps, context, residuals):
        prior = jnp.full((*latents.shape[:3], 1), 0.75)
        self.sow("intermediates", "routing", jnp.concatenate([prior, 1 - prior], axis=-1))
        added = timesteps / 1000 + context.text[:, 0, 0] / 10 + context.subjects[:, 0, 0, 0]
        return latents + added[:, None, None, None]


NETWORKS = MoA(Tinting(), Passing(), Colours(), Words(), Pooling(), blocks=("",))
PARTS = ("unet", "prompt", "image_encoder", "text_encoder", "vae")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_on_networks_of_one_line_is_that_worked_out(prediction):
    """In numpy, after the definitions: x_t = sqrt(a) x + sqrt(1 - a) n, v = sqrt(a) n - ... x."""
    batch, keys = small_batch(), jax.random.split(jax.random.key(5), 4)
    encoding, noise, timesteps, masked = literal_draws(keys)
    assert masked.any() and not masked.all()
    pixels = batch["image"].astype(np.float64) / 127.5 - 1
    latents = SCALE * (pooled(pixels, np) + VARIANCE**0.5 * encoding)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS) ** 2
    share = np.cumprod(1 - betas)[timesteps][:, None, None, None]
    noisy = share**0.5 * latents + (1 - share) ** 0.5 * noise
    red = (batch["subject_images"][:, 0, 0, 0, 0] / 255 - 0.48145466) / 0.26862954
    added = timesteps / 1000 + batch["input_ids"][:, 0] / 10 + red
    velocity = share**0.5 * noise - (1 - share) ** 0.5 * latents
    target = {"epsilon": noise, "v_prediction": velocity, "sample": latents}[prediction]
    left = np.zeros((4, 8, 8, 1))
    left[:3, :, :4] = 1  # where the subjects of the first three pictures are
    weight = np.where(masked[:, None, None, None], left, 1)
    error = (noisy + added[:, None, None, None] - target) * weight
    denoising, router = np.mean(error**2), np.mean(1 - left) * 0.25**2

    schedule = NoiseSchedule(np.cumprod(1 - betas), prediction)
    params = dict.fromkeys(PARTS, {})
    run = jax.jit(lambda batch, keys: loss(NETWORKS, schedule, METHOD, params, batch, keys))
    total, numbers = run(batch, keys)
    np.testing.assert_allclose(numbers["loss/denoising"], denoising, rtol=1e-5)
    np.testing.assert_allclose(numbers["loss/router"], router, rtol=1e-5)
    np.testing.assert_allclose([total, numbers["loss/total"]], denoising + 0.5 * router, rtol=1e-5)


def small_batch():
    """Four pictures of noise, three with a subject on their left half; each portrait one grey."""
    random = np.random.default_rng(0)
    masks = np.zeros((4, 1, 64, 64), np.uint8)
    masks[:3, :, :, :32] = 1
    greys = random.integers(0, 256, (4, 1, 1, 1, 1), np.uint8)
    return {
        "image": random.integers(0, 256, (4, 64, 64, 3), np.uint8),
        "masks": masks,
        "subject_images": np.broadcast_to(greys, (4, 1, 8, 8, 3)),
        "subject_tokens": np.array([[1], [1], [1], [4]], np.int32),
        "subject_present": np.array([[True], [True], [True], [False]]),
        "input_ids": random.integers(0, 9, (4, 4)).astype(np.int32),
    }
