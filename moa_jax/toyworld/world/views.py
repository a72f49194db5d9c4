"""Views of one person: cut out of scenes, and a portrait, all at the size of a picture.

They differ in pose, place, light and cut. They share the look, which the vision tower has to see.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from moa_jax.toyworld.world.scenes import GROUP

# Who is on the views of a group: two scenes and a portrait show one person, two scenes another.
PERSONS = (0, 0, 0, 1, 1)
# Noise to take windows of: drawing it anew for every view is slow on a CPU.
TILE = np.random.default_rng(0).uniform(0, 255, (256, 256, 3)).astype(np.float32)


def people_views(
    batch: Mapping[str, Array], keys: Key[Array, " G"]
) -> tuple[Float[Array, "G V H W 3"], Int[Array, " G"]]:
    """Cut one person out of the scenes of each group, and add the portrait as one more view.

    Args:
        batch: groups of scenes: see `moa_jax.toyworld.world.arrays.of_groups`.

    Returns:
        The views, in [0, 255]; PERSONS says who is on each. And the place of the person among the
        people of the scenes.
    """

    def one(
        pictures: Array, masks: Array, portraits: Array, key: Array
    ) -> tuple[Float[Array, "V H W 3"], Int[Array, ""]]:
        choice, *view_keys = jax.random.split(key, GROUP + 2)
        count = jnp.sum(jnp.any(masks[0], axis=(1, 2)))
        person = jax.random.randint(choice, (), 0, jnp.maximum(count, 1))
        crops = jax.vmap(cut_out)(pictures, masks[:, person], jnp.stack(view_keys[:GROUP]))
        everything = jnp.ones(masks.shape[2:], bool)
        portrait = cut_out(portraits[person], everything, view_keys[GROUP])
        return jnp.concatenate([crops[:2], portrait[None], crops[2:]]), person

    names = ("pictures", "masks", "portraits")
    return jax.vmap(one)(*(batch[name] for name in names), keys)


def cut_out(
    picture: Num[Array, "H W 3"], mask: Bool[Array, "H W"], key: Key[Array, ""]
) -> Float[Array, "H W 3"]:
    """Cut a person out, and bring the square around the person to the picture's own size.

    The background is drawn at random: as `moa_jax.data` prepares subjects (noise behind the person,
    black around the box), or the picture itself, or one colour. The square is moved and scaled a
    little, and mirrored half of the time.
    """
    # One draw for all: many small ones take XLA minutes to compile.
    kind, mirrored, scale, *rest = jax.random.uniform(key, (10,))
    corner, color, shift = jnp.array(rest[:2]), jnp.array(rest[2:5]), jnp.array(rest[5:])
    top, bottom = _extent(jnp.any(mask, axis=1))
    left, right = _extent(jnp.any(mask, axis=0))
    rows, columns = (jnp.arange(length) for length in mask.shape)
    box = jnp.outer((rows >= top) & (rows < bottom), (columns >= left) & (columns < right))
    picture = picture.astype(jnp.float32)
    places = (corner * (len(TILE) - max(mask.shape))).astype(jnp.int32)
    noise = jax.lax.dynamic_slice(jnp.asarray(TILE), (*places, 0), picture.shape) * box[..., None]
    colored = jnp.broadcast_to(255 * color, picture.shape)
    behind = jnp.select([kind < 1 / 3, kind < 2 / 3], [noise, picture], colored)
    picture = jnp.where(mask[..., None], picture, behind)
    side = jnp.maximum(bottom - top, right - left) * (0.9 + 0.25 * scale)
    centre = jnp.stack([top + bottom, left + right]) / 2 + (0.12 * shift - 0.06) * side
    mirror = jnp.stack([1.0, jnp.where(mirrored < 0.5, -1.0, 1.0)])
    return resample(picture, centre, side, mirror)


def resample(
    picture: Float[Array, "H W C"],
    centre: Float[Array, "2"],
    side: Float[Array, ""],
    direction: Float[Array, "2"],
) -> Float[Array, "H W C"]:
    """Bring a square of a picture to the picture's own size, bilinearly; black outside.

    Args:
        centre: row and column, in pixels from the edge.
        side: of the square, in pixels.
        direction: for rows and for columns, 1, or -1 to mirror.
    """

    def weights(length: int, middle: Array, sign: Array) -> Float[Array, "n m"]:
        steps = (jnp.arange(length) + 0.5) / length - 0.5
        places = middle + sign * side * steps
        reach = jnp.maximum(1.0, side / length)
        distance = jnp.abs(places[:, None] - (jnp.arange(length) + 0.5)[None])
        raw = jnp.maximum(0.0, 1.0 - distance / reach)
        # Inside, a row's sum is within a few percent of the reach; outside it falls to 0.
        return raw / jnp.maximum(raw.sum(axis=1, keepdims=True), 0.9 * reach)

    down = weights(picture.shape[0], centre[0], direction[0])
    across = weights(picture.shape[1], centre[1], direction[1])
    return jnp.einsum("ij,jkc,lk->ilc", down, picture, across)


def _extent(seen: Bool[Array, " n"]) -> tuple[Array, Array]:
    """Give the first place that is seen and the one after the last; all places if none is."""
    length = seen.shape[0]
    first, last = jnp.argmax(seen), length - jnp.argmax(seen[::-1])
    return jnp.where(seen.any(), first, 0), jnp.where(seen.any(), last, length)
