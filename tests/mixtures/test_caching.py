"""Experts in a small memory: against every schedule, and every way to keep them, that there is."""

from itertools import combinations, product

import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.mixtures.caching import (
    HybriMoe,
    TwoDevices,
    last_used,
    misses,
    often_used,
    recent_scores,
    recorded,
    used_soon,
)
from tests.mixtures.drawings import routing_of_a_drawing


def made_up(moments, experts, seed):
    """Scores that drift, and loads of the two experts that score best; three at times."""
    random = np.random.default_rng(seed)
    drift = np.cumsum(random.normal(size=(moments, experts)), axis=0)
    scores = np.exp(drift) / np.exp(drift).sum(1, keepdims=True)
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    wanted = ranks < random.integers(2, 4, size=(moments, 1))
    return np.where(wanted, random.integers(1, 9, size=scores.shape), 0), scores


def fastest(load, cached, gpu, cpu, bus):
    """Try every way to share the experts out, and every order on the bus."""
    wanted, times = np.flatnonzero(load), []
    for slow in product([False, True], repeat=len(wanted)):
        left = [e for e, on_cpu in zip(wanted, slow, strict=True) if not on_cpu]
        on_cpu = cpu * sum(load[e] for e, is_slow in zip(wanted, slow, strict=True) if is_slow)
        here, coming = (sum(bool(cached[e]) is there for e in left) for there in (True, False))
        clock = gpu * here
        for number in range(coming):
            clock = max(clock, bus * (number + 1)) + gpu
        times.append(max(clock, on_cpu))
    return min(times)


@pytest.mark.parametrize(
    "times", [(1.0, 1.0, 4.0), (2.0, 0.3, 1.0), (0.5, 3.0, 2.5), (4.0, 1.0, 0.5)]
)
def test_no_schedule_is_faster(times):
    gpu, cpu, bus = times
    moe = TwoDevices(gpu, cpu, bus)
    random, alone = np.random.default_rng(0), []
    for _ in range(20):
        load = random.integers(0, 7, size=7)
        cached = random.random(7) < 0.5
        made = moe.schedule(load, cached)
        assert made.time == pytest.approx(fastest(load, cached, gpu, cpu, bus))
        assert not np.any(cached[list(made.brought)])
        assert list(load[list(made.brought)]) == sorted(load[list(made.brought)])[::-1]
        alone.append(cpu * load[~cached].sum())
    assert any(alone)


def fewest(loads, capacity):
    """The least number of misses of any way to keep experts, by trying all."""
    costs = {frozenset(): 0}
    for load in loads:
        wanted, after = frozenset(np.flatnonzero(load).tolist()), {}
        for cached, cost in costs.items():
            others = sorted(cached - wanted)
            for number in range(min(len(others), capacity - len(wanted)) + 1):
                for kept in combinations(others, number):
                    state = wanted | frozenset(kept)
                    price = cost + len(wanted - cached)
                    after[state] = min(price, after.get(state, np.inf))
        costs = after
    return min(costs.values())


@pytest.mark.parametrize("seed", range(4))
def test_knowing_the_future_misses_least(seed):
    loads, scores = made_up(14, 6, seed)
    best = fewest(loads, capacity=3)
    assert misses(loads, used_soon(loads), 3) == best
    for worth in (last_used(loads), often_used(loads), recent_scores(scores, 0.3, 4)):
        assert misses(loads, worth, 3) >= best
        assert misses(loads, worth, 6) == np.sum(loads.sum(0) > 0)  # each once, when first wanted


def test_a_score_that_was_not_chosen_keeps_an_expert():
    """Expert 1 just misses each choice but the last: its use is long ago, its score is not."""
    scores = np.array([[0.4, 0.6, 0.0], *[[0.55, 0.45, 0.0]] * 3, [0.0, 0.1, 0.9], [0.2, 0.8, 0.0]])
    loads = np.array([[1, 1, 0], *[[1, 0, 0]] * 3, [0, 0, 1], [0, 1, 0]])
    worth = recent_scores(scores, share=0.5, top=2)
    assert worth[3, 1] == pytest.approx(0.5**4 * 0.6 + (0.125 + 0.25 + 0.5) * 0.45)
    assert worth[4, 1] == pytest.approx(0.5 * worth[3, 1] + 0.05)
    assert recent_scores(scores, 0.5, top=1)[3, 1] == pytest.approx(0.5**4 * 0.6)
    assert misses(loads, last_used(loads), 2) == 4
    high = scores.copy()
    high[1:4, 1] = 0.9  # a score that is near is enough
    assert misses(loads, recent_scores(high, 0.5, 2), 2) == 3


def test_a_moment_of_another_layer_tells_nothing_of_an_expert():
    scores = np.array([[0.8, np.nan], [np.nan, 0.5], [0.4, np.nan]])
    worth = recent_scores(scores, share=0.25, top=1)
    np.testing.assert_allclose(worth, [[0.2, 0.0], [0.2, 0.125], [0.25, 0.125]])


def test_bringing_what_is_expected_saves_time():
    loads, scores = made_up(60, 8, seed=5)
    moe = HybriMoe(capacity=4, gpu=1.0, cpu=1.0, bus=2.0)
    plain, ahead = moe.replay(loads, scores), moe.replay(loads, scores, expected=loads)
    assert ahead.early > 0 == plain.early
    assert ahead.time < plain.time and ahead.missed < plain.missed
    load, cached = np.array([5, 2, 9, 0, 4]), np.array([True, False, False, False, False])
    there = [moe.schedule(load, cached | (np.arange(5) == expert)).time for expert in range(5)]
    assert min(there) < max(there[1], there[4]) < there[3]
    assert moe.most_useful(load, cached) == np.argmin(there)
    assert moe.most_useful(load, load > 0) is None
    assert TwoDevices(cpu=0.0).most_useful(load, cached) is None  # nothing to gain
    rooms = [HybriMoe(capacity=size, bus=2.0).replay(loads, scores).missed for size in (3, 5, 8)]
    assert rooms[0] > rooms[1] > rooms[2]
    everything = HybriMoe(capacity=8, gpu=1.0, cpu=1e9, bus=0.0)
    assert everything.replay(loads, scores).time == np.sum(loads > 0)
    with pytest.raises(InputError, match="share in"):
        HybriMoe(share=0.0)
    with pytest.raises(InputError, match="must be times"):
        TwoDevices(bus=-1.0)


def test_routing_is_read_as_moments():
    routing = {"a": np.full((2, 1, 2, 2), 0.5), "b": np.zeros((2, 1, 1, 2))}
    routing["b"][1, 0, 0, 0] = 0.6
    loads, scores = recorded(routing, skip_below=0.2)
    assert loads.tolist() == [[4, 0], [0, 0], [4, 0], [0, 1]]
    np.testing.assert_allclose(scores[:, 1], [np.nan, 0.0, np.nan, 0.3])
    np.testing.assert_allclose(scores[:, 0], [0.5, np.nan, 0.5, np.nan])


@pytest.mark.slow
@pytest.mark.nightly
def test_scores_keep_the_experts_of_a_real_drawing_better_than_their_use():
    """Its layers take turns, so the expert used last is that which is needed last."""
    loads, scores = recorded(routing_of_a_drawing(), skip_below=0.1)
    ways = {"soon": used_soon(loads), "last": last_used(loads), "often": often_used(loads)}
    ways["scores"] = recent_scores(scores, 0.3, 1)
    counts = {name: misses(loads, worth, capacity=5) for name, worth in ways.items()}
    assert counts["soon"] < counts["scores"] < counts["often"] < counts["last"] <= (loads > 0).sum()
    times = [
        HybriMoe(capacity=size, cpu=0.1, bus=8.0, top=1).replay(loads, scores).time
        for size in (3, 5)
    ]
    assert times[1] < times[0]
