"""Who draws a pixel: first of all, which experts its block has."""

import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import resolve
from moa_jax.mixtures.routers import Pyramid
from tests.mixtures.one_layer import (
    HIDDEN,
    METHOD,
    attend,
    dense,
    layer_of,
    move,
    prompt,
    run,
    softmax,
    start,
)


def test_a_block_has_as_many_experts_as_it_is_given():
    variant, said = Pyramid(counts=(0, 1, 3)), prompt()
    layers = [layer_of(variant, block=block) for block in range(3)]
    params = [move(start(layer, said)) for layer in layers]
    experts = [[name for name in own if name.startswith(("p", "e"))] for own in params]
    assert [len(names) for names in experts] == [0, 1, 3]
    for sparse in (None, Sparse(0.0, 0.5)):
        alone, _ = run(layers[0], params[0], said._replace(sparse=sparse))
        np.testing.assert_array_equal(alone, attend(params[0], said.text))
    mixed, seen = run(layers[2], params[2], said)
    weights = seen["routing"][0]
    assert ((weights[..., 1:] > 0).sum(-1) == 1).all()  # one of them at every pixel
    assert len(np.unique(weights[..., 1:].argmax(-1))) == 3
    replaced = said.for_experts(2, ("personalized",))[1]
    names = ("personalized", "expert2", "expert3")
    outputs = [attend(params[2], said.text), *(attend(params[2][n], replaced) for n in names)]
    expected = sum(weights[..., n, None] * each for n, each in enumerate(outputs))
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_the_best_expert_has_the_share_of_both_softmaxes_and_the_balance_is_the_switches():
    layer, said = layer_of(Pyramid(counts=(2,))), prompt()
    params = move(start(layer, said), 1.0)
    _, seen = run(layer, params, said)
    gate = softmax(dense(params["router"]["gate"], HIDDEN))
    added = softmax(dense(params["router"]["branches"]["logits"], HIDDEN))[..., 1]
    weights = seen["routing"][0]
    np.testing.assert_allclose(weights[..., 1:].sum(-1), added * gate.max(-1), atol=1e-6)
    shares = np.stack([(gate.argmax(-1) == n).mean((1, 2)) for n in range(2)], -1)
    balance = 2 * (shares * gate.mean((1, 2))).sum(-1)
    np.testing.assert_allclose(seen["router"]["balance"][0], balance, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("routers:Pyramid(counts=(1, -1))", r"counts=\(1, -1\) must be whole numbers"),
        ("routers:Pyramid(counts=(0, 0))", "not all of them 0"),
        ("routers:Pyramid(balance=-1.0)", "balance=-1.0 must be at least 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=f"method.mixture: .*{message}"):
        resolve(f"moa_jax.mixtures.{options}")


def test_a_pyramid_of_another_height_is_refused():
    with pytest.raises(InputError, match="counts=.* must be 16 numbers"):
        Pyramid().prompt(METHOD, 16, jnp.float32)
