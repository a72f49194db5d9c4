"""Time how long a checkpoint takes to load, against reading its bytes; and the memory it takes.

    python -m benchmarks.loading                                   (the toy world)
    python -m benchmarks.loading --size sd15 --dtype bfloat16

Every load runs in a process of its own, in turn with one that only reads the same files. The
memory's peak counts from after the imports; on a CPU it holds the weights themselves, so 1.0 of
them is the least.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.models import opened
from benchmarks.report import Report, Timing, add_common_options
from benchmarks.work import Work
from moa_jax.cli import run

Numbers = dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--size", default="toy", help="toy, sd15, tiny, or a checkpoint's folder")
    parser.add_argument("--dtype", help="of the loaded weights; left out: as drawing chooses")
    add_common_options(parser)
    options = parser.parse_args(argv)
    return run(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    """Measure and report what the command line asks for."""
    report = Report("loading", options)
    with opened(options.size) as folder:
        arguments = ["load", str(folder), *([options.dtype] if options.dtype else [])]
        _once(*arguments)  # traces the networks' shapes, which are kept, and warms the file cache
        rounds = [(_once(*arguments), _once("read", str(folder))) for _ in range(options.repeats)]
    loads, reads = zip(*rounds, strict=True)
    times = {"load": _timing(loads, "seconds"), "read": _timing(reads, "seconds")}
    peak = statistics.median(each["peak_bytes"] / each["weight_bytes"] for each in loads)
    row = report.add(
        f"load {options.size}",
        times,
        needs=Work(0.0, reads[0]["bytes"]),
        import_seconds=_timing(loads, "import_seconds").numbers(),
        cpu_seconds={
            "load": _timing(loads, "cpu_seconds").numbers(),
            "read": _timing(reads, "cpu_seconds").numbers(),
        },
        weight_bytes=loads[0]["weight_bytes"],
        peak_over_weights=peak,
    )
    cpu = {name: numbers["median"] for name, numbers in row["cpu_seconds"].items()}
    report.note(
        f"importing took {row['import_seconds']['median']:.2f} s before that; processor time "
        f"{cpu['load']:.2f} s to load and {cpu['read']:.2f} s to read; peak memory {peak:.2f} x "
        f"the weights of {row['weight_bytes'] / 2**20:.0f} MiB"
    )


def _once(*arguments: str) -> Numbers:
    """Run one process and read the numbers that it prints last."""
    command = [sys.executable, "-m", "benchmarks.load_once", *arguments]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    return json.loads(done.stdout.splitlines()[-1])


def _timing(processes: Sequence[Numbers], key: str) -> Timing:
    return Timing(tuple(each[key] for each in processes))


if __name__ == "__main__":
    sys.exit(main())
