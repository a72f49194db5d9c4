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

from moa_jax.evaluation.toy.curve import AGAINST, draw_curve
from moa_jax.evaluation.toy.drawing import Pictures
from moa_jax.evaluation.toy.findings import (
    COLUMNS,
    MIN_BINDING,
    MIN_WAY,
    RULE,
    Column,
    Results,
    RowResult,
    bars,
    effects,
)
from moa_jax.evaluation.toy.metrics import way
from moa_jax.evaluation.toy.protocol import Trial, references
from moa_jax.evaluation.toy.rows import MOA
from moa_jax.evaluation.toy.tables import STUDY, Table
from moa_jax.toyworld.readers.reading import ATTRIBUTES, CONTEXT, SAME_COLOR

SHOWN = 8  # pictures of each row in the figure
# Measures in the figure, and what MoA should reach in them.
DRAWN = {
    "identity/way": MIN_WAY,
    "pairs/binding": MIN_BINDING,
    "prompt/overall": None,
    "swap/background": None,
}
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
- pose as asked: share of the pictures whose pose is the prompt's (the portrait always stands);
  layout diversity: 1 - IoU of the people on pictures of one prompt and subject, which is larger the
  more their place, size and pose differ;
- reader FID: Fréchet distance to held-out renders in the scene reader's features; smaller is
  nearer; it is no measure of what that reader does not look at.
"""


def write_report(
    folder: Path,
    results: Results,
    trials: Sequence[Trial] = (),
    pictures: Mapping[str, Pictures] | None = None,
    table: Table = STUDY,
) -> list[Path]:
    """Write NAME.json, NAME.md and NAME.png; of the study, NAME is "toy".

    Args:
        folder: made if absent.
        trials: all trials of the study.
        pictures: for each row that the figure shows, by its name, those of `choose_trials`.
        table: gives the name and the title.

    Returns:
        The three files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{table.name}.{kind}" for kind in ("json", "md", "png")]
    files[0].write_text(json.dumps(dataclasses.asdict(results), indent=2) + "\n")
    files[1].write_text(markdown(results, table), encoding="utf-8")
    figure(results, trials, pictures or {}).savefig(files[2], dpi=110, bbox_inches="tight")
    return files


def markdown(results: Results, table: Table = STUDY) -> str:
    """Lay out everything as one page of Markdown."""
    parts = [
        f"# {table.title}",
        f"Written by `{table.command}`.",
        "## The readers, on held-out renders",
        _readers(results),
        "## Rows",
        markdown_table(*main_table(results)),
        *(textwrap.fill(f"{row.label}: {row.outdated}", 100) for row in outdated(results)),
        LEGEND.strip(),
        textwrap.fill(RULE, 100),
        *(_bars(results) if table.judged else ()),
        "## By attribute",
        markdown_table(*_detail(results, "identity", ATTRIBUTES, ("floor", "vae", "ceiling"))),
        "## By what the prompt asks for",
        markdown_table(*_detail(results, "prompt", (*CONTEXT, "word", "count"), ("prompt",))),
        "## Protocol",
        ", ".join(f"{name} {value:g}" for name, value in results.protocol.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _bars(results: Results) -> list[str]:
    lines = [[bar.text, bar.found, STATE[bar.reached]] for bar in bars(results)]
    return ["## What it must show", markdown_table(["bar", "found", ""], lines)]


def main_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Give heads and cells of the main table, with one line for each row that was measured."""
    counted = any(row.weights is not None for row in results.rows)
    heads = ["row", "trainings", *(["weights"] if counted else [])]
    lines = []
    for row in results.rows:
        if row.runs:
            numbers = [column.show(results.values(row.name, column.key)) for column in COLUMNS]
            # The prior has no seeds: it is not trained.
            count = str(len(row.seeds)) if row.seeds else "–"
            weights = [f"{row.weights or 0:,}"] if counted else []
            lines.append([row.label, count, *weights, *numbers, effects(results, row)])
    return [*heads, *(column.title for column in COLUMNS), "against MoA"], lines


def outdated(results: Results) -> list[RowResult]:
    """List the rows that are shown although they are to be trained again."""
    return [row for row in results.rows if row.runs and row.outdated]


def _readers(results: Results) -> str:
    found = results.renders
    # The IoU of the masks is shown apart, as it is no accuracy.
    names = [name for name in found["readers"] if name != "mask"]
    table = markdown_table(
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
            lines.append([row.label, *(f"{100 * value:.0f}" for value in values)])
    return ["%", *names], lines


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def figure(results: Results, trials: Sequence[Trial], pictures: Mapping[str, Pictures]) -> Figure:
    """Draw each row's trainings side by side, measure by measure, and pictures of some rows."""
    measured = [row for row in results.rows if row.runs]
    shown = [row for row in measured if row.name in pictures]
    chosen = choose_trials(trials)
    # In inches: the measures, with a line for each row; what they need; the strips of pictures.
    counted = any(row.weights for row in measured)
    heights = [1.2 + 0.26 * len(measured)] + ([3.4] if counted else [])
    heights += [1.15 * (len(shown) + 1)] if shown else []
    drawn = Figure((12, sum(heights)))
    parts = drawn.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (key, aim) in zip(
        parts[0].subplots(1, len(DRAWN), sharey=True), DRAWN.items(), strict=True
    ):
        _compare(ax, results, measured, next(each for each in COLUMNS if each.key == key), aim)
    if counted:
        axes = parts[1].subplots(1, len(AGAINST))
        parts[1].subplots_adjust(bottom=0.2, top=0.88)
        draw_curve([*axes], results)
    if shown:
        axes = parts[-1].subplots(len(shown) + 1, SHOWN, squeeze=False)
        _strip(list(axes[0]), [references(trials[i])[0] for i in chosen], "reference")
        for row, line in zip(shown, axes[1:], strict=True):
            _strip(list(line), list(pictures[row.name]), row.label)
    return drawn


def choose_trials(trials: Sequence[Trial]) -> list[int]:
    """Choose the trials that the figure shows, by their places.

    They show two words, each under its first noise: different people from the same noise side by
    side.
    """
    alone = [i for i, trial in enumerate(trials) if len(trial.people) == 1]
    half = SHOWN // 2
    by_word: dict[str, list[int]] = {}
    for i in alone:
        by_word.setdefault(trials[i].people[0].word, []).append(i)
    places = [members[:half] for members in list(by_word.values())[:2]]
    return [i for members in places for i in members]


def _compare(
    ax: Axes, results: Results, rows: Sequence[RowResult], column: Column, aim: float | None
) -> None:
    """Draw one measure: a line for each row, a ring for each training, a dot for their mean."""
    scale = 100 if column.percent else 1
    for place, row in enumerate(rows):
        values = scale * np.asarray(results.values(row.name, column.key))
        color = "#9f1239" if row.name == MOA else "#3f3f46"
        ax.plot(values, np.full(len(values), place), "o", color=color, fillstyle="none", alpha=0.6)
        ax.plot(values.mean(), place, "o", color=color)
    if aim is not None:
        ax.axvline(scale * aim, color="#a1a1aa", linewidth=0.8, linestyle=":")
    ax.set_title(column.title, fontsize=9)
    ax.set_yticks(range(len(rows)), [row.label.replace(" (", "\n(") for row in rows])
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)  # also where nothing is measured yet
    ax.grid(axis="y", color="#e4e4e7", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.15)


def _strip(axes: Sequence[Axes], pictures: Sequence[np.ndarray], title: str) -> None:
    # Also where there is no picture to show.
    for ax in axes:
        ax.axis("off")
    for ax, picture in zip(axes, pictures, strict=False):
        ax.imshow(picture, interpolation="lanczos")
    axes[0].set_title(title, loc="left", fontsize=8, pad=3)
