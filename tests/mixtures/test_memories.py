"""Self-attention through memories, against numpy and plain linear attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.attention import Attention
from moa_jax.errors import InputError
from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import Variant, resolve
from moa_jax.mixtures.memories import MemoriesExpert, recall
from tests.mixtures.one_layer import (
    HIDDEN,
    SIZES,
    dense,
    layer_of,
    move,
    normal,
    prompt,
    run,
    softmax,
    start,
)

FLAT = HIDDEN.reshape(2, 16, 16)
NAME = "moa_jax.mixtures.memories:MixtureOfMemories"


def make(**options):
    return MemoriesExpert(**SIZES, **options)


def fresh(expert):
    return move(jax.jit(expert.init)(jax.random.key(0), jnp.array(HIDDEN), None)["params"])


def positive(features):
    return np.where(features > 0, features + 1, np.exp(np.minimum(features, 0)))


def pairs(params):
    """The products of all queries and keys, and the values, by head."""
    query, key, value = (
        dense(params[name], FLAT).reshape(2, 16, 2, 8) for name in ("to_q", "to_k", "to_v")
    )
    return np.einsum("blnd,bsnd->bnls", positive(query), positive(key)), value


def weighted(products, value):
    """Attention with these weights for every pair, as its definition has it."""
    weights = products / products.sum(-1, keepdims=True)
    return np.einsum("bnls,bsnd->blnd", weights, value)


def test_pixels_read_the_memories_that_they_write():
    expert = make(memories=3, keep=2)
    params = fresh(expert)
    output, seen = run(expert, params, None)
    products, value = pairs(params)
    shares = softmax(FLAT @ params["gates"]["kernel"])
    member = np.argsort(np.argsort(-shares, axis=-1), axis=-1) < 2
    read = np.where(member, shares, 0)
    read /= read.sum(-1, keepdims=True)
    found = 0.5 * weighted(products, value)  # the shared one
    for memory in range(3):
        own = products * member[:, None, None, :, memory]
        found += 0.5 * read[..., memory, None, None] * weighted(own, value)
    expected = dense(params["to_out.0"], found.reshape(HIDDEN.shape))
    np.testing.assert_allclose(output, expected, atol=2e-5)
    used = member.mean(1) / 2
    balance = (3 * (used * shares.mean(1)).sum(-1)).mean()
    np.testing.assert_allclose(seen["balance"][0], balance, rtol=1e-5)


def test_one_memory_is_linear_attention():
    expert = make(memories=1, keep=1, shared=False)
    params = fresh(expert)
    expected = dense(params["to_out.0"], weighted(*pairs(params)).reshape(HIDDEN.shape))
    np.testing.assert_allclose(run(expert, params, None)[0], expected, atol=2e-5)


def test_pixels_of_different_memories_do_not_see_each_other():
    expert = make(memories=2, keep=1, shared=False)
    params = fresh(expert)
    sides = np.zeros((16, 2), np.float32)
    sides[0] = 5.0, -5.0  # the sign of the first channel decides
    params = params | {"gates": {"kernel": sides}}
    first = np.where(np.arange(16) < 6, 1.0, -1.0)
    hidden = HIDDEN.copy().reshape(2, 16, 16)
    hidden[..., 0] = first
    hidden = jnp.array(hidden.reshape(HIDDEN.shape))

    def size(hidden):  # of what the last pixel finds
        return jnp.sum(jnp.square(expert.apply({"params": params}, hidden, None)[:, -1, -1]))

    slope = np.abs(jax.jit(jax.grad(size))(hidden)).reshape(2, 16, 16).max(-1)
    np.testing.assert_array_equal(slope[:, :6], 0)
    assert (slope[:, 6:] > 0).all()


def test_the_cost_grows_as_the_number_of_pixels():
    def flops(expert, rows):
        hidden = jax.ShapeDtypeStruct((1, rows, 32, 16), jnp.float32)
        params = jax.eval_shape(expert.init, jax.random.key(0), hidden, None)
        return jax.jit(expert.apply).lower(params, hidden, None).cost_analysis()["flops"]

    assert flops(make(), 64) / flops(make(), 32) < 2.02
    assert flops(Attention(**SIZES), 64) / flops(Attention(**SIZES), 32) > 3.5


def test_an_empty_memory_gives_nothing():
    query, key = (jnp.array(np.exp(normal(seed, 1, 3, 2, 4))) for seed in (0, 1))
    value = jnp.array(normal(2, 1, 3, 2, 4))
    none = jnp.zeros((1, 3, 1))

    def size(query):
        return jnp.sum(recall(query, key, value, none, jnp.ones((1, 3, 1))))

    found, slope = jax.value_and_grad(size)(query)
    assert found == 0 and np.isfinite(slope).all()


def test_some_of_the_pixels_can_be_drawn_alone():
    layer, said = layer_of(resolve(NAME), cross=False), prompt()
    params = move(start(layer, said))
    whole, _ = run(layer, params, said)
    everywhere, _ = run(layer, params, said._replace(sparse=Sparse(0.0, 1.0)))
    np.testing.assert_allclose(everywhere, whole, atol=1e-5)
    some, _ = run(layer, params, said._replace(sparse=Sparse(0.0, 0.5)))
    same = np.abs(some - whole).max(-1) < 1e-5
    assert (same.reshape(2, -1).sum(1) >= 8).all() and not same.all()


def test_cross_attention_is_moas():
    said = prompt()
    ours, moas = layer_of(resolve(NAME)), layer_of(Variant())
    params = move(start(moas, said))
    np.testing.assert_array_equal(run(ours, params, said)[0], run(moas, params, said)[0])


@pytest.mark.parametrize("options", ["memories=0", "keep=5", "balance=-1.0"])
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(InputError, match=options):
        resolve(f"{NAME}({options})")
