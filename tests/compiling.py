"""How XLA compiles for the tests: quickly, into programs that run slowly.

Nearly all of the tests' time goes into compiling networks that then run for milliseconds. Without
most optimizations that takes a third of the time or less, and computes the same to rounding.
MOA_TESTS_OPTIMIZED=1 compiles everything as for users; `make nightly` does.

Knows no jax: what is set here must stand in the environment before jax is imported.
"""

import os
from importlib.metadata import version
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / ".jax_cache"  # compiled ones, of all workers
JAXLIB = tuple(int(part) for part in version("jaxlib").split(".")[:2])
IN_A_HURRY = not os.environ.get("MOA_TESTS_OPTIMIZED")


def xla_flags(devices: int) -> str:
    """Give the value of XLA_FLAGS for a process with so many CPU devices.

    XLA ends a process whose flags it does not know, so each stands where it is known.
    """
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    if JAXLIB >= (0, 10):
        # Devices on two busy cores can keep each other waiting for longer than XLA's 40 seconds.
        flags.append("--xla_cpu_collective_call_terminate_timeout_seconds=600")
    if IN_A_HURRY:
        flags.append("--xla_cpu_parallel_codegen_split_count=1")
    if IN_A_HURRY and JAXLIB <= (0, 10):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


def on_one_device() -> dict[str, str]:
    """Give the environment of a command that finds one device, and the programs of the tests."""
    return os.environ | {
        "XLA_FLAGS": xla_flags(devices=1),
        "JAX_COMPILATION_CACHE_DIR": str(PROGRAMS),
    }
