"""Which pictures are drawn: every person after every prompt, then every pair of people.

Source: the protocol of FastComposer (arXiv 2305.10431): prompts of four kinds (accessory, style,
action, context), ten of each, and 21 prompts for two people; four pictures of each. Its wording is
not copied: the prompts are our own, in `prompts.json`. No network is run here.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.errors import InputError

PROMPTS = Path(__file__).with_name("prompts.json")
PEOPLE_FILE = "people.jsonl"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic")
PAIRS = "pairs"  # the kind of the prompts for two people
PLACES = {1: ("person",), 2: ("first", "second")}  # in a prompt, where the words of people go


@dataclass(frozen=True)
class Person:
    """Somebody to draw.

    Attributes:
        word: the class noun, such as "woman".
        pictures: files; the first one is shown to the model, all tell who it is.
    """

    name: str
    word: str
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt, with places for the words of people.

    Attributes:
        kind: "accessory", "style", "action", "context", or PAIRS.
        number: its number among those of its kind, from 0.
        index: its number among all prompts, from 0.
    """

    template: str
    kind: str
    number: int
    index: int


@dataclass(frozen=True)
class Trial:
    """One picture to draw.

    Attributes:
        people: one or two, in the prompt's order.
        picture: its number among those of these people and this prompt, from 0.
    """

    people: tuple[Person, ...]
    prompt: Prompt
    picture: int

    @property
    def unit(self) -> str:
        """The people's names."""
        return "+".join(person.name for person in self.people)

    @property
    def name(self) -> str:
        """The name of its file, without the suffix."""
        return f"{self.unit}/{self.prompt.kind}-{self.prompt.number:02d}-{self.picture}"

    @property
    def caption(self) -> str:
        """The prompt in words alone."""
        return self._filled("")

    @property
    def marked(self) -> str:
        """The prompt with a marker after the word of each person."""
        return self._filled(f" {IMAGE_MARKER}")

    def _filled(self, end: str) -> str:
        words = [person.word + end for person in self.people]
        return _fill(self.prompt.template, PLACES[len(words)], words)


def read_people(folder: str | Path, word: str = "person") -> list[Person]:
    """Read who is to be drawn.

    Args:
        folder: a picture for each person, named by the file; or a folder of pictures for each,
            named by the folder. Lines of PEOPLE_FILE, {"name": "ann", "word": "woman"}, give the
            class nouns.
        word: the class noun of those that have no such line.

    Raises:
        InputError: there is nobody, a name stands for two, or a line is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"--people {str(folder)!r}: there is no such folder")
    found: dict[str, tuple[Path, ...]] = {}
    for entry in sorted(folder.iterdir()):
        pictures = tuple(_pictures(entry.iterdir() if entry.is_dir() else [entry]))
        name = entry.name if entry.is_dir() else entry.stem
        if pictures and name in found:
            raise InputError(f"--people {str(folder)!r}: two entries have the name {name!r}")
        if pictures:
            found[name] = pictures
    if not found:
        raise InputError(
            f"--people {str(folder)!r} has no pictures ({', '.join(SUFFIXES)}): put one for each "
            "person there, or a folder of pictures for each"
        )
    words = _words(folder / PEOPLE_FILE, found)
    return [Person(name, words.get(name, word), files) for name, files in found.items()]


def read_prompts(file: str | Path = PROMPTS) -> list[Prompt]:
    """Read prompts.

    Args:
        file: JSON: "people" holds lists of prompts by their kind, each with one {person}; "pairs",
            which may be left out, a list with {first} and {second} in each.

    Raises:
        InputError: the file cannot be read or has another form, or a prompt lacks a place.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        kinds = {**content["people"], PAIRS: content.get("pairs", [])}
        entries = [(kind, i, text) for kind, texts in kinds.items() for i, text in enumerate(texts)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--prompts {str(file)!r} cannot be read ({error!r}); it needs "
            '{"people": {"style": ["a drawing of a {person}", ...], ...}, "pairs": [...]}'
        ) from error
    for kind, _, text in entries:
        for place in PLACES[2 if kind == PAIRS else 1]:
            if not isinstance(text, str) or text.count(f"{{{place}}}") != 1:
                raise InputError(f"--prompts {str(file)!r}: {text!r} needs one {{{place}}}")
    return [Prompt(text, kind, i, index) for index, (kind, i, text) in enumerate(entries)]


def make_trials(
    people: Sequence[Person],
    prompts: Sequence[Prompt],
    pictures: int,
    pairs: int | None = None,
    seed: int = 0,
) -> list[Trial]:
    """List all pictures: people alone, by person and prompt, then pairs.

    Args:
        pictures: for each person or pair, and prompt.
        pairs: number of pairs, drawn by the seed; None means all.

    Raises:
        InputError: a number is out of range.
    """
    if pictures < 1:
        raise InputError(f"--pictures {pictures}: must be 1 or more")
    every = [*combinations(people, 2)]
    if pairs is not None and not 0 <= pairs <= len(every):
        raise InputError(f"--pairs {pairs}: {len(people)} people make {len(every)} pairs")
    order = np.random.default_rng(seed).permutation(len(every))
    chosen = every if pairs is None else [every[i] for i in sorted(order[:pairs])]
    groups: list[tuple[Person, ...]] = [*((person,) for person in people), *chosen]
    return [
        Trial(group, prompt, picture)
        for group in groups
        for prompt in prompts
        if (prompt.kind == PAIRS) == (len(group) == 2)
        for picture in range(pictures)
    ]


def _fill(template: str, places: Iterable[str], words: Iterable[str]) -> str:
    # Not by format(): a prompt may hold other braces.
    for place, word in zip(places, words, strict=True):
        template = template.replace(f"{{{place}}}", word)
    return template


def _pictures(entries: Iterable[Path]) -> list[Path]:
    return sorted(entry for entry in entries if entry.suffix.lower() in SUFFIXES)


def _words(file: Path, known: dict[str, Any]) -> dict[str, str]:
    """Read the class nouns of people."""
    words: dict[str, str] = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            name, word = str(entry["name"]), str(entry["word"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{file} line {number}: must be {{"name": "ann", "word": "woman"}}'
            ) from error
        if name not in known:
            raise InputError(f"{file} line {number}: there are no pictures of {name!r}")
        words[name] = word
    return words
