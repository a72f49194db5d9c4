"""What one visitor has: people, words that they are, and what was drawn."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from moa_jax.errors import InputError
from moa_jax.page.jobs import Job
from moa_jax.page.people import Person, example
from moa_jax.page.prompt import carry_over, cycle, read_markers, without
from moa_jax.page.setup import MAX_PROMPT, Setup
from moa_jax.page.studio import Drawn

KEPT = 16  # drawings in the history


@dataclass(frozen=True, eq=False)
class Entry:
    """A drawing of the history, with the people who are in it."""

    drawn: Drawn
    people: tuple[Person, ...]


@dataclass(eq=False)
class Session:
    """What one visitor has; the handlers of the page change it in place.

    Attributes:
        prompt: without markers.
        bindings: which subject (counted from 1) a word (counted from 0) is.
        people: the subjects, in their order.
        history: the newest first.
        shown: the number in `history` of the drawing on the page.
        job: what is being drawn.
        other: who is to come in by a swap or a morph.
        linked: a link has just been opened, and is to be drawn.
        wanting: a link asked for pictures of somebody's own, which it does not have.
    """

    prompt: str = ""
    bindings: dict[int, int] = field(default_factory=dict)
    people: list[Person] = field(default_factory=list)
    history: list[Entry] = field(default_factory=list)
    shown: int = 0
    job: Job | None = None
    other: Person | None = None
    linked: bool = False
    wanting: bool = False

    @property
    def entry(self) -> Entry | None:
        """The drawing on the page."""
        return self.history[self.shown] if self.shown < len(self.history) else None

    def edit(self, prompt: str) -> None:
        """Take an edited prompt; words keep who they are, and markers become bindings."""
        prompt = prompt[:MAX_PROMPT]
        plain, marked = read_markers(prompt)
        if plain != prompt:
            self.bindings = {w: k for w, k in marked.items() if k <= len(self.people)}
        else:
            self.bindings = carry_over(self.prompt, prompt, self.bindings)
        self.prompt = plain

    def bind(self, word: int) -> None:
        """Make a word the next subject.

        Raises:
            InputError: there is nobody yet.
        """
        if not self.people:
            raise InputError("Add a picture of somebody first, then click the word that it is.")
        self.bindings = cycle(self.bindings, word, len(self.people))

    def add(self, person: Person, most: int) -> None:
        """Add somebody at the end.

        Raises:
            InputError: there is no room.
        """
        if most == 0:
            raise InputError("This page draws with plain Stable Diffusion: start it with --moa.")
        if len(self.people) >= most:
            raise InputError(f"There is room for {most} people: take one away first.")
        self.people.append(person)

    def remove(self, subject: int) -> None:
        """Take a subject away; those after it move up."""
        if 1 <= subject <= len(self.people):
            del self.people[subject - 1]
            self.bindings = without(self.bindings, subject)

    def open(self, setup: Setup) -> None:
        """Take what a link says; people of one's own are left out, with their words."""
        self.prompt, self.bindings = setup.prompt, dict(setup.bindings)
        self.wanting = None in setup.people
        for subject in range(len(setup.people), 0, -1):
            if setup.people[subject - 1] is None:
                self.bindings = without(self.bindings, subject)
        self.people = [example(number) for number in setup.people if number is not None]

    def keep(self, drawn: Drawn, people: Sequence[Person], show: bool = True) -> None:
        """Put a drawing into the history.

        Args:
            show: whether it becomes the drawing on the page.
        """
        self.history = [Entry(drawn, tuple(people)), *self.history][:KEPT]
        self.shown = 0 if show else min(self.shown + 1, KEPT - 1)

    def recall(self, number: int) -> Setup | None:
        """Show a drawing of the history, and bring back what made it.

        Returns:
            Its setup; None if there is no such drawing.
        """
        if not 0 <= number < len(self.history):
            return None
        self.shown = number
        entry = self.history[number]
        setup = entry.drawn.setup
        self.prompt, self.bindings = setup.prompt, dict(setup.bindings)
        self.people = list(entry.people)
        return setup

    def pictures(self) -> list[Image.Image]:
        """List the subjects' pictures."""
        return [person.picture for person in self.people]


def new_seed() -> int:
    """Draw a seed that is short enough to be told."""
    return secrets.randbelow(10**6)
