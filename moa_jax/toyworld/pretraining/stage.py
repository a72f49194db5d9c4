"""One stage of the toy world's pretraining: the project's own loop, and the networks it leaves.

A stage's folder holds what `train.py` writes (metrics, samples, checkpoints) and, once it is done,
its networks in half precision. The objective is an argument.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from moa_jax.backbone.folder import read_config
from moa_jax.backbone.remember import describe
from moa_jax.backbone.shapes import parameter_shapes
from moa_jax.backbone.stable_diffusion import Component
from moa_jax.backbone.weights import load_params, save_params
from moa_jax.config import Config, OptimizerConfig, TrainConfig
from moa_jax.errors import InputError
from moa_jax.method.identity import Identity
from moa_jax.toyworld.pretraining.architecture import make_module
from moa_jax.toyworld.pretraining.recipe import TrainingRecipe
from moa_jax.toyworld.world.arrays import RowBatches
from moa_jax.training.checkpoint import Checkpoints
from moa_jax.training.loop import Batches, Preview, fit
from moa_jax.training.mesh import check_batch
from moa_jax.training.resident import resident
from moa_jax.training.setup import set_up
from moa_jax.training.step import Objective

KEPT = 2  # checkpoints
NETWORKS, CARD = "networks", "finished.json"  # in a stage's folder

Read = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]  # (arrays, row numbers) -> a batch


@dataclass(frozen=True)
class Rows:
    """What a stage is trained on.

    Attributes:
        arrays: by name; a batch is made of some rows of them.
        read: (arrays, row numbers) -> a batch. It only indexes, so it works on NumPy's arrays and
            on a device.
        count: number of rows.
    """

    arrays: Mapping[str, np.ndarray]
    read: Read
    count: int


@dataclass(frozen=True)
class Stage:
    """Where and how some networks are trained.

    Attributes:
        folder: made if need be.
        built: anything that decides the shapes of what learns.
        frozen: networks that take part and do not learn, by name.
    """

    folder: Path
    recipe: TrainingRecipe
    mesh: Mesh
    built: Any
    frozen: Mapping[str, Component]

    @property
    def done(self) -> bool:
        """Whether all steps were taken, with these networks."""
        card = self.folder / NETWORKS / CARD
        return card.is_file() and json.loads(card.read_text(encoding="utf-8")) == self._card

    def train(
        self,
        objective: Objective,
        params: Mapping[str, Any],
        data: Rows | Batches,
        preview: Preview,
    ) -> Any:
        """Train, from the newest checkpoint if there is one.

        On a GPU or TPU the arrays of `Rows` are copied to the devices once and batches are read
        there; otherwise small networks would wait for their data.

        Args:
            params: a tree for each network that learns.

        Returns:
            The averaged parameters of the networks that learn.
        """
        config = self._config()
        check_batch(self.recipe.batch_size, config.optimizer.accumulation, self.mesh)
        everything = {**params, **{name: c.params for name, c in self.frozen.items()}}
        batches = self._batches(data) if isinstance(data, Rows) else data
        mask = {
            name: jax.tree.map(lambda _, learns=name in params: learns, tree)
            for name, tree in everything.items()
        }
        state, frozen, step = set_up(objective, everything, mask, config, self.mesh)
        with Checkpoints(self.folder / "checkpoints", config, self._identity()) as checkpoints:
            state = fit(step, state, frozen, batches, checkpoints, self.mesh, config, preview)
        averaged = jax.device_get(state.averaged)
        return {name: averaged[name] for name in params}

    def _batches(self, rows: Rows) -> RowBatches:
        read = partial(rows.read, rows.arrays)
        if self.mesh.devices.flat[0].platform != "cpu":
            read = resident(rows.arrays, rows.read, self.mesh)
        return RowBatches(read, rows.count, self.recipe.batch_size, self.recipe.seed)

    def finish(self, networks: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> None:
        """Write networks (parameters and configuration) in half precision; this ends the stage."""
        unfinished = self.folder / f"{NETWORKS}.unfinished"
        # They may be there from an interrupted attempt, or from other steps or networks.
        for old in (unfinished, self.folder / NETWORKS):
            shutil.rmtree(old, ignore_errors=True)
        for name, (params, config) in networks.items():
            half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)
            save_params(unfinished / name, half, config)
        (unfinished / CARD).write_text(json.dumps(self._card) + "\n", encoding="utf-8")
        # Last of all, so that the networks are there intact or not at all.
        unfinished.rename(self.folder / NETWORKS)

    @property
    def _card(self) -> dict[str, Any]:
        return {"steps": self.recipe.steps, **self._identity().fingerprints}

    def _identity(self) -> Identity:
        """Say what a checkpoint of this stage belongs to."""
        described = json.dumps(describe(self.built), sort_keys=True)
        built = hashlib.sha256(described.encode()).hexdigest()
        fingerprints = {name: network.fingerprint for name, network in self.frozen.items()}
        name = str(self.folder)
        return Identity(name, name, {"recipe.networks": built, **fingerprints})

    def _config(self) -> Config:
        """Write the recipe as the configuration that `fit` reads."""
        recipe = self.recipe
        return Config(
            optimizer=OptimizerConfig(
                learning_rate=recipe.learning_rate,
                schedule="cosine",
                muon_learning_rate=recipe.muon_learning_rate,
                warmup_steps=recipe.warmup_steps,
                weight_decay=recipe.weight_decay,
                max_grad_norm=recipe.max_grad_norm,
                ema_decay=recipe.ema_decay,
            ),
            train=TrainConfig(
                steps=recipe.steps,
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                output=str(self.folder),
                log_every=recipe.log_every,
                sample_every=recipe.sample_every,
                checkpoint_every=recipe.checkpoint_every,
                keep_checkpoints=KEPT,
            ),
        )


def load_network(stage: Path, name: str, dtype: Any = jnp.float32) -> Component:
    """Read a network that a stage left in its folder.

    Raises:
        InputError: the stage is not done.
    """
    folder = stage / NETWORKS / name
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not there: run the stage {stage.name!r} first")
    config = read_config(folder)
    module = make_module(name, config)
    params, fingerprint = load_params(folder, parameter_shapes(module), dtype)
    return Component(module, params, config, fingerprint)
