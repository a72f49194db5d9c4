"""The committed MoA of the toy world, and pictures that it has not seen, at several noises."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from moa_jax.config import load_config, override
from moa_jax.diffusion.schedule import NoiseSchedule, add_noise, training_target
from moa_jax.evaluation.toy.command import MOA_WEIGHTS
from moa_jax.sampling.load import load
from moa_jax.toyworld.world.scenes import write_data
from moa_jax.training.feed import open_data
from moa_jax.training.objective import encode_batch
from tests.toyworld.test_weights import BASE


@cache
def trained(count=8, seed=31):
    """Load the model, with the arguments of `model.denoise` for `count` pictures."""
    loaded = load(BASE, MOA_WEIGHTS)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_data(Path(folder), count, seed=seed)
        changes = [
            f"data.path={folder}",
            "data.encoded=none",
            f"train.batch_size={count}",
            "data.condition_dropout=0.0",
            "data.subject_dropout=0.0",
        ]
        batch = next(open_data(override(load_config("configs/toy.py"), changes), loaded.base))
        batch = jax.tree.map(jnp.asarray, dict(batch))
    model, params = loaded.model, loaded.params
    schedule = NoiseSchedule.from_config(loaded.base.scheduler_config)
    latents, _, features = jax.jit(lambda: encode_batch(model, params, batch))()
    noise = jnp.asarray(np.random.default_rng(seed).standard_normal(latents.shape), jnp.float32)
    timesteps = jnp.linspace(100, 900, count).astype(jnp.int32)
    given = (
        add_noise(schedule, latents, noise, timesteps),
        timesteps,
        model.encode_text(params, batch["input_ids"]),
        features,
        batch["subject_tokens"],
    )
    target = training_target(schedule, latents, noise, timesteps)
    return SimpleNamespace(model=model, params=params, given=given, batch=batch, target=target)
