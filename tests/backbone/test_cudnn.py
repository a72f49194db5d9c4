"""The gradient of cuDNN's kernel, or what stands for it; the kernel needs a GPU and is acted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from moa_jax.backbone import cudnn
from moa_jax.backbone.attention_kernels import cudnn as attend
from moa_jax.backbone.attention_kernels import xla

SHAPES = (2, 8, 2, 16), (2, 5, 2, 16), (2, 5, 2, 16)


def arrays():
    return [
        np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        for seed, shape in enumerate(SHAPES)
    ]


@jax.custom_vjp
def no_gradient(query, key, value):
    return xla(query, key, value)


def _refuse(kept, gradient):
    raise NotImplementedError("no execution plan\nand much more")


no_gradient.defvjp(lambda *given: (xla(*given), given), _refuse)


@jax.custom_vjp
def twice_the_gradient(query, key, value):
    return xla(query, key, value)


def _doubled(kept, gradient):
    return tuple(2 * each for each in jax.vjp(xla, *kept)[1](gradient))


twice_the_gradient.defvjp(lambda *given: (xla(*given), given), _doubled)


@pytest.fixture
def acted(monkeypatch):
    """Let a function act as the kernel."""
    forget = cudnn.has_gradient.cache_clear
    forget()
    yield lambda kernel: monkeypatch.setattr(cudnn, "kernel", kernel)
    forget()


def gradients():
    @jax.jit
    def run(*given):
        return jax.grad(lambda *given: jnp.sum(attend(*given) ** 2), (0, 1, 2))(*given)

    return [np.asarray(each) for each in run(*arrays())]


def torchs_gradients():
    given = [torch.tensor(each, requires_grad=True) for each in arrays()]
    heads = [each.transpose(1, 2) for each in given]
    (torch.nn.functional.scaled_dot_product_attention(*heads) ** 2).sum().backward()
    return [each.grad.numpy() for each in given]


def test_without_a_gradient_of_its_own_plain_attentions_is_taken_and_said(acted, caplog):
    acted(no_gradient)
    for own, theirs in zip(gradients(), torchs_gradients(), strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-5)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "8 x 5 tokens with heads of 16" in said and said.endswith("no execution plan")


def test_the_kernels_own_gradient_is_taken_where_it_has_one(acted, caplog):
    acted(twice_the_gradient)  # a gradient that nothing else would give
    for own, theirs in zip(gradients(), torchs_gradients(), strict=True):
        np.testing.assert_allclose(own, 2 * theirs, atol=1e-5)
    assert not caplog.records


def test_a_program_that_only_draws_tries_no_gradient(acted, monkeypatch):
    acted(no_gradient)
    monkeypatch.setattr(cudnn, "has_gradient", lambda *_: pytest.fail("tried"))
    given = [jnp.asarray(each) for each in arrays()]
    np.testing.assert_allclose(jax.jit(attend)(*given), xla(*given), atol=1e-6)


def test_each_shape_is_tried_once(acted):
    acted(twice_the_gradient)
    gradients()
    gradients()
    assert cudnn.has_gradient.cache_info().misses == 1
