"""What the benchmarks share: timing in turns, and the table and JSON that they leave.

A ratio is taken within each round, between two calls that ran one after the other. So a machine
that slows down in the course of a run slows both, and the spread of the ratios says how much can be
read into them.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.work import Work

PACKAGES = ("jax", "jaxlib", "torch", "diffusers", "transformers")
COLUMNS = [
    *("job", "needs TFLOP", "needs GB", "does TFLOP", "does GB", "temporaries MiB"),
    *("who", "median s", "least s", "spread", "repeats", "ours / theirs"),
]


@dataclass(frozen=True)
class Timing:
    """The seconds of each repeat, in the order they ran."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds of the repeat in the middle."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Difference between the slowest and the fastest repeat, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def numbers(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "median": self.median,
            "min": min(self.seconds),
            "max": max(self.seconds),
            "spread": self.spread,
            "repeats": len(self.seconds),
            "seconds": list(self.seconds),
        }


def alternate(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    limit: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time calls in turn: each round runs every call once, and every other round backwards.

    Args:
        calls: by name. Each must have run before, and must wait for its result.
        repeats: number of rounds, at least 1.
        limit: seconds after which no further round begins.
        clock: gives the time in seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    began = clock()
    for turn in range(repeats):
        for name in list(calls)[:: -1 if turn % 2 else 1]:
            start = clock()
            calls[name]()
            taken[name].append(clock() - start)
        if limit is not None and clock() - began >= limit:
            break
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


def ratio(ours: Timing, theirs: Timing) -> dict[str, float]:
    """Compare two calls of `alternate` round by round; below 1, ours takes less time."""
    each = [one / other for one, other in zip(ours.seconds, theirs.seconds, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    import jax

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
        "host": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every benchmark: repeats, seconds and out."""
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each measurement")
    parser.add_argument("--seconds", type=float, help="no round of a measurement begins after them")
    parser.add_argument("--out", help="folder for NAME.json and NAME.md")


class Report:
    """The rows of one benchmark; each is printed and written as soon as it is there."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        """Begin a report.

        Args:
            name: of the benchmark, and of its files NAME.json and NAME.md.
            options: see `add_common_options`.
        """
        self._name, self._repeats, self._limit = name, options.repeats, options.seconds
        self._out = options.out and Path(options.out)
        self.content = {"benchmark": name, "machine": machine(), "rows": [], "notes": []}
        about = self.content["machine"]
        _say(f"# {name}: {about['device']}, jax {about['versions']['jax']}\n{_head()}")

    def note(self, words: str) -> None:
        """Say what was left out, and why."""
        _say(f"note: {words}")
        self.content["notes"].append(words)
        self.write()

    def measure(
        self,
        job: str,
        calls: Mapping[str, Callable[[], Any]],
        needs: Work | None = None,
        does: Work | None = None,
        **more: Any,
    ) -> dict[str, Any] | None:
        """Time a job, ours first among the calls, and add its row.

        A call that fails is left out with a note: a kernel or compiler that does not work here
        takes nothing from the rest.

        Args:
            needs: the least that the job takes.
            does: what our compiled program takes.
            **more: further numbers of the row.

        Returns:
            The row; None if our own call failed.
        """
        ours, *_ = calls
        working = {name: call for name, call in calls.items() if self._runs(f"{job}, {name}", call)}
        if ours not in working:
            return None
        times = alternate(working, self._repeats, self._limit)
        return self.add(job, times, needs, does, **more)

    def add(
        self,
        job: str,
        times: Mapping[str, Timing],
        needs: Work | None = None,
        does: Work | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Add the row of a job whose times are known; ours first. See `measure`."""
        ours, *others = times
        row = {
            "job": job,
            "needs": needs and needs.numbers(),
            "does": does and does.numbers(),
            "times": {name: timing.numbers() for name, timing in times.items()},
            "ratios": {name: ratio(times[ours], times[name]) for name in others},
            **more,
        }
        self.content["rows"].append(row)
        _say(table([row]))
        self.write()
        return row

    def _runs(self, what: str, call: Callable[[], Any]) -> bool:
        """Run a call once, which compiles it and warms the caches."""
        try:
            call()
        except Exception as error:  # whatever a peer, a compiler or a full memory raises
            self.note(f"{what} failed: {type(error).__name__}: {str(error)[:200]}")
            return False
        return True

    def write(self) -> None:
        """Write the files again, after a row got further numbers."""
        if self._out is None:
            return
        self._out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.content, indent=1) + "\n"
        (self._out / f"{self._name}.json").write_text(text, encoding="utf-8")
        (self._out / f"{self._name}.md").write_text(markdown(self.content), encoding="utf-8")


def markdown(content: Mapping[str, Any]) -> str:
    """Write a report as a Markdown section."""
    about = content["machine"]
    used = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    notes = "".join(f"\n- {note}" for note in content["notes"])
    return (
        f"## {content['benchmark']}\n\n{about['device']}; {used}\n\n"
        f"{_head()}\n{table(content['rows'])}\n{notes}\n"
    )


def table(rows: list[Mapping[str, Any]]) -> str:
    """Give the lines of a Markdown table: one for each row and call."""
    lines = []
    for row in rows:
        needs, does = row["needs"] or {}, row["does"] or {}
        first = [row["job"], _in(needs, "flops", 1e12), _in(needs, "bytes", 1e9)]
        first += [_in(does, "flops", 1e12), _in(does, "bytes", 1e9)]
        first += [_in(does, "temporaries", 2**20)]
        for name, timing in row["times"].items():
            numbers = [f"{timing[key]:.4g}" for key in ("median", "min")]
            compared = row["ratios"].get(name)
            words = (
                "" if compared is None else "{median:.2f} ({min:.2f}–{max:.2f})".format(**compared)
            )
            spread, repeats = f"{timing['spread']:.0%}", str(timing["repeats"])
            lines.append(_line([*first, name, *numbers, spread, repeats, words]))
            first = [""] * len(first)
    return "\n".join(lines)


def _in(numbers: Mapping[str, Any], key: str, unit: float) -> str:
    value = numbers.get(key)
    return "" if value is None else f"{value / unit:.4g}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head() -> str:
    return _line(COLUMNS) + "\n" + _line(["---"] * len(COLUMNS))


def _say(text: str) -> None:
    print(text, flush=True)
