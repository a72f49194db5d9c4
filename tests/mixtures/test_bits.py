"""Nested bits, and where they go."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.errors import InputError
from moa_jax.method.variant import Variant
from moa_jax.mixtures.bits import MOST, Nested, compress, nest, route
from moa_jax.mixtures.calibration import gram, measures, measuring
from tests.mixtures.one_layer import HIDDEN, layer_of, move, normal, prompt, run, start
from tests.mixtures.trained import trained


@pytest.mark.parametrize("bits", range(1, MOST + 1))
def test_the_upper_bits_are_the_kernel_of_fewer_bits(bits):
    kernel = normal(0, 30, 20)
    step = 2 * np.abs(kernel).max(0) / 2**bits  # cells of a kernel that has no other bits
    cells = np.clip(np.floor(kernel / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    kept = nest(kernel).keep(bits)
    np.testing.assert_array_equal(kept.values, cells + 2 ** (bits - 1))
    np.testing.assert_array_equal(jnp.asarray(kept), (cells + 0.5) * step)
    assert (np.abs(jnp.asarray(kept) - kernel) <= step / 2 * (1 + 1e-5)).all()


def best_by_trying(errors, budget):
    """Try all widths of layers of one size."""
    totals = {
        widths: sum(own[width - 1] for own, width in zip(errors.values(), widths, strict=True))
        for widths in product(range(2, MOST + 1), repeat=len(errors))
        if sum(widths) <= budget
    }
    return min(totals.values())


def test_bits_go_where_they_gain_most():
    heats = {"hot": 0.5, "warm": 0.1, "cold": 0.002}
    errors = {name: [heat * 4.0**-bits for bits in range(1, 9)] for name, heat in heats.items()}
    for budget in (6.0, 9.0, 13.0, 20.0, 24.0):
        given = route(errors, dict.fromkeys(errors, 1), budget, 2)
        total = sum(errors[name][2 + given.count(name) - 1] for name in errors)
        assert total == pytest.approx(best_by_trying(errors, budget))
        assert len(given) == budget - 6
    order = route(errors, dict.fromkeys(errors, 1), 24.0, 2)
    assert order[:3] == ["hot", "hot", "warm"] and order.index("cold") == 7
    # A layer of six times the size has to gain six times as much.
    assert route(errors, {"hot": 6, "warm": 1, "cold": 1}, 22.0, 2)[0] == "warm"


def test_a_layers_experts_are_rounded_to_its_width():
    layer, context, hidden = layer_of(Variant()), prompt(), jnp.array(HIDDEN)
    own = move(start(layer, context))
    params = {"unet": {"cold": {"attn2": own}, "hot": {"attn2": own}}}
    with measuring(gram):
        _, state = layer.apply({"params": own}, hidden, context, mutable=["intermediates"])
    found = measures({".".join(p): v[0] for p, v in flatten_dict(state["intermediates"]).items()})
    grams = {f"{at}.attn2.{path}": each for at in ("cold", "hot") for path, each in found.items()}
    routing = {"cold.attn2": jnp.full((1, 2, 2, 2), 0.05), "hot.attn2": jnp.full((1, 2, 2, 2), 0.9)}
    packed, widths = compress(params, routing, grams, 4.0)
    assert widths["hot.attn2"] > widths["cold.attn2"] and sum(widths.values()) == 8
    for path, leaf in flatten_dict(packed["unet"]).items():
        if path[2] != "personalized" or path[-1] != "kernel":
            assert not isinstance(leaf, Nested)
            continue
        assert leaf.bits == widths[".".join(path[:2])]
    # The layer takes what is nested for arrays.
    floats = jax.tree.map(jnp.asarray, packed, is_leaf=lambda leaf: isinstance(leaf, Nested))
    outputs = [run(layer, each["unet"]["cold"]["attn2"], context)[0] for each in (packed, floats)]
    np.testing.assert_allclose(*outputs, atol=1e-6)
    with pytest.raises(InputError, match="bits=1.0, least=2"):
        compress(params, routing, grams, 1.0)


@pytest.mark.slow
def test_routed_bits_beat_as_many_that_are_even():
    toy = trained()

    @jax.jit
    def predict(params):
        return toy.model.denoise(params, *toy.given)

    with measuring(gram):
        exact, seen = predict(toy.params)
    errors = []
    for least in (2, 4):
        packed, widths = compress(toy.params, seen.routing, measures(seen.extra), 4.0, least)
        flat = {
            path: jnp.asarray(leaf) if isinstance(leaf, Nested) else leaf
            for path, leaf in flatten_dict(packed["unet"]).items()
        }
        found, _ = predict({**packed, "unet": unflatten_dict(flat)})
        errors.append(float(jnp.mean((found - exact) ** 2)))
    assert set(widths.values()) == {4} and errors[0] < 0.1 * errors[1]
