"""Experts are placed by recorded routing: against every placement that there is."""

from itertools import combinations, product

import jax
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.mixtures.parallel import ExpertParallel, spread
from moa_jax.mixtures.placement import arrange, choices, cost, flows, place
from tests.mixtures.drawings import routing_of_a_drawing
from tests.mixtures.one_layer import softmax
from tests.mixtures.parallel_layers import EXPERTS, feed_forward, layer, mesh, tokens


def made_up(layers, experts, pixels, seed):
    """Routing in which some experts are popular, and a pixel's next follows from its last."""
    random = np.random.default_rng(seed)
    chosen = [random.choice(experts, pixels, p=softmax(random.normal(size=experts)))]
    for _ in range(layers - 1):
        follows = random.permutation(experts)
        stray = random.integers(experts, size=pixels)
        chosen.append(np.where(random.random(pixels) < 0.7, follows[chosen[-1]], stray))
    return np.stack(chosen)


def every_half(experts):
    """All ways to give half of the experts to each of two devices."""
    for half in combinations(range(experts), experts // 2):
        yield np.isin(np.arange(experts), half).astype(int)


def by_hand(placement, chosen, travel):
    """The cost, pixel by pixel."""
    total = 0.0
    for one, wanted in zip(placement, chosen, strict=True):
        total += max(sum(one[e] == device for e in wanted) for device in set(one))
    for number in range(len(chosen) - 1):
        pairs = zip(chosen[number], chosen[number + 1], strict=True)
        total += travel * sum(placement[number][e] != placement[number + 1][f] for e, f in pairs)
    return total


@pytest.mark.parametrize(("experts", "travel"), [(6, 0.2), (6, 5.0), (8, 1.0)])
def test_no_placement_is_better(experts, travel):
    """With 8 experts on 2 devices in 2 layers, there are 70 x 70."""
    chosen = made_up(2, experts, 40, seed=1)
    found = place(chosen, experts, 2, travel)
    assert np.all(found.sum(axis=1) == experts // 2)
    halves = list(every_half(experts))
    everyone = [by_hand(pair, chosen, travel) for pair in product(halves, repeat=2)]
    assert by_hand(found, chosen, travel) == pytest.approx(min(everyone))
    assert cost(found, chosen, 2, travel) == pytest.approx(min(everyone))
    assert min(everyone) < np.mean(everyone) * 0.9


def test_more_layers_and_devices_beat_dealing_out_by_load():
    chosen = made_up(3, 6, 100, seed=3)
    found = cost(place(chosen, 6, 3), chosen, 3)
    ranks = [np.argsort(np.argsort(-np.bincount(each, minlength=6))) for each in chosen]
    dealt = np.array([0, 1, 2, 2, 1, 0])[np.array(ranks)]
    random = np.random.default_rng(4)
    drawn = [random.permuted(np.tile(np.arange(3).repeat(2), (3, 1)), axis=1) for _ in range(20)]
    assert found < cost(dealt, chosen, 3) <= np.mean([cost(each, chosen, 3) for each in drawn])
    with pytest.raises(InputError, match="devices=5: must divide experts=6"):
        place(chosen, 6, 5)


def test_routing_is_read_layer_by_layer():
    fine = np.eye(3)[np.array([[0, 1, 2, 0], [2, 2, 1, 0]])][None]
    coarse = np.eye(3)[np.array([[1, 2]])][None]
    chosen = choices([fine, coarse])
    assert chosen.tolist() == [[0, 1, 2, 0, 2, 2, 1, 0], [1, 1, 2, 2, 1, 1, 2, 2]]
    expected = np.zeros((1, 3, 3), int)
    expected[0] = [[0, 1, 2], [0, 1, 1], [0, 2, 1]]
    assert np.array_equal(flows(chosen, 3), expected)


def test_sorted_experts_compute_what_they_did():
    chosen = np.argmax(tokens() @ layer()["router"], axis=-1)[None]
    placement = place(chosen, EXPERTS, 8)[0]
    assert not np.array_equal(placement, np.arange(EXPERTS) // 2)
    run = jax.jit(spread(ExpertParallel(feed_forward, 2, capacity=8.0), mesh()))
    here = arrange(layer(), placement)
    np.testing.assert_allclose(run(here, tokens()), run(layer(), tokens()), rtol=1e-4, atol=1e-5)
    loads = np.bincount(np.argmax(tokens() @ here["router"], axis=-1), minlength=EXPERTS)
    of_devices = np.bincount(placement[chosen[0]], minlength=8)
    assert np.array_equal(loads.reshape(8, 2).sum(1), of_devices)
    assert of_devices.max() == cost(placement[None], chosen, 8)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_real_drawing_is_placed_as_well_as_can_be():
    """Two experts in 14 layers; the best of all ways, found layer by layer."""
    personalized = [each.reshape(-1, *each.shape[2:]) for each in routing_of_a_drawing().values()]
    chosen = choices([np.stack([1 - each, each], axis=-1) for each in personalized])
    ways = (np.array([0, 1]), np.array([1, 0]))
    best = [0.0, 0.0]  # of the layers so far, by the way of the last
    for before, after in zip(chosen, chosen[1:], strict=False):
        best = [
            min(best[number] + np.sum(way[before] != new[after]) for number, way in enumerate(ways))
            for new in ways
        ]
    fullest = sum(np.bincount(each, minlength=2).max() for each in chosen)
    assert cost(place(chosen, 2, 2), chosen, 2) == pytest.approx(fullest + min(best))
