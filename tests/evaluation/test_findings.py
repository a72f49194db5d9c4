"""What counts as an effect, and which bars are reached, on tables made by hand."""

import numpy as np
import pytest

from moa_jax.evaluation.toy.findings import COLUMNS, Results, RowResult, bars, effects, threshold

RENDERS = {
    "readers": {"place": 0.99, "hair": 0.96, "mask": 0.8},
    "floor": {"overall": 0.4},
    "ceiling": {"overall": 0.9},
}
PLAIN = {column.key: 0.5 for column in COLUMNS} | {"identity/overall": 0.8}


def row(name, *runs):
    return RowResult(name, name, tuple({**PLAIN, **run} for run in runs), tuple(range(len(runs))))


def results(*rows):
    return Results(RENDERS, rows)


def prompts(*values):
    return [{"prompt/overall": value} for value in values]


def test_a_difference_within_the_noise_is_no_effect():
    """Three seeds at 0.90, 0.92, 0.94: s = 0.02, t(2) = 4.30, so one more needs 0.0993."""
    moa = row("moa", *prompts(0.90, 0.92, 0.94))
    near, far = row("near", *prompts(0.83)), row("far", *prompts(0.81))
    table = results(moa, near, far)
    assert threshold(table, "prompt/overall", 1) == pytest.approx(
        4.30 * 0.02 * np.sqrt(1 + 1 / 3), rel=1e-3
    )
    assert effects(table, near) == "no measurable effect"
    assert effects(table, far) == "prompt -11.0"


# 97.5 % quantiles of Student's t by degrees of freedom, from a printed table.
QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 8: 2.306, 9: 2.262, 30: 2.042}


@pytest.mark.parametrize(("freedom", "quantile"), QUANTILES.items())
def test_the_rule_follows_students_distribution(freedom, quantile):
    moa = row("moa", *prompts(*np.linspace(0, 1, freedom + 1)))
    spread = np.std(np.linspace(0, 1, freedom + 1), ddof=1)
    expected = quantile * spread * np.sqrt(1 / 2 + 1 / (freedom + 1))
    assert threshold(results(moa), "prompt/overall", 2) == pytest.approx(expected, rel=2e-4)


def test_the_noise_is_pooled_over_the_rows_with_several_seeds():
    moa, single = row("moa", *prompts(0.9, 0.9, 0.9)), row("single", *prompts(0.5, 0.6, 0.7))
    pooled = np.sqrt((0 + 2 * 0.1**2) / 4)
    found = threshold(results(moa, single), "prompt/overall", 3)
    assert found == pytest.approx(2.776 * pooled * np.sqrt(2 / 3), rel=1e-3)


def test_one_seed_is_not_judged():
    table = results(row("moa", {}), row("other", *prompts(0.1)))
    assert "not judged" in effects(table, table.rows[1])


def states(table):
    return [bar.reached for bar in bars(table)]


def test_bars_are_reached_or_not_by_their_numbers():
    prior = row("prior", *prompts(0.95))
    good = {
        "prompt/overall": 0.93,
        "identity/overall": 0.76,
        "swap/background": 4.0,
        "pairs/binding": 0.9,
    }
    single = row("single-branch", {"swap/background": 8.0})
    assert states(results(prior, row("moa", good), single)) == [True] * 6
    bad = {key: 0.9 * value for key, value in good.items()} | {"swap/background": 4.1}
    assert states(results(prior, row("moa", bad), single)) == [True, True] + [False] * 4
    assert states(results(row("prior", *prompts(0.89)))) == [True, False] + [None] * 4


def test_a_reader_under_the_bar_is_named():
    weak = {**RENDERS, "readers": {"place": 0.99, "hair": 0.94, "mask": 0.8}}
    bar = bars(Results(weak, []))[0]
    assert bar.reached is False and "hair" in bar.found


def test_the_spread_is_shown_with_several_seeds():
    prompt = next(column for column in COLUMNS if column.key == "prompt/overall")
    assert prompt.show([0.9, 0.92, 0.94]) == "92.0 ± 2.0"
    assert prompt.show([0.9]) == "90.0"
    assert prompt.show([]) == "–"
