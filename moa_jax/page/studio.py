"""The one place that draws: setups and pictures in, jobs out. Knows no page.

Everything that computes runs as a job of one desk, so that two visitors never share the device.
"""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from PIL import Image

from moa_jax.applications import morph
from moa_jax.errors import InputError
from moa_jax.page.jobs import Desk, Job
from moa_jax.page.prompt import mark
from moa_jax.page.setup import MAX_PEOPLE, Setup
from moa_jax.sampling.pipeline import Pipeline, Result
from moa_jax.sampling.prompts import encode_prompt
from moa_jax.sampling.settings import Settings

PREVIEWS = 0.2  # share of the time that previews may take
FRAMES = (2, 16)  # of a morph


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a job drew.

    Attributes:
        setup: what it was asked for.
        images: the picture, or the frames of a morph.
        routing: see `Result`, in half precision.
        seconds: how long it took, without waiting.
        note: what the visitor should know of it, in words; often empty.
    """

    setup: Setup
    images: list[Image.Image]
    routing: dict[str, np.ndarray]
    seconds: float
    note: str = ""


class Studio:
    """A loaded pipeline, and the line before it.

    Attributes:
        places: how many pictures of people there may be; 0 without MoA. The weights may draw fewer
            of them at once.
    """

    def __init__(self, pipe: Pipeline, settings: Settings, desk: Desk | None = None) -> None:
        """Open the studio.

        Args:
            settings: for all that a setup does not say.
            desk: the line; None means a new one.
        """
        self._pipe = pipe
        self._settings = settings
        self._desk = desk or Desk()
        self._at_once = pipe.max_subjects if pipe.model else 0
        self.places = MAX_PEOPLE if pipe.model else 0

    def draw(self, setup: Setup, pictures: Sequence[Image.Image]) -> Job:
        """Draw a picture; the job's result is a `Drawn`.

        Args:
            pictures: of each subject of the setup, in their order.

        Raises:
            InputError: the line is too long.
        """

        def work(prompt: str, subjects: list[Image.Image], options: dict[str, Any]) -> Result:
            return self._pipe(prompt, subjects, num_images=1, **options)

        return self._add(setup, pictures, work)

    def morph(
        self,
        setup: Setup,
        pictures: Sequence[Image.Image],
        subject: int,
        to: Image.Image,
        frames: int,
    ) -> Job:
        """Draw a subject becoming somebody else; the job's result is a `Drawn`.

        Args:
            pictures: of each subject of the setup, in their order.
            subject: who changes, counted from 1; its first word, if it has several.
            frames: how many pictures, both ends included.

        Raises:
            InputError: the subject is bound to no word, a number is out of range, or the line is
                too long.
        """
        least, most = FRAMES
        if not least <= frames <= most:
            raise InputError(f"frames={frames}: must lie between {least} and {most}")
        _, numbers = mark(setup.prompt, setup.bindings)
        require_bound(setup, subject)

        def work(prompt: str, subjects: list[Image.Image], options: dict[str, Any]) -> Result:
            which = numbers.index(subject)
            return morph(self._pipe, prompt, subjects, to, frames, which=which, **options)

        return self._add(setup, pictures, work, shown=frames // 2)

    def _add(
        self,
        setup: Setup,
        pictures: Sequence[Image.Image],
        draw: Callable[[str, list[Image.Image], dict[str, Any]], Result],
        shown: int = 0,
    ) -> Job:
        """Put a drawing into the line.

        Args:
            draw: gets the prompt, a picture for each marker, and the options of the call.
            shown: which picture of the batch previews show.
        """
        if not setup.prompt.strip():
            raise InputError("The prompt is empty: write what the picture shows.")
        prompt, numbers = mark(setup.prompt, setup.bindings)
        if len(numbers) > self._at_once:
            raise InputError(
                f"{len(numbers)} words are somebody: these weights draw at most {self._at_once} "
                "people at once. Click a word until it is nobody."
            )
        subjects = [pictures[number - 1] for number in numbers]
        settings = setup.settings(self._settings)

        def work(job: Job) -> Drawn:
            start = time.monotonic()
            options = {
                "negative_prompt": setup.negative,
                "seed": setup.seed,
                "on_step": _Reporter(self._pipe, job, setup.steps, shown),
                **vars(settings),
            }
            with warnings.catch_warnings():
                # The visitor is told by a note; what was written stays out of the server's log.
                warnings.filterwarnings("ignore", message=".* is longer than .* tokens")
                result = draw(prompt, subjects, options)
            routing = {path: maps.astype(np.float16) for path, maps in result.routing.items()}
            note = self._note(setup, len(pictures))
            return Drawn(setup, result.images, routing, time.monotonic() - start, note)

        return self._desk.add(work)

    def _note(self, setup: Setup, people: int) -> str:
        """Say what had no effect: people without a word, and words that did not fit."""
        notes = []
        unbound = sorted(set(range(1, people + 1)) - set(setup.bindings.values()))
        if unbound and len(setup.bindings) < self._at_once:
            notes.append(f"No word is subject {unbound[0]}: click the one that it is.")
        lost = encode_prompt(self._pipe.base.tokenizer, setup.prompt).truncated
        if lost:
            notes.append(f"The prompt is too long, and this was not read: {lost!r}.")
        return " ".join(notes)


def require_bound(setup: Setup, subject: int) -> None:
    """Refuse a subject that no word is.

    Raises:
        InputError: there is no such subject in the picture.
    """
    if subject not in setup.bindings.values():
        raise InputError(
            f"subject={subject}: no word of the drawn prompt is subject {subject}; click a word, "
            "and draw first"
        )


def with_person(setup: Setup, subject: int, number: int | None) -> Setup:
    """Give the setup in which somebody else is a subject.

    Args:
        number: in the toy world; None for a picture of one's own.
    """
    people = [*setup.people[: subject - 1], number, *setup.people[subject:]]
    return replace(setup, people=tuple(people))


class _Reporter:
    """What the sampler calls after each step: it counts, and decodes a preview now and then.

    Decoding may cost much of a step's time. It is done as often as leaves most of the time to the
    steps, by how long it took at best so far; the first may have compiled.
    """

    def __init__(self, pipe: Pipeline, job: Job, total: int, shown: int) -> None:
        self._pipe, self._job, self._total, self._shown = pipe, job, total, shown
        self._done, self._cost, self._last = 0, math.inf, -math.inf

    def __call__(self, _: int, latents: jax.Array) -> None:
        self._done += 1
        self._job.report(self._done, self._total)
        start = time.monotonic()
        due = math.isinf(self._cost) or start - self._last >= self._cost / PREVIEWS
        if due and self._done < self._total:
            picture = self._pipe.decode(latents[self._shown : self._shown + 1])[0]
            self._last = time.monotonic()
            self._cost = min(self._cost, self._last - start)
            self._job.report(self._done, self._total, picture)
