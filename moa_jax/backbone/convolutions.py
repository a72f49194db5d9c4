"""Which library a CPU convolves with: an option for the programs that draw."""

import platform
from functools import cache

import jax

# XLA takes YNNPACK for what this option names: by itself for convolutions too, with nothing here
# for none. Then Eigen convolves, and on x86 it is faster at every shape of Stable Diffusion's; see
# `python -m benchmarks.convolutions`.
EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}


@cache
def convolution_options() -> dict[str, str] | None:
    """Give `compiler_options` of `jax.jit` with which convolutions are fastest on this machine.

    Returns:
        None where XLA's own choice is the one to take: on TPUs and GPUs, on a CPU for which the
        options were not measured, and with a version of XLA that does not have them.
    """
    if jax.default_backend() != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    try:
        jax.jit(lambda: 0.0, compiler_options=EIGEN).lower().compile()
    except jax.errors.JaxRuntimeError:  # no such option
        return None
    return EIGEN
