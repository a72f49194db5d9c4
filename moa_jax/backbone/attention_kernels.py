"""Scaled dot-product attention: one function, four implementations.

All are exact and take any shape; they differ in memory and speed. `xla` holds every score,
`blocked` those of some queries at a time; `splash` (TPU) and `cudnn` (NVIDIA GPU) are kernels that
hold none. `choose_attend` gives the one function that the layers of a network are handed; which
implementation serves a layer is decided from its shape, while it is traced.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from moa_jax.errors import InputError

Name = Literal["auto", "xla", "blocked", "splash", "cudnn"]
Kernel = Literal["splash", "cudnn"]
NEEDS = {
    "splash": "a TPU and jax 0.8 or newer",
    "cudnn": "an NVIDIA GPU of compute capability 8.0 or newer",
}
# (query "B L N d", key "B S N d", value "B S N d") -> "B L N d", with scale 1/sqrt(d)
Attend = Callable[[Array, Array, Array], Array]

# Scores of one head that are held at once. Forward + backward of 8 heads in float32 on 2 busy CPU
# cores: 1024 x 1024 took 575 ms and 131 MiB by xla, 455 ms and 77 MiB blocked; 4096 x 4096 10.1 s
# and 2,053 MiB, 8.1 s and 84 MiB; at 256 x 256 and 1024 x 77 blocks gained nothing.
SCORES = 2**19
# Below this many tokens on either side splash saves little. What the compiler counts for a v5e,
# forward + backward, bfloat16, 8 heads, MiB moved a picture of 8, by xla and by splash: 4096 x 4096
# 3,943 and 206; 1024 x 1024 278 and 53; 256 x 256 32 and 22; 4096 x 77 103 and 146.
SPLASH_TOKENS = 512
SPLASH_BLOCK, SPLASH_LANES = 512, 128  # tokens of a block at most; what lengths are padded to
SPLASH_WIDTH = 512  # the widest head that was compiled: that of the VAE
CUDNN_TOKENS = 64  # below, a kernel has nothing to save
CUDNN_WIDTH, CUDNN_MULTIPLE = 128, 8  # of heads; 256 from Hopper on

BATCH_AXES, HEAD_AXIS = ("data", "fsdp"), "tensor"  # of the mesh


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
    # In float32, so that the gradients of all blocks are summed in it.
    key, value = key.astype(jnp.float32), value.astype(jnp.float32)

    @jax.checkpoint
    def attend(block: Array) -> Array:
        return xla(block, key.astype(dtype), value.astype(dtype))

    mixed = jax.lax.map(attend, blocks)
    return mixed.swapaxes(0, 1).reshape(padded.shape)[:, :length]


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
        mesh: over which the batch and, where they divide, the heads are split.
        interpret: emulate the kernel on any platform, slowly.
    """
    attend = partial(_splash, interpret=interpret)
    if mesh is not None:
        place = _split(mesh, query.shape[0], query.shape[2])
        # The kernel does not say over which axes its result varies.
        attend = jax.shard_map(
            attend, mesh=mesh, in_specs=(place,) * 3, out_specs=place, check_vma=False
        )
    return attend(query, key, value)


def _split(mesh: Mesh, batch: int, heads: int) -> PartitionSpec:
    """Place "B L N d" on the mesh; what an axis does not divide is whole on each device."""
    sizes = mesh.shape
    rows = BATCH_AXES if batch % (sizes["data"] * sizes["fsdp"]) == 0 else None
    return PartitionSpec(rows, None, HEAD_AXIS if heads % sizes[HEAD_AXIS] == 0 else None)


def _splash(
    query: Float[Array, "B L N d"],
    key: Float[Array, "B S N d"],
    value: Float[Array, "B S N d"],
    interpret: bool,
) -> Float[Array, "B L N d"]:
    """Attend on one device: the kernel takes "N L d" and no scale, in lengths of whole lanes."""
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels  # slow to import

    (_, length, heads, width), context = query.shape, key.shape[1]
    query, key, value = (
        jnp.pad(array.swapaxes(1, 2), ((0, 0), (0, 0), (0, -array.shape[1] % SPLASH_LANES), (0, 0)))
        for array in (query * width**-0.5, key, value)
    )
    sides = query.shape[2], key.shape[2]
    rows, columns = map(_splash_block, sides)
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([kernels.FullMask(sides)] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
            # Tokens in the lanes: widths, which they would pad to 128, are 40 and 80. At
            # 4096 x 4096 that is 41 MiB instead of 65 a picture, at 1024 x 1024 0.8 for 4.8.
            q_layout=kernels.QKVLayout.SEQ_MINOR,
            k_layout=kernels.QKVLayout.SEQ_MINOR,
            v_layout=kernels.QKVLayout.SEQ_MINOR,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    segments = None
    if sides[1] != context:  # the padding of the keys is another segment than all queries
        real = jnp.arange(sides[1]) < context
        segments = kernels.SegmentIds(jnp.ones(sides[0], jnp.int32), real.astype(jnp.int32))
    mixed = jax.vmap(kernel, in_axes=(0, 0, 0, None))(query, key, value, segments)
    return mixed[:, :, :length].swapaxes(1, 2)


def _splash_block(length: int) -> int:
    """Give the largest block of whole lanes that divides a length."""
    blocks = range(SPLASH_LANES, SPLASH_BLOCK + 1, SPLASH_LANES)
    return max(block for block in blocks if length % block == 0)


def cudnn(
    query: Float[Array, "B L N d"], key: Float[Array, "B S N d"], value: Float[Array, "B S N d"]
) -> Float[Array, "B L N d"]:
    """Attend by cuDNN's kernel: half precision, heads of a width it knows."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def select(
    name: Name, kernel: Kernel | None, length: int, context: int, width: int, dtype: Any
) -> Name:
    """Choose the implementation that serves one shape.

    Args:
        name: what was asked for; "auto" is the kernel where it pays.
        kernel: the one that runs here, if any.
        length: tokens that attend.
        context: tokens that are attended to.
        width: of a head.

    Returns:
        What was asked for if it can serve the shape; else "xla", or "blocked" if the scores are
        many.
    """
    shortest = min(length, context)
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    divides = width % CUDNN_MULTIPLE == 0
    serves = {
        "xla": True,
        "blocked": True,
        "splash": width <= SPLASH_WIDTH and (name == "splash" or shortest >= SPLASH_TOKENS),
        "cudnn": half and width <= CUDNN_WIDTH and divides and shortest >= CUDNN_TOKENS,
    }
    wanted = kernel if name == "auto" else name
    return wanted if serves.get(wanted) else "xla" if length * context <= SCORES else "blocked"


def choose_attend(name: str, platform: str, mesh: Mesh | None = None) -> Attend:
    """Give the function that the layers of a network attend with.

    Args:
        name: one of `Name`.
        platform: of the devices: "cpu", "gpu" or "tpu".
        mesh: the devices that a program is split over, with the axes data, fsdp and tensor.

    Raises:
        InputError: no such implementation, or not on these devices.
    """
    if name not in get_args(Name):
        raise InputError(f"attention={name!r}: must be one of {', '.join(get_args(Name))}")
    kernel = kernel_of(platform)
    if name in NEEDS and name != kernel:
        raise InputError(
            f"attention={name!r} needs {NEEDS[name]}; this is {platform!r} with jax "
            f"{jax.__version__}: choose auto, xla or blocked"
        )
    functions = {
        "xla": xla,
        "blocked": blocked,
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
    if platform == "tpu" and jax.__version_info__ >= (0, 8):
        return "splash"  # on Colab's jax 0.7.2 with libtpu 0.0.21.1 no Pallas kernel compiles
    if platform == "gpu":
        capability = getattr(jax.local_devices()[0], "compute_capability", "")
        major = capability.split(".")[0]  # "9.0"; AMD's are "gfx942"
        return "cudnn" if major.isdigit() and int(major) >= 8 else None
    return None
