"""The words of a prompt, and which subject each of them is.

On the page nobody writes markers: words are clicked, and a binding says that word i of the prompt
(counted from 0) is subject k (counted from 1). The markers that the pipeline reads are made here.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from moa_jax.data.captions import IMAGE_MARKER

Bindings = Mapping[int, int]  # number of a word -> number of its subject

# Letters and digits, with apostrophes and hyphens between them: "man's" and "blue-haired" are one.
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_ALIKE = 0.5  # share of letters, at least, that a word keeps when it is edited together with others


class Word(NamedTuple):
    """A word, and its place in the prompt in characters."""

    text: str
    start: int
    end: int


def find_words(prompt: str) -> list[Word]:
    """List the words of a prompt without markers, in their order."""
    return [Word(found[0], found.start(), found.end()) for found in _WORD.finditer(prompt)]


def cycle(bindings: Bindings, word: int, subjects: int) -> dict[int, int]:
    """Give a word the next subject: nobody, subject 1, subject 2 and so on, and nobody again.

    Args:
        subjects: how many there are.
    """
    following = bindings.get(word, 0) + 1
    others = {key: value for key, value in bindings.items() if key != word}
    return others | ({word: following} if following <= subjects else {})


def without(bindings: Bindings, subject: int) -> dict[int, int]:
    """Take a subject away; those after it move up by one."""
    return {
        word: number - (number > subject) for word, number in bindings.items() if number != subject
    }


def mark(prompt: str, bindings: Bindings) -> tuple[str, list[int]]:
    """Write the markers after the words that are subjects.

    Returns:
        The prompt for the pipeline, and the number of the subject of each marker.
    """
    words = find_words(prompt)
    bound = sorted(word for word in bindings if word < len(words))
    pieces, place = [], 0
    for word in bound:
        pieces += [prompt[place : words[word].end], f" {IMAGE_MARKER}"]
        place = words[word].end
    return "".join([*pieces, prompt[place:]]), [bindings[word] for word in bound]


def read_markers(prompt: str) -> tuple[str, dict[int, int]]:
    """Take the markers out of a prompt that was written with them.

    Returns:
        The prompt without markers, and the bindings that they stand for: the first marker's word is
        subject 1. A marker that follows no word is dropped.
    """
    *marked, last = re.split(rf"\s*{re.escape(IMAGE_MARKER)}", prompt)
    plain, bindings = "", {}
    for subject, piece in enumerate(marked, start=1):
        plain += piece
        words = find_words(plain)
        if words:
            bindings[len(words) - 1] = subject
    return plain + last, bindings


def carry_over(before: str, after: str, bindings: Bindings) -> dict[int, int]:
    """Keep the bindings of words when the prompt is edited.

    A word that stays keeps its subject, wherever it stands then. So does a word that is changed on
    its own, as while it is typed. Where several words change at once, the subject goes to the one
    that is most like the old one, and is lost if none is.
    """
    old = [word.text.lower() for word in find_words(before)]
    new = [word.text.lower() for word in find_words(after)]
    kept = {}
    matcher = SequenceMatcher(a=old, b=new, autojunk=False)
    for how, a, end_a, b, end_b in matcher.get_opcodes():
        for word in range(a, end_a):
            if word not in bindings:
                continue
            if how == "equal" or (how == "replace" and end_a - a == end_b - b):
                kept[b + word - a] = bindings[word]
            elif how == "replace":
                best = _most_alike(old[word], new[b:end_b])
                if best is not None:
                    kept[b + best] = bindings[word]
    return kept


def _most_alike(word: str, others: Sequence[str]) -> int | None:
    """Find the word that another one has become; None if none is like it."""
    # "tallman" becomes "tall man" as a word is typed before another: what it ends in is the noun.
    alike = [
        (word.endswith(other), SequenceMatcher(a=word, b=other).ratio(), at)
        for at, other in enumerate(others)
    ]
    ending, ratio, at = max(alike)
    return at if ending or ratio >= _ALIKE else None
