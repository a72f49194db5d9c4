"""Guidance: the formula in float32, rescaling as diffusers has it; and parts of the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.diffusion import classifier_free_guidance, over_steps
from moa_jax.errors import InputError

UNCONDITIONAL, CONDITIONAL = jax.random.normal(jax.random.key(0), (2, 2, 3, 3, 4))


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_extrapolates_from_the_unconditional_prediction(scale):
    found = classifier_free_guidance(UNCONDITIONAL, CONDITIONAL, scale)
    one, other = (np.asarray(each, np.float64) for each in (UNCONDITIONAL, CONDITIONAL))
    np.testing.assert_allclose(found, (1.0 - scale) * one + scale * other, rtol=1e-5, atol=1e-5)


def test_predictions_of_low_precision_are_combined_in_float32():
    low = [each.astype(jnp.bfloat16) for each in (UNCONDITIONAL, CONDITIONAL)]
    found = classifier_free_guidance(*low, 7.5)
    assert found.dtype == jnp.float32
    one, other = (np.asarray(each, np.float64) for each in low)
    np.testing.assert_allclose(found, one + 7.5 * (other - one), rtol=1e-5, atol=1e-5)


def test_a_flat_prediction_is_not_divided_by_its_deviation():
    flat = jnp.zeros((1, 2, 2, 4))
    np.testing.assert_array_equal(classifier_free_guidance(flat, flat, 7.5), flat)


@pytest.mark.parametrize("steps", [1, 4, 50, 1000])
def test_a_range_that_ends_where_another_begins_shares_no_step_with_it(steps):
    assert over_steps(1.0, steps).sum() == steps
    for cut in (1 / 3, 0.5, 0.7) if steps > 2 else ():
        first, second = over_steps(1.0, steps, 0.0, cut), over_steps(1.0, steps, cut, 1.0)
        assert (first + second).max() <= 1.0
        assert steps - (first + second).sum() <= 1  # the step that the cut goes through


@pytest.mark.parametrize("bounds", [(-0.1, 1.0), (0.5, 0.5), (0.0, 1.1), (0.8, 0.2)])
def test_a_range_that_is_none_is_refused(bounds):
    with pytest.raises(InputError, match="needs 0 <= start < end <= 1"):
        over_steps(1.0, 10, *bounds)


@pytest.mark.parametrize(
    ("steps", "start", "end"), [(10, 0.4, 0.45), (3, 0.5, 0.9), (1, 0.0, 0.5), (4, 0.3, 0.4)]
)
def test_a_range_that_no_step_lies_in_is_refused(steps, start, end):
    with pytest.raises(InputError, match=f"holds none of the {steps} steps.*wider, or take more"):
        over_steps(1.0, steps, start, end)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_rescaling_is_that_of_diffusers(rescale):
    torch = pytest.importorskip("torch")
    oracle = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    ours = classifier_free_guidance(UNCONDITIONAL, CONDITIONAL, 7.5, rescale)
    one, other = (torch.tensor(np.asarray(each)) for each in (UNCONDITIONAL, CONDITIONAL))
    theirs = oracle.rescale_noise_cfg(one + 7.5 * (other - one), other, rescale)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
