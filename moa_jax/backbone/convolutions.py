"""Which library a CPU convolves with: an option for the programs that run the U-Net."""

import platform
from functools import cache

import jax

# What XLA is to leave to YNNPACK: by itself convolutions too, with this all but these. Then Eigen
# convolves, and on x86 it is faster at the U-Net's sizes (`python -m benchmarks.convolutions`). The
# VAE's large maps are a little faster with XLA's own choice. U-Net of one guided picture and VAE's
# decoder, seconds of 2 cores: at 256 pixels 2.86 and 3.24 by XLA's own choice, 2.09 and 3.45 with
# these options; at 512 10.05 and 12.8, 9.09 and 13.6.
_LEFT = ("INDIVIDUAL_DOT", "REDUCE")
EIGEN = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{name}" for name in _LEFT
    )
}


@cache
def convolution_options() -> dict[str, str] | None:
    """Give `compiler_options` of `jax.jit` with which small maps are convolved fastest here.

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
