"""Means over people, how far they may be trusted, and whether two runs differ.

People are drawn anew, not pictures: the many pictures of one person are no independent evidence.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

DRAWS = 10_000
LEVEL = 0.95

Units = Mapping[tuple[str, ...], float]  # a value for one person, or for a pair: their names


class Estimate(NamedTuple):
    """A mean over people or pairs.

    Attributes:
        low: end of the bootstrap's 95 % interval; None with fewer than two people.
        high: likewise.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def points(self) -> str:
        """The change of a share, in points, with its interval: "+0.5 (-1.6 to +2.6)"."""
        text = f"{100 * self.mean:+.1f}"
        if self.low is None or self.high is None:
            return text
        return f"{text} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


class Paired(NamedTuple):
    """How a second run differs from a first one on the same people.

    Attributes:
        difference: the second's mean minus the first's.
        better: people of whom the second's value is larger.
        worse: people of whom it is smaller.
        sign: p of the sign test; None for pairs, which share people and are not independent.
        wilcoxon: p of Wilcoxon's signed-rank test, likewise.
    """

    difference: Estimate
    better: int
    worse: int
    sign: float | None
    wilcoxon: float | None


def estimate(units: Units, seed: int = 0) -> Estimate:
    """Average values, and find the percentile interval by drawing people with replacement.

    A pair counts as often as both of its people were drawn together: the product of the two.
    """
    values = np.array([*units.values()])
    names = sorted({name for unit in units for name in unit})
    if len(names) < 2:
        return Estimate(float(values.mean()))
    counts = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), DRAWS
    )
    weights = np.stack([_weight(counts, names, unit) for unit in units], axis=1)
    weights = weights[weights.sum(axis=1) > 0]  # a draw may hold no pair
    means = (weights @ values) / weights.sum(axis=1)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(float(values.mean()), float(low), float(high))


def paired(first: Units, second: Units) -> Paired:
    """Compare two runs on the same people or pairs."""
    from scipy import stats  # only here: the import takes a second

    changes = {unit: second[unit] - first[unit] for unit in first}
    values = np.array([*changes.values()])
    better, worse = int((values > 0).sum()), int((values < 0).sum())
    sign = wilcoxon = None
    if all(len(unit) == 1 for unit in changes):
        if not better + worse:
            sign = wilcoxon = 1.0
        else:
            sign = float(stats.binomtest(better, better + worse).pvalue)
            wilcoxon = float(stats.wilcoxon(values).pvalue)
    return Paired(estimate(changes), better, worse, sign, wilcoxon)


def _weight(
    counts: np.ndarray, names: Sequence[str], unit: tuple[str, ...]
) -> Float[np.ndarray, " n"]:
    drawn = [counts[:, names.index(name)] for name in unit]
    return np.prod(drawn, axis=0).astype(float)
