"""The norms' variance, against float64, and how often a TPU reads for it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.blocks import GroupNorm, LayerNorm
from moa_jax.planning.usage import measure
from tests.planning.conftest import libtpu
from tests.planning.makers import on_v5e

GROUPS, CHANNELS = 4, 32


def given(mean, dtype):
    """Maps whose groups have this mean and deviation 1, as the type holds them."""
    noise = np.random.default_rng(0).standard_normal((2, 16, 16, CHANNELS))
    return jnp.asarray(mean + noise, dtype)


def exact(pictures, norm):
    """What a norm gives in float64."""
    held = np.asarray(pictures, np.float64)
    if norm is GroupNorm:
        parts = held.reshape(2, 16 * 16, GROUPS, -1)
        axes, epsilon = (1, 3), 1e-6
    else:
        parts, axes, epsilon = held, -1, 1e-5
    centred = parts - parts.mean(axes, keepdims=True)
    return (centred / np.sqrt(parts.var(axes, keepdims=True) + epsilon)).reshape(held.shape)


def normalised(pictures, norm, dtype):
    module = GroupNorm(GROUPS, dtype=dtype) if norm is GroupNorm else LayerNorm(dtype=dtype)
    result = jax.jit(module.init_with_output)(jax.random.key(0), pictures)[0]
    assert result.dtype == dtype
    return np.asarray(result, np.float64)


@pytest.mark.parametrize("norm", [GroupNorm, LayerNorm])
@pytest.mark.parametrize("mean", [0, 3, 10])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_in_half_precision_the_error_is_that_of_rounding_the_result(norm, mean, dtype):
    pictures = given(mean, dtype)
    expected = exact(pictures, norm)
    rounding = np.abs(np.asarray(jnp.asarray(expected, dtype), np.float64) - expected).mean()
    error = np.abs(normalised(pictures, norm, dtype) - expected).mean()
    assert error <= 1.2 * rounding


@pytest.mark.parametrize("norm", [GroupNorm, LayerNorm])
def test_in_full_precision_the_variance_does_not_cancel(norm):
    pictures = given(2000, jnp.float32)
    found = normalised(pictures, norm, jnp.float32)
    np.testing.assert_allclose(found, exact(pictures, norm), atol=2e-3)


@pytest.mark.slow
@libtpu
@pytest.mark.parametrize(("dtype", "times"), [(jnp.bfloat16, 3), (jnp.float32, 4)])
def test_a_tpu_reads_for_mean_and_variance_at_once_in_half_precision(dtype, times):
    shape = (8, 256, 256, 256)  # too large for the memory on the chip
    usage = measure(partial(on_v5e, partial(group_norm, dtype), shape, dtype=dtype))
    size = np.prod(shape) * jnp.dtype(dtype).itemsize
    # To normalise, it is read once more and written.
    assert usage.bytes == pytest.approx(times * size, rel=0.01)


def group_norm(dtype, pictures):
    """Normalise with the scale and the shift of a new norm."""
    params = {"scale": jnp.ones(256, dtype), "bias": jnp.zeros(256, dtype)}
    return GroupNorm(32, dtype=dtype).apply({"params": params}, pictures)
