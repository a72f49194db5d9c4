"""The real loop on a small regression, milliseconds a step, for tests that kill it.

`main` is one process's life. Knows no test.
"""

import functools
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from moa_jax.cli import run
from moa_jax.config import Config, MeshConfig, OptimizerConfig, TrainConfig
from moa_jax.method.weights import Identity
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.loop import fit
from moa_jax.training.mesh import make_mesh
from moa_jax.training.setup import set_up
from tests.compiling import PROGRAMS

WIDTH = 256  # one array takes more than what a process prints
EVERY = 5  # steps between checkpoints
IDENTITY = Identity("small", "small", {})


class Numbers:
    """Random rows that depend on their number alone."""

    def __init__(self, pause=0.0):
        self.place, self.pause = 0, pause

    def __next__(self):
        time.sleep(self.pause)
        self.place += 1
        rows = np.random.default_rng(self.place).normal(size=(2, 4, WIDTH))
        return {"x": rows[0].astype(np.float32), "y": rows[1].astype(np.float32)}

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def objective(trained, frozen, batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (WIDTH,)))(keys)
    loss = jnp.mean(jnp.square(batch["x"] @ trained["kernel"] + noise - batch["y"]))
    return loss, {"loss/total": loss}


def small_config(folder, steps, **train) -> Config:
    values = {"batch_size": 4, "log_every": 1, "checkpoint_every": EVERY, "sample_every": None}
    return Config(
        optimizer=OptimizerConfig(learning_rate=1e-3, ema_decay=0.9),
        train=TrainConfig(steps=steps, output=str(folder), **values | train),
    )


@functools.cache
def open_run():
    """Give a compiled step, a function that gives the state to start from, and their mesh."""
    config = small_config("", 1)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    params, mask = {"kernel": jnp.zeros((WIDTH, WIDTH))}, {"kernel": True}
    prepare = partial(set_up, objective, params, mask, config, mesh, optimizer=optax.adam(1e-3))
    return prepare().step, lambda: prepare()[:2], mesh


def small_fit(config, batches=None, **more):
    """Train in `config.train.output`, from where it stopped."""
    step, start, mesh = open_run()
    with open_checkpoints(config) as checkpoints:
        return fit(step, *start(), batches or Numbers(), checkpoints, mesh, config, **more)


def open_checkpoints(config):
    return Checkpoints(Path(config.train.output) / "checkpoints", config, IDENTITY)


def main(folder, steps, pause=0.0, limit=None):
    """Run as `train.py` does: its exit code, its words in FOLDER/words, FOLDER/finished at the end.

    Args:
        limit: bytes that a file may have.
    """
    Path(folder).mkdir(exist_ok=True)
    with (Path(folder) / "words").open("w") as words:
        for stream in (1, 2):
            os.dup2(words.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w") for stream in (1, 2))
    jax.config.update("jax_compilation_cache_dir", str(PROGRAMS))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def work():
        state = small_fit(small_config(folder, steps), Numbers(pause))
        (Path(folder) / "finished").write_text(str(int(state.step)))

    sys.exit(run(work, stopped="stopped"))
