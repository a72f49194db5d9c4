"""What is imported draws as FastComposer's own modules and loop do, written anew in torch."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.data.augment import prepare_subject
from tests.evaluation.fastcomposer.oracle import FAULTS
from tests.personal import MARKED, portrait

PICTURES = [portrait(1, (32, 32)), portrait(2, (32, 32))]  # the tower's size: nothing is resized
NEGATIVE = "a dog"
TIMESTEPS = np.array([800, 300], np.float32)
RANDOM = np.random.default_rng(3)
LATENTS = RANDOM.normal(size=(2, 8, 8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def asked(composer):
    return composer.request(MARKED, PICTURES, NEGATIVE)


@pytest.fixture(scope="module")
def ours(composer, asked):
    """Our features, the context of the branch in every block, and a prediction."""
    model, times = composer.model, jnp.asarray(TIMESTEPS)

    @jax.jit
    def run(params, ids, pictures, tokens):
        features = model.encode_subjects(params, pictures)
        rows = (model.encode_text(params, ids), features, tokens)
        text, both, tokens = (jnp.repeat(each, 2, axis=0) for each in rows)
        prompt = model.prompt.apply({"params": params["prompt"]}, text, both, tokens, times)
        blocks = range(len(model.blocks))
        contexts = [prompt.for_experts(block, ["personalized"])[1] for block in blocks]
        latents = jnp.asarray(LATENTS)
        prediction, _ = model.denoise(params, latents, times, text, both, tokens)
        return features, jnp.stack(contexts), prediction

    given = (asked.input_ids, asked.subject_images, asked.subject_tokens)
    return [np.asarray(each) for each in run(composer.params, *map(jnp.asarray, given))]


def theirs(oracle, asked):
    torch = oracle.torch
    pictures = [np.asarray(picture) for picture in PICTURES]
    context = oracle.prompt(asked.input_ids, asked.subject_tokens[0], pictures)
    latents = torch.tensor(LATENTS).permute(0, 3, 1, 2)
    prediction = oracle.denoise(latents, torch.tensor(TIMESTEPS), context.repeat(2, 1, 1))
    features = oracle.features(pictures)[None]
    return features.numpy(), context.numpy(), prediction.permute(0, 2, 3, 1).numpy()


def off(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_features_prompts_and_predictions_are_fastcomposers(ours, oracle, asked):
    features, contexts, prediction = ours
    expected = theirs(oracle, asked)
    assert off(features, expected[0]) < 5e-6
    for context in contexts:
        assert off(context[:1], expected[1]) < 5e-6 and off(context[1:], expected[1]) < 5e-6
    assert off(prediction, expected[2]) < 5e-6


@pytest.mark.parametrize("fault", [each for each in FAULTS if each])
def test_each_mistake_would_be_seen(fault, ours, oracle, asked):
    """GELU's approximation is the smallest of them."""
    _, context, _ = theirs(replace(oracle, fault=fault), asked)
    assert off(ours[1][0, :1], context) > (1e-4 if fault == "tanh gelu" else 0.05)


def test_pictures_are_prepared_as_fastcomposer_does(oracle):
    torch = oracle.torch
    for size in ((64, 96), (90, 50), (20, 20)):
        picture = portrait(4, size)
        pixels = torch.tensor(np.asarray(picture)).permute(2, 0, 1).float()
        across, down = (max(size) - side for side in size)
        square = torch.nn.functional.pad(pixels, (across // 2,) * 2 + (down // 2,) * 2)
        resized = torch.nn.functional.interpolate(
            square[None], (32, 32), mode="bilinear", antialias=True
        )
        expected = resized[0].permute(1, 2, 0).round().numpy()
        found = prepare_subject(picture, 32).astype(np.float32)
        assert np.abs(found - expected).max() <= 1  # levels of 255, from rounding twice


@pytest.mark.parametrize(
    ("sampler", "delay", "start_merge"),
    [
        ("pndm", 0.5, 2),  # rows 0, 1 and 2 are the first two of its four steps
        ("ddim", 0.0, None),
    ],
)
def test_a_whole_trajectory_is_fastcomposers(sampler, delay, start_merge, composer, oracle, asked):
    import diffusers

    kind = {"pndm": diffusers.PNDMScheduler, "ddim": diffusers.DDIMScheduler}[sampler]
    own = {"skip_prk_steps": True} if sampler == "pndm" else {}
    scheduler = kind.from_config({**composer.base.scheduler_config, **own})
    noise = RANDOM.normal(size=(1, 8, 8, 4)).astype(np.float32)
    pictures = [np.asarray(picture) for picture in PICTURES]
    given = (asked.input_ids, asked.negative_ids, asked.subject_tokens[0], pictures)
    draw = partial(oracle.draw, scheduler, noise, *given, steps=4, scale=5.0)
    ends, how = [], {"sampler": sampler, "num_inference_steps": 4, "guidance_scale": 5.0}
    how |= {"delay": delay, "on_step": lambda _, latents: ends.append(np.asarray(latents))}
    composer(MARKED, PICTURES, NEGATIVE, latents=noise, **how)
    assert len(ends) == 4 + (sampler == "pndm")
    assert off(ends[-1], draw(start_merge=start_merge)) < 2e-5
    if delay:  # one row later, the end is another
        assert off(ends[-1], draw(start_merge=start_merge + 1)) > 1e-3
