"""Pictures of the toy world to show something with: portraits of people, and a photo to edit.

Nobody on them is in any training data, and the same numbers give the same pictures.
"""

import numpy as np
from PIL import Image

from moa_jax.toyworld.world.people import draw_look
from moa_jax.toyworld.world.places import Context
from moa_jax.toyworld.world.scenes import draw_scene, render, render_portrait

GARDEN = Context("garden", "day", "clear", "standing", "dog")


def portrait(seed: int, word: str = "woman") -> Image.Image:
    """Draw a person before a plain wall: a photo to personalize pictures with.

    Args:
        seed: decides who it is.
        word: "man", "woman" or "kid".
    """
    return Image.fromarray(render_portrait(draw_look(np.random.default_rng(seed), word)))


def photo(
    seed: int, word: str = "woman", context: Context = GARDEN
) -> tuple[Image.Image, Image.Image]:
    """Draw a person in a place: a photo to edit.

    Args:
        seed: decides who it is, and where everything stands.
        word: "man", "woman" or "kid".
        context: the place, and what happens there; `context.phrase()` says it in a prompt's words.

    Returns:
        The photo, and a mask that is white on the person.
    """
    random = np.random.default_rng(seed)
    picture, masks = render(draw_scene(random, [draw_look(random, word)], context))
    return Image.fromarray(picture), Image.fromarray(np.uint8(255 * masks[0]))
