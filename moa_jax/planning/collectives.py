"""What a compiled program sends between devices.

Which of them are wanted, a test or a plan says.
"""

import math
import re
from dataclasses import dataclass

from moa_jax.planning.hlo import HloArray, Module, Operation

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_CHANNEL = re.compile(r"channel_id=(\d+)")
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Collective:
    """One message between devices.

    Attributes:
        kind: one of KINDS.
        arrays: each result, as one device holds it.
        name: of the operation that it comes from; the compiler may have joined several.
        turns: how often it is sent: more than once in a loop.
    """

    kind: str
    arrays: tuple[HloArray, ...]
    name: str
    turns: int = 1

    @property
    def numbers(self) -> int:
        """How many there are in its arrays, each turn."""
        return sum(math.prod(array.shape) for array in self.arrays)

    @property
    def bytes(self) -> int:
        """How much all its turns send."""
        return self.turns * sum(array.content for array in self.arrays)


def collectives(module: Module) -> list[Collective]:
    """List the collectives of a program.

    A TPU program writes a reduce-scatter as a fusion of that name around an all-reduce, and one
    that runs beside arithmetic once for each step of that: they share their channel.
    """
    found, channels = [], set()
    for name, turns in module.turns.items():
        for op in module.computations[name].values():
            kind = op.kind.removesuffix("-start")
            if kind not in KINDS:
                continue
            channel = _CHANNEL.search(op.rest)
            if channel and channel[1] in channels:
                continue
            channels.add(channel and channel[1])
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            origin = _NAME.search(op.rest)
            found.append(Collective(kind, _results(op), origin[1] if origin else "", turns))
    return found


def _results(op: Operation) -> tuple[HloArray, ...]:
    """Leave out the operands that some asynchronous operations list before their results."""
    if op.kind == "all-gather-start":
        return op.arrays[len(op.arrays) // 2 :]
    return op.arrays[1:2] if op.kind == "collective-permute-start" else op.arrays
