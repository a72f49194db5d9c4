"""MoA's training step laid over a mesh: the one that train.py runs and that a plan compiles."""

from typing import Any

import optax
from jax.sharding import Mesh

from moa_jax.config import Config
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.method.model import MoA
from moa_jax.training.mesh import gather_weights, jit_step
from moa_jax.training.objective import make_objective, summarize
from moa_jax.training.step import TrainState, make_train_step


def moa_step(
    model: MoA,
    schedule: NoiseSchedule,
    config: Config,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    frozen: Any,
) -> Any:
    """Build the compiled `state, metrics = step(state, frozen, batch)`.

    Args:
        state: one to take shapes from; frozen likewise.
    """
    objective = gather_weights(make_objective(model, schedule, config.method), mesh)
    step = make_train_step(objective, config, optimizer, summarize)
    return jit_step(step, mesh, state, frozen)
