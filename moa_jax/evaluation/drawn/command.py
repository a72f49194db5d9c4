"""`python -m moa_jax.evaluation drawn`: the same weights, drawn in other ways.

It trains nothing, and stops and resumes at any time. It writes `drawn.md` and `drawn.json` into the
folder `--out`.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moa_jax.cli import run
from moa_jax.config import load_config
from moa_jax.errors import InputError
from moa_jax.evaluation.drawn.ways import WAYS, Found, compare
from moa_jax.evaluation.toy.metrics import way
from moa_jax.evaluation.toy.report import markdown_table
from moa_jax.evaluation.toy.study import Study
from moa_jax.method.source import find_moa
from moa_jax.runtime import keep_programs
from moa_jax.toyworld import WEIGHTS

HEADS = ("way to draw", "grey levels", "identity, way %", "identity, change %", "prompt %")
HEADS += ("background change", "background from prior", "binding %", "blended %", "reader FID")
LEGEND = """
- grey levels: mean absolute difference (of 255) from the picture of the first line;
- identity, change: of the share of attributes that agree with the reference, in points, against
  the first line, with the bootstrap's 95 % interval over people;
- the other columns are those of the [study](toy.md), of one training.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(arguments)
    return run(lambda: _evaluate(options), stopped="stopped: the same command goes on from here")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.evaluation drawn",
        description="Measure ways to draw with the same weights, on the toy world.",
    )
    add = parser.add_argument
    add("--config", default="configs/toy.py", help="names the base; default: %(default)s")
    add("--moa", default=str(WEIGHTS / "moa"), help="weights; default: the committed")
    add("--runs", type=Path, default=Path("runs/drawn"), help="where pictures are kept")
    add("--out", type=Path, default=Path("docs/evaluation"), help="(%(default)s)")
    add("--ways", default="", help=f"some of {', '.join(each.name for each in WAYS[1:])}")
    return parser.parse_args(arguments)


def _evaluate(options: argparse.Namespace) -> None:
    keep_programs()
    wanted = [name for name in options.ways.split(",") if name]
    if unknown := set(wanted) - {each.name for each in WAYS}:
        known = ", ".join(each.name for each in WAYS)
        raise InputError(f"--ways {','.join(sorted(unknown))}: the ways are {known}")
    ways = [WAYS[0], *(each for each in WAYS[1:] if not wanted or each.name in wanted)]
    study = Study(load_config(options.config).model.base, options.runs)
    found = compare(study, find_moa(options.moa, "--moa"), options.runs, ways)
    floor, ceiling = (study.renders()[name]["overall"] for name in ("floor", "ceiling"))
    lines = [line(each, floor, ceiling) for each in found]
    write(options.out, found, lines)
    table = Table(*HEADS[:6])
    for each in lines:
        table.add_row(*each[:6])
    Console().print(table)
    Console().print(f"all columns: {options.out / 'drawn.md'}", highlight=False)


def line(found: Found, floor: float, ceiling: float) -> list[str]:
    """Lay out a way as a line of the table.

    Args:
        floor: identity of other people of the same words.
        ceiling: identity of the same people, drawn by the renderer.
    """
    numbers = found.numbers
    return [
        found.title,
        f"{found.changed:.2f}",
        f"{100 * way(numbers['identity/overall'], floor, ceiling):.1f}",
        found.identity.points,
        f"{100 * numbers['prompt/overall']:.1f}",
        f"{numbers['swap/background']:.2f}",
        f"{numbers['from_prior/background']:.2f}",
        f"{100 * numbers['pairs/binding']:.1f}",
        f"{100 * numbers['pairs/other']:.1f}",
        f"{numbers['quality/fid']:.2f}",
    ]


def write(folder: Path, found: Sequence[Found], lines: Sequence[Sequence[str]]) -> None:
    """Write drawn.json and drawn.md."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps([dataclasses.asdict(each) for each in found], indent=2)
    (folder / "drawn.json").write_text(content + "\n", encoding="utf-8")
    parts = [
        "# The same weights, drawn in other ways",
        "Written by `python -m moa_jax.evaluation drawn`.",
        markdown_table(HEADS, lines),
        LEGEND.strip(),
    ]
    (folder / "drawn.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
