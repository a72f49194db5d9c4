"""Scaled dot-product attention: one function, six implementations.

All are exact; they differ in memory and speed. `xla` holds every score. `blocked` holds the scores
of some queries at a time. `looped` (CPU) holds those of some queries of one head. `flash` (TPU; the
project's own), `splash` (TPU; JAX's) and `cudnn` (NVIDIA GPU) are kernels that hold no scores.
`choose_attend` returns the one function that all layers of a network call. It takes any shape: it
chooses the implementation for a layer from the layer's shape, while the layer is traced.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from moa_jax.backbone.attention_check import check_kernel
from moa_jax.errors import InputError

Name = Literal["auto", "xla", "blocked", "looped", "flash", "splash", "cudnn"]
Kernel = Literal["looped", "flash", "cudnn"]
NEEDS = {
    "looped": "a CPU",
    "flash": "a TPU and jax 0.8 or newer",
    "splash": "a TPU and jax 0.8 or newer",
    "cudnn": "an NVIDIA GPU of compute capability 8.0 or newer",
}
# (query "B L N d", key "B S N d", value "B S N d") -> "B L N d", with scale 1/sqrt(d)
Attend = Callable[[Array, Array, Array], Array]

# How many scores of one head are held at once. Forward + backward of 8 heads in float32 on 2 busy
# CPU cores: 1024 x 1024 took 575 ms and 131 MiB by xla, 455 ms and 77 MiB blocked; 4096 x 4096 took
# 10.1 s and 2,053 MiB by xla, 8.1 s and 84 MiB blocked; 256 x 256 and 1024 x 77 gained nothing.
SCORES = 2**19
# How many queries `looped` takes at a time, and from how many scores of a head on it pays.
# Processor time in ms by torch, xla and looped (2 cores, float32, batch 2, 8 heads): 4096 x 4096 of
# width 40 takes 715, 4,080 and 736; 1024 x 1024 of 80 75, 259 and 72; 256 x 256 of 160 15.5, 17 and
# 11; 4096 x 77 of 40 31, 69 and 23. Forward + backward gain from 1024 x 1024 on; below, it is even.
LOOPED_QUERIES, LOOPED_SCORES = 512, 2**16
# Where flash serves: tokens of the longer and of the shorter side. MB moved a picture by a layer
# with its four projections, forward + backward, as `moa_jax.planning` counts for a v5e (bfloat16, 8
# heads, 8 pictures), by xla, splash and flash: 4096 x 4096 -, 200, 50; 1024 x 1024 265, 22, 8;
# 256 x 256 7.4, 8.7, 7.0; by xla and flash: 4096 x 77 66, 14; 1024 x 77 7.9, 6.7. Forward alone,
# 257 x 257, 16 heads of 64, 32 pictures, by xla, splash and flash: 14.9, 6.2, 2.4.
FLASH_TOKENS, FLASH_CONTEXT = 256, 64
FLASH_WIDTH = 512  # the widest head that was compiled, for both kernels: that of the VAE
CUDNN_TOKENS = 64  # below this a kernel has nothing to save
CUDNN_WIDTH, CUDNN_MULTIPLE = 128, 8  # of a head's width; Hopper and newer take 256

BATCH_AXES, HEAD_AXIS = ("data", "fsdp"), "tensor"  # axes of the mesh


def xla(
    query: Float[Array, "B L N d"], key: Float[Array, "B S N d"], value: Float[Array, "B S N d"]
) -> Float[Array, "B L N d"]:
    """Attend with all scores in memory and a float32 softmax."""
    return jax.nn.dot_product_attention(query, key, value, implementation="xla")


def blocked(
    query: Float[Array, "B L N d"], key: Float[Array, "B S N d"], value: Float[Array, "B S N d"]
) -> Float[Array, "B L N d"]:
    """Attend from some queries at a time; the backward pass computes their scores again."""
    length, dtype = query.shape[1], key.dtype
    count = -(-length // max(1, SCORES // key.shape[1]))
    padded = jnp.pad(query, ((0, 0), (0, -length % count), (0, 0), (0, 0)))
    blocks = padded.reshape(query.shape[0], count, -1, *query.shape[2:]).swapaxes(0, 1)
    # Keys and values enter in float32, so that the blocks' gradients are summed in float32.
    key, value = key.astype(jnp.float32), value.astype(jnp.float32)

    @jax.checkpoint
    def attend(block: Array) -> Array:
        return xla(block, key.astype(dtype), value.astype(dtype))

    mixed = jax.lax.map(attend, blocks)
    return mixed.swapaxes(0, 1).reshape(padded.shape)[:, :length]


def looped(
    query: Float[Array, "B L N d"],
    key: Float[Array, "B S N d"],
    value: Float[Array, "B S N d"],
    *,
    mesh: Mesh | None = None,
) -> Float[Array, "B L N d"]:
    """Attend head by head, some queries at a time; the backward pass computes the scores again.

    A CPU multiplies two matrices much faster than it does many at once, and softmax is fast where
    the scores fit its cache. All of it is computed in float32.

    Args:
        mesh: see `flash`.
    """
    return _on_mesh(_looped, mesh, query, key, value)


def _looped(
    query: Float[Array, "B L N d"], key: Float[Array, "B S N d"], value: Float[Array, "B S N d"]
) -> Float[Array, "B L N d"]:
    """Attend on one device."""
    (batch, length, heads, width), dtype = query.shape, query.dtype
    query, key, value = (
        array.astype(jnp.float32).swapaxes(1, 2).reshape(batch * heads, -1, width)
        for array in (query * width**-0.5, key, value)
    )
    count = -(-length // LOOPED_QUERIES)
    padded = jnp.pad(query, ((0, 0), (0, -length % count), (0, 0)))
    blocks = padded.reshape(batch * heads, count, -1, width)

    @jax.checkpoint
    def attend(block: Array, key: Array, value: Array) -> Array:
        scores = block @ key
        # Dividing after the product divides fewer numbers.
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        return (weights @ value) / weights.sum(axis=-1, keepdims=True)

    def head(given: tuple[Array, Array, Array]) -> Array:
        blocks, key, value = given
        return jax.lax.map(lambda block: attend(block, key, value), blocks)

    mixed = jax.lax.map(head, (blocks, key.swapaxes(1, 2), value))
    mixed = mixed.reshape(batch, heads, -1, width)[:, :, :length]
    return mixed.swapaxes(1, 2).astype(dtype)


def flash(
    query: Float[Array, "B L N d"],
    key: Float[Array, "B S N d"],
    value: Float[Array, "B S N d"],
    *,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> Float[Array, "B L N d"]:
    """Attend by the project's own kernel for TPUs; see `moa_jax.backbone.flash`.

    Args:
        mesh: splits the batch and the heads over its devices, where their numbers divide; None
            means one device.
        interpret: emulate the kernel on any platform, slowly.
    """
    return _on_mesh(partial(_flash, interpret=interpret), mesh, query, key, value)


def splash(
    query: Float[Array, "B L N d"],
    key: Float[Array, "B S N d"],
    value: Float[Array, "B S N d"],
    *,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> Float[Array, "B L N d"]:
    """Attend by JAX's kernel for TPUs.

    Args:
        mesh: as in `flash`.
        interpret: likewise.
    """
    from moa_jax.backbone import splash as kernels  # slow to import

    return _on_mesh(partial(kernels.splash, interpret=interpret), mesh, query, key, value)


def _on_mesh(attend: Attend, mesh: Mesh | None, query: Array, key: Array, value: Array) -> Array:
    """Attend on each device to its part of batch and heads."""
    if mesh is not None:
        place = _split(mesh, query.shape[0], query.shape[2])
        # Unchecked, because a kernel does not declare over which axes its result varies.
        attend = jax.shard_map(
            attend, mesh=mesh, in_specs=(place,) * 3, out_specs=place, check_vma=False
        )
    return attend(query, key, value)


def _split(mesh: Mesh, batch: int, heads: int) -> PartitionSpec:
    """Place "B L N d" on the mesh; replicate an axis that the devices do not divide evenly."""
    sizes = mesh.shape
    rows = BATCH_AXES if batch % (sizes["data"] * sizes["fsdp"]) == 0 else None
    return PartitionSpec(rows, None, HEAD_AXIS if heads % sizes[HEAD_AXIS] == 0 else None)


def _flash(
    query: Float[Array, "B L N d"],
    key: Float[Array, "B S N d"],
    value: Float[Array, "B S N d"],
    interpret: bool,
) -> Float[Array, "B L N d"]:
    """Attend on one device. The kernel takes "N d L", without a scale."""
    from moa_jax.backbone import flash as kernels  # slow to import

    scaled = query * query.shape[3] ** -0.5
    heads = (array.transpose(0, 2, 3, 1) for array in (scaled, key, value))
    return kernels.flash(*heads, interpret).transpose(0, 3, 1, 2)


def cudnn(
    query: Float[Array, "B L N d"], key: Float[Array, "B S N d"], value: Float[Array, "B S N d"]
) -> Float[Array, "B L N d"]:
    """Attend by cuDNN's kernel, which takes half precision and heads of limited width."""
    from moa_jax.backbone import cudnn as kernels

    anywhere = {"xla": xla, "blocked": blocked}[plain(query.shape[1], key.shape[1])]
    return kernels.attend(query, key, value, anywhere)


def plain(length: int, context: int) -> Literal["xla", "blocked"]:
    """Choose between the two that run anywhere: the latter where there are more than SCORES."""
    return "xla" if length * context <= SCORES else "blocked"


def select(
    name: Name, kernel: Kernel | None, length: int, context: int, width: int, dtype: Any
) -> Name:
    """Choose the implementation that serves one shape.

    Args:
        name: the implementation asked for; "auto" means the kernel where it pays.
        kernel: the kernel that runs on these devices; None means there is none.
        length: tokens that attend.
        context: tokens that are attended to.
        width: of a head.

    Returns:
        The implementation asked for, if it can serve the shape; else "xla", or "blocked" where
        there are more than SCORES scores.
    """
    shortest, longest = sorted((length, context))
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    divides = width % CUDNN_MULTIPLE == 0
    many = longest >= FLASH_TOKENS and shortest >= FLASH_CONTEXT
    serves = {
        "xla": True,
        "blocked": True,
        "looped": name == "looped" or length * context >= LOOPED_SCORES,
        "flash": width <= FLASH_WIDTH and (name == "flash" or many),
        "splash": width <= FLASH_WIDTH,
        "cudnn": half and width <= CUDNN_WIDTH and divides and shortest >= CUDNN_TOKENS,
    }
    wanted = kernel if name == "auto" else name
    return wanted if serves.get(wanted) else plain(length, context)


def choose_attend(name: str, platform: str, mesh: Mesh | None = None) -> Attend:
    """Give the function that the layers of a network attend with.

    Args:
        name: one of `Name`.
        platform: of the devices: "cpu", "gpu" or "tpu".
        mesh: the devices that a program is split over, with the axes data, fsdp and tensor.

    Raises:
        InputError: there is no such implementation, or it does not run on these devices, or not as
            it should: the flash kernel is tried first.
    """
    if name not in get_args(Name):
        raise InputError(f"attention={name!r}: must be one of {', '.join(get_args(Name))}")
    kernel = kernel_of(platform)
    if name in NEEDS and name != kernel and not (name == "splash" and kernel == "flash"):
        raise InputError(
            f"attention={name!r} needs {NEEDS[name]}; this is {platform!r} with jax "
            f"{jax.__version__}: choose auto, xla or blocked"
        )
    if kernel == "flash" and name in ("auto", "flash") and jax.default_backend() == platform:
        check_kernel("flash", flash, xla)  # not where a plan compiles for a TPU elsewhere
    functions = {
        "xla": xla,
        "blocked": blocked,
        "looped": partial(looped, mesh=mesh),
        "flash": partial(flash, mesh=mesh),
        "splash": partial(splash, mesh=mesh),
        "cudnn": cudnn,
    }

    def attend(query: Array, key: Array, value: Array) -> Array:
        (_, length, _, width), context = query.shape, key.shape[1]
        chosen = select(name, kernel, length, context, width, query.dtype)
        return functions[chosen](query, key, value)

    return attend


def kernel_of(platform: str) -> Kernel | None:
    """Name the attention kernel that runs on a platform, if there is one."""
    if platform == "cpu":
        return "looped"
    if platform == "tpu" and jax.__version_info__ >= (0, 8):
        return "flash"  # on Colab's jax 0.7.2 with libtpu 0.0.21.1 no Pallas kernel compiles
    if platform == "gpu":
        capability = getattr(jax.local_devices()[0], "compute_capability", "")
        major = capability.split(".")[0]  # "9.0"; AMD's are "gfx942"
        return "cudnn" if major.isdigit() and int(major) >= 8 else None
    return None
