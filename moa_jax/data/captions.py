"""Turn captions into token ids and find each subject's word among them.

Source: FastComposer (arXiv 2305.10431): a marker follows the word that it personalizes, as in "a
man <|image|> and a woman <|image|>", and the last token of that word is the subject's. The marker
itself is taken out: the text encoder sees the plain caption. Nothing here depends on pictures.

Punctuation is not part of a word [ours]: in "a man, <|image|>" and "a (tall) man! <|image|>" the
subject's word is "man". Nor is the ending of "man's", which CLIP makes a token of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from moa_jax.errors import InputError

IMAGE_MARKER = "<|image|>"
# Source: the expression by which CLIP's tokenizer cuts a text; the curly apostrophe is ours.
_ENDING = re.compile(r"['\u2019](?:s|t|re|ve|m|ll|d)$", re.IGNORECASE)
_SPECIAL = re.compile(r"<\|(?:startoftext|endoftext)\|>")

Tokenizer = Any  # a transformers.CLIPTokenizer, whose import takes seconds


@dataclass(frozen=True, eq=False)
class EncodedCaption:
    """A caption as the text encoder takes it.

    Attributes:
        input_ids: the begin token, the words, the end token, then padding.
        subject_tokens: position in `input_ids` of each marker's word, in the order of the markers.
        truncated: the text that did not fit; "" if all of it did.
    """

    input_ids: Int32[np.ndarray, " S"]
    subject_tokens: tuple[int, ...]
    truncated: str


def encode_caption(tokenizer: Tokenizer, text: str) -> EncodedCaption:
    """Tokenize a caption with markers.

    The ids are those that `tokenizer(text, padding="max_length", truncation=True)` gives for the
    text without its markers.

    Raises:
        InputError: a marker has no word before it, shares its word with the marker before it, or
            is inside a word; or its word is past the last position.
    """
    *marked, _ = pieces = text.split(IMAGE_MARKER)
    caption, places = "".join(pieces), list(accumulate(map(len, marked)))
    refuse_markers_inside_words(text, caption, places)
    return encode_words(tokenizer, caption, places)


def refuse_markers_inside_words(text: str, caption: str, places: Sequence[int]) -> None:
    """Refuse a marker with a letter or digit on both sides.

    Args:
        text: with markers, for the message.
        caption: the text without them.
        places: number of characters of the caption before each marker.

    Raises:
        InputError: there is one.
    """
    for number, place in enumerate(places, start=1):
        if is_inside_word(caption, place):
            raise InputError(
                f"marker {number} ({IMAGE_MARKER}) is inside a word in {text!r}; "
                "write it after the word that it personalizes, with a space on both sides"
            )


def encode_words(tokenizer: Tokenizer, caption: str, ends: Sequence[int]) -> EncodedCaption:
    """Tokenize a caption without markers, given where the subjects' words end.

    Args:
        ends: number of characters before the end of each word, in ascending order; it may include
            spaces and punctuation after the word.

    Raises:
        InputError: as `encode_caption`.
    """
    length = caption_length(tokenizer)
    room = length - 2  # the begin and end tokens
    tokens, _, subjects = tokenize_words(tokenizer, caption, ends)
    subject_tokens: list[int] = []
    for count, word in subjects:
        if count > room:
            raise InputError(
                f"{word!r}, a subject's word, is token {count} of the "
                f"caption, but {room} fit; shorten the text before it"
            )
        subject_tokens.append(count)  # the begin token shifts every position by one
    ids = [tokenizer.bos_token_id, *tokens[:room], tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (length - len(ids))
    truncated = tokenizer.decode(tokens[room:]) if len(tokens) > room else ""
    return EncodedCaption(np.array(ids, np.int32), tuple(subject_tokens), truncated.strip())


class Words(NamedTuple):
    """The tokens of a caption, however many, without the begin and end tokens.

    Attributes:
        ids: of the tokens.
        starts: number of characters of the caption before each token.
        subjects: for each subject, the number of tokens up to the last one of its word, and the
            word.
    """

    ids: list[int]
    starts: list[int]
    subjects: list[tuple[int, str]]


def tokenize_words(tokenizer: Tokenizer, caption: str, ends: Sequence[int]) -> Words:
    """Tokenize a caption without markers, and find the last token of each subject's word.

    Args:
        ends: as in `encode_words`.

    Raises:
        InputError: there is no word before an end, or only that of the subject before.
    """
    tokens, spans = _tokenize(tokenizer, caption)
    subjects: list[tuple[int, str]] = []
    for number, place in enumerate(ends, start=1):
        end = word_end(caption, place)
        count = 0 if end is None else sum(start < end for start, _ in spans)
        if count <= max((before for before, _ in subjects), default=0):
            but = "" if end is None else f" but that of marker {number - 1}"
            raise InputError(
                f"marker {number} ({IMAGE_MARKER}) has no word before it{but} in "
                f"{caption[:place]!r}; write it after the word that it personalizes, one a word"
            )
        subjects.append((count, caption[:end].split()[-1]))
    return Words(tokens, [start for start, _ in spans], subjects)


def caption_length(tokenizer: Tokenizer) -> int:
    """Give the number of positions of a caption: 77 for every CLIP.

    Raises:
        InputError: the tokenizer's folder does not state the number.
    """
    length = tokenizer.model_max_length
    if not 2 < length <= 10_000:  # transformers puts 1e30 where the folder says nothing
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} gives no model_max_length; "
            'write "model_max_length": 77 into its tokenizer_config.json'
        )
    return int(length)


def word_end(text: str, place: int) -> int | None:
    """Find where the last word before a place ends: after its last letter or digit.

    Args:
        place: number of characters before it.

    Returns:
        Number of characters before that end; None if there is no word.
    """
    end = place
    # A special token is no word: blanks of the same length take its place.
    head = _SPECIAL.sub(lambda found: " " * len(found[0]), text[:place])
    while end:
        if ending := _ENDING.search(head, max(end - 3, 0), end):  # the longest has 3
            end = ending.start()
        elif head[end - 1].isalnum():
            return end
        else:
            end -= 1
    return None


def is_inside_word(text: str, place: int) -> bool:
    """Say whether there is a letter or digit on both sides of a place."""
    return text[max(place - 1, 0) : place].isalnum() and text[place : place + 1].isalnum()


def end_fault(caption: str, end: int) -> str | None:
    """Say what is wrong with the end of a subject's word; None if nothing is.

    Args:
        end: number of characters of the caption before it.
    """
    if not 0 < end <= len(caption):
        return f"end {end} is outside the caption {caption!r} of {len(caption)} characters"
    if word_end(caption, end) is None:
        return f"end {end} has no word before it in the caption {caption!r}"
    if is_inside_word(caption, end):
        return f"end {end} is inside a word of the caption {caption!r}"
    return None


def find_word(caption: str, word: str, occurrence: int = 1) -> int | None:
    """Find where a word (or phrase) ends in a caption, ignoring case.

    Args:
        occurrence: which of several occurrences, counted from 1.

    Returns:
        Number of characters before its end; None if the caption has fewer occurrences.
    """
    matches = list(re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE))
    return matches[occurrence - 1].end() if len(matches) >= occurrence else None


def _tokenize(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Give the tokens and the range of characters of each; several tokens may share a character."""
    # verbose=False: past 77 tokens transformers warns on its own, and says less than `truncated`.
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    found = tokenizer(text, **options)
    return list(found.input_ids), list(found.offset_mapping)
