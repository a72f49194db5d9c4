"""What one program takes of a device: memory, FLOPs, traffic, messages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moa_jax.planning.collectives import Collective, collectives
from moa_jax.planning.compiler import compile_aside
from moa_jax.planning.flops import kernel_flops, matrix_flops, unknown_kernels
from moa_jax.planning.hlo import parse
from moa_jax.planning.origin import Traffic, add_traffic, traffic_by_origin
from moa_jax.training.chips import Chip


@dataclass(frozen=True)
class Usage:
    """What one device needs for a program.

    Attributes:
        parts: bytes of the arguments by what they are, e.g. "frozen".
        temporaries: bytes of everything else at its peak, without the machine code. If the program
            does not fit, parts and temporaries sum to what the compiler asked for in vain.
        fits: whether the compiler found room. If it did not, the numbers below are 0.
        flops: FLOPs of matrix products and convolutions.
        kernel_flops: FLOPs of attention kernels.
        traffic: bytes between the chip and its memory, by where they come from; see
            `traffic_by_origin`.
        collectives: the messages that the program sends.
        unknown_kernels: number of Pallas kernels whose FLOPs are missing.
        endless: number of loops whose turns are unknown; each counts as one turn.
    """

    parts: Mapping[str, int]
    temporaries: int
    fits: bool
    flops: float = 0.0
    kernel_flops: float = 0.0
    traffic: Traffic = field(default_factory=dict)
    collectives: Sequence[Collective] = ()
    unknown_kernels: int = 0
    endless: int = 0

    @property
    def memory(self) -> int:
        """Bytes of the arguments and the temporaries together."""
        return sum(self.parts.values()) + self.temporaries

    @property
    def bytes(self) -> int:
        """Traffic between the chip and its memory, in bytes."""
        return sum(sum(kinds.values()) for kinds in self.traffic.values())

    @property
    def all_flops(self) -> float:
        """FLOPs of products, convolutions and kernels."""
        return self.flops + self.kernel_flops

    def times(self, chip: Chip) -> dict[str, float]:
        """Bound the duration of one run from below, in seconds.

        Each bound is what one resource needs at its peak rate; the largest bounds the run.
        """
        # Arithmetic, memory and links may work at the same time, so their times do not add up.
        moved = sum(collective.bytes for collective in self.collectives)
        return {
            "arithmetic": self.all_flops / chip.flops,
            "memory": self.bytes / chip.memory_bandwidth,
            "links": moved / chip.link_bandwidth,
        }


def in_turn(usages: Sequence[tuple[Usage, int]]) -> Usage:
    """Add up programs that run one after the other on one device.

    FLOPs, traffic and messages add up. Memory does not: the program that needs most of it counts.

    Args:
        usages: each program's usage, and how often the program runs.
    """
    each = [usage for usage, _ in usages]
    fits = all(usage.fits for usage in each)
    # Weights that several programs use lie in memory once: the most counts, not the sum.
    parts = {
        name: max(usage.parts.get(name, 0) for usage in each)
        for name in dict.fromkeys(name for usage in each for name in usage.parts)
    }
    memory = max(usage.memory for usage in each)
    return Usage(
        parts,
        memory - sum(parts.values()),
        fits,
        flops=sum(usage.flops * runs for usage, runs in usages),
        kernel_flops=sum(usage.kernel_flops * runs for usage, runs in usages),
        traffic=add_traffic((usage.traffic, runs) for usage, runs in usages),
        collectives=[sent for usage, runs in usages for sent in [*usage.collectives] * runs],
        unknown_kernels=sum(usage.unknown_kernels for usage in each),
        endless=sum(usage.endless for usage in each),
    )


def measure(make: Callable[[], Any]) -> Usage:
    """Compile a program and read what it needs.

    Args:
        make: see `compile_aside`.

    Raises:
        InputError: as `make` does.
        RuntimeError: as `compile_aside` does.
    """
    compiled = compile_aside(make)
    temporaries = compiled.memory - sum(compiled.parts.values())
    # Where the program does not fit, the compiler settled nothing else.
    if compiled.text is None:
        return Usage(compiled.parts, temporaries, fits=False)
    module = parse(compiled.text)
    return Usage(
        compiled.parts,
        temporaries,
        fits=True,
        flops=matrix_flops(module),
        kernel_flops=kernel_flops(module),
        traffic=traffic_by_origin(module),
        collectives=collectives(module),
        unknown_kernels=unknown_kernels(module),
        endless=len(module.endless),
    )
