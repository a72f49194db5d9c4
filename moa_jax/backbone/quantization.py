"""Frozen kernels in int8: half of the bytes that bfloat16 takes, a quarter of float32's.

Each output channel has a scale of its own, its largest absolute value over 127, so that no weight
is off by more than half of its channel's scale. What is kept in int8 are the kernels of a U-Net's
or a ControlNet's blocks: of attention, feed-forward networks and convolutions. The first and the
last layers, what embeds the time, biases, norms and all that MoA adds keep their floats.

A `Quantized` stands in the tree where the kernel would stand, and the layers take it for an array:
each makes its own kernel of it when it runs, inside the compiled program.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moa_jax.errors import InputError

_LARGEST = 127  # symmetric: -128 is not used
_NOTHING = 1e-30  # the scale of a channel of zeros must not be zero
_KERNELS = re.compile(
    r"^(?:unet\.)?(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(?!.*\btime_emb_proj\b).*\.kernel$"
)


@partial(jax.tree_util.register_dataclass, data_fields=("values", "scale"), meta_fields=("dtype",))
@dataclass(frozen=True, eq=False)
class Quantized:
    """A kernel in int8; `jnp.asarray` makes of it the array that it stands for.

    Attributes:
        values: "*axes out", whole numbers from -127 to 127 in int8.
        scale: "1 ... 1 out", the distance of two neighbouring values, in float32.
        dtype: of the array that it stands for.
    """

    values: Any
    scale: Any
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that it stands for."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """The number of axes of the array that it stands for."""
        return self.values.ndim

    def astype(self, dtype: Any) -> jax.Array:
        """Compute the array in float32, and round it to a dtype."""
        return (jnp.asarray(self.values, jnp.float32) * self.scale).astype(dtype)

    def __jax_array__(self) -> jax.Array:
        """Compute the array: this is what `jnp.asarray` calls, and with it Flax's layers."""
        return self.astype(self.dtype)


def quantize(kernel: Any, dtype: Any) -> Quantized:
    """Round a kernel to int8, symmetrically, with a scale for each output channel.

    Args:
        kernel: "*axes out", of numpy or jax; the result's arrays are of the same kind.
        dtype: of the array that the result stands for.

    Example:
        >>> import numpy as np
        >>> from moa_jax.backbone.quantization import quantize
        >>> kept = quantize(np.array([[1.0, 0.0], [-2.54, 0.0]]), np.float32)
        >>> kept.values.tolist(), kept.scale.round(6).tolist()
        ([[50, 0], [-127, 0]], [[0.019999999552965164, 0.0]])
    """
    exact = kernel.astype(np.float32)
    largest = abs(exact).max(axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    scale = largest.clip(min=_NOTHING) / _LARGEST
    values = (exact / scale).round().astype(np.int8)
    return Quantized(values, scale.astype(np.float32), jnp.dtype(dtype))


def alike(kernel: Any, changed: jax.Array) -> Any:
    """Hold a changed kernel as the original is held: in int8, or in its dtype."""
    if isinstance(kernel, Quantized):
        return quantize(changed, kernel.dtype)
    return changed.astype(kernel.dtype)


def is_quantized(leaf: Any) -> bool:
    """Tell whether something is a kernel in int8, for walks over trees that must not enter it."""
    return isinstance(leaf, Quantized)


def choose_place(quantization: str | None, dtype: Any) -> Callable[[str, Any], Any] | None:
    """Return what puts weights on the default device as they are read; see `load_params`.

    It takes shapes for arrays too, and gives the shapes of what it would place.

    Args:
        quantization: "int8"; None returns None, and all weights are read in `dtype`.
        dtype: of what is not quantized, and of the computation.

    Raises:
        InputError: there is no such quantization.
    """
    if quantization is None:
        return None
    if quantization != "int8":
        raise InputError(f"quantization={quantization!r}: must be 'int8', or None for no change")
    return partial(_place_int8, dtype)


def _place_int8(dtype: Any, path: str, leaf: Any) -> Any:
    def held(leaf: Any) -> Any:
        return quantize(leaf, dtype) if _KERNELS.match(path) else leaf.astype(dtype)

    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(held, leaf)
    return jax.device_put(held(leaf))
