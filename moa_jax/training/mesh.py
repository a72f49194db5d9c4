"""The device mesh, and where every array of a training step lives on it.

Three axes: `data` splits the batch; `fsdp` splits the batch and the weights; `tensor` splits the
heads of the attention layers. One table of rules gives every weight its place; what follows from a
weight (gradient, moments, EMA) takes the same one. Knows nothing of what a step computes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moa_jax.config import MeshConfig
from moa_jax.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
REPLICATED = PartitionSpec()

# The first pattern found in the path ("." between its parts) gives the axis of each dimension.
# An axis that does not divide its dimension is left out; LARGEST is fsdp on the largest dimension.
LARGEST = "largest"
WEIGHT_RULES: tuple[tuple[str, tuple[str | None, ...] | str], ...] = (
    (r"\brouter\b", ()),  # a few thousand numbers, read in float32 by every pixel
    (r"\bto_[qkv]\.kernel$", ("fsdp", "tensor")),  # [features, heads * width]
    (r"\bto_out\.0\.kernel$", ("tensor", "fsdp")),  # [heads * width, features]
    (r"\b[qkv]_proj\.kernel$", ("fsdp", "tensor")),  # the CLIP towers' names of the same
    (r"\bout_proj\.kernel$", ("tensor", "fsdp")),
    (r"\b(bias|scale)$", ()),
    (r"", LARGEST),
)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange the devices along ("data", "fsdp", "tensor").

    Args:
        devices: all there are when None.

    Raises:
        InputError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    data = config.data
    if min(config.fsdp, config.tensor, data or 1) < 1:
        raise InputError(f"mesh axes must be at least 1: {config}")
    if data is None:
        data = max(1, len(devices) // (config.fsdp * config.tensor))
    shape = (data, config.fsdp, config.tensor)
    if math.prod(shape) != len(devices):
        raise InputError(
            f"mesh.data={config.data} x mesh.fsdp={config.fsdp} x mesh.tensor={config.tensor} does "
            f"not fit {len(devices)} devices: their product must be {len(devices)}"
        )
    # Mesh itself rather than jax.make_mesh, whose default axis type changed between versions.
    return Mesh(np.asarray(devices).reshape(shape), AXES)


def check_batch(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Refuse a batch that the micro-batches and the data axes do not divide.

    Raises:
        InputError: with the numbers.
    """
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    if min(batch_size, accumulation) < 1 or batch_size % (accumulation * data * fsdp):
        raise InputError(
            f"train.batch_size={batch_size} must be a multiple of optimizer.accumulation="
            f"{accumulation} x mesh data={data} x mesh fsdp={fsdp} = {accumulation * data * fsdp}"
        )


def weight_spec(path: str, shape: Sequence[int], axis_sizes: Mapping[str, int]) -> PartitionSpec:
    """Look a weight up in WEIGHT_RULES.

    Args:
        path: its place in the tree, joined by ".".
        axis_sizes: devices along each axis, as `mesh.shape` has it.
    """
    rule = next(axes for pattern, axes in WEIGHT_RULES if re.search(pattern, path))
    if rule == LARGEST:
        largest = max(range(len(shape)), key=lambda place: shape[place], default=0)
        rule = tuple("fsdp" if place == largest else None for place in range(len(shape)))
    if len(shape) < 2 or len(rule) != len(shape):
        return REPLICATED
    fits = [axis and size % axis_sizes[axis] == 0 for axis, size in zip(rule, shape, strict=True)]
    return PartitionSpec(*(axis if fit else None for axis, fit in zip(rule, fits, strict=True)))


def weight_shardings(tree: Any, mesh: Mesh) -> Any:
    """Give every array of a tree its place: weights, or anything shaped and named as they are.

    The optimizer's moments and the EMA end in their weight's path, so they get its place; scalars
    (counters) and keys are replicated.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return NamedSharding(mesh, weight_spec(name, leaf.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(place, tree)


def place_weight(mesh: Mesh, dtype: Any, path: str, array: np.ndarray) -> jax.Array:
    """Put one loaded weight where it belongs: what streaming loads call for each tensor.

    Args:
        dtype: that it gets; frozen weights have the dtype of the computation.
    """
    array = array.astype(dtype)
    return jax.device_put(array, NamedSharding(mesh, weight_spec(path, array.shape, mesh.shape)))


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Split a batch over the data axes; on many hosts, `batch` is this process's share of it."""
    sharding = NamedSharding(mesh, BATCH)
    return {
        key: jax.make_array_from_process_local_data(sharding, array) for key, array in batch.items()
    }


def jit_step(train_step: Callable[..., Any], mesh: Mesh, state: Any, frozen: Any) -> Any:
    """Compile a training step for the mesh; it takes over the buffers of the state it is given.

    Args:
        train_step: `state, metrics = train_step(state, frozen, batch)`.
        state: one to take shapes from; frozen likewise.
    """
    places = weight_shardings(state, mesh)
    return jax.jit(
        train_step,
        in_shardings=(places, weight_shardings(frozen, mesh), NamedSharding(mesh, BATCH)),
        out_shardings=(places, replicated(mesh)),
        donate_argnums=0,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The place of what every device holds whole."""
    return NamedSharding(mesh, REPLICATED)
