"""The rungs as a table, as JSON, and as a figure."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from moa_jax.evaluation.sparse.rungs import Rung
from moa_jax.evaluation.toy.metrics import way
from moa_jax.evaluation.toy.report import markdown_table

HEADS = ("capacity", "skip below", "pixels %", "layers %", "grey levels", "identity, way %")
HEADS += ("identity, change %", "prompt %", "background change", "binding %")
LEGEND = """
- pixels: of the pixels that the personalized expert has, over all layers and steps, the share that
  it was computed for; layers: the share of layers, over the steps, in which it was computed at all;
- grey levels: mean absolute difference (of 255) from the picture of the whole expert;
- identity, change: of the share of attributes that agree with the reference, in points, against
  the whole expert, with the bootstrap's 95 % interval over people;
- the other columns are those of the [study](toy.md), of one training.
"""


def line(rung: Rung, floor: float, ceiling: float) -> list[str]:
    """Lay out a rung as a line of the table.

    Args:
        floor: identity of other people of the same words.
        ceiling: identity of the same people, drawn by the renderer.
    """
    numbers = rung.numbers
    return [
        f"{rung.capacity:g}",
        f"{rung.skip_below:g}",
        f"{100 * rung.pixels:.0f}",
        f"{100 * rung.layers:.0f}",
        f"{rung.changed:.2f}",
        f"{100 * way(numbers['identity/overall'], floor, ceiling):.1f}",
        rung.identity.points,
        f"{100 * numbers['prompt/overall']:.1f}",
        f"{numbers['swap/background']:.2f}",
        f"{100 * numbers['pairs/binding']:.1f}",
    ]


def write(folder: Path, rungs: Sequence[Rung], lines: Sequence[Sequence[str]]) -> None:
    """Write sparse.json, sparse.md and sparse.png."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps([dataclasses.asdict(rung) for rung in rungs], indent=2)
    (folder / "sparse.json").write_text(content + "\n", encoding="utf-8")
    parts = [
        "# Sparse routing on the toy world",
        "Written by `python -m moa_jax.evaluation sparse`.",
    ]
    parts += [markdown_table(HEADS, lines), LEGEND.strip(), "![](sparse.png)"]
    (folder / "sparse.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    figure(rungs).savefig(folder / "sparse.png", dpi=110, bbox_inches="tight")


def figure(rungs: Sequence[Rung]) -> Figure:
    """Draw what changes against the share of the expert's pixels that are computed."""
    drawn = Figure((9, 3.4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    kinds = (
        ("capacity alone", "#9f1239", "o-", [r for r in rungs if not r.skip_below]),
        ("skipping alone", "#3f3f46", "s-", [r for r in rungs if r.skip_below and r.capacity == 1]),
        ("both", "#2563eb", "^", [r for r in rungs if r.skip_below and r.capacity < 1]),
    )
    for label, color, style, chosen in kinds:
        chosen = sorted(chosen, key=lambda rung: rung.pixels)
        x = [100 * rung.pixels for rung in chosen]
        left.plot(x, [rung.changed for rung in chosen], style, color=color, label=label)
        middle = 100 * np.array([rung.identity.mean for rung in chosen])
        ends = [(rung.identity.low or 0.0, rung.identity.high or 0.0) for rung in chosen]
        bars = np.abs(100 * np.array(ends).reshape(-1, 2).T - middle)
        right.errorbar(x, middle, bars, fmt=style, color=color, capsize=2, label=label)
    left.set_ylabel("grey levels from the whole expert")
    right.set_ylabel("identity, change in points")
    right.axhline(0, color="#a1a1aa", linewidth=0.8, linestyle=":")
    left.legend(frameon=False)
    for ax in (left, right):
        ax.set_xlabel("pixels that the expert is computed for, %")
        ax.spines[["top", "right"]].set_visible(False)
    return drawn
