"""Experts whose bits are nested, and given where the router lets the expert draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from moa_jax.backbone.quantization import Quantized
from moa_jax.errors import InputError
from moa_jax.method.variant import Params

MOST = 8  # bits of a weight


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("values", "scale"),
    meta_fields=("dtype", "bits"),
)
@dataclass(frozen=True, eq=False)
class Nested(Quantized):
    """A kernel in whole numbers, whose upper bits alone are a kernel too, with a larger scale.

    Layers take it for an array, as they do a `Quantized`.

    Attributes:
        values: "in out", from 0 to 2^bits - 1 in uint8. A value stands for the middle of a cell.
        bits: how many bits of each weight there are.
    """

    bits: int = MOST

    def astype(self, dtype: Any) -> Any:
        """Compute the array in float32, and round it to a dtype."""
        cells = self.values.astype(np.float32) + np.float32(0.5 - 2 ** (self.bits - 1))
        return (cells * self.scale).astype(dtype)

    def __jax_array__(self) -> jax.Array:
        """Compute the array, for Flax's layers."""
        return jnp.asarray(self.astype(self.dtype))

    def keep(self, bits: int) -> "Nested":
        """Drop the lower bits; `bits` of them stay."""
        dropped = self.bits - bits
        return Nested(self.values >> dropped, self.scale * 2**dropped, self.dtype, bits)


def nest(kernel: Any) -> Nested:
    """Cut the range of each output into 2^MOST cells, and number them."""
    exact = np.asarray(kernel, np.float32)
    scale = np.maximum(abs(exact).max(axis=0, keepdims=True), 1e-30) / 2 ** (MOST - 1)
    cells = np.clip(np.floor(exact / scale) + 2 ** (MOST - 1), 0, 2**MOST - 1)
    return Nested(cells.astype(np.uint8), scale, np.dtype(np.float32), MOST)


def route(
    errors: Mapping[str, Sequence[float]], sizes: Mapping[str, int], budget: float, least: int
) -> list[str]:
    """Give bit after bit to the layer that gains most by it, for what the bit costs.

    Args:
        errors: of each layer with 1, 2, ... bits.
        sizes: numbers of weights.
        budget: bits of all layers together.
        least: bits that every layer has, before any is given.

    Returns:
        The layers in the order in which they get one bit more; so they are best loaded.
    """
    widths, given = dict.fromkeys(errors, least), []
    left = budget - least * sum(sizes.values())

    def gain(layer: str) -> float:
        now, then = errors[layer][widths[layer] - 1 : widths[layer] + 1]
        return (now - then) / sizes[layer]

    while True:
        fitting = [name for name in errors if widths[name] < MOST and sizes[name] <= left]
        if not fitting:
            return given
        best = max(fitting, key=gain)
        widths[best], left = widths[best] + 1, left - sizes[best]
        given.append(best)


def compress(
    params: Params,
    routing: Mapping[str, Array],
    grams: Mapping[str, Any],
    bits: float,
    least: int = 2,
) -> tuple[Params, dict[str, int]]:
    """Round each layer's expert to as many bits as its routing asks for, `bits` in the mean.

    Measured on the committed MoA of the toy world, with the pictures whose routing was recorded: at
    4 bits in the mean, widths from 2 to 8 are off by 2.0e-5 in the predictions' mean square, and 4
    bits everywhere by 6.8e-4.

    Equation: W = scale (v + 1/2 - 2^(b-1)), v whole in [0, 2^b); with a bit less, v is halved and
        rounded down, and the scale is doubled, so that one file holds every width. Of all layers l,
        the next bit goes to the largest h_l (E_l(b) - E_l(b + 1)) / (weights of l): h is the mean
        square of the router's weight, E the projections' summed relative mean square error.
    Source: D2MoE, from the abstract: bit-nested experts, routing by expert and by width, and the
        hottest expert's bits first. The rule of the gains is our choice.
    Left out: a router of widths for each token that learns, in whose place the recorded routing
        stands; the pipeline of a device's input and output, of which the order of loading is left.
        A value takes a byte in memory whatever its width: the saving is that of the file.

    Args:
        params: of a trained MoA.
        routing: of the recorded passes, by layer; see `Observations`.
        grams: X^T X of what every layer reads, by its path; see `calibration`.
        bits: of a weight, in the mean over the experts.
        least: bits of every weight.

    Returns:
        The parameters, with the experts' kernels `Nested`, and the widths by layer.

    Raises:
        InputError: the mean is below `least`, or a number of bits cannot be.
    """
    if not 1 <= least <= bits <= MOST:
        raise InputError(f"bits={bits}, least={least}: must be 1 <= least <= bits <= {MOST}")
    flat = flatten_dict(params["unet"])
    kernels: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, leaf in flat.items():
        if path[-3:-2] == ("personalized",) and path[-1] == "kernel":
            kernels.setdefault(".".join(path[:-3]), {})[path] = leaf
    nested = {path: nest(leaf) for own in kernels.values() for path, leaf in own.items()}
    errors = {}
    for layer, own in kernels.items():
        heat = np.square(routing[layer][..., 1:]).mean()
        by_width = sum(_errors(leaf, nested[p], grams[".".join(p[:-1])]) for p, leaf in own.items())
        errors[layer] = (heat * by_width).tolist()
    sizes = {layer: sum(leaf.size for leaf in own.values()) for layer, own in kernels.items()}
    given = route(errors, sizes, bits * sum(sizes.values()), least)
    widths = {layer: least + given.count(layer) for layer in kernels}
    for layer, own in kernels.items():
        flat |= {path: nested[path].keep(widths[layer]) for path in own}
    return {**params, "unet": unflatten_dict(flat)}, widths


def _errors(kernel: Any, nested: Nested, gram: Any) -> Float[np.ndarray, " widths"]:
    """Measure the outputs' mean square error with 1 to MOST bits, as a share of the outputs'."""
    exact, products = np.asarray(kernel), np.asarray(gram)
    off = [exact - nested.keep(bits).astype(np.float32) for bits in range(1, MOST + 1)]
    sizes = np.array([(each * (products @ each)).sum() for each in (*off, exact)])
    return sizes[:-1] / sizes[-1]
