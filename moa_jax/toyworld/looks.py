"""The vision tower's own stage of the toy world's pretraining: to carry a person's look.

CLIP's features tell what people look like because captions of the web say it. The toy world's
captions never do, so its tower learns it here: a linear map reads every attribute from the
features, and views of one person are told from views of others. The text tower stays as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moa_jax.backbone.clip import VisionEncoder, normalize_pixels
from moa_jax.toyworld.contrast import (
    FIRST_LOGIT_SCALE,
    MAX_LOGIT_SCALE,
    clip_batch,
    identity_contrast,
    unit,
)
from moa_jax.toyworld.people import BELOW_HATS, HAIR_STYLES, HATS, WORDS, Look
from moa_jax.toyworld.recipe import LooksRecipe
from moa_jax.toyworld.scenes import GROUP, training_scene
from moa_jax.toyworld.views import PERSONS, people_views
from moa_jax.training.step import Batch, Numbers, Objective

PEOPLE = 2  # at most, in a scene
SPREAD = 0.25  # typical standard deviation of a value of `describe`


def describe(look: Look) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Write a look as numbers in [0, 1].

    Returns:
        The numbers, and for each whether it can be seen (1 or 0).
    """
    bare = look.hat == "none"
    parts = (
        (look.skin, 1.0),
        (look.hair, float(bare or look.hair_style in BELOW_HATS)),
        (look.hat_color, float(not bare)),
        (look.shirt, 1.0),
        (look.trousers, 1.0),
        (_one_hot(look.hair_style, HAIR_STYLES), float(bare)),
        (_one_hot(look.hat, HATS), 1.0),
        (_one_hot(look.word, WORDS), 1.0),
        ((float(look.glasses), float(look.beard)), 1.0),
    )
    values = np.concatenate([values for values, _ in parts]).astype(np.float32)
    shown = np.concatenate([np.full(len(values), seen) for values, seen in parts])
    return values, shown.astype(np.float32)


def _one_hot(value: str, values: Sequence[str]) -> list[float]:
    return [float(value == each) for each in values]


def looks_batch(
    arrays: Mapping[str, np.ndarray], groups: Int[np.ndarray, " G"], seed: int
) -> dict[str, np.ndarray]:
    """Read whole groups, and describe their people.

    Args:
        seed: of the stream that the arrays show.

    Returns:
        That of `clip_batch`, and looks and shown "G 2 K n": of the people and of their variations;
        all zero for nobody.
    """
    described = np.zeros((2, len(groups), 2, PEOPLE, len(describe(_ANYBODY)[0])), np.float32)
    for row, group in enumerate(groups):
        for version in (0, 1):
            scene = training_scene(seed, int(group) * GROUP + version * GROUP // 2)
            for place, look in enumerate(scene.people):
                described[:, row, version, place] = describe(look)
    return {**clip_batch(arrays, groups), "looks": described[0], "shown": described[1]}


def looks_params(encoder: Any, features: int) -> dict[str, Any]:
    """Start from a vision tower's weights.

    Args:
        features: the width of its projection.
    """
    values = len(describe(_ANYBODY)[0])
    return {
        "image_encoder": encoder,
        "reading": {"kernel": jnp.zeros((features, values)), "bias": jnp.full(values, 0.5)},
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
    tower: VisionEncoder, arrays: Mapping[str, np.ndarray], seed: int, part: int = 32
) -> Callable[[int, Any], dict[str, float]]:
    """Prepare to measure the reading of held-out groups, a part of them at a time."""
    part = min(part, len(arrays["portraits"]))
    count = len(arrays["portraits"]) // part * part
    keys = jax.random.split(jax.random.key(0), count)

    @jax.jit
    def read(params: Any, batch: Batch, keys: Array) -> Array:
        features, people = _view_features(tower, params, batch, keys)
        return _reading_loss(params, features, batch, people)

    def preview(step: int, params: Any) -> dict[str, float]:
        parts = [np.arange(first, first + part) for first in range(0, count, part)]
        losses = [read(params, looks_batch(arrays, rows, seed), keys[rows]) for rows in parts]
        return {"held_out/reading": float(np.mean(losses))}

    return preview


def _view_features(
    tower: VisionEncoder, params: Any, batch: Batch, keys: Array
) -> tuple[Float[Array, "G V F"], Int[Array, " G"]]:
    """Encode views of a person of each group, and say which."""
    views, people = people_views(batch, keys)
    pixels = normalize_pixels(views.reshape(-1, *views.shape[2:]))
    features = tower.apply({"params": params["image_encoder"]}, pixels)
    return features.reshape(*views.shape[:2], -1), people


def _reading_loss(
    params: Any, features: Float[Array, "G V F"], batch: Batch, people: Int[Array, " G"]
) -> Float[Array, ""]:
    """Average the squared errors of what can be seen, in units of its spread."""
    rows = jnp.arange(len(people))[:, None], jnp.array(PERSONS)[None], people[:, None]
    looks, shown = batch["looks"][rows], batch["shown"][rows]
    reading = params["reading"]
    read = features @ reading["kernel"] + reading["bias"][None, None]
    errors = jnp.square((read - looks) / SPREAD) * shown
    return jnp.sum(errors) / jnp.sum(shown)


_ANYBODY = Look(
    "man", *[(0.0,) * 3] * 2, "short", (0.0,) * 3, False, False, "none", *[(0.0,) * 3] * 3
)
