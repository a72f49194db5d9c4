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

from moa_jax.chips import GIB, Chip
from moa_jax.training.collectives import Collective, array_bytes, array_types, collectives

KERNEL = 'custom_call_target="tpu_custom_call"'

# "%name = type operation(operands), attributes": what stands left of the operands.
_OPERATION = re.compile(r"^\s*(?:ROOT )?%(\S+) = (.*?) [a-z][\w-]*\(")
_NEEDED = re.compile(r"\(([\d.]+)G\)|Used ([\d.]+)G of")


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
        collectives: one inside a loop stands once.
    """

    parts: Mapping[str, int]
    temporaries: int
    fits: bool
    flops: float = 0.0
    bytes: float = 0.0
    pallas_bytes: int = 0
    collectives: Sequence[Collective] = ()

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values()) + self.temporaries

    def times(self, chip: Chip) -> dict[str, float]:
        """Bound the seconds of one run from below, by what takes them; the largest bounds it."""
        moved = sum(collective.bytes for collective in self.collectives)
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


def kernel_bytes(text: str) -> int:
    """Sum operands and results of the Pallas kernels in a compiled program's text."""
    sizes, total = {}, 0
    for line in text.splitlines():
        operation = _OPERATION.match(line)
        if operation is None:
            continue
        sizes[operation[1]] = sum(array_bytes(*array) for array in array_types(operation[2]))
        if KERNEL in line:
            operands = line[operation.end() :].split(")", 1)[0]
            total += sizes[operation[1]]
            total += sum(sizes.get(name, 0) for name in re.findall(r"%([\w.-]+)", operands))
    return total
