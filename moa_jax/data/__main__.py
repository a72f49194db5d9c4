"""`python -m moa_jax.data check DIR`: list every fault of a data set at once.

Exit code 0: no fault; 1: faults, listed on the standard output; 2: it could not be called so.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from moa_jax.backbone.folder import resolve
from moa_jax.backbone.tokenizer import load_tokenizer
from moa_jax.command import run
from moa_jax.config import DataConfig, MethodConfig
from moa_jax.data.captions import Tokenizer, encode_caption
from moa_jax.data.check import Report, check_records
from moa_jax.data.records import SPLITS, Records, open_records


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parse(arguments)
    return run(lambda: check(options))


def check(options: argparse.Namespace) -> int:
    """Check a data set and print the report; the exit code is returned."""
    label = None if options.subject_label == "none" else options.subject_label
    records = open_records(options.path, options.layout, options.split, label)
    tokenizer = None
    if options.model:
        tokenizer = load_tokenizer(resolve(options.model, ("tokenizer",)) / "tokenizer")
        encode_caption(tokenizer, "")  # refuses a tokenizer that does not say its length
    return _print(_check(records, options, tokenizer), options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    data = DataConfig()
    parser = _Parser(prog="python -m moa_jax.data")
    commands = parser.add_subparsers(dest="command", required=True, metavar="check")
    check = commands.add_parser("check", help="list every fault of a data set")
    check.add_argument("path", metavar="DIR", help="the folder of the data set")
    check.add_argument("--layout", choices=["auto", "imagefolder", "ffhq"], default=data.layout)
    check.add_argument("--split", choices=list(SPLITS), default=data.split, help="ffhq only")
    check.add_argument(
        "--subject-label",
        default=data.subject_label,
        help="coco_label of the subjects, or none for every label (ffhq only; default %(default)s)",
    )
    check.add_argument("--max-subjects", type=int, default=MethodConfig().max_subjects)
    check.add_argument("--workers", type=int, default=data.workers, help="threads")
    check.add_argument(
        "--model",
        help="diffusers folder or hub id, for its tokenizer: is each word among the 77 tokens?",
    )
    options = parser.parse_args(arguments)
    if options.workers < 1 or options.max_subjects < 1:
        check.error("--workers and --max-subjects must be at least 1")
    return options


def _check(records: Records, options: argparse.Namespace, tokenizer: Tokenizer | None) -> Report:
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(records))
        return check_records(
            records,
            options.max_subjects,
            tokenizer,
            options.workers,
            on_record=lambda: progress.advance(task),
        )


def _print(report: Report, options: argparse.Namespace) -> int:
    for name, found in report.faults.items():
        for fault in found:
            print(f"{name}: {fault}")
    nobody = report.subjects == 0
    if nobody:
        labels = "" if options.subject_label == "none" else " (try --subject-label none)"
        print(f"{options.path}: no picture has a subject{labels}")
    if not options.model:
        print("not checked, for want of --model: is each subject's word among the tokens that fit?")
    total = sum(len(found) for found in report.faults.values())
    print(
        f"{report.records} records, {report.subjects} subjects: "
        f"{total} faults in {len(report.faults)} records"
    )
    return 1 if report.faults or nobody else 0


if __name__ == "__main__":
    sys.exit(main())
