"""Experts in the feed-forward network, against one full network for each expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.backbone.transformer import FeedForward
from moa_jax.config import MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.variant import Forward, Observations
from moa_jax.mixtures.feed_forward import MixLora
from moa_jax.mixtures.shared import balance, strongest
from tests.mixtures.conftest import moved

NETWORKS = ("net.0.proj", "net.2")


def network(keep):
    return MixLora(keep=keep, experts_in_ff=3, rank=2).feed_forward(MethodConfig())(block=1)


def whole(params, expert):
    """The weights of the network with one expert's change merged."""
    flat = flatten_dict(params)
    merged = {path: leaf for path, leaf in flat.items() if path[0] in NETWORKS}
    for name in NETWORKS:
        factors = (f"experts.{expert}.{name}.{factor}" for factor in ("down", "up"))
        down, up = (flat[factor, "kernel"] for factor in factors)
        merged[name, "kernel"] = flat[name, "kernel"] + down @ up
    return unflatten_dict(merged)


@pytest.fixture(scope="module")
def params(pixels, prompt):
    return moved(network(1).init(jax.random.key(0), pixels, prompt)["params"])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_experts_share_the_network_and_few_are_chosen(keep, params, pixels, prompt):
    logits = np.asarray(pixels @ params["router"]["kernel"], np.float64)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    weights[weights < np.sort(weights, axis=-1)[..., [3 - keep]]] = 0
    weights /= weights.sum(-1, keepdims=True)
    each = [FeedForward().apply({"params": whole(params, e)}, pixels) for e in range(3)]
    expected = sum(weights[..., e, None] * output for e, output in enumerate(each))
    found = network(keep).apply({"params": params}, pixels, prompt)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_only_chosen_experts_have_a_gradient(params, pixels, prompt):
    one = pixels[:1, :1, :1]
    slope = jax.grad(lambda given: network(2).apply({"params": given}, one, prompt).sum())(params)
    reached = {
        path[0].split(".")[1]: float(np.abs(leaf).max()) > 0
        for path, leaf in flatten_dict(slope).items()
        if path[0].startswith("experts.")
    }
    logits = np.asarray(one @ params["router"]["kernel"]).ravel()
    assert [reached[str(expert)] for expert in range(3)] == (logits > logits.min()).tolist()


def test_the_dial_of_its_own_block_fades_the_experts(params, pixels, prompt):
    apply = network(2).apply
    off = prompt._replace(dial=jnp.array([1.0, 0.0]))
    plain = FeedForward().apply({"params": {name: params[name] for name in NETWORKS}}, pixels)
    np.testing.assert_array_equal(apply({"params": params}, pixels, off), plain)
    on = prompt._replace(dial=jnp.array([0.0, 1.0]))
    chosen = apply({"params": params}, pixels, prompt)
    np.testing.assert_array_equal(apply({"params": params}, pixels, on), chosen)
    assert np.abs(chosen - plain).max() > 0.1


def test_balance_is_one_when_even_and_the_number_of_experts_when_collapsed(prompt, pixels, params):
    even = jnp.full((2, 2, 2, 4), 0.25)
    turns = jnp.eye(4)[jnp.arange(8) % 4].reshape(2, 2, 2, 4) > 0
    assert float(balance(even, turns)) == float(balance(even, even > 0)) == 1.0
    one = jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0, 0.0]), (2, 2, 2, 4))
    assert float(balance(one, strongest(one, 1))) == 4.0
    each = [float(balance(part[None], part[None] > 0)) for part in (even[0], one[0])]
    both = jnp.stack([even[0], one[0]])
    np.testing.assert_allclose(balance(both, both > 0), np.mean(each))

    _, sown = network(2).apply({"params": params}, pixels, prompt, mutable=["intermediates"])
    value = sown["intermediates"]["balance"][0]
    extra = {"a.ff.balance": value, "b.ff.balance": 3.0, "a.ff.other": 99.0}
    nothing = jnp.zeros(1)
    forward = Forward(nothing, nothing, nothing, Observations({}, {}, extra), {}, nothing)
    terms = MixLora(balance=0.5).losses(forward)
    np.testing.assert_allclose(terms["balance"], 0.5 * (value + 3.0) / 2)
    assert 0.5 < value < 3


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep": 5}, {"balance": -1.0}, {"rank": 0}])
def test_options_that_leave_no_choice_are_refused(options):
    with pytest.raises(InputError, match=f"{[*options][0]}="):
        MixLora(**options)
