"""Weights and activations in int8, after what all experts read was made even for all of them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from moa_jax.backbone.quantization import quantize
from moa_jax.errors import InputError
from moa_jax.method.router import ROUTER
from moa_jax.method.variant import Flat, Params
from moa_jax.mixtures.calibration import reading

LEAST = 1e-5  # of a factor, for channels that nobody reads


def readers(flat: Flat) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Give the kernels that read each norm before an attention layer, by the norm's path.

    They are the prior's and the experts' projections and the router. In cross-attention, keys and
    values read the words, and not the norm.

    Args:
        flat: the U-Net's weights.
    """
    found = {}
    for number, names in enumerate((("to_q", "to_k", "to_v"), ("to_q",)), start=1):
        for norm in {path[:-2] for path in flat if path[-2] == f"norm{number}"}:
            layer = (*norm, f"attn{number}")
            own = [each for each in flat if each[: len(layer)] == layer and each[-1] == "kernel"]
            read = [each for each in own if each[-2] in names or ROUTER in each]
            if read:  # the residual blocks have norms of these names too
                found[*norm, f"norm{number}"] = read
    return found


def factors(
    peak: Float[Array, " C"], kernels: Sequence[Any], strength: float
) -> Float[Array, " C"]:
    """Compute by how much each channel is divided: what the reader that needs most asks for.

    Args:
        peak: largest absolute value of the channel.
        kernels: "C out", of all readers.
        strength: 0 evens the kernels out, and 1 what they read.
    """
    asked = [
        peak**strength / jnp.maximum(jnp.max(jnp.abs(kernel), axis=1), LEAST) ** (1 - strength)
        for kernel in kernels
    ]
    return jnp.maximum(jnp.max(jnp.stack(asked), axis=0), LEAST)


def smooth(params: Params, peaks: Mapping[str, Any], strength: float) -> Params:
    """Even out what the prior, the experts and the router of a layer read, before int8.

    All of them read the same normalised features, so one factor a channel serves them all. It is
    folded into the norm before them and into their kernels, and in floats nothing changes.

    Measured on the committed MoA of the toy world, in the predictions' mean square error: int8 is
    off by 2.9e-5 without it, and by 1.2e-4, 3.0e-5 and 2.6e-5 with a strength of 0.5, 0.75 and 1.
    The largest channel there is 1.3 to 3.2 times the median one, so that there is little to even
    out. Choose the strength for the weights at hand.

    Equation: s_j = max over prior, experts and router e of max|x_j|^a / max_k |W^e_jk|^(1-a);
        scale and shift of the norm are divided by s, and row j of every W^e is multiplied by s_j.
    Source: EAQuant, from a review with its formula; `rounding`, `drift` and `enough` are the
        calibration around it.
    Left out: learning the rounding, of which the choice of a by `drift` and the predictions' error
        is left; factors for what the norm does not feed: words, and what heads have mixed.

    Args:
        params: of a trained MoA.
        peaks: of what every layer reads, by its path; see `calibration`.
        strength: a; 0 evens the kernels out, and 1 what they read.
    """
    flat = flatten_dict(params["unet"])
    for norm, kernels in readers(flat).items():
        by = factors(peaks[".".join(kernels[0][:-1])], [flat[each] for each in kernels], strength)
        for name in ("scale", "bias"):
            flat[*norm, name] = flat[*norm, name] / by
        for each in kernels:
            flat[each] = flat[each] * by[:, None]
    return {**params, "unet": unflatten_dict(flat)}


def round_weights(params: Params) -> Params:
    """Keep the projections of attention layers in int8; routers stay as they are."""
    flat = flatten_dict(params["unet"])
    for path, leaf in flat.items():
        inside = any(name in path for name in ("attn1", "attn2"))
        if inside and path[-1] == "kernel" and ROUTER not in path:
            flat[path] = quantize(leaf, jnp.float32)
    return {**params, "unet": unflatten_dict(flat)}


def rounding(peaks: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Round what attention layers read to int8, in all that is traced meanwhile.

    A layer has one scale for all channels, fixed by the largest value that was measured. The
    products are computed in floats here; they are those of whole numbers times the two scales.
    """

    def rounded(layer: nn.Dense, source: Any) -> Any:
        if not any(name in layer.path for name in ("attn1", "attn2")):
            return source
        step = jnp.maximum(jnp.max(peaks[".".join(layer.path)]), LEAST) / 127
        return jnp.clip(jnp.round(source / step), -127, 127) * step

    return reading(rounded)


def drift(exact: Mapping[str, Array], found: Mapping[str, Array]) -> Float[Array, ""]:
    """Measure how far routing went: KL(exact | found), the mean over pixels and layers."""

    def of_layer(one: Array, other: Array) -> Float[Array, ""]:
        logs = jnp.log(jnp.maximum(one, 1e-30)) - jnp.log(jnp.maximum(other, 1e-30))
        return jnp.mean(jnp.sum(one * logs, axis=-1))

    return jnp.mean(jnp.stack([of_layer(exact[layer], found[layer]) for layer in exact]))


def enough(routing: Mapping[str, Array], least: float) -> int:
    """Count the pictures, of those recorded, until each expert has seen enough in every layer.

    Args:
        routing: "B H W E" of every layer; see `Observations`.
        least: sum of an expert's weights over the pixels of all pictures taken.

    Raises:
        InputError: all pictures together are too few.
    """
    seen = [jnp.cumsum(jnp.sum(weights, axis=(1, 2)), axis=0) for weights in routing.values()]
    lowest = jnp.min(jnp.concatenate(seen, axis=-1), axis=-1)
    if lowest[-1] < least:
        raise InputError(
            f"least={least}: after {len(lowest)} pictures an expert has seen {lowest[-1]:.3g} "
            "pixels; calibrate with more pictures"
        )
    return int(jnp.argmax(lowest >= least)) + 1
