"""The device mesh, and where every array of a training step lives on it.

Three axes: `data` splits the batch; `fsdp` splits the batch and the weights; `tensor` splits the
heads of the attention layers. Every array of a step has its place:

    inputs                 rows over data and fsdp; replicated along tensor
    trained weights        WEIGHT_RULES: fsdp, and tensor in attention; replicated along data
    optimizer state, EMA   as the weight they belong to; counters replicated
    frozen weights         WEIGHT_RULES, as the trained weights
    key, step, metrics     replicated

A step gathers a weight along fsdp where it uses the weight (`gather_weights`), and its state takes
over the buffers of the state before it. Nothing here depends on what a step computes.
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
from moa_jax.method.router import ROUTER

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
REPLICATED = PartitionSpec()

# The first pattern found in the path ("." between its parts) gives the axis of each dimension.
# An axis that does not divide its dimension is left out; LARGEST is fsdp on the largest dimension.
# Vectors and routers are replicated: few numbers, not worth a message each.
LARGEST = "largest"
WEIGHT_RULES: tuple[tuple[str, tuple[str | None, ...] | str], ...] = (
    (rf"\b{ROUTER}\b", ()),  # a few thousand numbers, read in float32 by every pixel
    (r"\bvae\..*\bkernel$", LARGEST),  # its attention has one head: nothing for tensor to split
    (r"\bto_[qkv]\.kernel$", ("fsdp", "tensor")),  # [features, heads * width]
    (r"\bto_out\.0\.kernel$", ("tensor", "fsdp")),  # [heads * width, features]
    (r"\b[qkv]_proj\.kernel$", ("fsdp", "tensor")),  # the CLIP towers' names of the same
    (r"\bout_proj\.kernel$", ("tensor", "fsdp")),
    (r"\b(bias|scale)$", ()),
    (r"", LARGEST),
)


# For each preset: the axis that takes the devices that the others leave, and the others' sizes.
PRESETS: dict[str | None, tuple[str, dict[str, int]]] = {
    None: ("data", {"fsdp": 1, "tensor": 1}),
    "dp": ("data", {"fsdp": 1, "tensor": 1}),
    "fsdp": ("fsdp", {"data": 1, "tensor": 1}),
    "fsdp+tp": ("fsdp", {"data": 1, "tensor": 2}),
}
FREE = {None: AXES, "dp": (), "fsdp": (), "fsdp+tp": ("tensor",)}  # axes the config may set


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange the devices along ("data", "fsdp", "tensor").

    Args:
        devices: None means all devices of all hosts.

    Raises:
        InputError: the axes do not multiply to the number of devices, or contradict the preset.
    """
    devices = jax.devices() if devices is None else devices
    shape = axis_sizes(config, len(devices))
    # Mesh itself rather than jax.make_mesh, whose default axis type changed between versions.
    return Mesh(np.asarray(devices).reshape(shape), AXES)


def axis_sizes(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Give the number of devices along data, fsdp and tensor.

    Raises:
        InputError: as `make_mesh`.
    """
    given = {axis: getattr(config, axis) for axis in AXES}
    given = {axis: size for axis, size in given.items() if size is not None}
    filled, sizes = PRESETS[config.preset]
    sizes = sizes | {axis: size for axis, size in given.items() if axis in FREE[config.preset]}
    others = math.prod(size for axis, size in sizes.items() if axis != filled)
    sizes = {filled: max(1, devices // others)} | sizes
    for axis, size in given.items():
        if size != sizes[axis]:
            raise InputError(
                f"mesh.{axis}={size} contradicts mesh.preset={config.preset}, which makes it "
                f"{sizes[axis]} on {devices} devices: leave mesh.{axis} out, or set "
                "mesh.preset=none and give the axes"
            )
    if math.prod(sizes.values()) != devices:
        product = " x ".join(f"mesh.{axis}={sizes[axis]}" for axis in AXES)
        raise InputError(
            f"{product} (mesh.preset={config.preset}) does not fit {devices} devices: their "
            f"product must be {devices}"
        )
    return tuple(sizes[axis] for axis in AXES)


def check_batch(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Refuse a batch that the micro-batches and the data axes do not divide.

    Raises:
        InputError: the batch size is not a multiple of their product; the message has the numbers.
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
        path: the weight's place in the tree, joined by ".".
        axis_sizes: number of devices along each axis, as in `mesh.shape`.
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
    """Give the sharding of every array of a tree: weights, or what is shaped and named like them.

    The paths of the optimizer's moments and of the EMA end in their weight's path, so they get its
    sharding. Scalars (counters) and keys are replicated.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, weight_spec(_join(path), leaf.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(place, tree)


def place_weights(tree: Any, mesh: Mesh) -> Any:
    """Put every array of a tree in its place.

    On many hosts, an array that every host holds must be the same on all of them.
    """

    def place(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        if leaf.is_fully_addressable and not sharding.is_fully_addressable:
            return _slice_to(sharding, np.asarray(leaf))
        return jax.device_put(leaf, sharding)

    return jax.tree.map(place, tree, weight_shardings(tree, mesh))


def place_shapes(tree: Any, mesh: Mesh) -> Any:
    """Give every shape of a tree the sharding that its array would have."""

    def place(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, tree, weight_shardings(tree, mesh))


def place_weight(mesh: Mesh, dtype: Any, path: str, array: np.ndarray) -> jax.Array:
    """Put one loaded weight in its place; a streaming load calls this for each tensor.

    Args:
        dtype: the dtype that the weight gets; frozen weights have that of the computation.
    """
    sharding = NamedSharding(mesh, weight_spec(path, array.shape, mesh.shape))
    return _slice_to(sharding, array.astype(dtype))


def _slice_to(sharding: NamedSharding, array: np.ndarray) -> jax.Array:
    """Give each of this host's devices its slice of an array that the host holds entirely."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def host_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """List the rows of a batch that this host's devices hold, and that the host has to read.

    Hosts whose devices differ only along tensor share rows, and each of them reads these.
    """
    places = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,))
    return sorted({row for (part,) in places.values() for row in range(batch_size)[part]})


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray | jax.Array]) -> dict[str, jax.Array]:
    """Split a batch over the data axes.

    Args:
        batch: on many hosts, only the rows that `host_rows` gives this host, in their order. Arrays
            that are on devices already stay as they are.
    """
    sharding, splits = NamedSharding(mesh, BATCH), mesh.shape["data"] * mesh.shape["fsdp"]
    mine = len(host_rows(mesh, splits))

    def place(array: np.ndarray) -> jax.Array:
        rows = len(array) * splits // mine
        local = {row: place for place, row in enumerate(host_rows(mesh, rows))}

        def part(index: tuple[slice, ...]) -> np.ndarray:
            first, last, _ = index[0].indices(rows)
            return array[local[first] : local[last - 1] + 1]

        return jax.make_array_from_callback((rows, *array.shape[1:]), sharding, part)

    return {
        key: array if isinstance(array, jax.Array) else place(array) for key, array in batch.items()
    }


def place_batch_shapes(
    mesh: Mesh, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Give the shapes of a whole batch the shardings that `place_batch` gives its arrays."""
    sharding = NamedSharding(mesh, BATCH)
    return {
        name: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharding)
        for name, one in shapes.items()
    }


def gather_weights(objective: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Make an objective gather the weights that it uses along fsdp; they stay split along tensor.

    Without this, the compiler would split some activations by features and move those instead.

    Args:
        objective: a function of (trained, frozen, batch, keys).
    """

    def gather(path: Any, leaf: jax.Array) -> jax.Array:
        spec = weight_spec(_join(path), leaf.shape, mesh.shape)
        spec = PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    def gathered(trained: Any, frozen: Any, *arguments: Any) -> Any:
        trained, frozen = jax.tree_util.tree_map_with_path(gather, (trained, frozen))
        return objective(trained, frozen, *arguments)

    return gathered


def jit_step(train_step: Callable[..., Any], mesh: Mesh, state: Any, frozen: Any) -> Any:
    """Compile a training step for the mesh; it takes over the buffers of the state it is given.

    Args:
        train_step: `state, metrics = train_step(state, frozen, batch)`.
        state: only its shapes are used; likewise frozen.
    """
    places = weight_shardings(state, mesh)
    return jax.jit(
        train_step,
        in_shardings=(places, weight_shardings(frozen, mesh), NamedSharding(mesh, BATCH)),
        out_shardings=(places, replicated(mesh)),
        donate_argnums=0,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Give the sharding of an array that is the same on every device."""
    return NamedSharding(mesh, REPLICATED)


def _join(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
