"""`python -m moa_jax.evaluation sparse`: what sparse routing changes, against what it leaves out.

It trains nothing, and stops and resumes at any time. It writes `sparse.md`, `sparse.json` and
`sparse.png` into the folder `--out`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moa_jax.cli import run
from moa_jax.config import load_config
from moa_jax.evaluation.sparse.report import HEADS, line, write
from moa_jax.evaluation.sparse.rungs import LADDER, climb
from moa_jax.evaluation.toy.study import Study
from moa_jax.method.source import find_moa
from moa_jax.runtime import keep_programs
from moa_jax.toyworld import WEIGHTS

SHOWN = 7  # columns of the table on the terminal


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
