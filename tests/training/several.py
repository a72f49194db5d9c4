"""One process of several: a small model through the loop, the mesh and the checkpoints of train.py.

python -m tests.training.several FOLDER PRESET STEPS PAUSE

The variable UNREADABLE=STEP hides that checkpoint's arrays from this process.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from moa_jax.cli import run
from moa_jax.config import Config, MeshConfig, OptimizerConfig, TrainConfig
from moa_jax.method.weights import Identity
from moa_jax.training import hosts
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.loop import fit
from moa_jax.training.mesh import gather_weights, host_rows, jit_step, make_mesh, place_weights
from moa_jax.training.step import TrainState, make_train_step

ROWS = 16
CONFIG = Config(
    optimizer=OptimizerConfig(ema_decay=0.9),
    train=TrainConfig(batch_size=ROWS, log_every=1, sample_every=2, checkpoint_every=2),
)


class Batches:
    """The given rows of batches of noise, a pause before each."""

    def __init__(self, rows, pause):
        self.rows, self.pause, self.place = rows, pause, 0

    def __next__(self):
        time.sleep(self.pause)
        self.place += 1
        return {"x": np.random.default_rng(self.place).normal(size=(ROWS, 8))[self.rows]}

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def objective(trained, frozen, batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (8,)))(keys)
    error = (batch["x"] + 0.1 * noise) @ trained["kernel"] - batch["x"] @ frozen["kernel"]
    total = jnp.mean(error**2)
    return total, {"loss/total": total}


def train(folder, preset, steps, pause=0.0):
    """Fit one matrix to another."""
    run = dataclasses.replace(CONFIG.train, output=str(folder), steps=steps)
    config = dataclasses.replace(CONFIG, train=run, mesh=MeshConfig(preset=preset))
    mesh, optimizer = make_mesh(config.mesh), optax.adam(1e-2)
    weights = {"kernel": jnp.ones((8, 8))}
    key = jax.random.key_data(jax.random.key(0))
    averaged = jax.tree.map(jnp.copy, weights)
    state = TrainState(jnp.int32(0), weights, optimizer.init(weights), averaged, key)
    state = place_weights(state, mesh)
    frozen = place_weights({"kernel": jnp.eye(8)}, mesh)
    step = jit_step(
        make_train_step(gather_weights(objective, mesh), config, optimizer), mesh, state, frozen
    )

    def preview(at, params):
        whole = hosts.gathered(params)
        if hosts.first():
            np.save(folder / f"preview{at}.npy", whole["kernel"])

    with Checkpoints(folder / "checkpoints", config, Identity("base", "base", {})) as checkpoints:
        batches = Batches(host_rows(mesh, ROWS), pause)
        fit(step, state, frozen, batches, checkpoints, mesh, config, preview)


def hide(step):
    """Let the arrays of one checkpoint be unreadable, as a broken disk of this host would."""
    read = ocp.StandardCheckpointHandler.restore

    def restore(handler, directory, *args, **options):
        if step in Path(directory).parts:
            raise OSError("input/output error")
        return read(handler, directory, *args, **options)

    ocp.StandardCheckpointHandler.restore = restore


def main(folder, preset, steps, pause):
    def work():
        if "UNREADABLE" in os.environ:
            hide(os.environ["UNREADABLE"])
        hosts.join(True)
        with hosts.watching():
            train(Path(folder), preset, int(steps), float(pause))

    return hosts.leave(run(work))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
