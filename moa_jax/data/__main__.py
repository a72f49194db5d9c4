"""Look after a data set: `python -m moa_jax.data build|check|pack|bench DIR`.

The exit code is 0 if all is done and no fault found; 1 if `check` found faults (listed on standard
output) or no subject at all; 2 if the arguments or the files must be changed; 130 after Ctrl-C.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from moa_jax.backbone.tokenizer import find_tokenizer, load_tokenizer, write_tokenizer
from moa_jax.cli import Bar, Renamed, run
from moa_jax.config import LAYOUTS, DataConfig, MethodConfig, TrainConfig
from moa_jax.data.bench import measure, report
from moa_jax.data.buckets import SIDE_UNIT, Fit, bucket_sizes
from moa_jax.data.captions import Tokenizer, encode_caption
from moa_jax.data.check import Report, check_records
from moa_jax.data.ffhq import SPLITS
from moa_jax.data.pack import pack
from moa_jax.data.records import open_records
from moa_jax.dataset.from_options import build_from_arguments
from moa_jax.dataset.options import add_arguments

EXAMPLES = {
    "build": "python -m moa_jax.data build my_photographs my_pictures",
    "check": "python -m moa_jax.data check my_pictures --base runs/sd15",
    "pack": "python -m moa_jax.data pack my_pictures my_pictures_packed --workers 16",
    "bench": "python -m moa_jax.data bench my_pictures --step-seconds 0.8",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parse(arguments)
    commands = {"build": _build, "check": _check, "pack": _pack, "bench": _bench}
    again = {
        "build": "stopped: the same command goes on",
        "pack": "stopped: the same command makes the shards that are missing",
    }
    command = options.command
    return run(lambda: commands[command](options), again.get(command, "stopped"))


def _build(options: argparse.Namespace) -> int:
    print("\n".join(build_from_arguments(options)))
    return 0


def _check(options: argparse.Namespace) -> int:
    records = open_records(*_data(options).source())
    named = options.base or options.tokenizer
    tokenizer = _load_tokenizer(named, options.tokenizer) if named else None
    with Bar("checking", len(records)) as bar:
        size = (options.max_subjects, tokenizer, options.workers)
        found = check_records(records, *size, on_record=bar.advance, fit=_fit(options))
    return _print_faults(found, options)


def _pack(options: argparse.Namespace) -> int:
    with Bar("packing") as bar:
        sizes = {"resolution": options.resolution, "shard_size": options.shard_size}
        progress = {"on_start": bar.start, "on_record": bar.advance}
        packed = pack(_data(options), options.destination, **sizes, **progress)
    shards = packed.index["shards"].values()
    skipped = {name: found for shard in shards for name, found in shard["skipped"].items()}
    for name, found in skipped.items():
        for fault in found:
            print(f"{name}: {fault}")
    total = {key: sum(shard[key] for shard in shards) for key in ("records", "subjects", "bytes")}
    print(
        f"{options.destination}: {total['records']} records, {total['subjects']} subjects, "
        f"{total['bytes'] / 1e6:.1f} MB in {len(shards)} shards, {packed.made} of them made now "
        f"and read back; {len(skipped)} bad records left out"
    )
    print(f"lost: {packed.index['lost']}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    shapes = {"buckets": options.buckets, "max_crop": options.max_crop}
    data = _data(options, resolution=options.resolution, **shapes)
    with tempfile.TemporaryDirectory() as folder:
        named = options.base or options.tokenizer
        if not named:  # a small tokenizer written here needs no download
            write_tokenizer(Path(folder) / "tokenizer")
        tokenizer = _load_tokenizer(named or folder, options.tokenizer)
    with Bar("measuring (seconds)") as bar:
        rates = measure(data, tokenizer, options.seconds, bar.start, bar.advance)
    need = options.images_per_second or options.batch_size / options.step_seconds
    print("\n".join(report(data, rates, need)))
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, without the usage that argparse would print first.
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    data = DataConfig()
    parser = _Parser(prog="python -m moa_jax.data")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="build|check|pack|bench"
    )
    purpose = "make a data set of a folder of photographs"
    add_arguments(
        commands.add_parser("build", help=purpose, epilog=f"example: {EXAMPLES['build']}")
    )
    check = _add(commands, "check", "list every fault of a data set")
    check.add_argument("--max-subjects", type=_above_0(int), default=MethodConfig().max_subjects)
    pack = _add(commands, "pack", "write a data set as a few large files, which are read faster")
    pack.add_argument("destination", metavar="DST", help="the new folder")
    pack.add_argument(
        "--resolution",
        type=_above_0(int),
        help="resize larger pictures to this short side, once (default: files as they are)",
    )
    size = "pictures in a file (default %(default)s)"
    pack.add_argument("--shard-size", type=_above_0(int), default=1000, help=size)
    limit = "more bad records than this stop it (default %(default)s)"
    pack.add_argument("--max-bad-fraction", type=float, default=data.max_bad_fraction, help=limit)
    bench = _add(commands, "bench", "measure how fast this host makes training examples")
    bench.add_argument(
        "--seconds", type=_above_0(float), default=10.0, help="for each of three measurements"
    )
    bench.add_argument("--batch-size", type=_above_0(int), default=TrainConfig().batch_size)
    need = bench.add_mutually_exclusive_group()
    step = "time of a training step of all chips (default %(default)s)"
    need.add_argument("--step-seconds", type=_above_0(float), default=1.0, help=step)
    need.add_argument("--images-per-second", type=_above_0(float), help="or what all chips take")
    for command in (check, bench):
        command.add_argument("--base", help="checkpoint, for its tokenizer")
        command.add_argument("--tokenizer", help="folder or hub id; default: that of --base")
        command.add_argument("--model", dest="base", action=Renamed, help=argparse.SUPPRESS)
        command.add_argument("--resolution", type=_above_0(int), default=data.resolution)
        buckets = "crop as with data.buckets=true, not to squares; what does not fit is a fault"
        command.add_argument("--buckets", action="store_true", help=buckets)
        crop = "largest share of a picture that its bucket may crop (default %(default)s)"
        command.add_argument("--max-crop", type=float, default=data.max_crop, help=crop)
    unit = "pixels that the sides of buckets are multiples of, by the base (default %(default)s)"
    check.add_argument("--side-unit", type=_above_0(int), default=SIDE_UNIT, help=unit)
    return parser.parse_args(arguments)


def _add(commands: argparse._SubParsersAction, name: str, purpose: str) -> _Parser:
    """Add a command with the options that all commands share: the data set and the threads."""
    data = DataConfig()
    command = commands.add_parser(name, help=purpose, epilog=f"example: {EXAMPLES[name]}")
    command.add_argument(
        "path",
        metavar="DIR",
        help="folder of the data set, gs://..., or (layout datasets) a hub id",
    )
    layouts = f"{', '.join(LAYOUTS)}, or your own as module:function (%(default)s)"
    command.add_argument("--layout", default=data.layout, help=layouts)
    command.add_argument(
        "--split", choices=list(SPLITS), default=data.split, help="of ffhq, datasets"
    )
    command.add_argument(
        "--subject-label",
        default=data.subject_label,
        help="coco_label of the subjects, or none for every label (ffhq only; default %(default)s)",
    )
    command.add_argument("--workers", type=_above_0(int), default=data.workers, help="threads")
    return command


def _above_0(kind: type) -> Callable[[str], int | float]:
    """Make the parser of an option that is an int or a float above 0."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < math.inf:
            noun = {int: "a whole number", float: "a number"}[kind]
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun} above 0")
        return value

    return parse


def _fit(options: argparse.Namespace) -> Fit | None:
    """Give the sizes that pictures are cropped to; None if all are cropped to squares."""
    if not options.buckets:
        return None
    sizes = bucket_sizes(options.resolution, options.side_unit)
    return Fit(sizes, DataConfig(max_crop=options.max_crop).max_crop)


def _data(options: argparse.Namespace, **more: Any) -> DataConfig:
    """Gather the options that describe the data set."""
    label = None if options.subject_label == "none" else options.subject_label
    given = {"layout": options.layout, "split": options.split, "workers": options.workers}
    if options.command == "pack":
        more["max_bad_fraction"] = options.max_bad_fraction
    return DataConfig(path=options.path, subject_label=label, **given, **more)


def _load_tokenizer(base: str, named: str | None) -> Tokenizer:
    tokenizer = load_tokenizer(find_tokenizer(base, named))
    encode_caption(tokenizer, "")  # refuses a tokenizer that does not say its length
    return tokenizer


def _print_faults(report: Report, options: argparse.Namespace) -> int:
    for name, found in report.faults.items():
        for fault in found:
            print(f"{name}: {fault}")
    nobody = report.subjects == 0
    if nobody:
        labels = "" if options.subject_label == "none" else " (try --subject-label none)"
        print(f"{options.path}: no picture has a subject{labels}")
    if not (options.base or options.tokenizer):
        print("not checked, for want of --base: is each subject's word among the tokens that fit?")
    if report.buckets:
        print(report.buckets.described())
    total = sum(len(found) for found in report.faults.values())
    references = f", {report.references} references" if report.references else ""
    print(
        f"{report.records} records, {report.subjects} subjects{references}: "
        f"{total} faults in {len(report.faults)} records"
    )
    return 1 if report.faults or nobody else 0


if __name__ == "__main__":
    sys.exit(main())
