"""Heads that take their pixels, and attend among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.attention import Attention
from moa_jax.errors import InputError
from moa_jax.method.variant import resolve
from moa_jax.mixtures.heads import UnionExpert
from tests.mixtures.one_layer import HIDDEN, PROJECTIONS, SIZES, dense, move, softmax, start


def union(params, count):
    """Go through pictures and heads, with the rows of to_out.0 that are the head's."""
    pixels = HIDDEN.reshape(len(HIDDEN), -1, 16)
    output = np.zeros_like(pixels) + params["to_out.0"]["bias"]
    gates = 2 * softmax(dense(params["gates"], pixels))
    for picture, head in np.ndindex(len(pixels), 2):
        taken = np.argsort(-gates[picture, :, head])[:count]
        own, some = slice(8 * head, 8 * head + 8), pixels[picture, taken]
        q, k, v = (some @ params[name]["kernel"][:, own] for name in ("to_q", "to_k", "to_v"))
        found = softmax(q @ k.T / np.sqrt(8)) @ v @ params["to_out.0"]["kernel"][own]
        output[picture, taken] += gates[picture, taken, head, None] * found
    return output.reshape(HIDDEN.shape)


@pytest.mark.parametrize(("capacity", "count"), [(0.5, 8), (0.25, 4), (1.0, 16)])
def test_heads_attend_among_the_pixels_that_they_take(capacity, count):
    layer = UnionExpert(**SIZES, capacity=capacity)
    params = move(start(layer, None))
    output = jax.jit(layer.apply)({"params": params}, HIDDEN, None)
    np.testing.assert_allclose(output, union(params, count), atol=2e-5)


def test_the_parts_together_are_the_layer():
    layer = UnionExpert(**SIZES, capacity=1.0)
    params = move(start(layer, None))
    params = params | {"gates": {"kernel": np.zeros((16, 2), np.float32)}}
    own = {name: params[name] for name in PROJECTIONS}
    found, plain = (
        jax.jit(made.apply)({"params": given}, HIDDEN, None)
        for made, given in ((layer, params), (Attention(**SIZES), own))
    )
    np.testing.assert_allclose(found, plain, atol=1e-6)


def test_scores_cost_the_square_of_the_share(optimized):
    flops, pixels = [], jnp.zeros((1, 16, 16, 16))
    for capacity in (1.0, 0.5, 0.25):
        layer = UnionExpert(**SIZES, capacity=capacity)
        params = jax.eval_shape(layer.init, jax.random.key(0), pixels, None)
        compiled = jax.jit(layer.apply).lower(params, pixels, None).compile()
        flops.append(compiled.cost_analysis()["flops"])
    products = 2 * 2 * 256 * 256 * 16  # queries with keys, weights with values
    assert flops[0] - flops[1] >= 0.75 * products
    assert (flops[0] - flops[1]) / (flops[1] - flops[2]) == pytest.approx(4, rel=0.1)


@pytest.mark.slow
def test_the_gate_learns():
    layer = UnionExpert(**SIZES)
    params = move(start(layer, None))
    pixels = jnp.array(HIDDEN)
    slope = jax.grad(lambda params: jnp.sum(layer.apply({"params": params}, pixels, None) ** 2))
    assert np.abs(slope(params)["gates"]["kernel"]).min() > 0
    assert "gates" not in start(UnionExpert(**SIZES, cross=True), jnp.ones((2, 7, 12)))


@pytest.mark.parametrize("option", ["capacity=0.0", "capacity=1.5"])
def test_a_share_without_a_meaning_is_refused(option):
    with pytest.raises(InputError, match=option):
        resolve(f"moa_jax.mixtures.heads:UnionOfExperts({option})")
