"""How the readers are trained, on the renderer's pictures alone, and how good they are.

The pictures are softened at random, because what a VAE decodes is softer than a render. People are
cut out with a small random shift, mostly by the masks that the scene reader finds. Two people are
told apart as left and right. The model that the readers judge takes no part.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

from moa_jax.toyworld.readers.networks import (
    CONTEXT,
    MAX_PEOPLE,
    PersonReader,
    SceneReader,
    boxes,
    cut,
)
from moa_jax.toyworld.readers.reading import ATTRIBUTES, Readers, Reading, agreement
from moa_jax.toyworld.world.labels import by_name, visible
from moa_jax.toyworld.world.people import COLORS, KINDS
from moa_jax.toyworld.world.scenes import Scene, render, training_scene

COLOR_WEIGHT = 10.0  # of a colour's mean squared error against a context's cross-entropy
KIND_WEIGHT = 2.0  # of a person's kinds, which are learnt last
PEOPLE_WEIGHT = 2.0  # of the segmentation
FOUND = 0.7  # share of people cut out by the scene reader's mask instead of the true one


def left_to_right(scene: Scene, masks: Bool[np.ndarray, "K H W"]) -> list[int]:
    """Sort a scene's people from left to right; one who is hidden comes last."""
    columns = np.arange(masks.shape[-1])
    return sorted(
        range(len(scene.people)),
        key=lambda k: (
            np.average(columns, weights=masks[k].sum(axis=0)) if masks[k].any() else len(columns)
        ),
    )


def _sorted(batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Sort people from left to right; one who is hidden comes last.

    Returns:
        Masks "B K H W", and the labels by name.
    """
    masks = batch["masks"].astype(jnp.float32)
    pixels = masks.sum(axis=(2, 3))
    middle = jnp.einsum("bkhw,w->bk", masks, jnp.arange(masks.shape[-1], dtype=jnp.float32))
    order = jnp.argsort(jnp.where(pixels > 0, middle / jnp.maximum(pixels, 1), jnp.inf), axis=1)

    def sort(array: Array) -> Array:
        places = order.reshape(*order.shape, *[1] * (array.ndim - 2))
        return jnp.take_along_axis(array, places, axis=1)

    of_people = {name: sort(batch[name]) for name in ("present", "kinds", "colors")}
    labels = {**of_people, "context": batch["context"]}
    return sort(masks), {"present": labels["present"], **by_name(labels)}


def reader_objective(
    params: Any, frozen: Any, batch: Mapping[str, Array], keys: Key[Array, " B"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Compute both readers' loss.

    Args:
        frozen: not read.
        batch: pictures, masks of their people, and labels of `moa_jax.toyworld.world.labels`.
        keys: one for each picture.
    """
    soft, move = (jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(keys) for i in range(2))
    masks, labels = _sorted(batch)
    pixels = soften(batch["pictures"].astype(jnp.float32) / 255, soft)
    scene = SceneReader().apply({"params": params["scene"]}, pixels)
    choice = optax.softmax_cross_entropy_with_integer_labels
    terms = {name: jnp.mean(choice(got, labels[name])) for name, got in scene.context.items()}
    terms["people"] = PEOPLE_WEIGHT * _segmentation(scene.people, masks)

    # The scene reader learns nothing from the person reader's errors.
    found = jnp.moveaxis(jax.nn.softmax(jax.lax.stop_gradient(scene.people)), -1, 1)[:, 1:]
    pixels = jnp.repeat(pixels, MAX_PEOPLE, axis=0)
    seen = _person(pixels, _each(masks), _each(found), _each(jax.vmap(jax.random.split)(move)))
    person = PersonReader().apply({"params": params["person"]}, seen[..., :3], seen[..., 3])
    labels = {name: _each(labels[name]) for name in (*KINDS, *COLORS, "present")}
    shown = _shown(labels)
    for name, logits in person.kinds.items():
        errors = choice(logits, labels[name])
        terms[name] = KIND_WEIGHT * jnp.average(errors, weights=shown[name])
    for name, color in person.colors.items():
        errors = jnp.mean((color - labels[name]) ** 2, axis=-1)
        terms[name] = COLOR_WEIGHT * jnp.average(errors, weights=shown[name])
    total = sum(terms.values())
    return total, {"loss/total": total, **{f"loss/{name}": term for name, term in terms.items()}}


def _each(people: Array) -> Array:
    """List the people of all pictures one after the other: from "B K ..." to "B*K ..."."""
    return people.reshape(-1, *people.shape[2:])


def _shown(labels: Mapping[str, Array]) -> dict[str, Array]:
    """Weigh people who are not there, and attributes that cannot be seen, by next to nothing."""
    seen = visible({name: labels[name] for name in ("hair_style", "hat", "word")})
    # Not by 0: the mean over a batch must exist even if nobody in it shows the attribute.
    return {name: jnp.where(each & labels["present"], 1.0, 1e-3) for name, each in seen.items()}


def _segmentation(logits: Array, masks: Array) -> Array:
    people = jnp.moveaxis(masks, 1, -1)
    shares = jnp.concatenate([1 - people.sum(axis=-1, keepdims=True), people], axis=-1)
    return jnp.mean(optax.softmax_cross_entropy(logits, shares))


def _person(pixels: Array, mask: Array, found: Array, keys: Array) -> Array:
    """Cut people out by the true mask or the scene reader's, with a small shift at random."""

    def draw(key: Array) -> tuple[Array, Array, Array]:
        which, edge, shift = jax.random.split(key, 3)
        spread = jax.random.uniform(shift, (3,), minval=-1, maxval=1)
        return jax.random.bernoulli(which, FOUND), jax.random.uniform(edge), spread

    which, widths, spread = jax.vmap(draw)(keys)
    rough = blur(mask[..., None], 0.5 + widths)[..., 0]
    chosen = jnp.where(which[:, None, None], found, rough)
    squares = boxes(chosen)
    side = squares[:, 2:]
    moved = jnp.concatenate(
        [squares[:, :2] + 0.04 * side * spread[:, :2], side * (1 + 0.08 * spread[:, 2:])], axis=1
    )
    return cut(jnp.concatenate([pixels, chosen[..., None]], axis=-1), moved)


def soften(pictures: Float[Array, "B H W 3"], keys: Key[Array, " B"]) -> Float[Array, "B H W 3"]:
    """Blur by up to 1.2 pixels of 64 a side, shift the brightness a little and add noise."""

    def draw(key: Array) -> tuple[Array, Array, Array]:
        width, light, amount, noise = jax.random.split(key, 4)
        spread = 0.04 * jax.random.uniform(amount) * jax.random.normal(noise, pictures.shape[1:])
        return jax.random.uniform(width), 0.03 * jax.random.normal(light), spread

    widths, lights, noise = jax.vmap(draw)(keys)
    soft = blur(pictures, (0.2 + 1.0 * widths) * pictures.shape[1] / 64)
    return jnp.clip(soft + lights[:, None, None, None] + noise, 0, 1)


def blur(images: Float[Array, "B H H C"], sigma: Float[Array, " B"]) -> Float[Array, "B H H C"]:
    """Blur each picture with a Gaussian of its own width, in pixels."""
    places = jnp.arange(images.shape[1], dtype=jnp.float32)
    squared = (places[:, None] - places[None]) ** 2
    weights = jax.nn.softmax(-squared[None] / (2 * sigma[:, None, None] ** 2), axis=-1)
    return jnp.einsum("bij,bkl,bjlc->bikc", weights, weights, images, optimize=True)


def reader_preview(
    arrays: Mapping[str, np.ndarray], seed: int
) -> Callable[[int, Any], dict[str, float]]:
    """Prepare to examine the readers during their training.

    Args:
        arrays: of held-out scenes.
        seed: of their stream.
    """
    scenes = [training_scene(seed, index) for index in range(len(arrays["pictures"]))]
    pictures, masks = np.asarray(arrays["pictures"]), np.asarray(arrays["masks"])

    def preview(step: int, params: Any) -> dict[str, float]:
        found = accuracy(scenes, masks, Readers(params).read(pictures))
        return {f"accuracy/{name}": value for name, value in found.items()}

    return preview


def reader_accuracy(readers: Readers, count: int = 1000, seed: int = 1) -> dict[str, float]:
    """Measure the readers on freshly rendered scenes, which are held out unless `seed` is 0."""
    scenes = [training_scene(seed, index) for index in range(count)]
    pictures, masks = zip(*(render(scene) for scene in scenes), strict=True)
    return accuracy(scenes, masks, readers.read(np.stack(pictures)))


def accuracy(
    scenes: Iterable[Scene], masks: Iterable[np.ndarray], readings: Iterable[Reading]
) -> dict[str, float]:
    """Compare readings of renders with what was rendered.

    Args:
        masks: of each scene's people "K H W", in the caption's order.

    Returns:
        The share that was read correctly, for each field of the context, the number of people, the
        word and each attribute where it applies; and "mask", the mean IoU.
    """
    found: dict[str, list[float]] = {}
    for scene, seen, reading in zip(scenes, masks, readings, strict=True):
        for name, value in score(scene, seen, reading):
            found.setdefault(name, []).append(value)
    names = (*CONTEXT, "count", "word", *ATTRIBUTES, "mask")
    return {name: float(np.mean(found[name])) for name in names if name in found}


def score(
    scene: Scene, masks: Bool[np.ndarray, "K H W"], reading: Reading
) -> list[tuple[str, float]]:
    """Score a reading of a render, by name; a person who was not found scores 0 in everything."""
    scores = [(name, reading.context[name] == getattr(scene.context, name)) for name in CONTEXT]
    scores.append(("count", len(reading.people) == len(scene.people)))
    for place, k in enumerate(left_to_right(scene, masks)):
        person = reading.people[place] if place < len(reading.people) else None
        scores.append(("word", person is not None and person.word == scene.people[k].word))
        scores += agreement(person, scene.people[k]).items()
        seen = np.zeros_like(masks[k]) if person is None else person.mask
        union = (seen | masks[k]).sum()
        scores.append(("mask", (seen & masks[k]).sum() / max(union, 1)))
    return [(name, float(value)) for name, value in scores]
