"""Which library a CPU convolves with, and that it makes no difference but in time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone import convolutions
from moa_jax.backbone.convolutions import EIGEN, convolution_options

YNNPACK = "ynn"


@pytest.fixture(autouse=True)
def _asked_anew():
    convolution_options.cache_clear()
    yield
    convolution_options.cache_clear()


def compiled(options):
    """A convolution, compiled with these options."""

    def convolve(picture, kernel):
        order = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            picture, kernel, (1, 1), "SAME", dimension_numbers=order
        )

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 8, 8, 64), (3, 3, 64, 64))]
    return jax.jit(convolve, compiler_options=options).lower(*shapes).compile()


def test_with_the_options_eigen_convolves_and_the_result_is_the_same():
    if convolution_options() is None:
        pytest.skip("this machine or version of XLA has no such choice")
    ours, usual = compiled(EIGEN), compiled(None)
    assert YNNPACK not in ours.as_text()
    keys = jax.random.split(jax.random.key(0))
    given = [
        jax.random.normal(key, each.shape)
        for key, each in zip(keys, usual.in_avals[0], strict=True)
    ]
    np.testing.assert_allclose(ours(*given), usual(*given), atol=1e-4)


def test_a_version_of_xla_without_the_option_makes_its_own_choice(monkeypatch):
    monkeypatch.setattr(convolutions, "EIGEN", {"xla_cpu_no_such_option": "1"})
    assert convolution_options() is None


@pytest.mark.parametrize(("backend", "machine"), [("tpu", "x86_64"), ("cpu", "arm64")])
def test_where_nothing_was_measured_xla_makes_its_own_choice(monkeypatch, backend, machine):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(convolutions.platform, "machine", lambda: machine)
    assert convolution_options() is None
