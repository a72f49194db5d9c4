"""What dense layers read while a trained model predicts, for what is fitted to it afterwards."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

MEASURED = "measured"


@contextmanager
def measuring(measure: Callable[[Array], Array]) -> Iterator[None]:
    """Sow a measure of what every dense layer reads, in all that is traced meanwhile.

    It is the intermediate MEASURED, which the model's observations have under `extra`; see
    `measures`.
    """

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            context.module.sow("intermediates", MEASURED, measure(args[0]))
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


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
