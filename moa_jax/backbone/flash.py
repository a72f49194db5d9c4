"""A flash attention kernel for TPUs that moves no padding: forward and backward.

Tokens lie in the lanes, "d L", in all that goes in and out, because the heads of Stable Diffusion
are 40 and 80 wide: as "L d", each would be padded to the 128 lanes of a tile. For the backward pass
it keeps one float32 a query. JAX's splash attention writes outputs and gradients as "L d", and 128
floats a query.

Scores are held transposed, "keys queries": what is a number for each query is then one row.

Lengths need not fill the lanes. What a block holds behind an array's end is not defined, and may be
no number at all: `_real` puts zeros there.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu
from jaxtyping import Array, Float

from moa_jax.backbone.blocks import ATTENDED

LANES, BLOCK = 128, 512  # tokens: blocks are multiples of LANES; the largest block
NEAR = 2**18  # numbers of a head's keys, and of its values, that are held near the units at once
ROOM = 2**24  # bytes of vector memory that a kernel has unless it asks for more
LOW = -1e30  # a score that gets no weight; finite, so that differences are numbers

Queries = Float[Array, "B N d L"]
Keys = Float[Array, "B N d S"]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def flash(query: Queries, key: Keys, value: Keys, interpret: bool = False) -> Queries:
    """Attend; the query brings the scale.

    Args:
        interpret: emulate the kernel on any platform, slowly.
    """
    return _forward(query, key, value, interpret, keep=False)[0]


def _forward(
    query: Queries, key: Keys, value: Keys, interpret: bool, keep: bool
) -> tuple[Array, ...]:
    """Attend, and with `keep` also give the logarithm of each query's sum of weights."""
    (batch, heads, width, length), context = query.shape, key.shape[3]
    rows, near = block_of(length), block_of(context, max(LANES, NEAR // width))
    grid = (batch, heads, -(-length // rows), -(-context // near))

    def of_queries(height: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, height, rows), lambda b, n, i, j: (b, n, 0, i))

    of_keys = pl.BlockSpec((None, None, width, near), lambda b, n, i, j: (b, n, 0, j))
    results = [(width, query.dtype), (1, jnp.float32)][: 1 + keep]
    return pl.pallas_call(
        partial(_forward_kernel, context=context),
        grid=grid,
        in_specs=[of_queries(width), of_keys, of_keys],
        out_specs=[of_queries(height) for height, _ in results],
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, height, length), dtype) for height, dtype in results
        ],
        scratch_shapes=[tpu.VMEM((height, rows), jnp.float32) for height in (1, 1, width)],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        name="flash_fwd",
        interpret=interpret,
    )(query, key, value)


def _forward_kernel(query: Any, key: Any, value: Any, mixed: Any, *rest: Any, context: int) -> None:
    """Attend from a block of queries to those keys that are near, block by block."""
    *kept, largest, total, summed = rest
    step, near = pl.program_id(3), key.shape[1]

    @pl.when(step == 0)
    def _() -> None:
        largest[...] = jnp.full_like(largest, LOW)
        total[...] = jnp.zeros_like(total)
        summed[...] = jnp.zeros_like(summed)

    def add(block: Array, _: None) -> None:
        columns = block_of(near)
        here = pl.ds(pl.multiple_of(block * columns, columns), columns)
        first = step * near + block * columns
        scores = _scores(query[...], key[:, here], first, context)
        new = jnp.maximum(largest[...], jnp.max(scores, axis=0, keepdims=True))
        weights, fade = jnp.exp(scores - new), jnp.exp(largest[...] - new)
        largest[...] = new
        total[...] = fade * total[...] + jnp.sum(weights, axis=0, keepdims=True)
        mixture = _dot(_real(value[:, here], first, context), weights.astype(value.dtype), 1, 0)
        summed[...] = fade * summed[...] + mixture

    jax.lax.fori_loop(0, near // block_of(near), add, None)

    @pl.when(step == pl.num_programs(3) - 1)
    def _() -> None:
        mixed[...] = (summed[...] / total[...]).astype(mixed.dtype)
        for each in kept:
            each[...] = largest[...] + jnp.log(total[...])


def _flash_forward(
    query: Queries, key: Keys, value: Keys, interpret: bool
) -> tuple[Queries, tuple[Array, ...]]:
    kept = _forward(query, key, value, interpret, keep=True)
    mixed, logarithm = (checkpoint_name(each, ATTENDED) for each in kept)
    return mixed, (query, key, value, mixed, logarithm)


def _flash_backward(
    interpret: bool, kept: tuple[Array, ...], gradient: Queries
) -> tuple[Queries, Keys, Keys]:
    """Give the gradients of query, key and value; one kernel computes the weights once for all."""
    query, key, value, mixed, logarithm = kept
    (batch, heads, width, length), context = query.shape, key.shape[3]
    gradient = gradient.astype(query.dtype)
    product = gradient.astype(jnp.float32) * mixed.astype(jnp.float32)
    inner = jnp.sum(product, axis=2, keepdims=True)
    columns, all_rows = block_of(context), filled(length)
    # What is held of all queries: three arrays twice, to load and to work on, and a sum in float32.
    held = (6 * query.dtype.itemsize + 4) * width * all_rows

    def of_queries(height: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, height, all_rows), lambda b, n, j: (b, n, 0, 0))

    of_keys = pl.BlockSpec((None, None, width, columns), lambda b, n, j: (b, n, 0, j))
    per_query, per_key = of_queries(width), of_keys
    query_change, key_change, value_change = pl.pallas_call(
        partial(_backward_kernel, length=length, context=context),
        grid=(batch, heads, -(-context // columns)),
        in_specs=[per_query, of_keys, of_keys, per_query, of_queries(1), of_queries(1)],
        out_specs=[per_query, per_key, per_key],
        out_shape=[jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (query, key, value)],
        scratch_shapes=[
            tpu.VMEM((width, side), jnp.float32) for side in (all_rows, columns, columns)
        ],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=max(ROOM, held + ROOM // 2),
        ),
        name="flash_bwd",
        interpret=interpret,
    )(query, key, value, gradient, logarithm, inner)
    return query_change, key_change, value_change


def _backward_kernel(
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    logarithm: Any,
    inner: Any,
    *results_and_sums: Any,
    length: int,
    context: int,
) -> None:
    """Take a block of keys, and go through all queries, block by block."""
    results, sums = results_and_sums[:3], results_and_sums[3:]
    of_query, of_key, of_value = sums
    step, columns, rows = pl.program_id(2), key.shape[1], block_of(length)
    keys, values = (_real(each[...], step * columns, context) for each in (key, value))

    @pl.when(step == 0)
    def _() -> None:
        of_query[...] = jnp.zeros_like(of_query)

    of_key[...] = jnp.zeros_like(of_key)
    of_value[...] = jnp.zeros_like(of_value)

    def add(block: Array, _: None) -> None:
        here = pl.ds(pl.multiple_of(block * rows, rows), rows)
        asked, moved, logarithms, inners = (
            _real(each[:, here], block * rows, length)
            for each in (query, gradient, logarithm, inner)
        )
        scores = _scores(asked, keys, step * columns, context)
        weights = jnp.exp(scores - logarithms)
        of_value[...] += _dot(moved, weights.astype(moved.dtype), 1, 1)
        change = weights * (_dot(values, moved, 0, 0) - inners)
        change = change.astype(asked.dtype)
        of_key[...] += _dot(asked, change, 1, 1)
        of_query[:, here] += _dot(keys, change, 1, 0)

    jax.lax.fori_loop(0, filled(length) // rows, add, None)
    for result, total in list(zip(results, sums, strict=True))[1:]:
        result[...] = total[...].astype(result.dtype)

    @pl.when(step == pl.num_programs(2) - 1)
    def _() -> None:
        results[0][...] = of_query[...].astype(results[0].dtype)


def _real(tokens: Array, first: Array, count: int) -> Array:
    """Put zeros for tokens behind the last one; `first` is the first one's place, of `count`."""
    if count % LANES == 0:
        return tokens
    place = first + jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    return jnp.where(place < count, tokens, jnp.zeros_like(tokens))


def _scores(query: Array, key: Array, first: Array, context: int) -> Array:
    """Give the scores "keys queries" of some keys; keys behind the last one get no weight."""
    scores = _dot(key, query, 0, 0)
    if context % LANES == 0:
        return scores
    place = first + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    return jnp.where(place < context, scores, LOW)


def _dot(left: Array, right: Array, axis: int, other: int) -> Array:
    """Multiply two matrices along these axes, and sum in float32."""
    exact = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        left,
        right,
        (((axis,), (other,)), ((), ())),
        precision=exact,
        preferred_element_type=jnp.float32,
    )


def filled(length: int) -> int:
    """Give the least multiple of LANES that holds a length."""
    return -(-length // LANES) * LANES


def block_of(length: int, largest: int | None = None) -> int:
    """Give the largest block, a multiple of LANES, that divides a length when its lanes are filled.

    Args:
        largest: its limit, at least LANES; None means BLOCK.
    """
    whole = filled(length)
    blocks = range(LANES, min(whole, largest or BLOCK) + 1, LANES)
    return max(block for block in blocks if whole % block == 0)


flash.defvjp(_flash_forward, _flash_backward)
