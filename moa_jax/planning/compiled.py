"""What one program takes of a device: memory, FLOPs, traffic, messages. Knows not what it does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moa_jax.chips import Chip
from moa_jax.planning.arithmetic import matrix_flops, splash_flops, unknown_kernels
from moa_jax.planning.aside import compile_aside
from moa_jax.planning.collectives import Collective, collectives
from moa_jax.planning.hlo import parse
from moa_jax.planning.traffic import memory_traffic


@dataclass(frozen=True)
class Usage:
    """What one device needs for a program.

    Attributes:
        parts: bytes of the arguments by what they are, e.g. "frozen".
        temporaries: bytes of everything else at its peak but for the machine code; what the
            compiler asks for in vain where the program does not fit.
        fits: whether the compiler found room; otherwise what follows is 0.
        flops: of matrix products and convolutions.
        splash_flops: of splash attention kernels.
        bytes: between the chip and its memory.
        collectives: what is sent.
        unknown_kernels: Pallas kernels whose FLOPs are missing.
        endless: loops of unknown turns, counted as one.
    """

    parts: Mapping[str, int]
    temporaries: int
    fits: bool
    flops: float = 0.0
    splash_flops: float = 0.0
    bytes: int = 0
    collectives: Sequence[Collective] = ()
    unknown_kernels: int = 0
    endless: int = 0

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values()) + self.temporaries

    @property
    def all_flops(self) -> float:
        """FLOPs of products, convolutions and kernels."""
        return self.flops + self.splash_flops

    def times(self, chip: Chip) -> dict[str, float]:
        """Bound the seconds of one run from below, by what takes them; the largest bounds it."""
        moved = sum(collective.bytes for collective in self.collectives)
        return {
            "arithmetic": self.all_flops / chip.flops,
            "memory": self.bytes / chip.memory_bandwidth,
            "links": moved / chip.link_bandwidth,
        }


def measure(make: Callable[[], Any]) -> Usage:
    """Compile a program, and read what it needs.

    Args:
        make: see `compile_aside`.

    Raises:
        InputError: as `make` does.
        RuntimeError: as `compile_aside` does.
    """
    compiled = compile_aside(make)
    temporaries = compiled.memory - sum(compiled.parts.values())
    if compiled.text is None:
        return Usage(compiled.parts, temporaries, fits=False)
    module = parse(compiled.text)
    return Usage(
        compiled.parts,
        temporaries,
        fits=True,
        flops=matrix_flops(module),
        splash_flops=splash_flops(module),
        bytes=memory_traffic(module),
        collectives=collectives(module),
        unknown_kernels=unknown_kernels(module),
        endless=len(module.endless),
    )
