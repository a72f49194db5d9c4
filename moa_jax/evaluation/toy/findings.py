"""What the numbers of all rows say: means, noise, effects, and the bars that were set beforehand.

These are pure functions of the results; `report.py` lays them out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from moa_jax.evaluation.toy.metrics import way
from moa_jax.evaluation.toy.rows import MOA, PRIOR, SINGLE

Numbers = Mapping[str, float]

RULE = (
    "A difference from MoA counts if it is larger than t·s·√(1/n + 1/m): s is the standard "
    "deviation over training seeds, pooled over the rows that have several; t the 97.5 % quantile "
    "of Student's distribution for its degrees of freedom; n and m the two rows' trainings."
)
# The bars, as shares.
MIN_READER, MIN_PROMPT, MAX_DROP, MIN_WAY, MAX_SHARE, MIN_BINDING = 0.95, 0.90, 0.03, 0.7, 0.5, 0.85


@dataclass(frozen=True)
class RowResult:
    """One row's numbers, for each training seed.

    Attributes:
        seeds: the training seeds of `runs`, in the same order.
        outdated: why the row is to be trained again; "" if it is not.
        weights: number of those that it adds to the U-Net; None where nobody asked.
    """

    name: str
    title: str
    runs: tuple[Numbers, ...]
    seeds: tuple[int, ...] = ()
    outdated: str = ""
    weights: int | None = None

    @property
    def label(self) -> str:
        """The title, with a mark where the row is outdated."""
        return f"{self.title} (to be trained again)" if self.outdated else self.title


@dataclass(frozen=True)
class Results:
    """All that a report is made of.

    Attributes:
        renders: what the readers say of renders: see `Study.renders`.
        protocol: the protocol's values by name.
    """

    renders: Mapping[str, Numbers]
    rows: Sequence[RowResult]
    protocol: Mapping[str, float | int] = field(default_factory=dict)

    def row(self, name: str) -> RowResult | None:
        """Find a row that has been measured."""
        return next((row for row in self.rows if row.name == name and row.runs), None)

    def value(self, run: Numbers, key: str) -> float:
        """Give a number of a run; "identity/way" is the share of the way from floor to ceiling."""
        if key == "identity/way":
            floor, ceiling = (self.renders[name]["overall"] for name in ("floor", "ceiling"))
            return way(run["identity/overall"], floor, ceiling)
        return run.get(key, float("nan"))

    def values(self, name: str, key: str) -> list[float]:
        """Give a number of each run of a row; the list is empty if the row was not measured."""
        row = self.row(name)
        return [self.value(run, key) for run in row.runs] if row else []


@dataclass(frozen=True)
class Column:
    """A number of the main table.

    Attributes:
        percent: whether it is a share, which is shown in percent.
        effect: whether a difference from MoA in it counts as an effect of a row.
    """

    key: str
    title: str
    percent: bool = True
    effect: bool = True

    def show(self, values: Sequence[float]) -> str:
        """Write the mean and, of several values, the standard deviation."""
        if not values or np.isnan(values).any():
            return "–"
        scaled = np.asarray(values) * (100 if self.percent else 1)
        text = f"{scaled.mean():.{self.digits}f}"
        return f"{text} ± {scaled.std(ddof=1):.{self.digits}f}" if len(values) > 1 else text

    @property
    def digits(self) -> int:
        """Number of decimals that are shown."""
        return 1 if self.percent else 2


COLUMNS = (
    Column("identity/way", "identity, way to ceiling %"),
    Column("identity/overall", "identity %", effect=False),
    Column("prompt/overall", "prompt %"),
    Column("swap/background", "background change", percent=False),
    Column("swap/layout", "layout change %"),
    Column("from_prior/background", "background from prior", percent=False, effect=False),
    Column("from_prior/layout", "layout from prior %", effect=False),
    Column("pairs/binding", "binding %"),
    Column("pairs/own", "own %", effect=False),
    Column("pairs/other", "blended %", effect=False),
    Column("noise/pixels", "diversity", percent=False),
    Column("prompt/pose", "pose as asked %"),
    Column("noise/layout", "layout diversity %"),
    Column("quality/fid", "reader FID", percent=False),
)


def threshold(results: Results, key: str, runs: int) -> float | None:
    """Give the smallest difference from MoA that counts, by RULE.

    Args:
        runs: number of trainings of the row that is compared.

    Returns:
        The difference; None if no row has several seeds, or MoA was not measured.
    """
    several = [values for row in results.rows if len(values := results.values(row.name, key)) > 1]
    moa = results.values(MOA, key)
    freedom = sum(len(values) - 1 for values in several)
    if not freedom or not moa:
        return None
    # np.var divides by n; times n it is the sum of squared deviations.
    squares = sum(np.var(values) * len(values) for values in several)
    quantile = stdtrit(freedom, 0.975)  # of Student's distribution
    return float(quantile * np.sqrt(squares / freedom) * np.sqrt(1 / runs + 1 / len(moa)))


def effects(results: Results, row: RowResult) -> str:
    """Say in which numbers a row differs from MoA beyond the noise."""
    if row.name in (PRIOR, MOA) or not results.row(MOA):
        return ""
    found, judged = [], False
    for column in COLUMNS:
        limit = threshold(results, column.key, len(row.runs))
        if not column.effect or limit is None:
            continue
        judged = True
        own = np.mean([results.value(run, column.key) for run in row.runs])
        difference = own - np.mean(results.values(MOA, column.key))
        if abs(difference) > limit:
            scaled = difference * (100 if column.percent else 1)
            name = column.title.split(",")[0].removesuffix(" %")
            found.append(f"{name} {scaled:+.{column.digits}f}")
    if not judged:
        return "one training seed: not judged"
    return ", ".join(found) or "no measurable effect"


@dataclass(frozen=True)
class Bar:
    """A bar that was set beforehand; `reached` is None where a row is missing."""

    text: str
    found: str
    reached: bool | None


def bars(results: Results) -> list[Bar]:
    """Compare the results with what the table must show."""
    # The mask's number is an IoU and no accuracy.
    accuracy = {n: v for n, v in results.renders["readers"].items() if n != "mask"}
    worst = min(accuracy, key=accuracy.get)
    prompt, moa_prompt = (_mean(results, name, "prompt/overall") for name in (PRIOR, MOA))
    identity = _mean(results, MOA, "identity/way")
    moa, single = (_mean(results, name, "swap/background") for name in (MOA, SINGLE))
    bound = _mean(results, MOA, "pairs/binding")
    drop = None if prompt is None or moa_prompt is None else prompt - moa_prompt
    share = None if moa is None or not single else moa / single
    return [
        _bar("readers ≥ 95 % in everything", accuracy[worst], accuracy[worst] >= MIN_READER, worst),
        _bar("prior's prompt consistency ≥ 90 %", prompt, _least(prompt, MIN_PROMPT)),
        _bar("MoA's prompt consistency within 3 points of it", moa_prompt, _most(drop, MAX_DROP)),
        _bar("MoA's identity ≥ 70 % of the way", identity, _least(identity, MIN_WAY)),
        _bar("background change ≤ half the single branch's", share, _most(share, MAX_SHARE)),
        _bar("two-subject binding ≥ 85 %", bound, _least(bound, MIN_BINDING)),
    ]


def _bar(text: str, value: float | None, reached: bool | None, what: str = "") -> Bar:
    if value is None:
        return Bar(text, "not measured", None)
    shown = f"{100 * value:.1f} %" + (f" ({what}, the worst)" if what else "")
    return Bar(text, shown, reached)


def _least(value: float | None, limit: float) -> bool | None:
    return None if value is None else value >= limit


def _most(value: float | None, limit: float) -> bool | None:
    return None if value is None else value <= limit


def _mean(results: Results, name: str, key: str) -> float | None:
    values = results.values(name, key)
    return float(np.mean(values)) if values else None
