"""Heads that each pixel chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.attention import Attention
from moa_jax.errors import InputError
from moa_jax.method.variant import Forward, Observations, resolve
from moa_jax.mixtures.heads import HeadsExpert, MixtureOfHeads

HIDDEN = jax.random.normal(jax.random.key(0), (2, 4, 3, 16))
SIZES = {"heads": 4, "head_dim": 4}


def run(expert, params, hidden=HIDDEN):
    output, state = expert.apply({"params": params}, hidden, None, mutable=["intermediates"])
    return output, state["intermediates"]["balance"][0]


@pytest.fixture(scope="module")
def params():
    made = HeadsExpert(**SIZES).init(jax.random.key(1), HIDDEN, None)["params"]
    return made | {"gates": {"kernel": jax.random.normal(jax.random.key(2), (16, 4))}}


@pytest.mark.parametrize(("active", "count"), [(0.5, 2), (0.6, 3), (1.0, 4)])
def test_each_pixel_adds_up_the_heads_that_it_chose(params, active, count):
    output, balance = run(HeadsExpert(**SIZES, active=active), params)
    logits = np.asarray(HIDDEN) @ np.asarray(params["gates"]["kernel"])
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argsort(np.argsort(-shares, axis=-1), axis=-1) < count
    gates = np.where(chosen, shares, 0)
    gates *= count / gates.sum(-1, keepdims=True)
    plain = {name: leaf for name, leaf in params.items() if name != "gates"}
    kernel, bias = (plain["to_out.0"][name] for name in ("kernel", "bias"))
    expected = np.broadcast_to(bias, HIDDEN.shape).copy()
    for head in range(4):  # plain attention in which all other heads lead to nothing
        only = (
            jnp.zeros_like(kernel).at[4 * head : 4 * head + 4].set(kernel[4 * head : 4 * head + 4])
        )
        own = {**plain, "to_out.0": {"kernel": only, "bias": jnp.zeros_like(bias)}}
        found = Attention(**SIZES).apply({"params": own}, HIDDEN, None)
        expected += gates[..., head, None] * np.asarray(found)
    np.testing.assert_allclose(output, expected, atol=2e-5)
    used = chosen.mean((1, 2)) / count
    by_picture = 4 * (used * shares.mean((1, 2))).sum(-1)
    np.testing.assert_allclose(balance, by_picture.mean(), rtol=1e-5)


def test_a_head_that_no_pixel_chose_learns_nothing(params):
    biased = HIDDEN.at[..., 0].set(1.0)
    kernel = jnp.zeros((16, 4)).at[0].set(jnp.array([0.0, 9.0, 8.0, 0.0]))
    params = params | {"gates": {"kernel": kernel}}
    expert = HeadsExpert(**SIZES)

    def size(value):
        given = params | {"to_v": {"kernel": value}}
        return jnp.sum(jnp.square(run(expert, given, biased)[0]))

    slope = np.abs(jax.grad(size)(params["to_v"]["kernel"])).reshape(16, 4, 4).max((0, 2))
    assert (slope[[0, 3]] == 0).all() and (slope[[1, 2]] > 1e-3).all()


def test_even_heads_are_the_plain_layer_and_the_balance_has_its_ends(params):
    even = params | {"gates": {"kernel": jnp.zeros((16, 4))}}
    output, balance = run(HeadsExpert(**SIZES, active=1.0), even)
    plain = {name: leaf for name, leaf in params.items() if name != "gates"}
    expected = Attention(**SIZES).apply({"params": plain}, HIDDEN, None)
    np.testing.assert_allclose(output, expected, atol=1e-6)
    assert balance == pytest.approx(1.0)
    one = params | {"gates": {"kernel": jnp.zeros((16, 4)).at[0, 2].set(99.0)}}
    _, balance = run(HeadsExpert(**SIZES, active=0.25), one, HIDDEN.at[..., 0].set(1.0))
    assert balance == pytest.approx(4.0)


def test_the_loss_is_the_mean_over_layers():
    extra = {
        "a.attn1.personalized.balance": jnp.array(1.0),
        "b.attn2.personalized.balance": jnp.array(3.0),
        "b.attn2.other": jnp.array(50.0),
    }
    forward = Forward(*[None] * 3, Observations({}, {}, extra), {}, None)
    terms = MixtureOfHeads(balance=0.5).losses(forward)
    assert {name: float(term) for name, term in terms.items()} == {"balance": 1.0}


@pytest.mark.parametrize("option", ["active=0.0", "active=1.2", "balance=-1.0"])
def test_options_without_a_meaning_are_refused(option):
    with pytest.raises(InputError, match=option):
        resolve(f"moa_jax.mixtures.heads:MixtureOfHeads({option})")
