"""Captions to token ids, and the place of each subject's word among them.

Source: FastComposer (arXiv 2305.10431): a marker follows the word that it personalizes, as in
"a man <|image|> and a woman <|image|>", and the last token before it is the subject's. The marker
itself is taken out: the text encoder sees the plain caption. Knows nothing of pictures.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from moa_jax.errors import InputError

IMAGE_MARKER = "<|image|>"

Tokenizer = Any  # a transformers.CLIPTokenizer, whose import takes seconds


@dataclass(frozen=True, eq=False)
class EncodedCaption:
    """A caption as the text encoder takes it.

    Attributes:
        input_ids: begin, the words, end, padding.
        subject_tokens: for each marker in turn, the position in `input_ids` of its word.
        truncated: the text that had no room, "" if none.
    """

    input_ids: Int32[np.ndarray, " S"]
    subject_tokens: tuple[int, ...]
    truncated: str


def encode_caption(tokenizer: Tokenizer, text: str) -> EncodedCaption:
    """Tokenize a caption with markers.

    Without markers the ids are those of `tokenizer(text, padding="max_length", truncation=True)`.

    Raises:
        InputError: a marker has no word before it, or its word is past the last position.
    """
    length = caption_length(tokenizer)
    room = length - 2  # the begin and end tokens
    *marked, rest = text.split(IMAGE_MARKER)
    tokens: list[int] = []
    subject_tokens = []
    for number, piece in enumerate(marked, start=1):
        if not any(character.isalnum() for character in piece):
            raise InputError(
                f"marker {number} ({IMAGE_MARKER}) has no word before it in {text!r}; "
                "write it after the word that it personalizes, one marker a word"
            )
        tokens += _tokenize(tokenizer, piece)
        if len(tokens) > room:
            raise InputError(
                f"{piece.split()[-1]!r}, the word before marker {number} ({IMAGE_MARKER}), is "
                f"token {len(tokens)} of the caption, but {room} fit; shorten the text before it"
            )
        subject_tokens.append(len(tokens))  # the begin token moves all by one
    tokens += _tokenize(tokenizer, rest)
    ids = [tokenizer.bos_token_id, *tokens[:room], tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (length - len(ids))
    truncated = tokenizer.decode(tokens[room:]) if len(tokens) > room else ""
    return EncodedCaption(np.array(ids, np.int32), tuple(subject_tokens), truncated.strip())


def caption_length(tokenizer: Tokenizer) -> int:
    """Count the positions of a caption: 77 for every CLIP.

    Raises:
        InputError: the tokenizer's folder does not say.
    """
    length = tokenizer.model_max_length
    if not 2 < length <= 10_000:  # transformers puts 1e30 where the folder says nothing
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} gives no model_max_length; "
            'write "model_max_length": 77 into its tokenizer_config.json'
        )
    return int(length)


def insert_markers(caption: str, ends: Sequence[int]) -> str:
    """Put a marker after each of some words, given where they end.

    Args:
        ends: characters before the end of each word, in any order, each one once.
    """
    for end in sorted(ends, reverse=True):
        caption = f"{caption[:end]} {IMAGE_MARKER}{caption[end:]}"
    return caption


def find_word(caption: str, word: str, occurrence: int = 1) -> int | None:
    """Find where a word (or phrase) ends in a caption, whatever the case of its letters.

    Args:
        occurrence: which of several, counted from 1.

    Returns:
        Characters before its end; None if the caption has it fewer times.
    """
    matches = list(re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE))
    return matches[occurrence - 1].end() if len(matches) >= occurrence else None


def _tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    # verbose=False: past 77 tokens transformers warns on its own, and says less than `truncated`.
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
