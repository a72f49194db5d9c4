"""The optimizer over what learns: AdamW or Muon, its learning rates, and when routers begin.

Trees here are the trained half of `moa_jax.method.trained.partition`.
"""

from typing import Any

import optax
import optax.contrib

from moa_jax.config import OptimizerConfig
from moa_jax.errors import InputError
from moa_jax.method.router import is_router
from moa_jax.method.trained import map_paths


def learning_rate(config: OptimizerConfig, steps: int, peak: float | None = None) -> optax.Schedule:
    """Make the learning rate: linear warm-up from 0, then constant or half a cosine down to 0.

    Args:
        steps: length of the run, warm-up included.
        peak: the rate after the warm-up; None means `optimizer.learning_rate`.

    Raises:
        InputError: the warm-up leaves no step for the cosine.
    """
    peak = config.learning_rate if peak is None else peak
    if config.schedule == "constant":
        if config.warmup_steps == 0:  # for which warmup_constant_schedule stays at 0
            return optax.constant_schedule(peak)
        return optax.warmup_constant_schedule(0.0, peak, config.warmup_steps)
    if config.warmup_steps < steps:
        return optax.warmup_cosine_decay_schedule(0.0, peak, config.warmup_steps, steps)
    raise InputError(
        f"optimizer.warmup_steps={config.warmup_steps} must be less than train.steps={steps}"
    )


def _updates(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Make AdamW; or Muon for the matrices and NAdamW for the rest, on one schedule.

    Muon (Jordan, 2024) moves a matrix in all directions alike. Subjects need that: Adam first
    learns the directions that explain the most pixels, and has little left for a face.
    """
    rate, decay = learning_rate(config, steps), config.weight_decay
    if config.muon_learning_rate is None:
        return optax.adamw(rate, weight_decay=decay)
    return optax.contrib.muon(
        learning_rate(config, steps, config.muon_learning_rate),
        weight_decay=decay,
        adam_learning_rate=rate,
        adam_weight_decay=decay,
    )


def make_optimizer(
    config: OptimizerConfig, steps: int, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """Make the optimizer and the global-norm clip before it, both only over what learns.

    Args:
        mask: tree of bool, true where a leaf learns; frozen leaves get no state and do not enter
            the norm.
    """
    chain = [
        optax.clip_by_global_norm(config.max_grad_norm),
        _updates(config, steps),
    ]
    # Routers may have to wait until the personalized expert knows something: see configs/toy.py.
    if config.router_start:
        started = optax.scale_by_schedule(lambda step: step >= config.router_start)
        chain.append(optax.masked(started, _routers))
    return optax.masked(optax.chain(*chain), mask)


def _routers(tree: Any) -> Any:
    """Mark the routers' leaves."""
    return map_paths(lambda path, _: is_router(path), tree)
