"""`python -m moa_jax.evaluation sparse`: what sparse routing changes, against what it leaves out.

The study's people, scenes and noises are drawn with trained weights, once with the whole expert and
then with less and less of it. It trains nothing, and stops and resumes at any time. `sparse.md`,
`sparse.json` and `sparse.png` are written into the folder `--out`.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from moa_jax.cli import Bar, run
from moa_jax.config import load_config
from moa_jax.errors import InputError
from moa_jax.evaluation.statistics import Estimate, estimate
from moa_jax.evaluation.toy.drawing import BATCH, Pictures, draw_batch
from moa_jax.evaluation.toy.metrics import find, mean, way
from moa_jax.evaluation.toy.protocol import Trial
from moa_jax.evaluation.toy.report import markdown_table
from moa_jax.evaluation.toy.study import Study
from moa_jax.method.source import find_moa
from moa_jax.runtime import keep_programs
from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.readers.reading import Reading, agreement

# Capacity and the weight to skip below: the first is exact.
LADDER = (
    *((capacity, 0.0) for capacity in (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)),
    *((1.0, below) for below in (0.05, 0.1, 0.2)),
    *((0.5, 0.1), (0.375, 0.1), (0.25, 0.1), (0.375, 0.2)),
)
HEADS = ("capacity", "skip below", "pixels %", "layers %", "grey levels", "identity, way %")
HEADS += ("identity, change %", "prompt %", "background change", "binding %")
SHOWN = 7  # columns of the table on the terminal
LEGEND = """
- pixels: of the pixels that the personalized expert has, over all layers and steps, the share that
  it was computed for; layers: the share of layers, over the steps, in which it was computed at all;
- grey levels: mean absolute difference (of 255) from the picture of the whole expert;
- identity, change: of the share of attributes that agree with the reference, in points, against
  the whole expert, with the bootstrap's 95 % interval over people;
- the other columns are those of the [study](toy.md), of one training.
"""


@dataclass(frozen=True)
class Rung:
    """What was found at one capacity and threshold.

    Attributes:
        pixels: share of the expert's pixels that were computed, over layers and steps.
        layers: share of the layers, over the steps, that computed the expert for a picture.
        changed: mean absolute difference from the whole expert's pictures, in grey levels.
        identity: by how much the share of agreeing attributes changed.
        numbers: the study's.
    """

    capacity: float
    skip_below: float
    pixels: float
    layers: float
    changed: float
    identity: Estimate
    numbers: Mapping[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(arguments)
    return run(lambda: _evaluate(options), stopped="stopped: the same command goes on from here")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.evaluation sparse",
        description="Measure what sparse routing changes, on the toy world.",
    )
    add = parser.add_argument
    add("--config", default="configs/toy.py", help="names the base; default: %(default)s")
    add("--moa", default=str(WEIGHTS / "moa"), help="weights; default: the committed")
    add("--runs", type=Path, default=Path("runs/sparse"), help="where pictures are kept")
    add("--out", type=Path, default=Path("docs/evaluation"), help="(%(default)s)")
    add(
        "--rung",
        nargs=2,
        type=float,
        action="append",
        metavar=("CAPACITY", "SKIP_BELOW"),
        help="draw these instead of the usual ones; the whole expert is always drawn",
    )
    return parser.parse_args(arguments)


def _evaluate(options: argparse.Namespace) -> None:
    keep_programs()
    study = Study(load_config(options.config).model.base, options.runs)
    weights = find_moa(options.moa, "--moa")
    given = [tuple(rung) for rung in options.rung or LADDER]
    rungs = [LADDER[0], *(rung for rung in given if rung != LADDER[0])]
    drawn = climb(study, weights, options.runs, rungs)
    floor, ceiling = (study.renders()[name]["overall"] for name in ("floor", "ceiling"))
    lines = [line(rung, floor, ceiling) for rung in drawn]
    write(options.out, drawn, lines)
    table = Table(*HEADS[:SHOWN])
    for each in lines:
        table.add_row(*each[:SHOWN])
    Console().print(table)
    Console().print(f"all columns: {options.out / 'sparse.md'}", highlight=False)


def climb(
    study: Study, weights: Path, runs: Path, rungs: Sequence[tuple[float, float]]
) -> list[Rung]:
    """Draw and measure all rungs; the first is what the others are compared with.

    Args:
        runs: where pictures and numbers are kept.

    Raises:
        InputError: the pictures of a rung are gone, or its values are out of range.
    """
    found: list[Rung] = []
    whole: tuple[Pictures, list[Reading]] | None = None
    for capacity, below in rungs:
        settings = {"capacity": capacity, "skip_below": below} if found else {}
        cache = runs / f"capacity-{capacity:g}-skip-{below:g}"
        with Bar(f"drawing: capacity {capacity:g}, skipping below {below:g}") as bar:
            numbers = study.row(weights, cache, bar.show, **settings)
        pictures = study.pictures(cache)
        if pictures is None:
            raise InputError(f"--runs: {str(cache)!r} has lost its pictures: delete it")
        readings = study.readers.read(pictures)
        whole = whole or (pictures, readings)
        pixels, layers = taking_part(study, weights, settings)
        changed = mean(np.abs(whole[0].astype(float) - pictures).mean(axis=(1, 2, 3)))
        identity = change(study.trials, readings, whole[1])
        found.append(Rung(capacity, below, pixels, layers, changed, identity, numbers))
    return found


def taking_part(study: Study, weights: Path, settings: Mapping[str, Any]) -> tuple[float, float]:
    """Give the shares of pixels and of layers that compute the expert, from one batch of trials."""
    trials = [study.trials[i] for i in study.alone][:BATCH]
    result = draw_batch(study.pipeline(weights), trials, study.protocol, **settings)
    maps = [layer > 0 for layer in result.routing.values()]  # each: steps, pictures, h, w
    layers = mean(layer.any(axis=(2, 3)).mean() for layer in maps)
    return sum(layer.sum() for layer in maps) / sum(layer.size for layer in maps), layers


def change(
    trials: Sequence[Trial], readings: Sequence[Reading], whole: Sequence[Reading]
) -> Estimate:
    """Compare how many attributes agree with the reference, person by person."""
    shares: dict[str, list[float]] = {}
    for trial, *read in zip(trials, readings, whole, strict=True):
        for i, look in enumerate(trial.people):
            sparse, dense = (mean(agreement(find(r, trial)[i], look).values()) for r in read)
            shares.setdefault(str(look), []).append(sparse - dense)
    return estimate({(person,): mean(each) for person, each in shares.items()})


def line(rung: Rung, floor: float, ceiling: float) -> list[str]:
    """Lay out a rung as a line of the table.

    Args:
        floor: identity of other people of the same words.
        ceiling: identity of the same people, drawn by the renderer.
    """
    numbers, (middle, low, high) = rung.numbers, rung.identity
    interval = "" if low is None or high is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return [
        f"{rung.capacity:g}",
        f"{rung.skip_below:g}",
        f"{100 * rung.pixels:.0f}",
        f"{100 * rung.layers:.0f}",
        f"{rung.changed:.2f}",
        f"{100 * way(numbers['identity/overall'], floor, ceiling):.1f}",
        f"{100 * middle:+.1f}{interval}",
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
