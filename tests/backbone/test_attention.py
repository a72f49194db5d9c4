"""What leaves an attention layer besides its output: the weights of the watched tokens alone."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from moa_jax.backbone.attention import attention_weights

BATCH, LENGTH, SIZE, HEADS, WIDTH = 2, 30, 77, 3, 8
TOKENS = [[3, 76], [5, SIZE]]  # the last is no token


@pytest.fixture
def arrays():
    """Query, key and the gradient of the weights."""
    random = np.random.default_rng(0)
    shapes = ((BATCH, LENGTH, HEADS, WIDTH), (BATCH, SIZE, HEADS, WIDTH), (BATCH, HEADS, LENGTH, 2))
    return [jnp.asarray(random.standard_normal(shape, np.float32)) for shape in shapes]


def test_weights_and_gradients_are_the_softmaxs_columns(arrays):
    """The softmax of everything, whose columns one-hot vectors select."""
    query, key, gradient = arrays
    columns = jax.nn.one_hot(jnp.array(TOKENS), SIZE)

    def plain(query, key):
        logits = jnp.einsum("blnd,bsnd->bnls", query, key) / np.sqrt(WIDTH)
        return jnp.einsum("bnls,bks->bnlk", jax.nn.softmax(logits), columns)

    def results(function):
        weights, back = jax.vjp(function, query, key)
        return weights, *back(gradient)

    weigh = partial(attention_weights, tokens=jnp.array(TOKENS))
    found, expected = jax.jit(lambda: (results(weigh), results(plain)))()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert not np.any(found[0][1, ..., 1])


def test_no_token_has_no_gradient_however_unlikely_the_others(arrays):
    """Logits of -1000 overflow whatever divides by their exponentials."""
    query, key = jnp.full((1, 1, 1, 1), 1000.0), jnp.full((1, 2, 1, 1), -1.0)
    outside = jnp.array([[2, -1]])
    weights, back = jax.vjp(partial(attention_weights, tokens=outside), query, key)
    gradients = back(jnp.ones_like(weights))
    for found in (weights, *gradients):
        np.testing.assert_array_equal(found, np.zeros_like(found))


def test_logits_of_low_precision_are_summed_in_float32(arrays):
    query, key = (4.0 * array.astype(jnp.bfloat16) for array in arrays[:2])
    found = attention_weights(query, key, jnp.array(TOKENS))
    exact = [np.asarray(array, np.float64) for array in (query, key)]
    logits = np.einsum("blnd,bsnd->bnls", *exact) / np.sqrt(WIDTH)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found[0], weights[0][..., TOKENS[0]], atol=1e-5)


def test_the_backward_pass_saves_no_weight_of_the_other_tokens(arrays):
    query, key, _ = arrays
    weigh = partial(attention_weights, tokens=jnp.array(TOKENS))
    saved = jax.eval_shape(lambda *inputs: jax.vjp(weigh, *inputs)[1], query, key)
    assert max(leaf.size for leaf in jax.tree.leaves(saved)) < BATCH * HEADS * LENGTH * SIZE


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no compiler for TPUs: pip install libtpu"
)
def test_watching_tokens_moves_little_on_a_tpu(monkeypatch):
    """By the compiler's count, forward and backward: as if all weights were moved a few times."""
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    chip = SingleDeviceSharding(topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0])

    def shaped(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=chip)

    def program(query, key, tokens, gradient):
        weights, back = jax.vjp(lambda *inputs: attention_weights(*inputs, tokens), query, key)
        return weights, back(gradient)

    query, key = shaped(1, 1024, 8, 80), shaped(1, 77, 8, 80)
    tokens, gradient = shaped(1, 4, dtype=jnp.int32), shaped(1, 8, 1024, 4, dtype=jnp.float32)
    compiled = jax.jit(program).lower(query, key, tokens, gradient).compile()
    moved = compiled.cost_analysis()["bytes accessed"]
    assert moved < 20 * (8 * 1024 * 77 * 4)
