"""Experts of low rank compute what their equations say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.errors import InputError
from moa_jax.method.variant import Moment, Variant
from moa_jax.mixtures.lowrank import Lora, Mora, Mosa, parts, self_activated
from tests.mixtures.conftest import WIDTH, attention, moved

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def merged(params, scale):
    """The weights of a full copy that the low-rank changes were added to."""
    flat = flatten_dict(params)
    full = {path: leaf for path, leaf in flat.items() if path[0] != "personalized"}
    full["personalized", "to_out.0", "bias"] = flat["to_out.0", "bias"]
    for name in PROJECTIONS:
        down, up = (flat["personalized", f"{name}.{factor}", "kernel"] for factor in ("down", "up"))
        full["personalized", name, "kernel"] = flat[name, "kernel"] + scale * down @ up
    return unflatten_dict(full)


@pytest.mark.parametrize("cross", [False, True])
def test_a_lora_expert_is_the_full_copy_with_its_change_merged(cross, pixels, prompt):
    thin, full = attention(Lora(rank=3, scale=0.5), cross), attention(Variant(), cross)
    params = moved(thin.init(jax.random.key(0), pixels, prompt)["params"])
    expected = full.apply({"params": merged(params, 0.5)}, pixels, prompt)
    np.testing.assert_allclose(
        thin.apply({"params": params}, pixels, prompt), expected, rtol=0, atol=1e-5
    )
    weights = [leaf.size for path, leaf in flatten_dict(params["personalized"]).items()]
    sources = 2 * WIDTH + 2 * (24 if cross else WIDTH)
    assert sum(weights) == 3 * (sources + 4 * WIDTH)


def test_a_lora_expert_costs_less_than_a_full_copy(prompt, optimized):
    """The prior projects the same pixels for both, and the compiler counts it once."""
    pixels, flops = jnp.zeros((1, 8, 8, 64)), {}
    for variant in (Variant(), Lora(rank=4)):
        layer = attention(variant).clone(head_dim=32)
        params = jax.eval_shape(layer.init, jax.random.key(0), pixels, prompt)
        compiled = jax.jit(layer.apply).lower(params, pixels, prompt).compile()
        flops[type(variant)] = compiled.cost_analysis()["flops"]
    products = 2 * 64 * 64 * 64  # of one projection of all pixels
    changes = 4 * 2 * 2 * 64 * 64 * 4  # of four changes of rank 4
    saved = flops[Variant] - flops[Lora]
    assert 0.95 * (3 * products - changes) < saved < 1.05 * (3 * products - changes)


@pytest.mark.slow
def test_ranks_that_gate_themselves(pixels, prompt):
    low = jnp.array([[3.0, -1.0, 2.0, 0.5]])
    order = jnp.array([2, 0, 3, 1])
    gated = self_activated(low, 2, 0.5, -1.0)
    weights = np.exp(2 * np.asarray(low) / np.sqrt(14.25))
    expected = np.asarray(low) * weights / weights.sum() * np.array([1, 0, 1, 0])
    np.testing.assert_allclose(gated, expected, rtol=1e-5)
    permuted = self_activated(low[:, order], 2, 0.5, -1.0)
    np.testing.assert_allclose(permuted, gated[:, order], rtol=1e-6)
    np.testing.assert_allclose(self_activated(low, 4, 1e6, -1.0), low / 4, rtol=1e-5)
    assert (np.asarray(self_activated(low, 4, 1.0, 0.2)) != 0).tolist() == [
        [True, False, True, False]
    ]
    # Ranks that come later, and that the input does not point at, take no one's place.
    later = jnp.concatenate([low, jnp.array([[0.1, -2.0, 1.9]])], axis=-1)
    np.testing.assert_array_equal(self_activated(later, 2, 0.5, -1.0)[:, :4] != 0, gated != 0)

    layer = attention(Mora(rank=6, keep=2, threshold=-1.0))
    params = moved(layer.init(jax.random.key(0), pixels, prompt)["params"])
    slope = jax.grad(
        lambda params: layer.apply({"params": params}, pixels[:1, :1, :1], prompt).sum()
    )
    reached = np.abs(slope(params)["personalized"]["to_out.0.up"]["kernel"]).max(axis=1) > 0
    assert reached.sum() == 2  # at one pixel, of six ranks


def masked(variant, leaf, number):
    """One factor as a step computes with it."""
    tree = {"unet": {"attn1": {"personalized": {"to_q.up": {"kernel": leaf}}}}}
    keys = jax.random.split(jax.random.key(number), 2)
    kept = variant.weights(tree, Moment(jnp.zeros(2), None, keys))
    return np.asarray(kept["unet"]["attn1"]["personalized"]["to_q.up"]["kernel"])


def test_a_step_trains_one_part_and_all_parts_draw():
    variant, leaf = Mosa(modules=3), jnp.arange(1.0, 31.0).reshape(5, 6)
    drawn = [masked(variant, leaf, number) for number in range(24)]
    seen = np.unique(np.stack(drawn), axis=0)
    assert len(seen) == 3 and [(part != 0).sum() for part in seen] == [10, 10, 10]
    np.testing.assert_array_equal(seen.sum(axis=0), leaf)  # disjoint, and together everything
    slope = jax.grad(lambda leaf: jnp.sum(_squares(variant, leaf)))(leaf)
    np.testing.assert_array_equal(np.asarray(slope) != 0, masked(variant, leaf, 0) != 0)
    tree = {"unet": {"any": leaf}}
    assert variant.weights(tree, Moment(jnp.zeros(2))) is tree  # when drawing
    np.testing.assert_array_equal(masked(Mosa(split=("down",)), leaf, 0), leaf)
    # The two factors of a change are cut, and drawn, independently.
    one, other = (parts(("attn1", name, "kernel"), (400,), 4) for name in ("down", "up"))
    assert 50 < (one == other).sum() < 150


def _squares(variant, leaf):
    tree = {"unet": {"attn1": {"personalized": {"to_q.up": {"kernel": leaf}}}}}
    keys = jax.random.split(jax.random.key(0), 2)
    kept = variant.weights(tree, Moment(jnp.zeros(2), None, keys))
    return kept["unet"]["attn1"]["personalized"]["to_q.up"]["kernel"] ** 2


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Lora, {"rank": 0}, "rank=0"),
        (Lora, {"scale": 0.0}, "scale=0.0"),
        (Mora, {"rank": 2}, "keep=4 must be 1 to rank=2"),
        (Mora, {"temperature": 0.0}, "temperature=0.0"),
        (Mora, {"threshold": 1.0}, "threshold=1.0"),
        (Mosa, {"modules": 1}, "modules=1"),
        (Mosa, {"split": ("left",)}, "split="),
        (Mosa, {"split": ()}, "split="),
    ],
)
def test_options_that_make_no_expert_are_refused(make, options, message):
    with pytest.raises(InputError, match=message):
        make(**options)
