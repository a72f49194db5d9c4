"""Fine-tuning of a few numbers, and the sum of such runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from moa_jax.config import Config, MethodConfig
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.method.variant import Moment, Variant, name_of
from moa_jax.method.weights import MoaCard, save_moa
from moa_jax.mixtures.sparse_tuning import ComposedSft, LtSft
from tests.mixtures.one_layer import attend, layer_of, normal, prompt, run, start

HERE = ("mid", "attn2")
NOW = Moment(jnp.zeros(2))


def layer_params(variant):
    """A layer's weights, as they would lie in the U-Net's tree."""
    flat = flatten_dict(start(layer_of(variant), prompt()))
    return {(*HERE, *path): np.asarray(leaf) for path, leaf in flat.items()}


def split(flat):
    """What the U-Net has besides the prior, and the prior."""
    names = ("personalized", "router")
    added = {path: leaf for path, leaf in flat.items() if path[2] in names}
    return added, {path: leaf for path, leaf in flat.items() if path not in added}


def save(folder, variant, weights):
    tree = {("unet", *path): np.asarray(leaf) for path, leaf in weights.items()}
    card = MoaCard(Config(method=MethodConfig(mixture=name_of(variant))), Identity("", "", {}), 1)
    save_moa(folder, unflatten_dict(tree), card)
    return str(folder)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A finished run of MoA on one layer; its expert, and the prior that it began as."""
    added, prior = split(layer_params(Variant()))
    began = Variant().start(added, prior)
    tuned = {
        path: leaf + normal(seed, *leaf.shape) for seed, (path, leaf) in enumerate(began.items())
    }
    return save(tmp_path_factory.mktemp("dense"), Variant(), {**added, **tuned}), tuned, began


def test_the_numbers_that_changed_most_are_tuned_from_the_start(dense):
    folder, tuned, began = dense
    variant = LtSft(folder, share=0.1)
    flat = layer_params(variant)
    added, prior = split(flat)
    found = variant.start(added, prior)
    assert found.keys() == {path for path in added if "personalized" in path}
    changes = {path: np.abs(tuned[path] - leaf) for path, leaf in began.items()}
    ranked = np.sort(np.concatenate([change.ravel() for change in changes.values()]))[::-1]
    count = round(0.1 * ranked.size)
    for path, change in changes.items():
        np.testing.assert_array_equal(found[path], began[path])  # rewound
        mask = found[(*path[:-2], ".".join(path[-2:]) + ".mask")]
        np.testing.assert_array_equal(mask, change > ranked[count])
    masks = [leaf for leaf in found.values() if np.asarray(leaf).dtype == bool]
    assert sum(mask.sum() for mask in masks) == count
    learned = {path for path in found if variant.learns(".".join(("unet", *path)))}
    assert learned == began.keys()

    # Elsewhere the expert is the prior, to the bit, whatever was learnt.
    moved = {path: leaf + 1 for path, leaf in found.items() if path in began}
    used = computed(variant, {**flat, **found, **moved})
    for path, leaf in began.items():
        mask = found[(*path[:-2], ".".join(path[-2:]) + ".mask")]
        np.testing.assert_array_equal(used[path], np.where(mask, leaf + 1, leaf))


def computed(variant, flat):
    return flatten_dict(variant.weights({"unet": unflatten_dict(flat)}, NOW)["unet"])


def test_a_mask_of_everything_is_the_full_copy_and_gradients_stay_inside():
    said = prompt()
    variant = LtSft(share=1.0)
    flat = layer_params(variant)
    flat = {**flat, **variant.start(*split(flat))}
    flat = {
        path: leaf + normal(9, *leaf.shape) if leaf.dtype != bool else leaf
        for path, leaf in flat.items()
    }
    params = unflatten_dict(computed(variant, flat))["mid"]["attn2"]
    mixed, seen = run(layer_of(variant), params, said)
    weights = seen["routing"][0]
    own = unflatten_dict({path[3:]: leaf for path, leaf in flat.items() if "personalized" in path})
    text = np.asarray(said.for_experts(0, ("personalized",))[1])
    expected = weights[..., :1] * attend(params, said.text) + weights[..., 1:] * attend(own, text)
    np.testing.assert_allclose(mixed, expected, atol=2e-5)

    few = LtSft(share=0.2)
    added, prior = split(flat)
    masked = {**flat, **few.start(added, prior)}
    path = (*HERE, "personalized", "to_k", "kernel")
    mask = masked[(*HERE, "personalized", "to_k.kernel.mask")]
    assert 0.1 < mask.mean() < 0.3
    slope = jax.grad(lambda leaf: jnp.sum(jnp.square(computed(few, {**masked, path: leaf})[path])))(
        jnp.asarray(masked[path])
    )
    np.testing.assert_array_equal(np.asarray(slope) != 0, mask)


def test_runs_add_up_in_any_order(tmp_path):
    flat = layer_params(LtSft())
    added, prior = split(flat)
    folders, expected = [], Variant().start(added, prior)
    expected = {path: leaf.copy() for path, leaf in expected.items()}
    for seed in (1, 2):
        variant = LtSft(share=0.3)
        begun = variant.start(added, prior)
        tuned = {}
        for place, path in enumerate(expected):
            mask = np.roll(begun[(*path[:-2], ".".join(path[-2:]) + ".mask")], seed, axis=0)
            tuned[(*path[:-2], ".".join(path[-2:]) + ".mask")] = mask
            change = normal(100 * seed + place, *mask.shape)
            tuned[path] = begun[path] + change  # also outside of the mask, where it has no effect
            expected[path] += mask * change
        folders.append(save(tmp_path / str(seed), variant, tuned))
    plain, prior = split(layer_params(Variant()))
    for runs in (folders, folders[::-1]):
        found = ComposedSft(tuple(runs)).start(plain, prior)
        assert found.keys() == expected.keys()
        for path, leaf in found.items():
            np.testing.assert_allclose(leaf, expected[path], atol=1e-6)
    with pytest.raises(InputError, match="sparse_tuning:LtSft.*name a run of moa$"):
        LtSft(folders[0]).start(added, prior)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LtSft(share=0.0), "share=0.0"),
        (lambda: LtSft(share=1.1), "share=1.1"),
        (ComposedSft, "runs="),
    ],
)
def test_nothing_to_tune_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
