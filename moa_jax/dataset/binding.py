"""Bind the words of a caption to places in the picture: what a grounder found becomes subjects.

A subject is one noun at one place. A noun that was found in several places, or names several
things, is ambiguous: nothing says which word is whose. It is left out, with the reason.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from moa_jax.data.captions import find_word
from moa_jax.dataset.models import Box, Phrase
from moa_jax.dataset.nouns import WORD, Noun, find_noun, is_english, is_one_of, speaks_of

SAME_BOX = 0.8  # overlap from which two boxes are one thing [ours]
# Of CLIP's 77 tokens two mark the ends, and a word or a punctuation mark takes one at least.
MOST_TOKENS = 75
MOST_WORDS = 50  # of a caption that a network wrote; about 65 tokens [ours]


@dataclass(frozen=True)
class Bound:
    """A noun of the caption, and the one place where it is.

    Attributes:
        text: the phrase that it stands in.
        box: x1, y1, x2, y2 in pixels.
    """

    noun: Noun
    text: str
    box: Box


@dataclass(frozen=True)
class Binding:
    """What one caption gives.

    Attributes:
        subjects: in the order of their words.
        left_out: of each ambiguous phrase the reason, as "kind: detail".
    """

    caption: str
    subjects: tuple[Bound, ...]
    left_out: tuple[str, ...]


def bind(caption: str, phrases: Sequence[Phrase], wanted: frozenset[str] | None) -> Binding:
    """Find the subjects among the phrases that a grounder found.

    Args:
        wanted: nouns that may be subjects, in the singular; None means every noun.
    """
    found: dict[int, Bound] = {}  # by the end of the noun: nested phrases may share one
    places: dict[int, list[Box]] = {}
    left_out = []
    for phrase in phrases:
        text = caption[phrase.start : phrase.end]
        noun = find_noun(caption, phrase.start, phrase.end)
        if isinstance(noun, str):
            left_out += [f"ambiguous: {noun}"] if speaks_of(text, wanted) else []
        elif not is_one_of(noun.text, wanted) or not phrase.boxes:
            continue
        elif len(re.findall(r"\w+|[^\w\s]+", caption[: noun.end])) > MOST_TOKENS:
            left_out.append(f"far in the caption: {text!r} is past the tokens that CLIP reads")
        else:
            found.setdefault(noun.end, Bound(noun, text, phrase.boxes[0]))
            places.setdefault(noun.end, []).extend(phrase.boxes)
    single = []
    for end, bound in sorted(found.items()):
        count = len(distinct(places[end]))
        if count > 1:
            left_out.append(f"ambiguous: {bound.text!r} was found in {count} places")
        else:
            single.append(bound)
    subjects, clashes = _without_repetitions(single)
    if not subjects and not left_out and not clashes and not is_english(caption):
        clashes = ["not English: only English captions are bound; write the row by hand"]
    return Binding(caption, tuple(subjects), (*left_out, *clashes))


def _without_repetitions(bound: Sequence[Bound]) -> tuple[list[Bound], list[str]]:
    """Keep the first mention of each thing; leave out things that have two different nouns."""
    kept: list[Bound] = []
    clashes: dict[int, str] = {}  # by the end of the noun
    for each in bound:
        same = [other for other in kept if overlap(each.box, other.box) >= SAME_BOX]
        for other in same:
            if other.noun.text != each.noun.text:
                reason = f"ambiguous: {other.text!r} and {each.text!r} are at one place"
                clashes[other.noun.end] = reason
        if not same:
            kept.append(each)
    return [each for each in kept if each.noun.end not in clashes], list(clashes.values())


def shorten(caption: str) -> str:
    """Keep as many whole sentences of a caption as have MOST_WORDS words; the first in any case."""
    sentences = re.split(r"(?<=[.!?])\s+", caption)
    kept = sentences[:1]
    for sentence in sentences[1:]:
        if len(" ".join([*kept, sentence]).split()) > MOST_WORDS:
            break
        kept.append(sentence)
    return " ".join(kept)


def name_words(caption: str, nouns: Sequence[Noun]) -> list[str]:
    """Write each noun so that `metadata.jsonl` means just this one.

    There the n-th subject of the same word takes its n-th occurrence. A noun whose occurrence
    would be another is written with the words before it, as many as it takes.

    Args:
        nouns: in the order of the caption, none twice.
    """
    seen: Counter[str] = Counter()
    words = []
    for noun in nouns:
        starts = [found.start() for found in WORD.finditer(caption, 0, noun.end)]
        starts = [start for start in reversed(starts) if start < noun.start]
        for start in (noun.start, *starts):
            word = caption[start : noun.end]
            if find_word(caption, word, seen[word.lower()] + 1) == noun.end:
                break
        else:
            raise ValueError(f"{caption!r}: no words name {noun.text!r} at {noun.start}")
        seen[word.lower()] += 1
        words.append(word)
    return words


def distinct(boxes: Sequence[Box]) -> list[Box]:
    """Give the boxes that are different things: those that overlap by SAME_BOX are one."""
    kept: list[Box] = []
    for box in boxes:
        if all(overlap(box, other) < SAME_BOX for other in kept):
            kept.append(box)
    return kept


def overlap(one: Box, other: Box) -> float:
    """Give the area that two boxes share, divided by the area that they cover together."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0
