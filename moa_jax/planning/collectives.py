"""The messages that a compiled program sends between devices.

This module lists them; a test or a plan says which of them are wanted.
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
        arrays: its results, each as one device holds it.
        name: name of the operation that it comes from; the compiler may have joined several.
        turns: how often it is sent; in a loop, more than once.
    """

    kind: str
    arrays: tuple[HloArray, ...]
    name: str
    turns: int = 1

    @property
    def numbers(self) -> int:
        """How many numbers its arrays hold, in each turn."""
        return sum(math.prod(array.shape) for array in self.arrays)

    @property
    def bytes(self) -> int:
        """Bytes that all its turns send together."""
        return self.turns * sum(array.content for array in self.arrays)


def collectives(module: Module) -> list[Collective]:
    """List the collectives of a program.

    A TPU program writes a reduce-scatter as a fusion of that name around an all-reduce. It writes
    a collective that runs beside arithmetic once for each step of the arithmetic. Such copies share
    their channel, and only the first is listed.
    """
    found, channels = [], set()
    for name, turns in module.turns.items():
        for op in module.computations[name].values():
            # An asynchronous collective is a start and a done; the start stands for both.
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
    """Give the results without the operands that some asynchronous operations list first."""
    if op.kind == "all-gather-start":
        return op.arrays[len(op.arrays) // 2 :]  # operands, then as many results
    return op.arrays[1:2] if op.kind == "collective-permute-start" else op.arrays
