"""cuDNN's attention kernel for NVIDIA GPUs, with a gradient at every shape that it serves.

There are shapes at which cuDNN attends and has no gradient. Which ones, depends on its version and
on the card. So the gradient is tried once for each shape, before a program is differentiated. Where
there is none, plain attention is differentiated in its place.
"""

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Plain = Callable[[Array, Array, Array], Array]

log = logging.getLogger(__name__)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(
    query: Float[Array, "B L N d"],
    key: Float[Array, "B S N d"],
    value: Float[Array, "B S N d"],
    plain: Plain,
) -> Float[Array, "B L N d"]:
    """Attend by the kernel.

    Args:
        plain: computes the same; it is differentiated where the kernel cannot be.
    """
    return kernel(query, key, value)


def kernel(query: Array, key: Array, value: Array) -> Array:
    """Attend by cuDNN, in half precision; the shapes are those of `attend`."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _forward(query: Array, key: Array, value: Array, plain: Plain) -> tuple[Array, Any]:
    if has_gradient(query.shape[1], key.shape[1], query.shape[3], query.dtype.name):
        return jax.vjp(kernel, query, key, value)
    return kernel(query, key, value), (query, key, value)


def _backward(plain: Plain, kept: Any, gradient: Array) -> tuple[Array, Array, Array]:
    if isinstance(kept, tuple):
        _, kept = jax.vjp(plain, *kept)
    return kept(gradient)


attend.defvjp(_forward, _backward)


@cache
def has_gradient(length: int, context: int, width: int, dtype: str) -> bool:
    """Compile the kernel's gradient for one head of one picture, and tell whether that works.

    Args:
        length: tokens that attend.
        context: tokens that are attended to.
        width: of a head.
        dtype: e.g. "bfloat16".
    """
    tokens = (length, context, context)
    shapes = [jax.ShapeDtypeStruct((1, count, 1, width), dtype) for count in tokens]

    def total(query: Array, key: Array, value: Array) -> Array:
        return jnp.sum(kernel(query, key, value).astype(jnp.float32))

    try:
        jax.jit(jax.grad(total, (0, 1, 2))).lower(*shapes).compile()
    except (RuntimeError, ValueError, NotImplementedError) as error:  # XLA's errors are the first
        log.warning(
            "cuDNN has no gradient here for attention of %d x %d tokens with heads of %d, so plain "
            "attention is differentiated: %s",
            length,
            context,
            width,
            str(error).partition("\n")[0],
        )
        return False
    return True
