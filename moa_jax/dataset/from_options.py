"""Run `build` as the command's arguments ask, and say in words what it did."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from moa_jax.dataset.build import build, find_photographs
from moa_jax.dataset.checkpoint import REMEDY
from moa_jax.dataset.finish import Report
from moa_jax.dataset.models import METHODS, open_models
from moa_jax.dataset.options import read_options
from moa_jax.errors import InputError
from moa_jax.extension import find, import_extra


def build_from_arguments(given: argparse.Namespace) -> list[str]:
    """Build a data set; give the lines to print.

    Args:
        given: the arguments of `moa_jax.dataset.options.add_arguments`.

    Raises:
        InputError: as `open_models`, `open_recognizer` and `build`.
    """
    if given.workers < 1:
        raise InputError(f"--workers={given.workers}: must be at least 1")
    find_photographs(Path(given.source), Path(given.destination))  # before the networks are loaded
    names = {role: getattr(given, role) for role in METHODS}
    recognizer = _open_recognizer(given.faces or "dlib") if given.faces or given.pair else None
    report = build(
        given.source,
        given.destination,
        open_models(names, _devices(given.devices)),
        read_options(given),
        recognizer=recognizer,
        pair=given.pair,
        refuse=find(given.filter, "--filter") if given.filter else None,
        refuse_name=given.filter,
        workers=given.workers,
    )
    return tell(report, given.destination, given.pair)


def tell(report: Report, destination: str, paired: bool) -> list[str]:
    """Say in words what a run did, with a line for each kind of reason.

    Args:
        paired: whether the same people were looked for.
    """
    counts = report.counts()
    subjects = sum(len(row["subjects"]) for row in report.rows)
    lines = [f"{kind}: {n} pictures dropped" for kind, n in counts["dropped"].most_common()]
    lines += [f"{kind}: {n} subjects left out" for kind, n in counts["left_out"].most_common()]
    told = [f"{len(report.rows)} pictures with {subjects} subjects"]
    told += [f"{report.by_hand} of the rows by hand"] if report.by_hand else []
    told += [f"{report.pairs} pairs of one person"] if paired else []
    lines.append(f"{destination}: {', '.join(told)}; {report.made} pictures done now")
    check = shlex.join(["python", "-m", "moa_jax.data", "check", destination])
    lines.append(f"look at {destination}/sheet.png, and check all of it: {check}")
    return lines


def _devices(text: str | None) -> list[str]:
    """Name the devices: those that were given, or every CUDA device, or else the CPU."""
    if text is not None:
        return [name.strip() for name in text.split(",") if name.strip()] or ["cpu"]
    cuda = import_extra("torch", "data build", REMEDY).cuda
    return [f"cuda:{number}" for number in range(cuda.device_count())] or ["cpu"]


def _open_recognizer(name: str) -> Any:
    from moa_jax.faces.recognizer import open_recognizer  # only here: --faces and --pair need it

    return open_recognizer(name, "--faces")
