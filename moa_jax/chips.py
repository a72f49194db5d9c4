"""What accelerators can do at most, from their makers' published figures.

A "device" is what JAX counts: a chip, or on TPU v4 (as the compiler's topologies have it) and TPU7x
one of its two cores.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One device of a kind.

    Attributes:
        flops: of bfloat16 with float32 sums, FLOP/s.
        memory_bandwidth: of its HBM, bytes/s.
        memory: of its HBM that a TPU program may use, as libtpu says, bytes; None: not known.
        link_bandwidth: of all its links to other chips together, one way, bytes/s.
    """

    name: str
    flops: float
    memory_bandwidth: float
    memory: float | None
    link_bandwidth: float


_GIB = 2.0**30

# By the beginning of `jax.Device.device_kind`, the longest first that fits.
CHIPS: dict[str, Chip] = {
    "TPU v4": Chip("v4 core", 138e12, 614e9, 15.75 * _GIB, 150e9),
    "TPU v5 lite": Chip("v5e", 197e12, 819e9, 15.75 * _GIB, 200e9),
    "TPU v5e": Chip("v5e", 197e12, 819e9, 15.75 * _GIB, 200e9),
    "TPU v5": Chip("v5p", 459e12, 2765e9, 95.74 * _GIB, 600e9),
    "TPU v6": Chip("v6e", 918e12, 1640e9, 31.24 * _GIB, 448e9),
    "TPU7x": Chip("tpu7x core", 1153e12, 3690e9, 94.74 * _GIB, 600e9),
    "NVIDIA A100": Chip("A100", 312e12, 2039e9, None, 300e9),
    "NVIDIA H100": Chip("H100", 989e12, 3350e9, None, 450e9),
    "NVIDIA H200": Chip("H200", 989e12, 4800e9, None, 450e9),
    "NVIDIA L4": Chip("L4", 121e12, 300e9, None, 32e9),
    "Tesla T4": Chip("T4", 65e12, 320e9, None, 16e9),
}


def find_chip(device_kind: str) -> Chip | None:
    """Look a device up by what JAX calls it; None for one that is not listed, as a CPU."""
    fitting = [kind for kind in CHIPS if device_kind.startswith(kind)]
    return CHIPS[max(fitting, key=len)] if fitting else None
