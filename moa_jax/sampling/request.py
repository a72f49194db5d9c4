"""A prompt and pictures of its subjects as the arrays that a pipeline draws from.

It checks everything a user can get wrong about them. It knows tokenizers and pictures, but no
networks.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from moa_jax.data.augment import prepare_subject
from moa_jax.data.captions import IMAGE_MARKER, encode_caption
from moa_jax.data.images import open_image
from moa_jax.errors import InputError

Picture = Image.Image | str | Path


class Request(NamedTuple):
    """What to draw, with a row for each picture; the rows may have different prompts.

    Attributes:
        input_ids: "B S" int32, the prompts' tokens.
        negative_ids: "B S" int32, what guidance leads away from.
        subject_images: "B K h w 3" uint8, at the image encoder's size.
        subject_tokens: "B K" int32, position of each subject's word; S means no subject.
        subject_features: "B K F", the subjects' image features, given instead of pictures; None
            means those of `subject_images`.
        text: "B S D", the prompts' embeddings; None means those of `input_ids`.
    """

    input_ids: Any
    negative_ids: Any
    subject_images: Any
    subject_tokens: Any
    subject_features: Any = None
    text: Any = None


def make_request(
    tokenizer: Any,
    prompt: str,
    subjects: Sequence[Picture],
    negative_prompt: str,
    *,
    image_size: int | None,
    max_subjects: int,
) -> Request:
    """Prepare one picture's request: every array has a single row.

    Args:
        prompt: with `<|image|>` after each word that one of `subjects` personalizes.
        image_size: of the image encoder, in pixels; None means that there is no image encoder.
        max_subjects: how many subjects the weights support; 0 without MoA.

    Raises:
        InputError: markers and subjects do not match each other or the weights, a marker has no
            word before it or is in the negative prompt, or a picture cannot be read.
    """
    _check_subjects(prompt, len(subjects), max_subjects)
    if IMAGE_MARKER in negative_prompt:
        raise InputError(
            f"negative_prompt={negative_prompt!r} has the marker {IMAGE_MARKER}, but no subject is "
            "led away from: leave the marker out"
        )
    positive = _encode(tokenizer, "prompt", prompt)
    negative = _encode(tokenizer, "negative_prompt", negative_prompt)
    pictures = _prepare(subjects, image_size or 1)  # without an encoder, any size will do
    # A prompt without subjects still has one place for them, which no word takes.
    tokens = positive.subject_tokens or (len(positive.input_ids),)
    row = (positive.input_ids, negative.input_ids, pictures, np.array(tokens, np.int32))
    return Request(*(array[None] for array in row))


def repeat(request: Request, count: int) -> Request:
    """Repeat every row `count` times."""
    return jax.tree.map(lambda array: np.repeat(array, count, axis=0), request)


def stack(requests: Sequence[Request]) -> Request:
    """Join requests of the same shape into one batch."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *requests)


def _check_subjects(prompt: str, subjects: int, max_subjects: int) -> None:
    markers = prompt.count(IMAGE_MARKER)
    has = f"the prompt {prompt!r} has {markers} {IMAGE_MARKER}"
    found = f"{has} and {subjects} subject(s) are given"
    if max_subjects == 0 and (markers or subjects):
        raise InputError(
            f"{found}, but no MoA weights are loaded: give moa (--moa DIR), or leave both out"
        )
    if markers != subjects:
        raise InputError(
            f"{found}: write one {IMAGE_MARKER} after the word of each subject, in their order"
        )
    if markers > max_subjects:
        raise InputError(f"{found}: these weights support at most {max_subjects}")


def _encode(tokenizer: Any, name: str, text: str) -> Any:
    encoded = encode_caption(tokenizer, text)
    if encoded.truncated:
        warnings.warn(
            f"{name} is longer than {len(encoded.input_ids)} tokens; this part was lost: "
            f"{encoded.truncated!r}",
            stacklevel=4,  # whoever called the pipeline
        )
    return encoded


def _prepare(subjects: Sequence[Picture], size: int) -> UInt8[np.ndarray, "K h w 3"]:
    if not subjects:
        return np.zeros((1, size, size, 3), np.uint8)
    return np.stack([prepare_subject(open_image(subject), size) for subject in subjects])
