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
from jaxtyping import Int32, UInt8
from PIL import Image

from moa_jax.data.augment import prepare_subject
from moa_jax.data.captions import IMAGE_MARKER, caption_length, encode_caption
from moa_jax.data.images import open_image
from moa_jax.errors import InputError
from moa_jax.sampling.prompts import EncodedPrompt, encode_prompt, lost

Picture = Image.Image | str | Path


class Request(NamedTuple):
    """What to draw, with a row for each picture; the rows may have different prompts.

    Attributes:
        input_ids: "B S" int32, the prompts' tokens: one window of the text encoder, or several
            that follow each other.
        negative_ids: "B S" int32, what guidance leads away from.
        subject_images: "B K h w 3" uint8, at the image encoder's size.
        subject_tokens: "B K" int32, position of each subject's word; S means no subject.
        subject_features: "B K F", the subjects' image features, given instead of pictures; None
            means those of `subject_images`.
        text: "B S D", the prompts' embeddings; None means those of `input_ids`.
        weights: "B S" float32, of the prompts' tokens, see `weigh`; None means that neither they
            nor the negative prompts' tokens have weights.
        negative_weights: "B S" float32, likewise.
    """

    input_ids: Any
    negative_ids: Any
    subject_images: Any
    subject_tokens: Any
    subject_features: Any = None
    text: Any = None
    weights: Any = None
    negative_weights: Any = None


def make_request(
    tokenizer: Any,
    prompt: str,
    subjects: Sequence[Picture],
    negative_prompt: str,
    *,
    image_size: int | None,
    max_subjects: int,
    plain_prompt: bool = False,
) -> Request:
    """Prepare one picture's request: every array has a single row.

    Prompt and negative prompt are padded to as many windows as the longer of them has.

    Args:
        prompt: with `<|image|>` after each word that one of `subjects` personalizes.
        image_size: of the image encoder, in pixels; None means that there is no image encoder.
        max_subjects: how many subjects the weights support; 0 without MoA.
        plain_prompt: whether to read the prompts as captions, see `encode_prompt`.

    Raises:
        InputError: markers and subjects do not match each other or the weights, a marker has no
            word before it or is in the negative prompt, a weight is out of range, or a picture
            cannot be read.
    """
    _check_subjects(prompt, len(subjects), max_subjects)
    if IMAGE_MARKER in negative_prompt:
        raise InputError(
            f"negative_prompt={negative_prompt!r} has the marker {IMAGE_MARKER}, but no subject is "
            "led away from: leave the marker out"
        )
    positive = _encode(tokenizer, "prompt", prompt, plain_prompt)
    negative = _encode(tokenizer, "negative_prompt", negative_prompt, plain_prompt)
    pictures = _prepare(subjects, image_size or 1)  # without an encoder, any size will do
    # A prompt without subjects still has one place for them, which no word takes.
    tokens = positive.subject_tokens or (len(positive.input_ids),)
    row = (positive.input_ids, negative.input_ids, pictures, np.array(tokens, np.int32))
    request = Request(*(array[None] for array in row))
    if any((each.weights != 1.0).any() for each in (positive, negative)):
        both = (each.weights[None] for each in (positive, negative))
        request = request._replace(weights=next(both), negative_weights=next(both))
    return match(tokenizer, [request])[0]


def match(tokenizer: Any, requests: Sequence[Request]) -> list[Request]:
    """Pad requests with windows of the empty prompt, and with weights of 1, to the same shape."""
    empty = encode_caption(tokenizer, "").input_ids
    sides = [ids.shape[1] for each in requests for ids in (each.input_ids, each.negative_ids)]
    weighted = any(each.weights is not None for each in requests)
    return [_widen(each, max(sides), weighted, empty) for each in requests]


def _widen(request: Request, size: int, weighted: bool, empty: Int32[np.ndarray, " L"]) -> Request:
    tokens, old = request.subject_tokens, request.input_ids.shape[1]

    def ids(array: Int32[np.ndarray, "B _"]) -> Int32[np.ndarray, "B S"]:
        rows, length = array.shape
        windows = np.tile(empty, (rows, (size - length) // len(empty)))
        return np.concatenate([array, windows], axis=1) if size > length else array

    def factors(array: np.ndarray | None) -> np.ndarray | None:
        if not weighted:
            return None
        wide = np.ones((len(tokens), size), np.float32)
        if array is not None:
            wide[:, : array.shape[1]] = array
        return wide

    return request._replace(
        input_ids=ids(request.input_ids),
        negative_ids=ids(request.negative_ids),
        subject_tokens=np.where(tokens == old, size, tokens).astype(np.int32),
        weights=factors(request.weights),
        negative_weights=factors(request.negative_weights),
    )


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


def _encode(tokenizer: Any, name: str, text: str, plain: bool) -> EncodedPrompt:
    encoded = encode_prompt(tokenizer, text, plain=plain)
    if message := lost(name, encoded, caption_length(tokenizer), plain=plain):
        warnings.warn(message, stacklevel=4)  # whoever called the pipeline
    return encoded


def _prepare(subjects: Sequence[Picture], size: int) -> UInt8[np.ndarray, "K h w 3"]:
    if not subjects:
        return np.zeros((1, size, size, 3), np.uint8)
    return np.stack([prepare_subject(open_image(subject), size) for subject in subjects])
