"""The kernel for TPUs in the order of axes that it takes: against float64, in many blocks."""

import importlib.util
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone import attention_kernels
from moa_jax.backbone import flash as kernels
from moa_jax.backbone.blocks import remat
from moa_jax.backbone.flash import block_of, flash
from moa_jax.planning.hlo import parse
from moa_jax.planning.traffic import memory_traffic

libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no compiler for TPUs: pip install libtpu"
)


@pytest.fixture
def small_blocks(monkeypatch):
    """Let tests of small shapes have many blocks, of which several are near at once."""
    monkeypatch.setattr(kernels, "BLOCK", 128)
    monkeypatch.setattr(kernels, "NEAR", 256 * 24)


def exact(query, key, value, gradient):
    """The output and the gradients, in float64."""
    query, key, value, gradient = (
        np.asarray(array, np.float64) for array in (query, key, value, gradient)
    )
    scores = np.einsum("bndl,bnds->bnls", query, key)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    moved = np.einsum("bndl,bnds->bnls", gradient, value)
    moved = weights * (moved - np.sum(moved * weights, axis=-1, keepdims=True))
    return (
        np.einsum("bnls,bnds->bndl", weights, value),
        np.einsum("bnls,bnds->bndl", moved, key),
        np.einsum("bnls,bndl->bnds", moved, query),
        np.einsum("bnls,bndl->bnds", weights, gradient),
    )


@pytest.mark.parametrize(
    ("length", "context"), [(384, 512), (128, 300), (500, 257), (257, 256), (256, 1), (3, 5)]
)
def test_many_blocks_give_what_one_gives(length, context, small_blocks):
    """Among them blocks that reach over an end; what is there is no number in this emulation."""
    random = np.random.default_rng(length)
    sides = (length, context, context, length)
    arrays = [
        jnp.asarray(0.5 * random.standard_normal((2, 2, 24, side)), jnp.float32) for side in sides
    ]

    @jax.jit
    def run(query, key, value, gradient):
        attend = partial(flash, interpret=True)
        mixed, back = jax.vjp(attend, query, key, value)
        return attend(query, key, value), mixed, *back(gradient)

    alone, *found = run(*arrays)
    for ours, theirs in zip(found, exact(*arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-6)
    np.testing.assert_array_equal(alone, found[0])  # without keeping anything for the backward pass


def test_large_scores_do_not_overflow(small_blocks):
    """Weights of one-hot kind, the largest score in the last block."""
    query = jnp.full((1, 1, 8, 128), 100.0)
    key = jnp.full((1, 1, 8, 384), 1.0).at[..., 383].set(2.0)
    value = jnp.arange(8 * 384, dtype=jnp.float32).reshape(1, 1, 8, 384)
    mixed = flash(query, key, value, True)
    np.testing.assert_array_equal(mixed[0, 0], jnp.tile(value[0, 0, :, 383:], (1, 128)))


@pytest.mark.parametrize(
    ("length", "largest", "expected"),
    [
        (4096, 512, 512),
        (384, 512, 384),
        (640, 512, 128),
        (768, 512, 384),
        (128, 128, 128),
        (1024, None, 512),
        (257, None, 384),
        (77, None, 128),
    ],
)
def test_blocks_divide_a_length_with_its_lanes_filled(length, largest, expected):
    assert block_of(length, largest) == expected


class Block(nn.Module):
    """A layer of a network that attends."""

    @nn.compact
    def __call__(self, hidden):
        hidden = jnp.tanh(nn.Dense(256, use_bias=False, dtype=hidden.dtype)(hidden))
        return jnp.tanh(attention_kernels.flash(*[hidden[:, :, None]] * 3)[:, :, 0])


@libtpu
@pytest.mark.parametrize(
    ("wrap", "kernels"),
    [(lambda block: block, 2), (nn.remat, 3), (remat, 2)],
    ids=["none", "all", "ours"],
)
def test_recomputed_blocks_do_not_attend_again(wrap, kernels):
    """Compiled for a v5e: what the kernel leaves for the backward pass is kept."""
    from tests.planning import makers

    def gradient(kernel, hidden):
        def loss(kernel):
            params = {"params": {"Dense_0": {"kernel": kernel}}}
            return jnp.sum(wrap(Block)().apply(params, hidden).astype(jnp.float32))

        return jax.value_and_grad(loss)(kernel)

    program = makers.on_v5e(gradient, (256, 256), (2, 512, 256), dtype=jnp.bfloat16)
    text = program.lower().compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == kernels


@libtpu
def test_lengths_that_do_not_fill_the_lanes_are_not_padded_first():
    """Compiled for a v5e: 257 tokens go in and out as they are, forward and backward."""
    from tests.planning import makers

    def layer(query, key, value, gradient):
        mixed, back = jax.vjp(flash, query, key, value)
        return mixed, *back(gradient)

    program = makers.on_v5e(layer, *[(4, 16, 64, 257)] * 4, dtype=jnp.bfloat16)
    text = program.lower().compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert "257" in text
    assert "384" not in text.split("ENTRY")[1].replace("window", "")


@libtpu
def test_what_goes_in_and_out_moves_without_padding():
    """Compiled for a v5e: 2 kernels read 8 arrays and write 4, and "d L" of 48 x 1024 hold 40."""
    from tests.planning import makers

    def layer(query, key, value, gradient):
        mixed, back = jax.vjp(flash, query, key, value)
        return mixed, *back(gradient)

    shape = (64, 8, 40, 1024)
    program = makers.on_v5e(layer, *[shape] * 4, dtype=jnp.bfloat16)
    text = program.lower().compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    held = 64 * 8 * 48 * 1024 * 2
    # 12 of the kernels', and 2 that the product of output and gradient reads; a number a query.
    assert memory_traffic(parse(text)) <= 15 * held
