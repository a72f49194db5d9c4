"""Attributes with an uncertainty, and their attention beside the text's, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.method.sparse import Sparse
from moa_jax.method.variant import resolve
from moa_jax.mixtures.attributes import AttributeAdapter, AttributesPrompt, divergence
from tests.mixtures.one_layer import (
    HIDDEN,
    NOBODY,
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

VARIANT = AttributeAdapter(size=3, hidden=5, count=2, scale=0.7)
DECODER = {"into": normal(5, 3, 5), "out": normal(6, 5, 2 * 12)}
STATISTICS = normal(7, 2, 1, 2, 6)


def say(**given):
    shared = {"decoder": {name: jnp.array(leaf) for name, leaf in DECODER.items()}}
    said = prompt(subjects=jnp.array(STATISTICS), shared=shared)
    return AttributesPrompt(*said._replace(**given))


@pytest.fixture(scope="module")
def made():
    layer = layer_of(VARIANT)
    return layer, move(start(layer, say()))


def test_attributes_have_an_attention_beside_the_texts(made):
    layer, params = made
    mixed, seen = run(layer, params, say())
    gelu = np.asarray(jax.nn.gelu(STATISTICS[:, 0, :, :3] @ DECODER["into"]))
    tokens = (gelu @ DECODER["out"]).reshape(2, 4, 12)  # two of each subject
    own = params["personalized"]
    query = dense(params["to_q"], HIDDEN.reshape(2, 16, 16)).reshape(2, 16, 2, 8)
    key, value = (dense(own[name], tokens).reshape(2, 4, 2, 8) for name in ("to_k", "to_v"))
    scores = np.einsum("blnd,bsnd->bnls", query, key) / np.sqrt(8)
    scores[1, ..., 2:] = -np.inf  # the second picture has one subject
    weights = softmax(scores)
    beside = np.einsum("bnls,bsnd->blnd", weights, value).reshape(2, 4, 4, 16)
    routing = seen["routing"][0]
    change = 0.7 * beside @ params["to_out.0"]["kernel"]
    expected = attend(params, say().text) + routing[..., 1:] * change
    np.testing.assert_allclose(mixed, expected, atol=2e-5)
    observed = weights.reshape(2, 2, 4, 4, 2, 2).sum(-1)
    np.testing.assert_allclose(seen["personalized"]["attention"][0], observed, atol=1e-5)


def test_only_training_draws_attributes():
    mean, deviation = STATISTICS[:, 0, :, :3], np.exp(0.5 * STATISTICS[:, 0, :, 3:])
    np.testing.assert_array_equal(say().attributes(), mean)
    draw = jax.jit(lambda keys: say(keys=keys).attributes())
    drawn = np.stack([draw(keys(2 * number, 2 * number + 1)) for number in range(400)])
    noise = (drawn - mean) / deviation
    assert np.abs(noise.mean(0)).max() < 0.2 and np.abs(noise.std(0) - 1).max() < 0.15
    swapped = draw(keys(1, 0)) - mean
    np.testing.assert_allclose(  # a picture draws by its own key, whatever its place
        swapped[0] / deviation[0], (draw(keys(0, 1)) - mean)[1] / deviation[1], rtol=1e-4
    )


def test_the_divergence_is_that_from_a_standard_normal():
    present = jnp.array([[1, 1], [1, 0]])
    statistics = np.zeros((2, 2, 4), np.float32)
    np.testing.assert_array_equal(divergence(jnp.array(statistics), present), 0)
    statistics[0, 0, 0] = 3.0  # a mean: 3^2 / 2
    statistics[1, 0, 3] = np.log(4)  # a variance: (4 - 1 - log 4) / 2
    statistics[1, 1] = 9.0  # of nobody
    expected = [4.5 / 2, (3 - np.log(4)) / 2]
    np.testing.assert_allclose(divergence(jnp.array(statistics), present), expected, rtol=1e-6)
    drawn = divergence(jnp.array(normal(0, 50, 2, 4)), jnp.ones((50, 2)))
    assert (drawn > 0).all()


def test_the_first_block_reports_the_divergence(made):
    layer, params = made
    _, seen = run(layer, params, say())
    mean = divergence(jnp.array(STATISTICS[:, 0]), jnp.array([[1, 1], [1, 0]])).mean()
    np.testing.assert_allclose(seen["divergence"][0], mean, rtol=1e-5)
    later = layer_of(VARIANT, block=1)
    context = say(subjects=jnp.concatenate([jnp.array(STATISTICS)] * 2, axis=1))
    assert "divergence" not in run(later, params, context)[1]


def test_without_a_subject_or_the_dial_it_is_the_prior(made):
    layer, params = made
    prior = attend(params, say().text)
    nobody, _ = run(layer, params, say(tokens=jnp.array(NOBODY)))
    np.testing.assert_allclose(nobody, prior, atol=1e-6)
    off, _ = run(layer, params, say(dial=jnp.zeros(1)))
    np.testing.assert_array_equal(off, prior)
    dense, _ = run(layer, params, say())
    assert np.abs(dense - prior).max() > 0.1
    sparse, _ = run(layer, params, say(sparse=Sparse(0.0, 1.0)))
    np.testing.assert_allclose(sparse, dense, atol=1e-5)


def test_self_attention_is_the_priors(made):
    _, params = made
    square = dict.fromkeys(("to_q", "to_k", "to_v"), params["to_q"])
    own = {**square, "to_out.0": params["to_out.0"]}
    output = layer_of(VARIANT, cross=False).apply({"params": own}, jnp.array(HIDDEN), say())
    np.testing.assert_allclose(output, attend(own, None, cross=False), atol=1e-6)


@pytest.mark.parametrize("options", ["size=0", "hidden=0", "count=0", "scale=0.0", "beta=-1.0"])
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(InputError, match=options):
        resolve(f"moa_jax.mixtures.attributes:AttributeAdapter({options})")
