"""What dense layers read while a trained model predicts, for what is fitted to it afterwards."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

MEASURED = "measured"


@contextmanager
def reading(change: Callable[[nn.Dense, Any], Any]) -> Iterator[None]:
    """Change what dense layers read, in all that is traced meanwhile.

    Args:
        change: called with the layer and what it would read; returns what it reads.
    """

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            args = (change(context.module, args[0]), *args[1:])
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def measuring(measure: Callable[[Any], Array]) -> AbstractContextManager[None]:
    """Sow a measure of what every dense layer reads, in all that is traced meanwhile.

    It is the intermediate MEASURED, which a model's observations have under `extra`; see
    `measures`.
    """

    def sow(layer: nn.Dense, source: Any) -> Any:
        layer.sow("intermediates", MEASURED, measure(source))
        return source

    return reading(sow)


def measures(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Give the measures by the path of the layer, joined by "."."""
    end = f".{MEASURED}"
    return {path.removesuffix(end): each for path, each in extra.items() if path.endswith(end)}


def gram(source: Float[Array, "*places C"]) -> Float[Array, "C C"]:
    """Average the products of every two channels: what a linear layer's error is measured by."""
    exact = source.reshape(-1, source.shape[-1]).astype(jnp.float32)
    return exact.T @ exact / len(exact)


def peak(source: Float[Array, "*places C"]) -> Float[Array, " C"]:
    """Find the largest absolute value of every channel."""
    return jnp.max(jnp.abs(source.reshape(-1, source.shape[-1])), axis=0)
