"""A tiny MoA and its compiled training steps, made once for all tests of training."""

import jax
import jax.numpy as jnp
import pytest

from moa_jax.backbone.stable_diffusion import load_stable_diffusion
from moa_jax.config import Config, MeshConfig, MethodConfig, OptimizerConfig, TrainConfig
from moa_jax.diffusion.schedule import NoiseSchedule
from moa_jax.method.model import build
from moa_jax.method.trained import learning_mask
from moa_jax.method.weights import Identity
from moa_jax.training.mesh import make_mesh
from tests.method.prompts import speak
from tests.training.tiny import BATCH, Run, Tiny, gradient_run, make_run


@pytest.fixture(scope="session")
def config() -> Config:
    """Losses weighted so that all three matter, and a rate at which three steps show."""
    return Config(
        method=MethodConfig(router_loss_weight=0.5, object_loss_weight=0.5),
        optimizer=OptimizerConfig(learning_rate=1e-3, ema_decay=0.9),
        train=TrainConfig(steps=6, batch_size=BATCH, log_every=1, checkpoint_every=3),
        mesh=MeshConfig(),
    )


@pytest.fixture(scope="session")
def tiny(tiny_folder, config) -> Tiny:
    base = load_stable_diffusion(str(tiny_folder))
    model, params = build(base, config.method, dtype=jnp.float32, key=jax.random.key(0))
    params = {**params, "prompt": speak(params["prompt"])}
    mask = learning_mask(params, config.method)
    schedule = NoiseSchedule.from_config(base.scheduler_config)
    return Tiny(base, model, params, mask, schedule, Identity.of(base))


@pytest.fixture(scope="session")
def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="session")
def adamw(tiny, config, one_device) -> Run:
    return make_run(tiny, config, one_device)


@pytest.fixture(scope="session")
def gradient(tiny, config, one_device) -> Run:
    return gradient_run(tiny, config, one_device)
