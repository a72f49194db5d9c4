"""Time-lapse: one picture of a person, and words that say how old they are.

Source: MoA (arXiv 2404.11565), applications. Each word makes a prompt, and the embeddings of these
prompts are interpolated; the picture, the noise and every other word stay the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from moa_jax.applications.frames import settings_of, shares
from moa_jax.data.captions import caption_length
from moa_jax.errors import InputError
from moa_jax.sampling.pipeline import Pipeline, Result
from moa_jax.sampling.prompts import EncodedPrompt, encode_prompt
from moa_jax.sampling.request import Picture, Request, match, stack

WORD = "{word}"


def timelapse(
    pipe: Pipeline,
    prompt: str,
    words: Sequence[str],
    subjects: Sequence[Picture],
    frames: int | None = None,
    *,
    negative_prompt: str = "",
    plain_prompt: bool = False,
    **options: Any,
) -> Result:
    """Draw the way from word to word.

    Args:
        prompt: with `{word}` where the words go, e.g. `a {word} <|image|> on the beach`.
        words: at least two, e.g. "kid", "person", "elderly person".
        subjects: a picture of each, in the order of the markers.
        frames: number of pictures, both ends included; None means one for each word.
        plain_prompt: see `Pipeline.__call__`.
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
    requests = [
        pipe.request(prompt.replace(WORD, w), subjects, negative_prompt, plain_prompt=plain_prompt)
        for w in words
    ]
    requests = aligned(pipe, requests, prompt, words, plain_prompt)
    rows = []
    for place in way:
        first = min(int(place), len(words) - 2)
        one, other, share = requests[first], requests[first + 1], place - first
        text = (1.0 - share) * one.text + share * other.text
        rows.append(one._replace(text=text.astype(one.text.dtype)))
    return how.draw(pipe, stack(rows), settings)


def aligned(
    pipe: Pipeline,
    requests: Sequence[Request],
    prompt: str,
    words: Sequence[str],
    plain_prompt: bool = False,
) -> list[Request]:
    """Embed the prompts so that what follows the words is at the same place in all of them.

    Raises:
        InputError: the word of a marker is not at the same place in all prompts.
    """
    tokenizer, before = pipe.base.tokenizer, len(prompt.split(WORD)[0])
    requests = match(tokenizer, requests)
    encoded, lasts = [], []
    for word in words:
        each = encode_prompt(tokenizer, prompt.replace(WORD, word), plain=plain_prompt)
        encoded.append(each)  # and how many tokens there are up to the word's last one:
        lasts.append(sum(start < before + len(word) for start in each.starts))
    longest = encoded[int(np.argmax(lasts))]
    found = []
    for request, each, last in zip(requests, encoded, lasts, strict=True):
        size, extra = request.input_ids.shape[1], max(lasts) - last
        window = caption_length(tokenizer)
        text = pipe.embed(request)[:, drawn_out(each, last, longest, extra, size, window)]
        tokens = [each.places.index(place) + 1 for place in each.subject_tokens]
        places = [longest.places[t - 1 + (extra if t >= last else 0)] for t in tokens] or [size]
        found.append(request._replace(text=text, subject_tokens=np.array([places], np.int32)))
    if any(np.any(each.subject_tokens != found[0].subject_tokens) for each in found):
        raise InputError(
            f"words={list(words)}: a marker takes a word at another place for each of them; end "
            f"each with a letter, and write the markers into the prompt, around {WORD}"
        )
    return found


def drawn_out(
    prompt: EncodedPrompt, last: int, longest: EncodedPrompt, extra: int, size: int, window: int
) -> list[int]:
    """Choose the token of a prompt for each position of the prompt with the longest word.

    A shorter word repeats its last token. Begin, end and padding of a window stay what they are; if
    the text behind them is cut, it is at the end.

    Args:
        last: number of the prompt's tokens up to the last one of its word.
        extra: how many more the longest one has.
        size: positions of the prompts, all windows together.
        window: positions of a window.

    Returns:
        For each position, the position in the prompt.
    """
    # The 0th token is the begin token, for a word that has none of its own.
    places, chosen = [0, *prompt.places], []
    for start in range(0, size, window):
        here, ours = (
            [place for place in each.places if start < place < start + window]
            for each in (longest, prompt)
        )
        chosen.append(start)
        for place in here:
            token = longest.places.index(place) + 1
            token = token - extra if token > last + extra else min(token, last)
            chosen.append(places[min(token, len(prompt.places))])
        behind = np.arange(1, window - len(here))  # the end token, then padding
        chosen += np.minimum(start + len(ours) + behind, start + window - 1).tolist()
    return chosen
