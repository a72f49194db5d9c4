"""Plans as a table for people and as JSON for programs.

These are pure functions of the plans; nothing is printed here.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Column, Table

from moa_jax.planning.plan import CODE, Plan
from moa_jax.training.chips import GIB

LEAST = 0.01  # share of the traffic from which on a network has a line of its own
NOTE = (
    "Compiled, not run: memory, FLOPs and traffic are what the compiler laid out; the times are "
    "what arithmetic, memory and links need at least at their makers' peaks, so the speed is an "
    "upper bound. The memory lacks the machine code, about 0.4 GiB of a full-size training step."
)
KERNEL = "The FLOPs of attention kernels are by formula."
KERNELS = "The FLOPs of {} other Pallas kernels are not known, and missing."
ENDLESS = "{} loops do not tell how often they turn, and are counted as turning once."


def table(plans: Sequence[Plan], remat: bool) -> tuple[list[str], list[list[str]]]:
    """Lay out plans as a table, one column each.

    Args:
        remat: whether the programs recompute their blocks.

    Returns:
        The heads of the columns, and the lines: a name, then each plan's value.
    """
    columns = [_column(plan, remat) for plan in plans]
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [[name, *(column.get(name, "-") for column in columns)] for name in names]
    return ["a device", *(plan.title for plan in plans)], lines


def rendered(plans: Sequence[Plan], remat: bool = False) -> Group:
    """Draw the table for a terminal, with notes on what its numbers are worth."""
    heads, lines = table(plans, remat)
    drawn = Table(*(Column(head, overflow="fold") for head in heads))
    for line in lines:
        drawn.add_row(*line)
    return Group(drawn, *notes(plans))


def notes(plans: Sequence[Plan]) -> list[str]:
    """Say how far the numbers of a table can be trusted."""
    usages = [plan.usage for plan in plans]
    found = [NOTE]
    if any(usage.kernel_flops for usage in usages):
        found.append(KERNEL)
    if unknown := max(usage.unknown_kernels for usage in usages):
        found.append(KERNELS.format(unknown))
    if endless := max(usage.endless for usage in usages):
        found.append(ENDLESS.format(endless))
    return found


def as_json(plan: Plan) -> dict[str, Any]:
    """Turn a plan into values that JSON can hold."""
    usage = plan.usage
    return {
        "title": plan.title,
        "chip": plan.chip.name if plan.chip else None,
        "devices": plan.devices,
        "images": plan.images,
        "fits": plan.fits,
        "memory": {**usage.parts, "temporaries": usage.temporaries},
        "limit": plan.limit,
        "flops": usage.flops,
        "kernel_flops": usage.kernel_flops,
        "bytes": usage.bytes,
        "traffic": usage.traffic,
        "collectives": _by_kind(plan),
        "seconds": plan.seconds,
        "largest": plan.largest,
    }


def _column(plan: Plan, remat: bool) -> dict[str, str]:
    usage, rows = plan.usage, plan.images / plan.devices
    found = {"pictures": f"{rows:g}"}
    # A part may be empty: a run without a moving average has none.
    found |= {f"memory: {name}": _gib(size) for name, size in usage.parts.items() if size}
    found["memory: temporaries"] = _gib(usage.temporaries)
    limit = f" of {_gib(plan.limit)}" if plan.limit else ""
    found["memory in all"] = _gib(usage.memory) + limit
    if not plan.fits:
        return found | {"fits": f"NO: {plan.remedies(remat)}"}
    found["fits"] = "yes"
    # The compiler's memory lacks the machine code, which the room must hold too.
    if plan.room is not None and plan.room < CODE:
        found["fits"] = f"perhaps: the program's own code needs some of {_gib(plan.room)}"
    if plan.largest is not None:
        found["pictures that fit, about"] = str(plan.largest)
    found["TFLOP"] = f"{usage.all_flops / 1e12:.3g}"
    if usage.kernel_flops:
        found["of that by kernels"] = f"{usage.kernel_flops / 1e12:.3g}"
    found["TFLOP a picture"] = f"{usage.all_flops / 1e12 / rows:.3g}"
    found["memory traffic, GB"] = f"{usage.bytes / 1e9:.3g}"
    found["memory traffic a picture, GB"] = f"{usage.bytes / 1e9 / rows:.3g}"
    for network, kinds in usage.traffic.items():
        if (moved := sum(kinds.values())) >= LEAST * usage.bytes:
            found[f"of that {network}"] = f"{moved / 1e9 / rows:.3g}"
    for kind, (count, size) in _by_kind(plan).items():
        found[kind] = f"{count} of {size / 1e9:.3g} GB in all"
    return found | _bounds(plan)


def _by_kind(plan: Plan) -> dict[str, tuple[int, int]]:
    """Count the collectives of each kind, and sum their bytes."""
    found: dict[str, tuple[int, int]] = {}
    for one in sorted(plan.usage.collectives, key=lambda one: one.kind):
        count, size = found.get(one.kind, (0, 0))
        found[one.kind] = (count + one.turns, size + one.bytes)
    return found


def _bounds(plan: Plan) -> dict[str, str]:
    if plan.chip is None or plan.seconds is None:
        return {"speed": "not bounded: the chip is not in moa_jax/training/chips.py"}
    times = plan.usage.times(plan.chip)
    found = {f"seconds for {name}": f"{seconds:.3g}" for name, seconds in times.items()}
    found["seconds at least"] = f"{plan.seconds:.3g}"
    found["pictures/s/device at most"] = f"{plan.images / plan.devices / plan.seconds:.3g}"
    if plan.runs > 1:  # a training: its runs are its steps
        found["hours at least"] = f"{plan.hours:.3g}"
        found["device-hours at least"] = f"{plan.hours * plan.devices:.4g}"
    return found


def _gib(size: int | float) -> str:
    return f"{size / GIB:.2f} GiB"
