"""Intervals and tests, against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from moa_jax.evaluation.statistics import estimate, paired

VALUES = np.random.default_rng(3).normal(0.5, 0.1, 12)
PEOPLE = {(f"p{i:02d}",): float(value) for i, value in enumerate(VALUES)}


def test_an_interval_over_people_is_scipys_bootstrap():
    found = estimate(PEOPLE)
    expected = stats.bootstrap(
        (VALUES,), np.mean, n_resamples=10_000, method="percentile", rng=0
    ).confidence_interval
    assert found.mean == pytest.approx(VALUES.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=6e-3)


def test_pairs_are_drawn_by_their_people():
    """Pairs of 8 people whose values are those of the people: wider than as if independent."""
    values = VALUES[:8]
    names = [f"p{i}" for i in range(8)]
    pairs = {
        (names[i], names[j]): float(values[i] + values[j])
        for i in range(8)
        for j in range(i + 1, 8)
    }
    found = estimate(pairs)
    # Redrawn in plain loops.
    random, means = np.random.default_rng(5), []
    for _ in range(4000):
        drawn = random.integers(0, 8, 8)
        both = [
            values[a] + values[b] for k, a in enumerate(drawn) for b in drawn[k + 1 :] if a != b
        ]
        means.append(np.mean(both))
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=6e-3)
    alone = estimate({(f"{a}{b}",): value for (a, b), value in pairs.items()})
    assert found.high - found.low > 1.5 * (alone.high - alone.low)


def test_one_person_has_no_interval():
    assert estimate({("ann",): 0.4}) == (0.4, None, None)
    assert estimate({("ann", "bob"): 0.4}).mean == 0.4  # two people, and no other draw of them


def test_two_runs_are_compared_person_by_person():
    second = {unit: value + 0.05 + 0.01 * (i % 3) for i, (unit, value) in enumerate(PEOPLE.items())}
    second["p00",] = PEOPLE["p00",] - 0.2
    found = paired(PEOPLE, second)
    changes = np.array([second[unit] - PEOPLE[unit] for unit in PEOPLE])
    assert (found.better, found.worse) == (11, 1)
    assert found.difference.mean == pytest.approx(changes.mean())
    assert found.sign == pytest.approx(2 * 13 / 2**12)  # 11 or 12 of 12, either way
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(changes).pvalue)
    assert found.difference.low < changes.mean() < found.difference.high


def test_the_same_run_twice_does_not_differ():
    found = paired(PEOPLE, PEOPLE)
    assert found.sign == found.wilcoxon == 1 and found.better == found.worse == 0


def test_pairs_get_no_p_as_they_share_people():
    pairs = {("a", "b"): 0.1, ("a", "c"): 0.2, ("b", "c"): 0.3}
    found = paired(pairs, {unit: value + 0.1 for unit, value in pairs.items()})
    assert found.sign is None and found.wilcoxon is None and found.better == 3
