"""The FLOPs of a compiled program's matrix products, convolutions and attention kernels.

A loop counts with all its turns; the compiler's own count takes it for one turn. Attention kernels
are counted by formula, because the compiler's count does not see into Pallas kernels.
"""

import math
import re
from collections.abc import Callable

import numpy as np

from moa_jax.planning.hlo import Computation, Module, Operation

KERNEL = 'custom_call_target="tpu_custom_call"'
# Matrix products in each kernel: of our flash attention, forward and backward; of JAX's splash
# attention, forward, gradients of key and value, gradient of query.
ATTENTION = {
    "flash_fwd": 2,
    "flash_bwd": 5,
    "splash_mha_fwd": 2,
    "splash_mha_dkv": 4,
    "splash_mha_dq": 3,
}
_FLOAT = re.compile(r"b?f\d")


def matrix_flops(module: Module) -> float:
    """Count the FLOPs of matrix products and convolutions; a multiply-add is two."""
    return _total(module, product_flops)


def kernel_flops(module: Module) -> float:
    """Count the FLOPs of attention kernels."""
    return _total(module, _kernel)


def unknown_kernels(module: Module) -> int:
    """Count the Pallas kernels whose FLOPs are not known."""
    ops = (op for name in module.turns for op in module.computations[name].values())
    return sum(KERNEL in op.rest and not _products(op) for op in ops)


def _total(module: Module, count: Callable[[Operation, Computation], float]) -> float:
    return sum(
        turns * count(op, module.computations[name])
        for name, turns in module.turns.items()
        for op in module.computations[name].values()
    )


def product_flops(op: Operation, within: Computation) -> float:
    """Count the FLOPs of one matrix product or convolution; 0 for other operations."""
    if op.kind not in ("dot", "convolution"):
        return 0.0
    left, right = (within[name].arrays[0].shape for name in op.operands)
    if op.kind == "convolution":
        return _convolution(op, left, right)
    axes = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", op.rest)[1].split(",")
    return 2.0 * math.prod(op.arrays[0].shape) * math.prod(left[int(axis)] for axis in axes)


def _convolution(op: Operation, image: tuple[int, ...], kernel: tuple[int, ...]) -> float:
    """Count the FLOPs of a convolution, without products that fall on padding or holes.

    Programs for TPUs write matrix products as convolutions too.
    """
    of_image, of_kernel, of_result = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.rest).groups()
    groups = re.search(r"batch_group_count=(\d+)", op.rest)
    pairs = image[of_image.index("b")] // int(groups[1] if groups else 1)
    pairs *= kernel[of_kernel.index("i")] * kernel[of_kernel.index("o")]
    window = _window(op.rest)
    for axis in range(len(image) - 2):
        sizes = image[of_image.index(str(axis))], op.arrays[0].shape[of_result.index(str(axis))]
        pairs *= _meetings(*sizes, {name: values[axis] for name, values in window.items()})
    return 2.0 * pairs


def _window(rest: str) -> dict[str, list[int]]:
    """Read a window, e.g. {size=3x3 pad=1_1x1_1 lhs_dilate=2x2}: one value for each axis."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    given = dict(part.split("=") for part in found[1].split()) if found else {}
    return {
        name: [int(value.split("_")[0]) for value in values.split("x")]
        for name, values in given.items()
        if name != "rhs_reversal"  # it changes which values meet, not how many
    }


def _meetings(image: int, result: int, window: dict[str, int]) -> int:
    """Count the pairs (place in the result, place in the window) that fall on a pixel."""
    holes = window.get("lhs_dilate", 1)
    steps = np.arange(window["size"]) * window.get("rhs_dilate", 1)
    places = np.arange(result)[:, None] * window.get("stride", 1) - window.get("pad", 0) + steps
    return int(((places >= 0) & (places <= (image - 1) * holes) & (places % holes == 0)).sum())


def _products(op: Operation) -> int:
    """Say how many matrix products a kernel has; 0 if it is not known."""
    # Its name may stand among others, as in "transpose_jvp_flash_bwd__.1".
    return next((count for name, count in ATTENTION.items() if name in op.name), 0)


def _kernel(op: Operation, within: Computation) -> float:
    if KERNEL not in op.rest or not _products(op):
        return 0.0
    # The first two arrays of floats are query and key, "batch head width token"; a batch of one
    # picture has no axis. Only the tables of the mask's blocks, integers, may precede them.
    arrays = [within[name].arrays[0] for name in op.operands]
    query, key = [array.shape for array in arrays if _FLOAT.match(array.dtype)][:2]
    return 2.0 * _products(op) * math.prod(query) * key[-1]
