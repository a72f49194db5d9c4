"""The peak figures of accelerators, as their makers publish them.

A "chip" is what JAX counts as a device of a running program; on TPU7x that is one of two cores.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One device of a kind.

    Attributes:
        flops: FLOP/s of dense bfloat16 (float16 on V100 and T4) with float32 sums.
        memory_bandwidth: bytes/s of its own memory.
        link_bandwidth: bytes/s of all its links to other chips together, one way.
        memory: bytes that a TPU program may use, as libtpu says; None means not known.
    """

    name: str
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    memory: float | None = None


GIB = 2.0**30

# The keys are beginnings of `jax.Device.device_kind`; the longest that fits counts.
CHIPS: dict[str, Chip] = {
    "TPU v4": Chip("v4", 275e12, 1228e9, 300e9, 30.75 * GIB),
    "TPU v5 lite": Chip("v5e", 197e12, 819e9, 200e9, 15.75 * GIB),
    "TPU v5e": Chip("v5e", 197e12, 819e9, 200e9, 15.75 * GIB),
    # 2,765 GB/s by docs.cloud.google.com/tpu/docs/v5p, which also puts it as 2,575 GiB/s. The table
    # in jax.experimental.pallas.tpu has 2,460 and names no source: the maker's figure counts here.
    "TPU v5": Chip("v5p", 459e12, 2765e9, 600e9, 95.7 * GIB),
    "TPU v6": Chip("v6e", 918e12, 1640e9, 448e9, 31.24 * GIB),
    "TPU7x": Chip("tpu7x core", 1153e12, 3690e9, 600e9, 94.7 * GIB),
    "Tesla V100": Chip("V100", 125e12, 900e9, 150e9),
    "Tesla T4": Chip("T4", 65e12, 320e9, 16e9),
    "NVIDIA A100": Chip("A100", 312e12, 2039e9, 300e9),
    "NVIDIA H100": Chip("H100", 989e12, 3350e9, 450e9),
    "NVIDIA H100 PCIe": Chip("H100 PCIe", 756e12, 2000e9, 64e9),
    "NVIDIA H200": Chip("H200", 989e12, 4800e9, 450e9),
    "NVIDIA L4": Chip("L4", 121e12, 300e9, 32e9),
    "NVIDIA L40S": Chip("L40S", 362e12, 864e9, 32e9),
    "NVIDIA GeForce RTX 3090": Chip("RTX 3090", 71e12, 936e9, 32e9),
    "NVIDIA GeForce RTX 4090": Chip("RTX 4090", 165e12, 1008e9, 32e9),
}


def find_chip(device_kind: str) -> Chip | None:
    """Look up a device by JAX's name of its kind; None for a CPU and for kinds not listed."""
    fitting = [kind for kind in CHIPS if device_kind.startswith(kind)]
    return CHIPS[max(fitting, key=len)] if fitting else None
