"""Experts in three values, of which runs are coded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from moa_jax.method.variant import Variant
from moa_jax.mixtures.calibration import gram, measures, measuring
from moa_jax.mixtures.ternary import (
    Packed,
    compress,
    decode,
    dictionary,
    encode,
    fit,
    round_ternary,
    unpack,
    value,
)
from tests.mixtures.one_layer import HIDDEN, layer_of, move, normal, prompt, start
from tests.mixtures.trained import trained


def fitted_by_least_squares(kernel, gram, levels):
    """Round input by input, and solve for the change of all inputs that are still free."""
    left, signs = kernel.astype(np.float64), np.zeros(kernel.shape, int)
    for row in range(len(kernel)):
        signs[row] = (left[row] > levels[1] / 2).astype(int) - (left[row] < levels[0] / 2)
        error = left[row] - value(signs[row], levels)
        free = slice(row + 1, None)
        left[free] += np.linalg.solve(gram[free, free], gram[free, row, None] * error[None])
    return signs


def test_later_inputs_make_up_for_the_error_of_earlier_ones():
    pixels = normal(0, 400, 24) @ normal(1, 24, 24)  # channels that go together
    kernel, products = normal(2, 24, 40), pixels.T @ pixels / 400
    signs, levels = fit(kernel, products)
    np.testing.assert_allclose(levels, [kernel.min(0), kernel.max(0)], rtol=2**-8)
    damped = products + 0.1 * np.diag(products).mean() * np.eye(24)
    np.testing.assert_array_equal(signs, fitted_by_least_squares(kernel, damped, levels))
    nearest = round_ternary(kernel, levels)
    error, plain = (
        np.square(pixels @ (kernel - value(found, levels))).mean() for found in (signs, nearest)
    )
    assert error < 0.7 * plain
    np.testing.assert_array_equal(fit(kernel, np.eye(24))[0], nearest)  # nothing goes together


def draw(shape, zeros, seed=0):
    random = np.random.default_rng(seed)
    signs = random.choice([-1, 1], shape) * (random.random(shape) >= zeros)
    return signs.astype(np.int8)


@pytest.mark.parametrize(("shape", "zeros"), [((64, 96), 0.885), ((5, 3), 0.0), ((7, 7), 1.0)])
def test_a_coded_kernel_is_the_kernel(shape, zeros):
    signs = draw(shape, zeros)
    levels = np.stack([-np.arange(1.0, shape[1] + 1), np.full(shape[1], 0.5)])
    packed = Packed(jnp.asarray(encode(signs)), jnp.asarray(levels, jnp.bfloat16), shape)
    expected = np.where(signs < 0, levels[0], np.where(signs > 0, levels[1], 0))
    np.testing.assert_array_equal(jax.jit(decode)(packed), expected)


def test_mostly_zeros_cost_less_than_a_bit():
    signs = draw((512, 512), 0.885)
    packed = Packed(encode(signs), np.zeros((2, 512), jnp.bfloat16), signs.shape)
    entropy = -0.885 * np.log2(0.885) - 0.115 * np.log2(0.0575)
    assert entropy < packed.bits < 0.8
    runs = dictionary()
    assert len(set(runs)) == 2**16 and max(map(len, runs)) == 14
    assert all(run[:-1] in set(runs[:number]) for number, run in enumerate(runs[:200]) if run[1:])
    assert {(pair,) for pair in range(9)} <= set(runs)  # whatever comes can be coded


@pytest.mark.slow
def test_experts_are_the_prior_and_what_was_coded():
    layer, context, hidden = layer_of(Variant()), prompt(), jnp.array(HIDDEN)
    params = {"unet": {"attn2": move(start(layer, context))}}

    @jax.jit
    def run(params):
        given = {"params": params["unet"]["attn2"]}
        return layer.apply(given, hidden, context, mutable=["intermediates"])

    with measuring(gram):
        _, state = run(params)
    found = measures({".".join(p): v[0] for p, v in flatten_dict(state["intermediates"]).items()})
    pixels = HIDDEN.reshape(-1, 16)
    np.testing.assert_allclose(found["personalized.to_q"], pixels.T @ pixels / 32, rtol=1e-4)
    packed = compress(params, {f"attn2.{path}": each for path, each in found.items()})
    before, after, coded = (flatten_dict(each["unet"]) for each in (params, unpack(packed), packed))
    for path, leaf in before.items():
        changed = path[1] == "personalized" and path[-1] == "kernel"
        assert isinstance(coded[path], Packed) == changed
        if not changed:
            np.testing.assert_array_equal(after[path], leaf)
            continue
        prior = before[(path[0], *path[2:])]
        signs, levels = fit(leaf - prior, np.asarray(found[".".join(path[1:-1])]))
        np.testing.assert_allclose(after[path], prior + value(signs, levels), atol=1e-6)


@pytest.mark.slow
@pytest.mark.nightly
def test_the_committed_experts_in_less_than_two_bits():
    toy = trained()

    @jax.jit
    def predict(params):
        return toy.model.denoise(unpack(params), *toy.given)

    with measuring(gram):
        exact, seen = predict(toy.params)
    grams = measures(seen.extra)
    plain = {path: np.eye(len(each)) for path, each in grams.items() if not isinstance(each, tuple)}
    errors, bits = [], []
    for given in (grams, plain):
        packed = compress(toy.params, given)
        kernels = [leaf for leaf in flatten_dict(packed["unet"]).values() if hasattr(leaf, "words")]
        bits.append(
            np.average([k.bits for k in kernels], weights=[np.prod(k.shape) for k in kernels])
        )
        errors.append(float(jnp.mean((predict(packed)[0] - exact) ** 2)))
    assert bits[0] < 2 and errors[0] < 0.5 * errors[1]
