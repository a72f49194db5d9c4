"""Guidance: the formula, the order of the halves, whose aux is kept, and no second compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import NoiseSchedule, classifier_free_guidance, ddim, sample

LATENTS = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
TIMESTEPS = jnp.array([5, 9])
CONTEXT = jnp.array([0.0, 1.0, 10.0, 20.0])  # [unconditional; conditional], one number a picture


def denoise(latents, timesteps):
    shift = CONTEXT + 100.0 * timesteps
    return latents + shift[:, None, None, None], {"context": CONTEXT, "timesteps": timesteps}


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_extrapolates_from_the_unconditional_half(scale):
    prediction, aux = classifier_free_guidance(denoise, scale)(LATENTS, TIMESTEPS)
    unconditional, conditional = CONTEXT[:2], CONTEXT[2:]
    shift = unconditional + scale * (conditional - unconditional) + 100.0 * TIMESTEPS
    np.testing.assert_allclose(prediction, LATENTS + shift[:, None, None, None], rtol=1e-6)
    np.testing.assert_array_equal(aux["context"], conditional)
    np.testing.assert_array_equal(aux["timesteps"], TIMESTEPS)


def test_another_scale_does_not_compile_again():
    sampler = ddim(NoiseSchedule.from_config({"beta_schedule": "linear"}), 3)
    traces = []

    def counted(latents, timesteps):
        traces.append(1)
        return 0.001 * denoise(latents, timesteps)[0], ()

    @jax.jit
    def run(scale):
        guided = classifier_free_guidance(counted, scale)
        return sample(guided, sampler, LATENTS, jax.random.key(0))[0]

    assert np.abs(run(jnp.float32(1.0)) - run(jnp.float32(5.0))).max() > 1e-3
    assert len(traces) == 1


def test_halves_of_low_precision_are_combined_in_float32():
    def low(latents, timesteps):
        return denoise(latents, timesteps)[0].astype(jnp.bfloat16), ()

    prediction, _ = classifier_free_guidance(low, 7.5)(LATENTS, TIMESTEPS)
    assert prediction.dtype == jnp.float32
