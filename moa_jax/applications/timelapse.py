"""Time-lapse: one picture of a person, and words that say how old they are.

Source: MoA (arXiv 2404.11565), applications. Each word makes a prompt, and the embeddings of these
prompts are interpolated; the picture, the noise and every other word stay the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moa_jax.applications.frames import settings_of, shares
from moa_jax.data.captions import count_tokens
from moa_jax.errors import InputError
from moa_jax.sampling.pipeline import Pipeline, Result
from moa_jax.sampling.request import Picture, Request, stack

WORD = "{word}"


def timelapse(
    pipe: Pipeline,
    prompt: str,
    words: Sequence[str],
    subjects: Sequence[Picture],
    frames: int | None = None,
    *,
    negative_prompt: str = "",
    **options: Any,
) -> Result:
    """Draw the way from word to word.

    Args:
        prompt: with `{word}` where the words go, e.g. "a {word} <|image|> on the beach".
        words: at least two, e.g. "kid", "person", "elderly person".
        subjects: a picture of each, in the order of the markers.
        frames: number of pictures, both ends included; None means one for each word.
        **options: see `Frames` and `Settings`.

    Returns:
        A picture for each frame. If the words have equally many tokens, the frame at a word is the
        picture of that word's prompt. Otherwise shorter words are drawn out to the longest.

    Raises:
        InputError: an argument cannot be served; the message names it, its value and the remedy.
    """
    how, settings = settings_of(options)
    if prompt.count(WORD) != 1:
        raise InputError(f"prompt={prompt!r}: write {WORD} once, where the words go")
    if len(words) < 2:
        raise InputError(f"words={list(words)}: give two or more, e.g. kid person")
    way = shares(len(words) if frames is None else frames) * (len(words) - 1)
    requests = [pipe.request(prompt.replace(WORD, w), subjects, negative_prompt) for w in words]
    requests = aligned(pipe, requests, prompt, words)
    rows = []
    for place in way:
        first = min(int(place), len(words) - 2)
        one, other, share = requests[first], requests[first + 1], place - first
        text = (1.0 - share) * one.text + share * other.text
        rows.append(one._replace(text=text.astype(one.text.dtype)))
    return how.draw(pipe, stack(rows), settings)


def aligned(
    pipe: Pipeline, requests: Sequence[Request], prompt: str, words: Sequence[str]
) -> list[Request]:
    """Embed the prompts so that what follows the words is at the same place in all of them.

    Raises:
        InputError: the word of a marker is not at the same place in all prompts.
    """
    tokenizer, before = pipe.base.tokenizer, len(prompt.split(WORD)[0])
    lasts = [  # where each word ends; the begin token moves all by one
        count_tokens(tokenizer, prompt.replace(WORD, word), before + len(word)) for word in words
    ]
    found = []
    for request, last in zip(requests, lasts, strict=True):
        extra, tokens = max(lasts) - last, request.subject_tokens
        size = request.input_ids.shape[1]
        places = np.arange(size)
        # A shorter word repeats the embedding of its last token, and the end of the text is cut.
        drawn_out = np.where(places > last, np.maximum(places - extra, last), places)
        shifted = np.where((tokens >= last) & (tokens < size), tokens + extra, tokens)
        text = pipe.embed(request)[:, drawn_out]
        found.append(request._replace(text=text, subject_tokens=shifted))
    if any(np.any(each.subject_tokens != found[0].subject_tokens) for each in found):
        raise InputError(
            f"words={list(words)}: a marker takes a word at another place for each of them; end "
            f"each with a letter, and write the markers into the prompt, around {WORD}"
        )
    return found
