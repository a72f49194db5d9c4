"""Who draws a pixel: by the block, by the noise, by a gate that grows cold, and in a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import Variant, resolve
from moa_jax.mixtures.chain import Chain
from moa_jax.mixtures.routers import DenseToSparse, DenseToSparseRouter, NoiseOnly, Pyramid
from tests.mixtures.one_layer import (
    HIDDEN,
    METHOD,
    attend,
    dense,
    keys,
    layer_of,
    move,
    normal,
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


def test_noise_alone_decides():
    layer, said = layer_of(NoiseOnly(number=3, top=2)), prompt()
    params = move(start(layer, said))

    def routing(hidden, timesteps):
        context = said._replace(timesteps=jnp.array(timesteps))
        return run(layer, params, context, hidden)[1]["routing"][0]

    weights = routing(HIDDEN, [300, 700])
    np.testing.assert_array_equal(weights, np.broadcast_to(weights[:, :1, :1], weights.shape))
    np.testing.assert_array_equal(weights, routing(HIDDEN[::-1] ** 2, [300, 700]))
    np.testing.assert_array_equal(weights[::-1], routing(HIDDEN, [700, 300]))
    assert np.abs(weights[0] - weights[1]).max() > 0.01
    assert ((weights > 0).sum(-1) == 2).all()
    everyone = layer_of(NoiseOnly(number=3, top=4))
    soft = run(everyone, params, said)[1]["routing"][0]
    largest = np.where(weights > 0, soft, 0)
    np.testing.assert_allclose(weights, largest / largest.sum(-1, keepdims=True), rtol=1e-6)


def test_the_noise_router_starts_near_the_configured_weight():
    layer, said = layer_of(NoiseOnly()), prompt()
    weights = run(layer, start(layer, said), said)[1]["routing"][0]
    np.testing.assert_allclose(weights[..., 1], 0.4, atol=0.03)


def gate(logits, context, **options):
    """The weights of a gate that reads the logits where there are features."""
    router = DenseToSparseRouter(experts=logits.shape[-1], **options)
    own = {"logits": {"kernel": jnp.eye(logits.shape[-1]), "bias": jnp.zeros(logits.shape[-1])}}
    return np.asarray(jax.jit(router.apply)({"params": own}, logits, context))


def test_the_gate_grows_sparse():
    logits = normal(0, 2, 16, 16, 4)
    training = prompt(keys=keys(0, 1))
    passing = []
    for progress in (0.0, 0.5, 0.9, 1.0):
        weights = gate(logits, training._replace(progress=jnp.full(2, progress)), cold=0.02)
        passing.append((weights > 0).sum(-1).mean())
        assert weights[weights > 0].min() > 0.02
    assert passing[0] > 3.8 and passing[-1] < 1.2 and passing == sorted(passing)[::-1]
    drawn = gate(logits, prompt(), cold=0.5, threshold=0.1)
    soft = softmax(logits / 0.5)  # without noise, and as cold as it became
    kept = np.where(soft > 0.1, soft, 0)
    np.testing.assert_allclose(drawn, kept / kept.sum(-1, keepdims=True), rtol=1e-5)
    made = DenseToSparse(3, 4.0, 0.5, 0.1).router(METHOD)(experts=4)
    assert (made.hot, made.cold, made.threshold) == (4.0, 0.5, 0.1)


def test_a_cold_gate_chooses_an_expert_as_often_as_the_softmax_says():
    """The Gumbel-max trick; and each picture draws by its own key."""
    logits = np.broadcast_to(np.float32([1, 0, -1]), (2, 64, 64, 3))
    training = prompt(keys=keys(0, 1), progress=jnp.ones(2))
    chosen = gate(logits, training, cold=1e-3)
    np.testing.assert_allclose(chosen.mean((1, 2)), softmax(logits[:, 0, 0]), atol=0.03)
    other = gate(logits, training._replace(keys=keys(5, 1)), cold=1e-3)
    np.testing.assert_array_equal(chosen[1], other[1])
    assert (chosen[0] != other[0]).any() and (chosen[0] != chosen[1]).any()


@pytest.mark.parametrize("cross", [False, True])
def test_a_chain_applies_the_same_expert_to_its_result(cross):
    said, once, chain = prompt(), layer_of(Variant(), cross), layer_of(Chain(), cross)
    params = move(start(chain, said))
    router = params["personalized"].pop("router.2")
    mixed, seen = run(once, params, said)
    single, _ = run(layer_of(Chain(iterations=1), cross), params, said)
    np.testing.assert_array_equal(single, mixed)
    expert = params["personalized"]
    closed = {**params, "personalized": {**expert, "router.2": {"kernel": np.zeros((16, 1))}}}
    np.testing.assert_array_equal(run(chain, closed, said)[0], mixed)
    replaced = said.for_experts(0, ("personalized",))[1]
    first = attend(expert, replaced, cross=cross)
    weight = np.tanh(dense(router, HIDDEN + first))
    change = weight * attend(expert, replaced, HIDDEN + first, cross)
    expected = mixed + seen["routing"][0][..., 1:] * change
    whole = {**params, "personalized": {**expert, "router.2": router}}
    np.testing.assert_allclose(run(chain, whole, said)[0], expected, atol=1e-5)


def test_a_chain_is_not_computed_for_some_of_the_pixels():
    layer, said = layer_of(Chain(), cross=False), prompt()
    params = start(layer, said)
    with pytest.raises(InputError, match="ChainExpert cannot attend"):
        run(layer, params, said._replace(sparse=Sparse(0.0, 0.5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("routers:Pyramid(counts=(1, -1))", r"counts=\(1, -1\) must be whole numbers"),
        ("routers:Pyramid(counts=(0, 0))", "not all of them 0"),
        ("routers:Pyramid(balance=-1.0)", "balance=-1.0 must be at least 0"),
        ("routers:NoiseOnly(number=0)", "number=0 must be a whole number above 0"),
        ("routers:NoiseOnly(top=3)", "top=3 must be at most 2"),
        ("routers:DenseToSparse(cold=0.0)", "cold=0.0 must be above 0"),
        ("routers:DenseToSparse(hot=0.05)", "hot=0.05 must be at least cold=0.1"),
        ("routers:DenseToSparse(threshold=0.5)", r"threshold=0.5 must be in \[0, 0.5\)"),
        ("chain:Chain(iterations=0)", "iterations=0 must be a whole number above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=f"method.mixture: .*{message}"):
        resolve(f"moa_jax.mixtures.{options}")


def test_a_pyramid_of_another_height_is_refused():
    with pytest.raises(InputError, match="counts=.* must be 16 numbers"):
        Pyramid().prompt(METHOD, 16, jnp.float32)
