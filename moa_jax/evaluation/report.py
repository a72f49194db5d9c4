"""The table as Markdown and JSON, and one figure of it.

Everything shown is in the JSON; `findings.py` says what it means.
"""

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moa_jax.evaluation.drawing import Pictures
from moa_jax.evaluation.findings import (
    COLUMNS,
    RULE,
    Results,
    RowResult,
    bars,
    effects,
    spread,
)
from moa_jax.evaluation.metrics import way
from moa_jax.evaluation.protocol import Trial, references
from moa_jax.toyworld.readers import ATTRIBUTES, CONTEXT, SAME_COLOR

SHOWN = 8  # pictures of each row in the figure
STATE = {True: "reached", False: "**not reached**", None: "not judged"}

LEGEND = """
- identity: share of a person's attributes that agree with the reference (hair style only without a
  hat, hat colour only with one, beard only of men); the way is from the floor (another person of
  the same word) to the ceiling (the renderer draws the same person again);
- prompt: mean share of place, time, weather, pose, prop, words and number of people as asked;
- background change: mean absolute difference in grey levels (of 255), outside the people of both
  pictures, when the subject is swapped under the same noise; layout change: 1 - IoU of the people;
  "from prior": the same against the prior's own picture from that noise;
- binding: share of people in pairs that agree better with their own reference than with the
  other's (chance 50 %; a missing person counts as wrong); own, blended: of the attributes in which
  the two references differ, the share that agrees with the person's own and with the other's;
- diversity: mean absolute difference in grey levels between pictures of one prompt and subject;
- reader FID: Fréchet distance to held-out renders in the scene reader's features; smaller is
  nearer; it is no measure of what that reader does not look at.
"""


def write_report(
    folder: Path,
    results: Results,
    trials: Sequence[Trial] = (),
    pictures: Mapping[str, Pictures] | None = None,
) -> list[Path]:
    """Write toy.json, toy.md and toy.png.

    Args:
        folder: made if absent.
        trials: what the pictures show.
        pictures: of each row that is shown in the figure, by its name: of `choose_trials`.

    Returns:
        The three files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"toy.{kind}" for kind in ("json", "md", "png")]
    files[0].write_text(json.dumps(dataclasses.asdict(results), indent=2) + "\n")
    files[1].write_text(markdown(results), encoding="utf-8")
    figure(results, trials, pictures or {}).savefig(files[2], dpi=110, bbox_inches="tight")
    return files


def markdown(results: Results) -> str:
    """Lay everything out as one page."""
    parts = [
        "# The toy world: the table",
        "Written by `python -m moa_jax.evaluation toy`.",
        "## The readers, on held-out renders",
        _readers(results),
        "## Rows",
        _table(*main_table(results)),
        LEGEND.strip(),
        textwrap.fill(RULE, 100),
        "## What it must show",
        _table(
            ["bar", "found", ""],
            [[bar.text, bar.found, STATE[bar.reached]] for bar in bars(results)],
        ),
        "## By attribute",
        _table(*_detail(results, "identity", ATTRIBUTES, ("floor", "vae", "ceiling"))),
        "## By what the prompt asks for",
        _table(*_detail(results, "prompt", (*CONTEXT, "word", "count"), ("prompt",))),
        "## Protocol",
        ", ".join(f"{name} {value:g}" for name, value in results.protocol.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def main_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Give heads and cells of the main table, a line for each row that was measured."""
    heads = ["row", "trainings", *(column.title for column in COLUMNS), "against MoA"]
    lines = []
    for row in results.rows:
        if row.runs:
            numbers = [column.show(results.values(row.name, column.key)) for column in COLUMNS]
            count = str(len(row.seeds)) if row.seeds else "–"
            lines.append([row.title, count, *numbers, effects(results, row)])
    return heads, lines


def _readers(results: Results) -> str:
    found = results.renders
    names = [name for name in found["readers"] if name != "mask"]
    table = _table(
        ["", *names, "mask IoU"],
        [["accuracy %", *(f"{100 * found['readers'][n]:.1f}" for n in [*names, "mask"])]],
    )
    floor, ceiling, vae = (found[name]["overall"] for name in ("floor", "ceiling", "vae"))
    return (
        f"{table}\n\nTwo colours agree if their distance in RGB, each in [0, 1], is below "
        f"{SAME_COLOR}. Identity: floor {100 * floor:.1f} %, ceiling {100 * ceiling:.1f} %; the "
        f"ceiling's pictures encoded and decoded by the VAE {100 * vae:.1f} %, "
        f"{100 * way(vae, floor, ceiling):.0f} % of the way. Reader FID of as many other renders: "
        f"{found['fid']['overall']:.2f}."
    )


def _detail(
    results: Results, group: str, names: Sequence[str], renders: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Split a group of numbers into its parts, for renders and rows, in percent."""
    lines = [
        [f"renders: {kind}", *(f"{100 * results.renders[kind][name]:.0f}" for name in names)]
        for kind in renders
    ]
    for row in results.rows:
        if row.runs:
            values = [np.mean([run[f"{group}/{name}"] for run in row.runs]) for name in names]
            lines.append([row.title, *(f"{100 * value:.0f}" for value in values)])
    return ["%", *names], lines


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def figure(results: Results, trials: Sequence[Trial], pictures: Mapping[str, Pictures]) -> Figure:
    """Draw identity against the two things it may cost, and pictures of the rows."""
    shown = [row for row in results.rows if row.name in pictures]
    chosen = choose_trials(trials)
    height = 1.15 * (len(shown) + 1) if shown else 0.0
    drawn = Figure((12, 4.5 + height))
    parts = drawn.subfigures(2 if shown else 1, 1, height_ratios=[4.5, height] if shown else None)
    top = parts[0] if shown else parts
    left, right = top.subplots(1, 2)
    _scatter(left, results, "prompt/overall", "prompt consistency %", 100.0)
    _scatter(
        right, results, "swap/background", "background change when the subject is swapped", 1.0
    )
    if shown:
        axes = parts[1].subplots(len(shown) + 1, SHOWN, squeeze=False)
        _strip(list(axes[0]), [references(trials[i])[0] for i in chosen], "reference")
        for row, line in zip(shown, axes[1:], strict=True):
            _strip(list(line), list(pictures[row.name]), row.title)
    return drawn


def choose_trials(trials: Sequence[Trial]) -> list[int]:
    """Take all people of the first noise of two words: the same noise side by side."""
    alone = [i for i, trial in enumerate(trials) if len(trial.people) == 1]
    half = SHOWN // 2
    by_word: dict[str, list[int]] = {}
    for i in alone:
        by_word.setdefault(trials[i].people[0].word, []).append(i)
    places = [members[:half] for members in list(by_word.values())[:2]]
    return [i for members in places for i in members]


def _scatter(ax: Axes, results: Results, key: str, label: str, scale: float) -> None:
    for row in results.rows:
        if not row.runs:
            continue
        x, y = (results.values(row.name, k) for k in (key, "identity/way"))
        _point(ax, row, scale * np.asarray(x), 100 * np.asarray(y))
    ax.axhline(70, color="#a1a1aa", linewidth=0.8, linestyle=":")
    ax.set(xlabel=label, ylabel="identity, % of the way to the ceiling")
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.3, y=0.15)  # room for the titles at the points


def _point(ax: Axes, row: RowResult, x: np.ndarray, y: np.ndarray) -> None:
    ax.errorbar(x.mean(), y.mean(), spread(y), spread(x), marker="o", capsize=2)
    ax.annotate(row.title, (x.mean(), y.mean()), (5, 4), textcoords="offset points", fontsize=7)


def _strip(axes: Sequence[Axes], pictures: Sequence[np.ndarray], title: str) -> None:
    for ax in axes:
        ax.axis("off")
    for ax, picture in zip(axes, pictures, strict=False):
        ax.imshow(picture, interpolation="lanczos")
    axes[0].set_title(title, loc="left", fontsize=8, pad=3)
