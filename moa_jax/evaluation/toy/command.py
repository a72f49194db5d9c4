"""`python -m moa_jax.evaluation toy`: train what is missing, draw, read, and print the table.

    python -m moa_jax.evaluation toy [section.key=value ...] [--rows prior,moa] [--report-only]
    python -m moa_jax.evaluation toy --table lab     neighbours in MoA's place
    python -m moa_jax.evaluation toy --jobs 8        several trainings at once, on a GPU
    python -m moa_jax.evaluation toy --moa           the committed weights against the prior
    python -m moa_jax.evaluation toy --moa A --moa B [--plugin my_file]    several against it
    python -m moa_jax.evaluation toy --gates         the networks that both are built on

The study stops and resumes at any time; what is on record in docs/evaluation/rows is not trained
again, on any machine.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column
from rich.table import Table as Printed

from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.cli import Bar, run
from moa_jax.config import Config, load_config, override
from moa_jax.evaluation.toy import findings
from moa_jax.evaluation.toy.curve import added_weights
from moa_jax.evaluation.toy.drawing import Pictures
from moa_jax.evaluation.toy.findings import Results, RowResult, bars
from moa_jax.evaluation.toy.gates import (
    autoencoder_gates,
    encoder_gates,
    gate_page,
    gate_rows,
    reader_gates,
)
from moa_jax.evaluation.toy.jobs import measure_at_once
from moa_jax.evaluation.toy.prior_gates import prior_gates
from moa_jax.evaluation.toy.protocol import Protocol
from moa_jax.evaluation.toy.records import Numbers, Record, Records
from moa_jax.evaluation.toy.report import choose_trials, main_table, outdated, write_report
from moa_jax.evaluation.toy.rows import (
    MOA,
    PRIOR,
    Row,
    Training,
    given_rows,
    recipe,
    row_config,
    select,
    train,
    trainings_of,
)
from moa_jax.evaluation.toy.study import Study
from moa_jax.evaluation.toy.tables import TABLES, Table, find_table
from moa_jax.extension import import_plugin
from moa_jax.figures import image_grid
from moa_jax.method.source import find_moa
from moa_jax.runtime import keep_programs
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld import WEIGHTS
from moa_jax.toyworld.readers.reading import COMMITTED, Readers

MOA_WEIGHTS = WEIGHTS / "moa"
GATED = 512  # pictures of each kind that gates are measured on
AT_ONCE = 5  # columns of a table on the terminal
SHOWN = (PRIOR, MOA, "single-branch", "no-router-loss")  # rows in the figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(arguments)
    return run(lambda: _evaluate(options), stopped="stopped: the same command goes on from here")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m moa_jax.evaluation toy",
        description="Measure the paper's claims on the toy world.",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for every row")
    parser.add_argument("--config", default="configs/toy.py", help="default: %(default)s")
    parser.add_argument(
        "--table",
        default="study",
        help=f"{', '.join(TABLES)}, or package.module:function that lists rows of your own for a "
        "configuration; default: %(default)s",
    )
    parser.add_argument("--rows", default="", help="some of the rows, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a row at most")
    parser.add_argument("--seed", type=int, help="this training alone of each row, and no report")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, each a process")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="where rows train")
    parser.add_argument("--out", type=Path, help="default: docs/evaluation, or RUNS/given")
    parser.add_argument(
        "--moa",
        nargs="?",
        const=str(MOA_WEIGHTS),
        action="append",
        help="measure these weights against the prior and train nothing: a folder, here or in a "
        "bucket (gs://...), or a hub id, owner/name[@revision]; default: the committed; may be "
        "given several times",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module, so that weights of a variant in it can be loaded",
    )
    parser.add_argument(
        "--gates",
        type=Path,
        nargs="?",
        const=WEIGHTS,
        metavar="FOLDER",
        help="measure the networks of FOLDER (base/, readers.safetensors), and train nothing; "
        "default: the committed",
    )
    parser.add_argument("--report-only", action="store_true", help="from what is measured already")
    # Options may stand between the overrides.
    return parser.parse_intermixed_args(arguments)


def _measure_gates(folder: Path, out: Path | None) -> None:
    """Print the gates' table; write it, and pictures that the prior drew, into `out` if given."""
    readers = Readers.load(folder / COMMITTED.name)
    base = load_stable_diffusion(folder / "base")
    gates = [
        *reader_gates(readers, 2 * GATED),
        *autoencoder_gates(base, readers, GATED),
        *encoder_gates(base, GATED),
    ]
    of_prior, pictures = prior_gates(Pipeline(base), readers, GATED, Protocol())
    gates += of_prior
    table = Printed("part", "what", "found", "bar", "")
    for row in gate_rows(gates):
        table.add_row(*row)
    Console().print(table)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gates.md").write_text(gate_page(gates), encoding="utf-8")
        image_grid([*pictures], columns=8).save(out / "gates.png")


def _evaluate(options: argparse.Namespace) -> None:
    keep_programs()
    if options.gates:
        return _measure_gates(options.gates, options.out)
    for module in options.plugin:
        import_plugin(module)
    config = override(load_config(options.config), options.overrides)
    table = find_table(options.table)
    rows = list(table.rows(config))
    if options.moa:
        # The given weights are compared with the prior, and with each other.
        found = [(_label(source), find_moa(source, "--moa")) for source in options.moa]
        rows = [rows[0], *given_rows(found)]
    names = [] if options.moa else [name for name in options.rows.split(",") if name]
    chosen = [] if options.report_only else select(rows, names)
    out = options.out or (options.runs / "given" if options.moa else Path("docs/evaluation"))
    study = Study(config.model.base, options.runs)
    # Records older than a value count as made with its default.
    records = Records(out / "rows", study.key, recipe(Config()))
    console = Console()
    _print_readers(study, console)
    trainings = [training for row in rows for training in trainings_of(row, config)]
    asked = [each for each in trainings if each.row in chosen and _is_asked(each, options)]
    if options.jobs > 1 and not options.moa:
        missing = [each for each in asked if not _is_known(each, records)]
        command = _command(options)
        measure_at_once(study, missing, options.jobs, command, options.config, options.overrides)
    for training in asked:
        # With --moa a record is no proof: these may be other weights of the same recipe.
        if options.moa or not _is_known(training, records):
            found = _measure(study, training, options)
            records.save(training.name, training.recipe, *found)
            if options.seed is None:
                _report(table, config, study, rows, trainings, records, out)
    if options.seed is None:
        _print(_report(table, config, study, rows, trainings, records, out), table, console)


def _is_asked(training: Training, options: argparse.Namespace) -> bool:
    if options.seed is not None and training.row.seeds:
        return training.seed == options.seed
    return training.seed < options.seeds


def _is_known(training: Training, records: Records) -> bool:
    known = records.find(training.name, training.recipe)
    return known is not None and not known.outdated


def _command(options: argparse.Namespace) -> list[str]:
    """Give the command that measures single trainings; its rows and its seed are to be added."""
    command = [sys.executable, "-m", "moa_jax.evaluation", "toy", *options.overrides]
    command += [f"--config={options.config}", f"--table={options.table}", f"--runs={options.runs}"]
    command += [f"--out={options.out}"] if options.out else []
    return command + [f"--plugin={module}" for module in options.plugin]


def _label(source: str) -> str:
    """Name weights in the table: a folder by its own name, others as they were given."""
    folder = Path(source)
    return f"{folder.resolve().name}/" if folder.is_dir() else source


def _measure(
    study: Study, training: Training, options: argparse.Namespace
) -> tuple[Numbers, Pictures | None]:
    """Train if need be, draw and read; give the numbers, and pictures if the figure shows any."""
    row, given = training.row, training.row.weights
    cache = options.runs / (f"given/{training.name}" if given else training.name)
    if row.seeds and not given:
        train(row, training.seed, cache, options.config, options.overrides)
    title = f"{row.title}, seed {training.seed}" if row.seeds else row.title
    with Bar(f"drawing: {title}") as bar:
        numbers = study.row(given or cache, cache, bar.show) if row.seeds else study.prior(bar.show)
    shown = row.name in SHOWN
    return numbers, study.pictures(cache)[choose_trials(study.trials)] if shown else None


def _report(
    table: Table,
    config: Config,
    study: Study,
    rows: Sequence[Row],
    trainings: Sequence[Training],
    records: Records,
    out: Path,
) -> Results:
    """Gather the records of all rows, and write the report."""
    found, strips = [], {}
    for row in rows:
        own = [training for training in trainings if training.row is row]
        looked_up = [(each, records.find(each.name, each.recipe)) for each in own]
        known = [(each, record) for each, record in looked_up if record is not None]
        counted = known and row.seeds and not (table.judged or row.weights)
        weights = added_weights(row_config(row, 0, config)) if counted else None
        found.append(_row_result(row, known, weights))
        # The first seed's pictures stand for the row.
        strip = records.strip(known[0][0].name) if known else None
        if strip is not None:
            strips[row.name] = strip
    results = Results(study.renders(), found, dataclasses.asdict(study.protocol))
    write_report(out, results, study.trials, strips, table)
    return results


def _row_result(
    row: Row, known: Sequence[tuple[Training, Record]], weights: int | None
) -> RowResult:
    """Put together the records of a row's trainings."""
    runs = tuple(record.numbers for _, record in known)
    seeds = tuple(each.seed for each, _ in known) if row.seeds else ()
    outdated = next((record.outdated for _, record in known if record.outdated), "")
    return RowResult(row.name, row.title, runs, seeds, outdated, weights)


def _print_readers(study: Study, console: Console) -> None:
    accuracy = study.renders()["readers"]
    shown = "  ".join(f"{name} {100 * value:.1f}" for name, value in accuracy.items())
    console.print(f"the readers on held-out renders, %: {shown}", highlight=False)
    for name, value in accuracy.items():
        if value < findings.MIN_READER and name != "mask":
            console.print(f"[bold]the reader of {name!r} is under 95 %: it cannot judge[/bold]")


def _print(results: Results, table: Table, console: Console) -> None:
    heads, lines = main_table(results)
    numbers = range(1, len(heads) - 1)
    for first in numbers[::AT_ONCE]:
        part = numbers[first - 1 : first - 1 + AT_ONCE]
        printed = Printed(Column(heads[0], no_wrap=True), *(heads[i] for i in part))
        for line in lines:
            printed.add_row(line[0], *(line[i] for i in part))
        console.print(printed)
    for line in lines:
        if line[-1]:
            console.print(f"{line[0]} {heads[-1]}: {line[-1]}", highlight=False, markup=False)
    for row in outdated(results):
        console.print(f"{row.label}: {row.outdated}", highlight=False, markup=False)
    for bar in bars(results) if table.judged else ():
        state = {True: "reached", False: "NOT reached", None: "not judged"}[bar.reached]
        console.print(f"{state:12} {bar.text}: {bar.found}", highlight=False, markup=False)
