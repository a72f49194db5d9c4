"""The two small networks that read pictures of the toy world, and what each of them says.

The scene reader looks at the entire picture and reads what words describe, and which pixels are a
person. The person reader looks at one person, cut out of the picture, and reads what no word
describes. A colour is read as a weighted mean of pixels, corrected for the light. Files and
training are elsewhere.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moa_jax.toyworld.world.labels import CONTEXT, PEOPLE
from moa_jax.toyworld.world.people import COLORS, KINDS

MAX_PEOPLE = PEOPLE
SIZE = 64  # pixels a side of the pictures
SMALL = 64  # pixels a side that a network sees: of an entire picture, or of a person cut out
MARGIN = 1.15  # side of the square that is cut out, in sides of the person's box
WIDTHS = (16, 48, 64, 96)  # channels at 32, 16, 8 and 4 pixels
HEAD_WIDTHS = (32, 48)  # channels of the closer look at the head
FEATURES = 96  # width of the summary of a picture or a head


class SceneLogits(NamedTuple):
    """What the scene reader says.

    Attributes:
        context: "B n" for each field of CONTEXT.
        people: "B H W 1+K": nobody, the first person from the left, the second person.
        features: "B F", what the context is read from.
    """

    context: dict[str, Array]
    people: Array
    features: Array


class PersonLogits(NamedTuple):
    """What the person reader says.

    Attributes:
        kinds: "B n" for each attribute of KINDS.
        colors: "B 3" for each attribute of COLORS; in [0, 1], except for errors.
    """

    kinds: dict[str, Array]
    colors: dict[str, Array]


class Conv(nn.Module):
    """Convolution, normalisation, rectification; added to the input where the shapes agree."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, hidden: Float[Array, "B H W _"]) -> Float[Array, "B _ _ D"]:
        """Apply the three in turn."""
        out = nn.Conv(self.channels, (3, 3), self.stride, use_bias=False, name="conv")(hidden)
        out = nn.relu(nn.GroupNorm(None, group_size=8, name="norm")(out))
        return hidden + out if hidden.shape == out.shape else out


class Trunk(nn.Module):
    """Turn pixels into a map at half their resolution and a summary of the entire picture."""

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "B 64 64 C"]
    ) -> tuple[Float[Array, "B 32 32 D"], Float[Array, "B F"]]:
        """Go down to 4x4, summarise, and come up again."""
        hidden, levels = pixels, []
        for level, width in enumerate(WIDTHS):
            hidden = Conv(width, 2, name=f"down.{level}")(hidden)
            hidden = Conv(width, name=f"same.{level}")(hidden)
            levels.append(hidden)
        flat = nn.Dense(32, name="squeeze")(hidden)
        seen = [flat.reshape(len(flat), -1), levels[-2].max(axis=(1, 2))]
        summary = nn.relu(nn.Dense(FEATURES, name="summary")(jnp.concatenate(seen, axis=-1)))
        for level in reversed(range(len(WIDTHS) - 1)):
            width = max(16, WIDTHS[level] // 2)
            hidden = nn.Conv(width, (1, 1), name=f"narrow.{level}")(hidden)
            hidden = jnp.repeat(jnp.repeat(hidden, 2, axis=1), 2, axis=2)
            hidden = jnp.concatenate([hidden, levels[level]], axis=-1)
            hidden = Conv(width, name=f"up.{level}")(hidden)
        return hidden, summary


class SceneReader(nn.Module):
    """Read what words describe, and where the people are."""

    @nn.compact
    def __call__(self, pictures: Float[Array, "B H W 3"]) -> SceneLogits:
        """Read pictures in [0, 1], of SMALL pixels a side or a multiple of it."""
        times = pictures.shape[1] // SMALL
        small = nn.avg_pool(pictures, (times, times), (times, times))
        maps, summary = Trunk(name="trunk")(2 * small - 1)
        context = {
            field: nn.Dense(len(values), name=field)(summary) for field, values in CONTEXT.items()
        }
        coarse = nn.Conv(1 + MAX_PEOPLE, (3, 3), name="people")(maps)
        coarse = jax.image.resize(coarse, (*pictures.shape[:3], 1 + MAX_PEOPLE), "bilinear")
        fine = jnp.concatenate([coarse, 2 * pictures - 1], axis=-1)
        fine = nn.Conv(1 + MAX_PEOPLE, (3, 3), name="edges")(
            nn.relu(nn.Conv(8, (3, 3), name="refine")(fine))
        )
        return SceneLogits(context, coarse + fine, summary)


class PersonReader(nn.Module):
    """Read one person's word and identity."""

    @nn.compact
    def __call__(
        self, pictures: Float[Array, "B 64 64 3"], mask: Float[Array, "B 64 64"]
    ) -> PersonLogits:
        """Read people cut out with `cut`; the mask only tells which of two people to read."""
        pixels = jnp.concatenate([2 * pictures - 1, mask[..., None]], axis=-1)
        maps, summary = Trunk(name="trunk")(pixels)
        head = maps[:, : maps.shape[1] // 2]  # the upper half, where most kinds are seen
        for number, width in enumerate(HEAD_WIDTHS):
            head = Conv(width, 2, name=f"head.{number}")(head)
        head = nn.relu(nn.Dense(FEATURES, name="face")(head.reshape(len(head), -1)))
        seen = jnp.concatenate([summary, head], axis=-1)
        kinds = {name: nn.Dense(len(values), name=name)(seen) for name, values in KINDS.items()}
        # A colour is a mean of pixels, weighted by where the network looks for it.
        where = nn.Conv(len(COLORS), (3, 3), name="where")(maps).reshape(len(maps), -1, len(COLORS))
        small = nn.avg_pool(pictures, (2, 2), (2, 2)).reshape(len(maps), -1, 3)
        seen = jnp.einsum("bpk,bpc->bkc", jax.nn.softmax(where, axis=1), small)
        # What the light has changed is told from all colours and the summary together.
        light = jnp.concatenate([seen.reshape(len(seen), -1), summary], axis=-1)
        light = nn.Dense(seen[0].size, name="light")(nn.relu(nn.Dense(64, name="look")(light)))
        found = seen + light.reshape(seen.shape)
        return PersonLogits(kinds, {name: found[:, i] for i, name in enumerate(COLORS)})


def boxes(masks: Float[Array, "B H W"]) -> Float[Array, "B 3"]:
    """Find the squares around masks: row and column of the centre, and the side, in pixels.

    A row or column with a single pixel of the mask does not count. An empty mask gives the entire
    picture.
    """
    spans = []
    for axis in (2, 1):
        inside = jnp.sum(masks > 0.5, axis=axis) > 1
        first = jnp.argmax(inside, axis=1)
        spans.append((first, inside.shape[1] - jnp.argmax(inside[:, ::-1], axis=1)))
    sides = jnp.stack([last - first for first, last in spans])
    centres = [(first + last) / 2 for first, last in spans]
    return jnp.stack([*centres, MARGIN * sides.max(axis=0)], axis=1)


def cut(images: Float[Array, "B H W C"], squares: Float[Array, "B 3"]) -> Float[Array, "B 64 64 C"]:
    """Cut squares out and bring them to one size; black where they leave the picture."""

    def one(image: Array, square: Array) -> Array:
        scale = SMALL / square[2]
        shift = scale * (square[2] / 2 - square[:2])
        shape = (SMALL, SMALL, image.shape[-1])
        scales = jnp.stack([scale, scale])
        return jax.image.scale_and_translate(image, shape, (0, 1), scales, shift, "linear")

    return jax.vmap(one)(images, squares)
