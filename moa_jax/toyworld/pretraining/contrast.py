"""The second stage of the toy world's pretraining: the text tower and the vision tower.

Two contrasts share the vision tower and its projection. The first sets entire pictures against
captions, as CLIP (arXiv 2103.00020) does; it teaches the words. The second sets views of one person
against views of other people; it teaches identity, which no caption tells. Some of the other people
differ in one attribute only, so that the tower has to carry every attribute.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from moa_jax.backbone.clip import TextEncoder, VisionEncoder, normalize_pixels
from moa_jax.method.trained import combine
from moa_jax.toyworld.pretraining.architecture import first_params
from moa_jax.toyworld.pretraining.recipe import CLIPRecipe
from moa_jax.toyworld.world.arrays import CAPTIONS, of_groups
from moa_jax.toyworld.world.scenes import GROUP
from moa_jax.toyworld.world.views import PERSONS, people_views
from moa_jax.training.step import Batch, Numbers, Objective

CLIP_ARRAYS = ("pictures", "masks", "portraits", *CAPTIONS)
FIRST_LOGIT_SCALE = np.log(1 / 0.07)  # of both contrasts; the limit too is CLIP's
MAX_LOGIT_SCALE = np.log(100.0)
APART = -1e9  # logit of a pair that must not count


class Towers(NamedTuple):
    """The two networks, and the token at which a caption's features are taken."""

    vision: VisionEncoder
    text: TextEncoder
    eos_token_id: int


def clip_params(towers: Towers, random: np.random.Generator) -> dict[str, Any]:
    """Draw the towers' first weights, and those that only the contrasts need."""
    width, features = towers.text.config.hidden_size, towers.vision.config.projection_dim
    projection = random.standard_normal((width, features)) / np.sqrt(width)
    return {
        "image_encoder": first_params(towers.vision, random),
        "text_encoder": first_params(towers.text, random),
        "text_projection": jnp.asarray(projection, jnp.float32),
        "caption_scale": jnp.float32(FIRST_LOGIT_SCALE),
        "identity_scale": jnp.float32(FIRST_LOGIT_SCALE),
    }


def clip_objective(towers: Towers, recipe: CLIPRecipe) -> Objective:
    """Contrast pictures with captions, and people with people."""

    def objective(trained: Any, frozen: Any, batch: Batch, keys: Array) -> tuple[Array, Numbers]:
        params = combine(trained, frozen)
        views, _ = people_views(batch, keys)
        pictures = batch["pictures"].reshape(-1, *batch["pictures"].shape[2:])
        seen = jnp.concatenate([pictures.astype(jnp.float32), views.reshape(-1, *views.shape[2:])])
        features = picture_features(towers, params, seen)
        whole, people = features[: len(pictures)], features[len(pictures) :]
        ids = either_caption(batch, keys, recipe.described).reshape(len(pictures), -1)
        scales = [
            jnp.exp(jnp.minimum(params[name], MAX_LOGIT_SCALE))
            for name in ("caption_scale", "identity_scale")
        ]
        read = caption_features(towers, params, ids)
        same = jnp.all(ids[:, None] == ids[None], axis=-1)
        caption = caption_contrast(whole, read, same, scales[0])
        people = people.reshape(*views.shape[:2], -1)
        identity, accuracy = identity_contrast(people, jnp.array(PERSONS), scales[1])
        total = recipe.caption_weight * caption + recipe.identity_weight * identity
        numbers = {"loss/caption": caption, "loss/identity": identity, "accuracy": accuracy}
        return total, {"loss/total": total, **numbers}

    return objective


def either_caption(batch: Batch, keys: Array, share: float) -> Int[Array, "B *scenes S"]:
    """Give for each row its caption or its description.

    Args:
        share: share of the rows that get their description; which ones is drawn at random.
    """
    draw = partial(jax.random.bernoulli, p=share)
    coins = jax.vmap(lambda key: draw(jax.random.fold_in(key, 1)))(keys)
    plain, described = (batch[name] for name in CAPTIONS)
    return jnp.where(coins.reshape(-1, *[1] * (plain.ndim - 1)), described, plain)


def picture_features(
    towers: Towers, params: Any, pictures: Num[Array, "B H W 3"]
) -> Float[Array, "B F"]:
    """Give features of length 1 for pictures in [0, 255]."""
    variables = {"params": params["image_encoder"]}
    return unit(towers.vision.apply(variables, normalize_pixels(pictures)).astype(jnp.float32))


def caption_features(towers: Towers, params: Any, ids: Int[Array, "B S"]) -> Float[Array, "B F"]:
    """Give features of length 1 for captions, taken at the caption's end."""
    tokens = towers.text.apply({"params": params["text_encoder"]}, ids)
    ends = jnp.argmax(ids == towers.eos_token_id, axis=1)
    pooled = jnp.take_along_axis(tokens, ends[:, None, None], axis=1)[:, 0]
    return unit(pooled.astype(jnp.float32) @ params["text_projection"])


def caption_contrast(
    pictures: Float[Array, "B F"],
    captions: Float[Array, "B F"],
    same: Bool[Array, "B B"],
    scale: Float[Array, ""],
) -> Float[Array, ""]:
    """Give the loss of finding each picture's caption among all, and each caption's picture.

    Args:
        same: where two captions read the same; they are no negatives of each other.
    """
    right = jnp.eye(len(pictures), dtype=bool)
    logits = jnp.where(same & ~right, APART, scale * pictures @ captions.T)
    shares = [jnp.diagonal(jax.nn.log_softmax(logits, axis=axis)) for axis in (0, 1)]
    return -0.5 * (jnp.mean(shares[0]) + jnp.mean(shares[1]))


def identity_contrast(
    features: Float[Array, "G V F"], persons: Int[Array, " V"], scale: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Give the loss of telling each person's views from the views of everybody else.

    Source: Supervised Contrastive Learning (arXiv 2004.11362), Eq. 2.

    Args:
        features: of unit length; groups share no person.
        persons: who is on each view of a group, the same in all groups.

    Returns:
        The mean loss, and how often the nearest of all other views shows the same person.
    """
    groups, views = features.shape[:2]
    flat = features.reshape(groups * views, -1)
    # Numbers that no two groups share.
    person = (jnp.arange(groups)[:, None] * views + persons[None]).reshape(-1)
    itself = jnp.eye(len(flat), dtype=bool)
    positive = (person[:, None] == person[None]) & ~itself
    logits = jnp.where(itself, APART, scale * flat @ flat.T)
    shares = jnp.where(positive, jax.nn.log_softmax(logits, axis=1), 0.0)
    loss = -jnp.mean(shares.sum(axis=1) / positive.sum(axis=1))
    nearest = jnp.take_along_axis(positive, jnp.argmax(logits, axis=1)[:, None], axis=1)
    return loss, jnp.mean(nearest.astype(jnp.float32))


def unit(features: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    """Bring features to length 1."""
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-6)


def clip_preview(
    towers: Towers, arrays: Mapping[str, np.ndarray], part: int = 32
) -> Callable[[int, Any], dict[str, float]]:
    """Prepare to measure retrieval among held-out groups, `part` groups at a time.

    The preview gives shares: of pictures whose caption is the nearest of all; of people whose
    nearest view in another scene is their own; of people, and of portraits, that are nearer to
    their own view than to both of their hard negatives.
    """
    part = min(part, len(arrays["portraits"]))
    shown = {name: arrays[name] for name in CLIP_ARRAYS}
    count = len(arrays["portraits"]) // part * part
    # The same views in every preview, so that the numbers can be compared.
    keys = jax.random.split(jax.random.key(0), count)

    @jax.jit
    def embed(params: Any, batch: Batch, keys: Array) -> tuple[Array, Array, Array]:
        views, _ = people_views(batch, keys)
        people = picture_features(towers, params, views.reshape(-1, *views.shape[2:]))
        whole = picture_features(towers, params, batch["pictures"][:, 0])
        read = caption_features(towers, params, batch["input_ids"][:, 0])
        return people.reshape(*views.shape[:2], -1), whole, read

    def preview(step: int, params: Any) -> dict[str, float]:
        parts = [np.arange(first, first + part) for first in range(0, count, part)]
        found = [embed(params, of_groups(shown, rows), keys[rows]) for rows in parts]
        people, whole, read = (np.concatenate(each) for each in zip(*found, strict=True))
        ids = arrays["input_ids"][: count * GROUP : GROUP]
        nearest = np.argmax(whole @ read.T, axis=1)
        return {"held_out/caption": float(np.mean(np.all(ids[nearest] == ids, axis=1)))} | {
            f"held_out/{name}": value for name, value in _identity_numbers(people).items()
        }

    return preview


def _identity_numbers(people: Float[np.ndarray, "G V F"]) -> dict[str, float]:
    first, second, portrait = (people[:, view] for view in range(3))
    # The other person of a group differs in one attribute only.
    hard = people[:, np.array(PERSONS) != PERSONS[0]]
    nearest = np.argmax(first @ second.T, axis=1)

    def beats(anchor: np.ndarray) -> float:
        own = np.sum(anchor * second, axis=-1)
        return float(np.mean(own > np.einsum("gf,gvf->gv", anchor, hard).max(axis=1)))

    return {
        "identity": float(np.mean(nearest == np.arange(len(first)))),
        "hard": beats(first),
        "portrait": beats(portrait),
    }
