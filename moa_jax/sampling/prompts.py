r"""Prompts as people write them: words with weights, and more words than one window takes.

`(text:1.2)` weighs the words of a text; weights inside weights multiply. A weight is a number from
0 to MAX_WEIGHT. Only this form is a weight: other parentheses are text, as in captions, and so are
`\(` and `\)`, which lose their backslash. What a weight does to embeddings is in `program.weigh`.

A text encoder takes one window of tokens (CLIP: 77, of which 75 are the text's). A longer prompt
becomes several windows, each with a begin and an end token, which are embedded one by one and then
follow each other. Whole words go into a window, as many as fit, so a subject stays with its word;
a word that is longer than a window is cut.

Source: the form is that of AUTOMATIC1111's web UI; the windows are those of compel's mode WORDS.
Training knows neither: its captions describe a picture, and one window is all that it learns from.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from moa_jax.backbone.tokenizer import WORD_END
from moa_jax.data.captions import (
    IMAGE_MARKER,
    caption_length,
    refuse_markers_inside_words,
    tokenize_words,
)
from moa_jax.errors import InputError

MAX_WINDOWS = 4  # 300 words' tokens of CLIP
MAX_WEIGHT = 5.0  # pictures break from about 2 on; what is beyond 5 was meant as a time or a ratio
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")


@dataclass(frozen=True, eq=False)
class Reading:
    """A prompt without what is not its text: weights, the backslashes of escapes, and markers.

    Attributes:
        text: where a weight was written there is a space, so no two words become one.
        weights: of each character of the text.
        origins: number of characters of the prompt before each character of the text.
        markers: number of characters of the text before each marker.
    """

    text: str
    weights: Float32[np.ndarray, " n"]
    origins: list[int]
    markers: list[int]


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt as the text encoder takes it: windows that follow each other.

    Attributes:
        input_ids: for each window the begin token, its words, the end token, then padding.
        weights: of each token; 1 for begin, end and padding.
        subject_tokens: position in `input_ids` of each marker's word, in the order of the markers.
        places: position in `input_ids` of each token of the text.
        starts: number of characters of the prompt before each token of the text.
        truncated: the text that did not fit; "" if all of it did.
    """

    input_ids: Int32[np.ndarray, " S"]
    weights: Float32[np.ndarray, " S"]
    subject_tokens: tuple[int, ...]
    places: list[int]
    starts: list[int]
    truncated: str


def read_prompt(prompt: str, plain: bool = False) -> Reading:
    """Find the weights and markers of a prompt.

    Args:
        plain: whether nothing but markers has a meaning.

    Raises:
        InputError: a weight is out of range, or weighs no text but a marker.
    """
    cuts, weights = ({}, np.ones(len(prompt))) if plain else _weights(prompt)
    text: list[str] = []
    origins: list[int] = []
    markers: list[int] = []
    place = 0
    while place < len(prompt):
        if prompt.startswith(IMAGE_MARKER, place):
            markers.append(len(text))
            place += len(IMAGE_MARKER)
            continue
        end, character = cuts.get(place, (place + 1, prompt[place]))
        text += character
        origins += [place] * len(character)
        place = end
    return Reading("".join(text), weights[origins].astype(np.float32), origins, markers)


def _weights(prompt: str) -> tuple[dict[int, tuple[int, str]], np.ndarray]:
    """Find what to cut out of a prompt (to which end, replaced by what), and weigh the rest."""
    cuts: dict[int, tuple[int, str]] = {}
    weights = np.ones(len(prompt))
    opened: list[int] = []
    for place, character in enumerate(prompt):
        if character not in "()":
            continue
        if place and prompt[place - 1] == "\\":
            cuts[place - 1] = place, ""
        elif character == "(":
            opened.append(place)
        elif opened:  # a parenthesis that closes nothing is text
            start = opened.pop() + 1
            colon = prompt.rfind(":", start, place)
            number, weighed = prompt[colon + 1 : place].strip(), prompt[start : max(colon, start)]
            if weighed.strip() and _NUMBER.fullmatch(number):
                _check(float(number), weighed, prompt[start - 1 : place + 1])
                weights[start:colon] *= float(number)
                # A space, because the texts on both sides are not one word.
                cuts |= {start - 1: (start, " "), colon: (place + 1, " ")}
    return cuts, weights


def _check(weight: float, weighed: str, form: str) -> None:
    if not 0.0 <= weight <= MAX_WEIGHT:
        raise InputError(
            f"the weight {weight:g} of {form!r} must lie between 0 and {MAX_WEIGHT:g}; if it is no "
            r"weight, write \( and \), or draw with plain_prompt (--plain-prompt)"
        )
    if not weighed.replace(IMAGE_MARKER, "").strip():
        raise InputError(
            f"{form!r} weighs no word: put the marker's word into the parentheses too, as in "
            f"'(man {IMAGE_MARKER}:{weight:g})', or write '(man:{weight:g}) {IMAGE_MARKER}'"
        )


def window_ends(tokens: list[str], room: int) -> list[int]:
    """Cut a text into windows of whole words, each with as many as fit.

    Args:
        tokens: as the tokenizer spells them; those that end a word end in `</w>`.
        room: the most tokens in a window.

    Returns:
        For each window the number of tokens before its end.
    """
    ends, start = [], 0
    while len(tokens) - start > room:
        words = [end for end in range(start, start + room) if tokens[end].endswith(WORD_END)]
        start = words[-1] + 1 if words else start + room
        ends.append(start)
    return [*ends, len(tokens)]


def encode_prompt(tokenizer: Any, prompt: str, *, plain: bool = False) -> EncodedPrompt:
    """Tokenize a prompt with weights and markers into as many windows as it needs.

    A prompt without weights that fits into one window has the ids of `encode_caption`.

    Args:
        plain: whether to read the prompt as training reads a caption: without weights, and cut at
            the end of the first window.

    Raises:
        InputError: a marker has no word of its own, is inside a word, or its word does not fit; or
            as `read_prompt`.
    """
    reading = read_prompt(prompt, plain)
    refuse_markers_inside_words(prompt, reading.text, reading.markers)
    tokens, starts, subjects = tokenize_words(tokenizer, reading.text, reading.markers)
    length = caption_length(tokenizer)
    room = length - 2  # the begin and end tokens
    if plain:
        ends = [min(room, len(tokens))]
    else:
        ends = window_ends(tokenizer.convert_ids_to_tokens(tokens), room)[:MAX_WINDOWS]
    for count, word in subjects:
        if count > ends[-1]:
            raise InputError(
                f"{word!r}, a subject's word, is token {count} of the prompt, but {ends[-1]} fit "
                f"into {_most(length, plain)}; shorten the text before it"
            )
    ids: list[int] = []
    places: list[int] = []
    for start, end in zip([0, *ends], ends, strict=False):
        places += range(len(ids) + 1, len(ids) + 1 + end - start)
        ids += [tokenizer.bos_token_id, *tokens[start:end], tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (-len(ids) % length)
    weights = np.ones(len(ids), np.float32)
    weights[places] = reading.weights[starts[: ends[-1]]]
    return EncodedPrompt(
        np.array(ids, np.int32),
        weights,
        tuple(places[count - 1] for count, _ in subjects),
        places,
        [reading.origins[start] for start in starts[: ends[-1]]],
        tokenizer.decode(tokens[ends[-1] :]).strip(),
    )


def lost(name: str, encoded: EncodedPrompt, length: int, *, plain: bool) -> str | None:
    """Say what of a prompt did not fit, and what to do; None if nothing is lost.

    Args:
        name: of the argument.
        length: positions of a window.
        plain: see `encode_prompt`.
    """
    if not encoded.truncated:
        return None
    remedy = (
        "draw without plain_prompt (--no-plain-prompt), or shorten it" if plain else "shorten it"
    )
    return (
        f"{name} is longer than {_most(length, plain)}; this part was lost: "
        f"{encoded.truncated!r}; {remedy}"
    )


def _most(length: int, plain: bool) -> str:
    return f"{length} tokens" if plain else f"{MAX_WINDOWS} windows of {length} tokens"
