"""Guidance: the formula, the order of the halves, whose aux is kept, and no second compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import (
    NoiseSchedule,
    classifier_free_guidance,
    ddim,
    over_steps,
    sample,
)
from moa_jax.errors import InputError

LATENTS = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
TIMESTEPS = jnp.array([5, 9])
CONTEXT = jnp.array([0.0, 1.0, 10.0, 20.0])  # [unconditional; conditional], one number a picture


def denoise(latents, timesteps, step):
    shift = CONTEXT + 100.0 * timesteps
    return latents + shift[:, None, None, None], {"context": CONTEXT, "timesteps": timesteps}


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_extrapolates_from_the_unconditional_half(scale):
    prediction, aux = classifier_free_guidance(denoise, scale)(LATENTS, TIMESTEPS, 0)
    unconditional, conditional = CONTEXT[:2], CONTEXT[2:]
    shift = unconditional + scale * (conditional - unconditional) + 100.0 * TIMESTEPS
    np.testing.assert_allclose(prediction, LATENTS + shift[:, None, None, None], rtol=1e-6)
    np.testing.assert_array_equal(aux["context"], conditional)
    np.testing.assert_array_equal(aux["timesteps"], TIMESTEPS)


def test_another_scale_does_not_compile_again():
    sampler = ddim(NoiseSchedule.from_config({"beta_schedule": "linear"}), 3)
    traces = []

    def counted(latents, timesteps, step):
        traces.append(1)
        return 0.001 * denoise(latents, timesteps, step)[0], ()

    @jax.jit
    def run(scale):
        guided = classifier_free_guidance(counted, scale)
        return sample(guided, sampler, LATENTS, jax.random.key(0))[0]

    assert np.abs(run(jnp.float32(1.0)) - run(jnp.float32(5.0))).max() > 1e-3
    assert len(traces) == 1


def test_halves_of_low_precision_are_combined_in_float32():
    def low(latents, timesteps, step):
        return denoise(latents, timesteps, step)[0].astype(jnp.bfloat16), ()

    prediction, _ = classifier_free_guidance(low, 7.5)(LATENTS, TIMESTEPS, 0)
    assert prediction.dtype == jnp.float32


def test_a_scale_for_each_step():
    guided = classifier_free_guidance(denoise, over_steps(7.5, 4, 0.25, 0.75, outside=1.0))
    for step, scale in enumerate((1.0, 7.5, 7.5, 1.0)):
        expected, _ = classifier_free_guidance(denoise, scale)(LATENTS, TIMESTEPS, 0)
        np.testing.assert_allclose(guided(LATENTS, TIMESTEPS, step)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3, 50, 1000])
def test_a_range_that_ends_where_another_begins_shares_no_step_with_it(steps):
    assert over_steps(1.0, steps).sum() == steps
    for cut in (1 / 3, 0.5, 0.7):
        first, second = over_steps(1.0, steps, 0.0, cut), over_steps(1.0, steps, cut, 1.0)
        assert (first + second).max() <= 1.0
        assert steps - (first + second).sum() <= 1  # the step that the cut goes through


@pytest.mark.parametrize("bounds", [(-0.1, 1.0), (0.5, 0.5), (0.0, 1.1), (0.8, 0.2)])
def test_a_range_that_is_none_is_refused(bounds):
    with pytest.raises(InputError, match="needs 0 <= start < end <= 1"):
        over_steps(1.0, 10, *bounds)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_rescaling_is_that_of_diffusers(rescale):
    torch = pytest.importorskip("torch")
    oracle = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    noisy = jax.random.normal(jax.random.key(3), (4, 3, 3, 4))

    def random(latents, timesteps, step):
        return noisy, ()

    ours, _ = classifier_free_guidance(random, 7.5, rescale)(LATENTS, TIMESTEPS, 0)
    unconditional, conditional = torch.tensor(np.asarray(noisy)).chunk(2)
    guided = unconditional + 7.5 * (conditional - unconditional)
    theirs = oracle.rescale_noise_cfg(guided, conditional, rescale)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
