"""How the readers are trained, on the renderer's pictures alone, and how good they are.

The pictures are softened at random, for what a VAE decodes is softer than a render; people are cut
out a little beside their masks, mostly those that the scene reader finds. Two people are told apart
as left and right. Knows nothing of the model that the readers judge.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from moa_jax.toyworld.people import BELOW_HATS
from moa_jax.toyworld.reader_networks import (
    COLORS,
    CONTEXT,
    KINDS,
    MAX_PEOPLE,
    SIZE,
    PersonReader,
    SceneReader,
    boxes,
    cut,
)
from moa_jax.toyworld.readers import ATTRIBUTES, Readers, Reading, agreement
from moa_jax.toyworld.scenes import Scene, render, training_scene

COLOR_WEIGHT = 10.0  # of a colour's mean squared error against a context's cross-entropy
KIND_WEIGHT = 2.0  # of what a person is, which is learnt last
PEOPLE_WEIGHT = 2.0  # of the segmentation
FOUND = 0.7  # share of people cut out by the scene reader's mask instead of the true one


def reader_batch(
    arrays: Mapping[str, np.ndarray], rows: Int[np.ndarray, " B"], seed: int
) -> dict[str, np.ndarray]:
    """Make a batch of some scenes.

    Args:
        arrays: of `moa_jax.toyworld.arrays`.
        seed: of the stream that they show.
    """
    scenes = [training_scene(seed, int(row)) for row in rows]
    return make_batch(scenes, arrays["pictures"][rows], arrays["masks"][rows])


def make_batch(
    scenes: Sequence[Scene],
    pictures: UInt8[np.ndarray, "B 64 64 3"],
    masks: Bool[np.ndarray, "B K 64 64"],
) -> dict[str, np.ndarray]:
    """Lay out scenes for the loss, their people sorted from left to right.

    Returns:
        picture, masks "B 2 64 64", present "B 2"; a number for each choice, under its field "B" or
        its attribute "B 2"; a colour for each of COLORS "B 2 3".
    """
    rows = [_row(scene, mask) for scene, mask in zip(scenes, masks, strict=True)]
    labels = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {"picture": np.asarray(pictures), **labels}


def left_to_right(scene: Scene, masks: Bool[np.ndarray, "K H W"]) -> list[int]:
    """Sort a scene's people by where they are seen; one who is hidden comes last."""
    columns = np.arange(masks.shape[-1])
    return sorted(
        range(len(scene.people)),
        key=lambda k: np.average(columns, weights=masks[k].sum(axis=0)) if masks[k].any() else SIZE,
    )


def _row(scene: Scene, masks: np.ndarray) -> dict[str, np.ndarray]:
    order = left_to_right(scene, masks)
    looks = [scene.people[k] for k in order]
    looks += looks[:1] * (MAX_PEOPLE - len(looks))  # nobody's place is not learnt from
    found = {
        "masks": np.stack(
            [masks[k] for k in order] + [masks[0] & False] * (MAX_PEOPLE - len(order))
        ),
        "present": np.arange(MAX_PEOPLE) < len(order),
    }
    for field, values in CONTEXT.items():
        found[field] = np.int32(values.index(getattr(scene.context, field)))
    for name, values in KINDS.items():
        found[name] = np.array([values.index(getattr(look, name)) for look in looks], np.int32)
    for name in COLORS:
        found[name] = np.array([getattr(look, name) for look in looks], np.float32)
    return found


def reader_objective(
    params: Any, frozen: Any, batch: Mapping[str, Array], keys: Key[Array, " B"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Compute both readers' loss.

    Args:
        frozen: not read.
        batch: of `make_batch`.
        keys: one for each picture.
    """
    soft, move = (jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(keys) for i in range(2))
    pixels = soften(batch["picture"].astype(jnp.float32) / 255, soft)
    scene = SceneReader().apply({"params": params["scene"]}, pixels)
    choice = optax.softmax_cross_entropy_with_integer_labels
    terms = {name: jnp.mean(choice(got, batch[name])) for name, got in scene.context.items()}
    terms["people"] = PEOPLE_WEIGHT * _segmentation(scene.people, batch["masks"])

    found = jnp.moveaxis(jax.nn.softmax(jax.lax.stop_gradient(scene.people)), -1, 1)[:, 1:]
    pixels = jnp.repeat(pixels, MAX_PEOPLE, axis=0)
    true = batch["masks"].astype(jnp.float32)
    seen = _person(pixels, _each(true), _each(found), _each(jax.vmap(jax.random.split)(move)))
    person = PersonReader().apply({"params": params["person"]}, seen[..., :3], seen[..., 3])
    labels = {name: _each(batch[name]) for name in (*KINDS, *COLORS)}
    shown = _shown(labels, _each(batch["present"]))
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


def _shown(labels: Mapping[str, Array], present: Array) -> dict[str, Array]:
    """Weigh by next to nothing who is not there and what `applies` says cannot be seen."""

    def among(name: str, values: Sequence[str]) -> Array:
        numbers = jnp.array([KINDS[name].index(value) for value in values])
        return jnp.any(labels[name][:, None] == numbers[None], axis=1)

    bare, man = among("hat", ["none"]), among("word", ["man"])
    shown = dict.fromkeys(labels, jnp.ones_like(bare))
    shown |= {"hair": bare | among("hair_style", BELOW_HATS), "hair_style": bare}
    shown |= {"hat_color": ~bare, "beard": man}
    return {name: jnp.where(seen & present, 1.0, 1e-3) for name, seen in shown.items()}


def _segmentation(logits: Array, masks: Array) -> Array:
    people = jnp.moveaxis(masks.astype(jnp.float32), 1, -1)
    shares = jnp.concatenate([1 - people.sum(axis=-1, keepdims=True), people], axis=-1)
    return jnp.mean(optax.softmax_cross_entropy(logits, shares))


def _person(pixels: Array, mask: Array, found: Array, keys: Array) -> Array:
    """Cut people out, by the true mask or the one that the scene reader finds, a little beside."""

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


def soften(
    pictures: Float[Array, "B 64 64 3"], keys: Key[Array, " B"]
) -> Float[Array, "B 64 64 3"]:
    """Blur by up to 1.2 pixels, shift the brightness a little and add noise."""

    def draw(key: Array) -> tuple[Array, Array, Array]:
        width, light, amount, noise = jax.random.split(key, 4)
        spread = 0.04 * jax.random.uniform(amount) * jax.random.normal(noise, (SIZE, SIZE, 3))
        return jax.random.uniform(width), 0.03 * jax.random.normal(light), spread

    widths, lights, noise = jax.vmap(draw)(keys)
    soft = blur(pictures, 0.2 + 1.0 * widths)
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
        The share read rightly: of each context field, of the number of people, of the word and of
        each attribute where it applies; and "mask", the mean IoU.
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
