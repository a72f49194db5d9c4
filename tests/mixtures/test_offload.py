"""Experts in the host's memory: what is computed, what the chip holds, and when a copy starts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from moa_jax.errors import InputError
from moa_jax.mixtures.offload import stream
from moa_jax.planning.hlo import parse
from moa_jax.planning.topology import topology_devices
from tests.mixtures.one_layer import normal
from tests.mixtures.schedules import compiled_as_for_users, is_product
from tests.planning.conftest import libtpu

BLOCKS, EXPERTS = 6, 4


def block(weights, hidden):
    """Experts that all see everything; their mean is added."""
    made = jax.vmap(lambda up, down: jnp.tanh(hidden @ up) @ down)(weights["up"], weights["down"])
    return hidden + jnp.mean(made, axis=0)


def shapes(width, inner):
    sizes = {"up": (width, inner), "down": (inner, width)}
    return {name: (BLOCKS, EXPERTS, *size) for name, size in sizes.items()}


@pytest.mark.parametrize("sections", [2, 3])
def test_streamed_blocks_compute_what_resident_ones_do(sections):
    weights = {name: normal(3, *size) / 4 for name, size in shapes(8, 16).items()}
    hidden = normal(4, 5, 8)
    here = SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    found = jax.jit(partial(stream, block, sections=sections))(
        jax.device_put(weights, here), hidden
    )
    for number in range(BLOCKS):
        up, down = weights["up"][number], weights["down"][number]
        hidden = hidden + np.mean(np.tanh(hidden @ up) @ down, axis=0)
    np.testing.assert_allclose(found, hidden, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="sections=4: must be 2 or more, and divide 6 blocks"):
        stream(block, weights, jnp.asarray(hidden), sections=4)


@pytest.mark.slow
@libtpu
def test_a_chip_holds_two_blocks_and_copies_one_while_it_computes_the_other():
    chip = topology_devices("v5e:1x1")[0]

    def on(size, kind="device"):
        place = SingleDeviceSharding(chip, memory_kind=kind)
        return jax.ShapeDtypeStruct(size, jnp.bfloat16, sharding=place)

    sizes = shapes(512, 2048)
    hidden = on((1024, 512))

    def compiled(function, kind):
        weights = {name: on(size, kind) for name, size in sizes.items()}
        return compiled_as_for_users(jax.jit(function).lower(weights, hidden))

    def held(program):
        memory = program.memory_analysis()
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes

    def resident(weights, hidden):
        return jax.lax.scan(lambda x, w: (block(w, x), None), hidden, weights)[0]

    streamed = compiled(partial(stream, block), "pinned_host")
    of_a_block = sum(2 * int(np.prod(size[1:])) for size in sizes.values())
    saved = held(compiled(resident, "device")) - held(streamed)
    assert saved == pytest.approx((BLOCKS - 2) * of_a_block, rel=0.05)

    module = parse(streamed.as_text())
    (loop,) = [op for op in module.computations[module.entry].values() if op.kind == "while"]
    coming, hidden_behind = {}, []
    for operation in module.computations[loop.called("body")[0]].values():
        if operation.kind == "dynamic-slice-start":
            coming[operation.name] = 0
        elif operation.kind == "dynamic-slice-done":
            hidden_behind.append(coming.pop(operation.operands[0]))
        elif is_product(module, operation):
            coming = {name: products + 1 for name, products in coming.items()}
    assert len(hidden_behind) == 2 * len(sizes) and min(hidden_behind) >= 1
