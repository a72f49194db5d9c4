"""Put a training together: optimizer, state and compiled step, laid over a mesh.

Runs, hardware plans and the toy world's stages all use this module, so that a plan cannot drift
from the run that it describes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from moa_jax.config import Config
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.method.model import MoA
from moa_jax.method.trained import partition
from moa_jax.training.mesh import gather_weights, jit_step, place_shapes, place_weights
from moa_jax.training.objective import make_objective, summarize
from moa_jax.training.optimizer import make_optimizer
from moa_jax.training.packing import Packing
from moa_jax.training.step import (
    Numbers,
    Objective,
    TrainState,
    initial_state,
    make_train_step,
)


class Setup(NamedTuple):
    """A training that can begin.

    Attributes:
        state: what a step changes, on the mesh.
        frozen: the parameters that do not learn, on the mesh.
        step: compiled at its first call: `state, metrics = step(state, frozen, batch)`. It takes
            over the buffers of the state it is given.
    """

    state: TrainState
    frozen: Any
    step: Any


def set_up(
    objective: Objective,
    params: Any,
    mask: Any,
    config: Config,
    mesh: Mesh,
    summarize: Callable[[Numbers], Numbers] | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Setup:
    """Put a training together.

    Args:
        params: arrays or shapes. From shapes, the state and the frozen parameters become shapes
            with shardings, and the step can be lowered.
        mask: tree of bool, true where a leaf learns.
        summarize: see `make_train_step`.
        optimizer: None means the configuration's; another one must skip what does not learn.
    """
    optimizer = optimizer or make_optimizer(config.optimizer, config.train.steps, mask)
    start = partial(initial_state, mask=mask, optimizer=optimizer, config=config)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        state = jax.eval_shape(lambda shapes: start(shapes)[0], params)
        state = place_shapes(state, mesh)
        frozen = place_shapes(partition(params, mask)[1], mesh)
    else:
        state, frozen = start(params)
        state, frozen = place_weights(state, mesh), place_weights(frozen, mesh)
    step = make_train_step(objective, config, optimizer, summarize)
    return Setup(state, frozen, jit_step(step, mesh, state, frozen))


def set_up_moa(
    model: MoA,
    schedule: NoiseSchedule,
    params: Any,
    mask: Any,
    config: Config,
    mesh: Mesh,
    optimizer: optax.GradientTransformation | None = None,
) -> Setup:
    """Put MoA's training together; see `set_up`."""
    packing = Packing(config.model.subject_share, mesh.shape["data"] * mesh.shape["fsdp"])
    objective = make_objective(model, schedule, config.method, packing)
    objective = gather_weights(objective, mesh)
    return set_up(objective, params, mask, config, mesh, summarize, optimizer)
