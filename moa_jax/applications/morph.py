"""Morph: one subject becomes another, in the space of the image encoder's features.

Source: MoA (arXiv 2404.11565), applications. The context, the noise and every other subject stay
the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from moa_jax.applications.frames import settings_of, shares
from moa_jax.errors import InputError
from moa_jax.sampling.pipeline import Pipeline, Result
from moa_jax.sampling.request import Picture, repeat


def interpolate(
    start: Float[np.ndarray, "*batch F"],
    end: Float[np.ndarray, "*batch F"],
    share: float,
    spherical: bool = False,
) -> Float[np.ndarray, "*batch F"]:
    """Go from one feature vector towards another.

    Args:
        share: how much of the way to go, 0 to 1.
        spherical: turn the direction at constant speed, and change the length on its own.

    Example:
        >>> import numpy as np
        >>> from moa_jax.applications import interpolate
        >>> start, end = np.array([1.0, 0.0]), np.array([0.0, 1.0])
        >>> interpolate(start, end, 0.5).tolist()
        [0.5, 0.5]
        >>> interpolate(start, end, 0.5, spherical=True).round(3).tolist()
        [0.707, 0.707]
    """
    if not spherical:
        return ((1.0 - share) * start + share * end).astype(start.dtype)
    lengths = [np.linalg.norm(each, axis=-1, keepdims=True) for each in (start, end)]
    one, other = start / lengths[0], end / lengths[1]
    # Rounding may leave [-1, 1], where arccos is defined.
    angle = np.arccos(np.clip(np.sum(one * other, axis=-1, keepdims=True), -1.0, 1.0))
    near = angle < 1e-4  # the formula would divide by 0, and the arc is as good as straight
    safe = np.where(near, 1.0, angle)
    first = np.where(near, 1.0 - share, np.sin((1.0 - share) * safe) / np.sin(safe))
    second = np.where(near, share, np.sin(share * safe) / np.sin(safe))
    length = (1.0 - share) * lengths[0] + share * lengths[1]
    return (length * (first * one + second * other)).astype(start.dtype)


def morph(
    pipe: Pipeline,
    prompt: str,
    subjects: Sequence[Picture],
    to: Picture,
    frames: int = 8,
    *,
    which: int = 0,
    spherical: bool = False,
    negative_prompt: str = "",
    plain_prompt: bool = False,
    **options: Any,
) -> Result:
    """Draw a subject becoming another one.

    Args:
        prompt: with `<|image|>` after each word that one of `subjects` personalizes.
        subjects: a picture of each, in the order of the markers.
        to: a picture of the person whom the subject becomes.
        frames: number of pictures, both ends included.
        which: the subject that changes, counted from 0 in `subjects`.
        spherical: see `interpolate`.
        plain_prompt: see `Pipeline.__call__`.
        **options: see `Frames` and `Settings`.

    Returns:
        A picture for each frame.

    Raises:
        InputError: an argument cannot be served; the message names it, its value and the remedy.
    """
    how, settings = settings_of(options)
    way = shares(frames)
    if not 0 <= which < len(subjects):
        raise InputError(f"which={which}: there are {len(subjects)} subject(s), counted from 0")
    becoming = [*subjects[:which], to, *subjects[which + 1 :]]
    first, last = (
        pipe.request(prompt, who, negative_prompt, plain_prompt=plain_prompt)
        for who in (subjects, becoming)
    )
    start, end = pipe.features(first), pipe.features(last)
    rows = np.concatenate([interpolate(start, end, share, spherical) for share in way])
    return how.draw(pipe, repeat(first, frames)._replace(subject_features=rows), settings)
