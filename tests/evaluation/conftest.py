"""A whole study on a random checkpoint, which several files read."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.config import Config, MethodConfig, TrainConfig
from moa_jax.evaluation.toy.protocol import Protocol
from moa_jax.evaluation.toy.study import Study
from moa_jax.method.identity import Identity
from moa_jax.method.model import build
from moa_jax.method.trained import learning_mask, partition
from moa_jax.method.weights import MoaCard, save_moa
from moa_jax.toyworld.readers.reading import Readers, initial_params

PROTOCOL = Protocol(identities=2, contexts=1, noises=2, pairs=2, pair_noises=1, renders=8, steps=2)
METHOD = MethodConfig(max_subjects=2, image_encoder_layers=0, initial_personalized_weight=0.6)


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """A study, its readers (untrained) and MoA weights (random experts)."""
    runs = tmp_path_factory.mktemp("runs")
    readers = runs / "readers.safetensors"
    Readers(initial_params(jax.random.key(0))).save(readers)
    base = load_stable_diffusion(tiny_folder)
    _, params = build(base, METHOD, dtype=jnp.float32, key=jax.random.key(1))
    trained, _ = partition(params, learning_mask(params, METHOD))
    random = np.random.default_rng(0)
    trained = jax.tree.map(
        lambda leaf: leaf + np.float32(0.3) * random.standard_normal(leaf.shape, np.float32),
        trained,
    )
    config = Config(method=METHOD, train=TrainConfig(steps=1))
    save_moa(runs / "moa-0", trained, MoaCard(config, Identity.of(base), 1))
    study = Study(str(tiny_folder), runs, PROTOCOL, readers)
    return SimpleNamespace(study=study, runs=runs, readers=readers, base=str(tiny_folder))
