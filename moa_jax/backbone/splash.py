"""JAX's splash attention, a kernel for TPUs, as an implementation of attention on one device."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as kernels
from jaxtyping import Array, Float

from moa_jax.backbone.blocks import ATTENDED
from moa_jax.backbone.flash import LANES, block_of


def splash(
    query: Float[Array, "B L N d"],
    key: Float[Array, "B S N d"],
    value: Float[Array, "B S N d"],
    interpret: bool,
) -> Float[Array, "B L N d"]:
    """Attend on one device.

    The kernel takes "N L d" without a scale, in lengths that are multiples of LANES.
    """
    (_, length, heads, width), context = query.shape, key.shape[1]
    query, key, value = (
        jnp.pad(array.swapaxes(1, 2), ((0, 0), (0, 0), (0, -array.shape[1] % LANES), (0, 0)))
        for array in (query * width**-0.5, key, value)
    )
    sides = query.shape[2], key.shape[2]
    rows, columns = map(block_of, sides)
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([kernels.FullMask(sides)] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
            # Tokens lie in the lanes, because head widths (40, 80) would be padded to 128. A
            # picture takes 41 MiB, not 65, at 4096 x 4096; 0.8 MiB, not 4.8, at 1024 x 1024.
            q_layout=kernels.QKVLayout.SEQ_MINOR,
            k_layout=kernels.QKVLayout.SEQ_MINOR,
            v_layout=kernels.QKVLayout.SEQ_MINOR,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
    segments = None
    if sides[1] != context:  # no query attends to a key of another segment, the padding
        real = jnp.arange(sides[1]) < context
        segments = kernels.SegmentIds(jnp.ones(sides[0], jnp.int32), real.astype(jnp.int32))
    mixed = jax.vmap(kernel, in_axes=(0, 0, 0, None))(query, key, value, segments)
    return mixed[:, :, :length].swapaxes(1, 2)
