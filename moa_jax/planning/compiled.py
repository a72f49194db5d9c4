"""What the compiler says of one program: memory of a device, FLOPs, bytes, collectives.

Pallas kernels are closed to the compiler's count: their operands and results are added as bytes, at
least once each, and their FLOPs are left out and said to be. Knows nothing of what a program does.
"""

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from moa_jax.chips import Chip

GIB = 2.0**30

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
KERNEL = 'custom_call_target="tpu_custom_call"'

# "%name = type operation(operands), attributes": what stands left of the operands.
_OPERATION = re.compile(r"^\s*(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%(\S+) \(")
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\]")
_NEEDED = re.compile(r"\(([\d.]+)G\)|Used ([\d.]+)G of")


@dataclass(frozen=True)
class Collective:
    """All operations of one kind in a program; one inside a loop counts once.

    Attributes:
        count: how many.
        bytes: of their results on one device.
    """

    count: int
    bytes: int


@dataclass(frozen=True)
class Usage:
    """What one device needs for a program.

    Attributes:
        parts: bytes of the arguments by what they are, e.g. "frozen".
        temporaries: bytes of everything else at its peak; what the compiler asks for in vain where
            the program does not fit.
        fits: whether it compiled; otherwise what follows is 0.
        flops: as the compiler counts them, without Pallas kernels.
        bytes: read and written, with the operands and results of Pallas kernels.
        pallas_bytes: the latter alone.
    """

    parts: Mapping[str, int]
    temporaries: int
    fits: bool
    flops: float = 0.0
    bytes: float = 0.0
    pallas_bytes: int = 0
    collectives: Mapping[str, Collective] | None = None

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values()) + self.temporaries

    def times(self, chip: Chip) -> dict[str, float]:
        """Bound the seconds of one run from below, by what takes them; the largest bounds it."""
        moved = sum(collective.bytes for collective in (self.collectives or {}).values())
        return {
            "arithmetic": self.flops / chip.flops,
            "memory": self.bytes / chip.memory_bandwidth,
            "links": moved / chip.link_bandwidth,
        }


def measure(lowered: Any, parts: Mapping[str, Any]) -> Usage:
    """Compile a program, and read what it needs.

    Args:
        lowered: of `jax.jit(...).lower(...)`.
        parts: its arguments by what they are: trees of shapes that say their sharding.
    """
    sizes = {name: shard_bytes(tree) for name, tree in parts.items()}
    try:
        compiled, text = compile_with_text(lowered)
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or needed is None:
            raise
        return Usage(sizes, int(float(needed[1] or needed[2]) * GIB), fits=False)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    held = memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    pallas = kernel_bytes(text)
    return Usage(
        parts=sizes,
        temporaries=held,
        fits=True,
        flops=cost["flops"],
        bytes=cost["bytes accessed"] + pallas,
        pallas_bytes=pallas,
        collectives=collectives(text),
    )


def compile_with_text(lowered: Any) -> tuple[Any, str]:
    """Compile, and give the compiled program as text too.

    By way of a dump: what libtpu compiles may have operations that jaxlib cannot read.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile(compiler_options=options)
        dumped = Path(folder).glob("*after_optimizations.txt")
        return compiled, max((file.read_text() for file in dumped), key=len)


def shard_bytes(tree: Any) -> int:
    """Sum the bytes that one device holds of arrays that say their sharding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def collectives(text: str) -> dict[str, Collective]:
    """Count the collectives of a compiled program's text, by kind.

    A TPU program writes a reduce-scatter as a fusion of that name around an all-reduce, and an
    asynchronous collective as a start and a done.
    """
    found: dict[str, Collective] = {}
    scattering = False
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")):
            computation = _COMPUTATION.match(line)
            scattering = bool(computation and computation[1].startswith("all-reduce-scatter"))
        elif (operation := _operation(line, KINDS)) and not operation[2].endswith("-done"):
            kind = "reduce-scatter" if scattering else operation[2].removesuffix("-start")
            sizes = _sizes(operation[1])
            # A start's tuple holds the operand too: the result is the larger.
            size = max(sizes) if operation[2].endswith("-start") else sum(sizes)
            known = found.get(kind, Collective(0, 0))
            found[kind] = Collective(known.count + 1, known.bytes + size)
    return found


def kernel_bytes(text: str) -> int:
    """Sum operands and results of the Pallas kernels in a compiled program's text."""
    types, total = {}, 0
    for line in text.splitlines():
        operation = _OPERATION.match(line)
        if operation is None:
            continue
        types[operation[1]] = operation[2]
        if KERNEL in line:
            operands = line[operation.end() :].split(")", 1)[0]
            named = re.findall(r"%([\w.-]+)", operands)
            total += sum(_sizes(operation[2]))
            total += sum(sum(_sizes(types.get(name, ""))) for name in named)
    return total


def _operation(line: str, kinds: Sequence[str]) -> tuple[str, str, str] | None:
    """Read name, type and kind of an operation, if it is of one of some kinds."""
    if not any(f" {kind}" in line for kind in kinds):
        return None
    operation = _OPERATION.match(line)
    if operation is None or not operation[3].startswith(tuple(kinds)):
        return None
    return operation[1], operation[2], operation[3]


def _sizes(type_text: str) -> list[int]:
    """Give the bytes of each array of a type."""
    return [
        math.prod(int(side) for side in shape.split(",") if side)
        * (8 if kind == "pred" else int(re.sub(r"\D", "", kind)))
        // 8
        for kind, shape in _ARRAY.findall(type_text)
    ]
