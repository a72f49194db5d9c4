"""Attributions that add up, and a bandit that finds the baselines which do best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.mixtures.attribution import (
    FAMILIES,
    Bandit,
    blurred,
    deletion,
    explain,
    integrated_gradients,
    portrait_score,
)
from tests.mixtures.one_layer import normal
from tests.mixtures.trained import trained

PICTURE, BLANK, SLOPE = normal(0, 6, 6, 3), normal(1, 6, 6, 3), normal(2, 6, 6, 3)
ALONE = np.ones(1)


def test_attributions_of_a_square_are_known():
    """Of sum a x^2, a pixel's share is a (x^2 - b^2), however coarse the steps are."""
    found = integrated_gradients(
        lambda x: jnp.sum(SLOPE * x**2), *map(jnp.array, (PICTURE, BLANK)), 3
    )
    np.testing.assert_allclose(found, SLOPE * (PICTURE**2 - BLANK**2), atol=1e-5)


def test_attributions_add_up_to_the_difference():
    def score(picture):
        return jnp.tanh(jnp.sum(SLOPE * picture) / 8) + jnp.prod(picture[0, 0])

    found = integrated_gradients(score, jnp.array(PICTURE), jnp.array(BLANK), 64)
    assert float(jnp.sum(found)) == pytest.approx(float(score(PICTURE) - score(BLANK)), rel=1e-3)


def test_beliefs_are_those_of_ridge_regression_and_draws_find_the_better_arm():
    random = np.random.default_rng(0)
    bandit, chosen = Bandit.unknowing(2, 2, noise=0.2), []
    seen = {0: [], 1: []}
    for _ in range(200):
        context = np.array([1.0, random.choice([-1.0, 1.0])])
        arm = bandit.choose(random, context)
        reward = 0.5 + (0.3 if arm == 0 else -0.3) * context[1] + 0.2 * random.standard_normal()
        bandit = bandit.learn(arm, context, reward)
        seen[arm].append((*context, reward))
        chosen.append(arm == (context[1] < 0))
    assert np.mean(chosen[:10]) < 0.95 and np.mean(chosen[-100:]) > 0.95  # each context has its own
    for arm, rows in seen.items():
        rows = np.array(rows)
        ridge = np.concatenate([rows[:, :2], 0.2 * np.eye(2)])
        expected = np.linalg.lstsq(ridge, np.append(rows[:, 2], [0, 0]), rcond=None)[0]
        mean = np.linalg.solve(bandit.precision[arm], bandit.moment[arm])
        np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_the_best_map_of_the_family_that_the_metric_likes():
    """The metric likes flat changes: those to a baseline that is the picture but for a constant."""

    def metric(picture, attribution):
        baseline = picture - np.asarray(attribution)  # of a sum, the change itself
        return 1.0 if np.ptp(baseline, axis=(0, 1)).max() < 1e-5 else -float(np.ptp(baseline))

    found = explain(jnp.sum, jnp.array(PICTURE), [BLANK], ALONE, metric=metric, draws=40)
    families = [family for family, _ in found.tried]
    assert set(families) == set(FAMILIES) and families[-15:].count("constant") >= 13
    np.testing.assert_allclose(found.attribution, PICTURE - found.baseline, atol=1e-5)
    assert np.ptp(found.baseline, axis=(0, 1)).max() == 0
    again = explain(jnp.sum, jnp.array(PICTURE), [BLANK], ALONE, metric=metric, draws=40)
    assert again.tried == found.tried
    alone = explain(jnp.sum, jnp.array(PICTURE), [], ALONE, draws=12)
    assert "other" not in {family for family, _ in alone.tried}


def test_a_true_map_deletes_sooner_than_a_random_one():
    def score(picture):
        return jnp.sum(SLOPE * picture)

    gone = blurred(PICTURE, 8.0)
    assert np.ptp(gone) < 0.5 * np.ptp(PICTURE)
    np.testing.assert_allclose(blurred(np.full((6, 5, 3), 2.5), 3.0), 2.5, rtol=1e-6)
    true = SLOPE * (PICTURE - gone)
    sign = 1 if true.sum() > 0 else -1
    measured = [
        deletion(lambda x: sign * score(x), PICTURE, each)
        for each in (sign * true, normal(5, 6, 6, 3), -sign * true)
    ]
    assert measured == sorted(measured, reverse=True) and measured[0] > measured[1] + 0.2
    # Sorted by their shares, pixels fall by the sums of them.
    falls = np.cumsum(np.sort((sign * true).sum(-1).ravel())[::-1])
    ends = [len(falls) * part // 8 - 1 for part in range(1, 9)]
    assert measured[0] == pytest.approx(np.mean(falls[ends]) / falls[-1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.nightly  # two minutes
def test_what_the_committed_moa_reads_in_a_portrait():
    """The shares add up, and hiding the pixels of large ones hurts more than hiding any."""
    toy = trained()
    given, batch = [each[:1] for each in toy.given], toy.batch
    portrait, *others = (np.float32(batch["subject_images"][row, 0]) for row in range(4))
    mask = batch["masks"][:1, :1].astype(jnp.float32)
    score = portrait_score(toy.model, toy.params, given, toy.target[:1], mask, 0)
    found = explain(score, jnp.array(portrait), others, ALONE, draws=4, steps=24)
    judged = jax.jit(score)
    difference = judged(jnp.array(portrait)) - judged(found.baseline)
    assert float(jnp.sum(found.attribution)) == pytest.approx(float(difference), rel=0.01)
    best = max(reward for _, reward in found.tried)
    assert best > deletion(judged, portrait, normal(9, *portrait.shape))
