"""Small programs to compile: functions of a module, so that the compiler's process finds them."""

import os
import sys
import time
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moa_jax.backbone.quantization import quantize
from moa_jax.config import MeshConfig
from moa_jax.errors import InputError
from moa_jax.planning.programs import Program, sampling_programs
from moa_jax.planning.topology import topology_devices
from moa_jax.training.mesh import make_mesh


def product() -> Program:
    """A product of a split matrix with split rows, over eight devices of a CPU."""
    split = NamedSharding(Mesh(np.asarray(jax.devices()), ("x",)), PartitionSpec("x"))
    weight, rows = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split) for shape in ((64, 16), (32, 64))
    )
    lower = partial(jax.jit(lambda w, x: jnp.sum(x @ w)).lower, weight, rows)
    return Program(lower, {"weight": weight, "rows": rows})


def on_v5e(function, *shapes, dtype=jnp.float32) -> Program:
    """A function of arrays, for one TPU."""
    place = jax.sharding.SingleDeviceSharding(topology_devices("v5e:1x1")[0])
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape in shapes]
    return Program(partial(jax.jit(function).lower, *arrays), {"arrays": arrays})


def double(x):
    """Read and write everything once."""
    return 2 * x


def powers(x, weight):
    """Multiply by a matrix nine times, in a loop, and keep each result."""
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ weight),) * 2, x, None, length=9)


def rows_of(x):
    """Change a few rows of a large array, which need not be read."""
    return x.at[8:16].set(1.0)


def product_of(x, *weights):
    """Multiply by one matrix after the other; each is brought near while the one before works."""
    for weight in weights:
        x = jnp.tanh(x @ weight)
    return x


LAYERS = 12
doubled = partial(on_v5e, double, (4096, 8192))
looped = partial(on_v5e, powers, (256, 512), (512, 512))
sliced = partial(on_v5e, product_of, (8192, 1024), *[(1024, 1024)] * LAYERS, dtype=jnp.bfloat16)
too_large = partial(on_v5e, double, (2**16, 2**16))


def layers(count: int, width: int, in_int8: bool) -> Program:
    """Three turns of a loop through layers in bfloat16, whose kernels are held as told."""
    place = jax.sharding.SingleDeviceSharding(topology_devices("v5e:1x1")[0])

    def on(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    kernel = jax.ShapeDtypeStruct((width, width), jnp.bfloat16)
    held = jax.eval_shape(lambda leaf: quantize(leaf, leaf.dtype), kernel) if in_int8 else kernel
    kernels = jax.tree.map(on, [held] * count)
    hidden = on(jax.ShapeDtypeStruct((64, width), jnp.bfloat16))
    layer = nn.Dense(width, use_bias=False, dtype=jnp.bfloat16)

    def once(hidden, kernels):
        for kernel in kernels:
            hidden = jnp.tanh(layer.apply({"params": {"kernel": kernel}}, hidden))
        return hidden

    def turns(hidden, kernels):
        return jax.lax.fori_loop(0, 3, lambda _, hidden: once(hidden, kernels), hidden)

    lower = partial(jax.jit(turns).lower, hidden, kernels)
    return Program(lower, {"kernels": kernels, "hidden": hidden})


def drawing_step(drawing) -> Program:
    """The program that a drawing runs in every step, for one v5e."""
    mesh = make_mesh(MeshConfig(), topology_devices("v5e:1x1"))
    return sampling_programs(drawing, mesh)[1]


def refused() -> Program:
    """What train.py refuses."""
    raise InputError("train.batch_size=7: no")


def dies() -> Program:
    """A compiler that crashes."""
    sys.stdout.write("so long")
    sys.stdout.flush()
    os._exit(11)


def waits() -> Program:
    """A compiler that takes long."""
    Path(os.environ["COMPILER_PID"]).write_text(str(os.getpid()))
    time.sleep(600)


def broken() -> Program:
    """A compiler that fails for another reason than memory."""

    class Lowered:
        def compile(self, **_):
            raise jax.errors.JaxRuntimeError("INTERNAL: (1.00G)")

    return Program(Lowered, {})
