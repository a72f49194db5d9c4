"""Two runs side by side, on the same people and prompts: does the second differ from the first?"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_jax.errors import InputError
from moa_jax.evaluation.faces.report import FORMAT, MEASURES, RESULTS, Record, means
from moa_jax.evaluation.statistics import paired

COMPARED = ("identity", "centred", "distance", "no_face", "prompt")
HEADS = ("measure", "A", "B", "B - A (95 %)", "B higher/lower", "sign p", "Wilcoxon p")


def read_results(folder: str | Path) -> dict[str, Any]:
    """Read what an earlier run found.

    Raises:
        InputError: there is nothing, or it is of another version.
    """
    file = Path(folder) / RESULTS
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        if results["format"] != FORMAT:
            raise InputError(f"--compare: {file} is of another version of moa_jax: measure again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--compare: {file} cannot be read ({error!r}): give the --out folders of two runs"
        ) from error
    return results


def versus(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Compare two runs' results, as rows under HEADS.

    Raises:
        InputError: they have not the same people, prompts and pictures, or no recognizer in common.
    """
    sides = [{each["name"]: each for each in results["pictures"]} for results in (first, second)]
    differing = set(sides[0].keys() ^ sides[1].keys())
    both = sides[0].keys() & sides[1].keys()
    differing |= {name for name in both if sides[0][name]["caption"] != sides[1][name]["caption"]}
    if differing:
        raise InputError(
            f"--compare: {len(differing)} picture(s) are in one run only or have other prompts, "
            f"such as {min(differing)}: draw both with the same --people, --prompts, --pictures "
            "and --pairs"
        )
    judges = [
        {row["recognizer"]: row["source"] for row in results["rows"]} for results in (first, second)
    ]
    common = [name for name, source in judges[0].items() if judges[1].get(name) == source]
    if not common:
        raise InputError(
            f"--compare: the runs were judged by {', '.join(judges[0])} and by "
            f"{', '.join(judges[1])}: measure both by the same --recognizer"
        )
    return [
        row
        for who, count in (("one person", 1), ("two people", 2))
        for name in common
        for measure in COMPARED
        if (row := _row(who, name, measure, *(_chosen(side, count) for side in sides)))
    ]


def _chosen(side: Mapping[str, Record], count: int) -> list[Record]:
    return [each for each in side.values() if len(each["people"]) == count]


def _row(
    who: str, judge: str, measure: str, first: Sequence[Record], second: Sequence[Record]
) -> tuple[str, ...] | None:
    """Compare one measure; None if one of the runs has it of nobody."""

    def value(each: Record) -> float | None:
        if measure == "prompt":
            return each["prompt"]
        return MEASURES[measure](each["likeness"][judge])

    one, other = means(first, value), means(second, value)
    shared = [unit for unit in one if unit in other]  # a distance may be known on one side only
    if not shared:
        return None
    one, other = ({unit: side[unit] for unit in shared} for side in (one, other))
    found = paired(one, other)
    change = found.difference
    low, high = (None if end is None else f"{end:+.3f}" for end in (change.low, change.high))
    return (
        f"{who}, {judge}: {measure.replace('_', ' ')}",
        *(f"{sum(side.values()) / len(side):.3f}" for side in (one, other)),
        f"{change.mean:+.3f}" + ("" if low is None else f" ({low} to {high})"),
        f"{found.better}/{found.worse}",
        *("–" if p is None else f"{p:.3g}" for p in (found.sign, found.wilcoxon)),
    )
