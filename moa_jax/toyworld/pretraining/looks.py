"""The vision tower's own stage of the toy world's pretraining: to carry a person's look.

CLIP's features tell what people look like because captions of the web say it. The toy world's
captions never do, so its tower learns it here: a linear map reads every attribute from the
features, and views of one person are told from views of others. The text tower stays as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moa_jax.backbone.clip import VisionEncoder, normalize_pixels
from moa_jax.toyworld.pretraining.contrast import (
    FIRST_LOGIT_SCALE,
    MAX_LOGIT_SCALE,
    identity_contrast,
    unit,
)
from moa_jax.toyworld.pretraining.recipe import LooksRecipe
from moa_jax.toyworld.world.arrays import of_groups
from moa_jax.toyworld.world.labels import DESCRIBED, describe
from moa_jax.toyworld.world.scenes import GROUP
from moa_jax.toyworld.world.views import PERSONS, people_views
from moa_jax.training.step import Batch, Numbers, Objective

LOOKS_ARRAYS = ("pictures", "masks", "portraits", "kinds", "colors")
SPREAD = 0.25  # typical standard deviation of a value of `describe`


def looks_params(encoder: Any, features: int) -> dict[str, Any]:
    """Start from a vision tower's weights.

    Args:
        features: width of the tower's projection.
    """
    return {
        "image_encoder": encoder,
        # Every value starts at 0.5, the middle of its range.
        "reading": {"kernel": jnp.zeros((features, DESCRIBED)), "bias": jnp.full(DESCRIBED, 0.5)},
        "identity_scale": jnp.float32(FIRST_LOGIT_SCALE),
    }


def looks_objective(tower: VisionEncoder, recipe: LooksRecipe) -> Objective:
    """Read looks linearly, and tell people apart."""

    def objective(params: Any, frozen: Any, batch: Batch, keys: Array) -> tuple[Array, Numbers]:
        features, people = _view_features(tower, params, batch, keys)
        reading = _reading_loss(params, features, batch, people)
        scale = jnp.exp(jnp.minimum(params["identity_scale"], MAX_LOGIT_SCALE))
        persons = jnp.array(PERSONS)
        identity, accuracy = identity_contrast(unit(features), persons, scale)
        total = reading + recipe.identity_weight * identity
        numbers = {"loss/reading": reading, "loss/identity": identity, "accuracy": accuracy}
        return total, {"loss/total": total, **numbers}

    return objective


def looks_preview(
    tower: VisionEncoder, arrays: Mapping[str, np.ndarray], part: int = 32
) -> Callable[[int, Any], dict[str, float]]:
    """Prepare to measure how well held-out groups are read, `part` groups at a time."""
    part = min(part, len(arrays["portraits"]))
    shown = {name: arrays[name] for name in LOOKS_ARRAYS}
    count = len(arrays["portraits"]) // part * part
    # The same views in every preview, so that the numbers can be compared.
    keys = jax.random.split(jax.random.key(0), count)

    @jax.jit
    def read(params: Any, batch: Batch, keys: Array) -> Array:
        features, people = _view_features(tower, params, batch, keys)
        return _reading_loss(params, features, batch, people)

    def preview(step: int, params: Any) -> dict[str, float]:
        parts = [np.arange(first, first + part) for first in range(0, count, part)]
        losses = [read(params, of_groups(shown, rows), keys[rows]) for rows in parts]
        return {"held_out/reading": float(np.mean(losses))}

    return preview


def _view_features(
    tower: VisionEncoder, params: Any, batch: Batch, keys: Array
) -> tuple[Float[Array, "G V F"], Int[Array, " G"]]:
    """Encode views of one person of each group, and say which person it is."""
    views, people = people_views(batch, keys)
    pixels = normalize_pixels(views.reshape(-1, *views.shape[2:]))
    features = tower.apply({"params": params["image_encoder"]}, pixels)
    return features.astype(jnp.float32).reshape(*views.shape[:2], -1), people


def _reading_loss(
    params: Any, features: Float[Array, "G V F"], batch: Batch, people: Int[Array, " G"]
) -> Float[Array, ""]:
    """Average the squared errors of what can be seen, in units of its spread."""
    rows = jnp.arange(len(people))[:, None], jnp.array(PERSONS)[None], people[:, None]
    # Of four scenes the first two show people, the others show their variations.
    kinds, colors = (batch[name][:, :: GROUP // 2] for name in ("kinds", "colors"))
    looks, shown = describe(kinds[rows], colors[rows])
    reading = params["reading"]
    read = features @ reading["kernel"] + reading["bias"][None, None]
    errors = jnp.square((read - looks) / SPREAD) * shown
    return jnp.sum(errors) / jnp.sum(shown)
