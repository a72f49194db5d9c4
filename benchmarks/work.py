"""The two numbers that stand before any time: what a job needs, and what its program does.

`needed` counts the products of a function as it is written, and each used argument and each result
once: a
program that does the job cannot do less. `done` reads the program that the compiler made of it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from moa_jax.planning.flops import matrix_flops
from moa_jax.planning.hlo import parse
from moa_jax.planning.traffic import memory_traffic


@dataclass(frozen=True)
class Work:
    """What one run takes.

    Attributes:
        flops: of matrix products and convolutions; a multiply-add is two. None means not known.
        bytes: moved to and from memory.
        temporaries: bytes held at the peak besides arguments and results; None where none is told.
    """

    flops: float | None
    bytes: float | None
    temporaries: float | None = None

    def __add__(self, other: "Work") -> "Work":
        """Add up two runs, one after the other: temporaries do not add up."""
        most = [each.temporaries for each in (self, other) if each.temporaries is not None]
        return Work(
            _sum(self.flops, other.flops),
            _sum(self.bytes, other.bytes),
            max(most, default=None),
        )

    def __mul__(self, runs: int) -> "Work":
        """Count several runs."""
        flops, moved = (None if each is None else each * runs for each in (self.flops, self.bytes))
        return Work(flops, moved, self.temporaries)

    def numbers(self) -> dict[str, float | None]:
        """Return everything as JSON can hold it."""
        return asdict(self)


def needed(function: Callable[..., Any], *arguments: Any) -> Work:
    """Count the least that a function takes; nothing is computed.

    Args:
        arguments: arrays or shapes.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    used = {id(var) for equation in jaxpr.eqns for var in equation.invars}
    held = [var.aval for var in jaxpr.invars if id(var) in used]
    held += [var.aval for var in jaxpr.outvars]
    moved = sum(each.size * each.dtype.itemsize for each in held)
    return Work(_products(jaxpr), moved)


def done(compiled: Any) -> Work:
    """Read what a compiled program takes.

    On a GPU the products are calls of libraries, whose FLOPs no compiler counts.
    """
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    if jax.default_backend() == "gpu":
        return Work(None, (compiled.cost_analysis() or {}).get("bytes accessed"), temporaries)
    module = parse(compiled.as_text())
    return Work(matrix_flops(module), memory_traffic(module), temporaries)


def _products(jaxpr: Any) -> float:
    """Count the FLOPs of the products in a traced function; a loop counts with all its turns."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            left = equation.invars[0].aval.shape
            ((axes, _), _) = given["dimension_numbers"]
            total += 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in axes)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        else:
            turns = given["length"] if name == "scan" else 1
            total += turns * sum(_products(inner) for inner in _inside(given))
    return total


def _inside(given: dict[str, Any]) -> Iterator[Any]:
    """Find the functions that an operation runs; of a conditional's branches all are counted."""
    for value in given.values():
        for each in value if isinstance(value, list | tuple) else (value,):
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                yield each


def _convolution(equation: Any) -> float:
    """Count the FLOPs of a convolution, without products that fall on padding or holes."""
    given, (image, kernel) = equation.params, (var.aval.shape for var in equation.invars)
    numbers, result = given["dimension_numbers"], equation.outvars[0].aval.shape
    pairs = result[numbers.out_spec[0]] * result[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for place, (low, _) in enumerate(given["padding"]):
        axes = (spec[2 + place] for spec in (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec))
        pixels, taps, results = (
            shape[axis] for shape, axis in zip((image, kernel, result), axes, strict=True)
        )
        holes = given["lhs_dilation"][place]
        at = np.arange(results)[:, None] * given["window_strides"][place] - low
        at = at + np.arange(taps) * given["rhs_dilation"][place]
        pairs *= int(((at >= 0) & (at <= (pixels - 1) * holes) & (at % holes == 0)).sum())
    return 2.0 * pairs / given["batch_group_count"]


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
