"""What happens on the page: each handler takes a visitor's session and gives what is to be shown.

The values are HTML and plain Python; `app` puts them into Gradio's components.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.figures import layer_group, mean_weights, overlay, routing_figure
from moa_jax.page import views
from moa_jax.page.jobs import Job, Stopped
from moa_jax.page.people import Person, example
from moa_jax.page.session import Session
from moa_jax.page.setup import Setup
from moa_jax.page.studio import Drawn, Studio, require_bound, with_person

ALL = "all layers"
LARGE = 512  # pixels at least of the longer side of a picture under the routing
STOPPED = "Stopped. Nothing of it was kept."
DRAW_FIRST = "Draw a picture with somebody in it first."

Views = Iterator[str]


@dataclass(frozen=True)
class Studied:
    """What can be chosen for the routing of a drawing.

    Attributes:
        layers: the groups of layers.
        steps: how many there are; 0 without routing.
    """

    layers: list[str]
    steps: int


def run(session: Session, start: Callable[[], Job], finish: Callable[[Drawn], str]) -> Views:
    """Run a job, and give what to show until it ends, whatever the end is.

    Args:
        start: puts the job into the line.
        finish: what to show of its result.
    """
    picture = None
    try:
        if session.job is not None:
            raise InputError("Something is being drawn already: wait, or stop it.")
        session.job = start()
    except InputError as error:
        yield views.stage(error=str(error))
        return
    try:
        for update in session.job.updates():
            picture = update.preview or picture
            yield views.stage(picture, update=update, alt="A preview")
        drawn = session.job.result()
    except Stopped:
        yield views.stage(note=STOPPED)
        return
    except InputError as error:
        yield views.stage(error=str(error))
        return
    finally:
        session.job = None
    yield finish(drawn)


def draw(studio: Studio, session: Session, setup: Setup) -> Views:
    """Draw what the form asks for."""
    people = tuple(session.people)

    def finish(drawn: Drawn) -> str:
        session.keep(drawn, people)
        return shown(session)

    return run(session, lambda: studio.draw(setup, session.pictures()), finish)


def swap(studio: Studio, session: Session, subject: int | None) -> Views:
    """Draw the picture on the page again, from the same noise, with somebody else in it."""
    entry, other, people = session.entry, session.other, ()

    def start() -> Job:
        nonlocal people  # the visitor may choose somebody else while this is drawn
        setup, people = _changed(session, subject)
        return studio.draw(setup, [person.picture for person in people])

    def finish(drawn: Drawn) -> str:
        session.keep(drawn, people, show=False)
        was = entry.people[subject - 1].name
        pictures = [(f"Before: {was}", entry.drawn.images[0])]
        return views.side_by_side([*pictures, (f"Now: {other.name}", drawn.images[0])])

    return run(session, start, finish)


def morph(studio: Studio, session: Session, subject: int | None, frames: int) -> Views:
    """Draw somebody of the picture on the page becoming somebody else."""

    def start() -> Job:
        _changed(session, subject)  # refuses what cannot be
        entry = session.entry
        pictures = [person.picture for person in entry.people]
        return studio.morph(entry.drawn.setup, pictures, subject, session.other.picture, frames)

    return run(session, start, lambda drawn: views.frames(drawn.images))


def _changed(session: Session, subject: int | None) -> tuple[Setup, tuple[Person, ...]]:
    """Give the setup and the people of the drawing on the page with somebody else in it.

    Raises:
        InputError: there is no drawing with this subject, or nobody was chosen.
    """
    entry = session.entry
    if entry is None or subject is None:
        raise InputError(DRAW_FIRST)
    if session.other is None:
        raise InputError("Choose who comes instead.")
    setup = entry.drawn.setup
    require_bound(setup, subject)
    people = [*entry.people[: subject - 1], session.other, *entry.people[subject:]]
    return with_person(setup, subject, session.other.number), tuple(people)


def shown(session: Session) -> str:
    """Show the drawing of the page, large."""
    entry = session.entry
    if entry is None:
        return views.stage()
    drawn = entry.drawn
    setup = drawn.setup
    return views.stage(
        drawn.images[0],
        caption=views.caption_of(drawn),
        alt=f"Drawn: {setup.prompt}",
        note=drawn.note,
        download=f"moa-{setup.seed}.png",
    )


def subjects(session: Session) -> list[tuple[str, int]]:
    """List who can be changed in the drawing on the page, with their numbers."""
    entry = session.entry
    if entry is None:
        return []
    bound = sorted(set(entry.drawn.setup.bindings.values()))
    return [(f"{k}: {entry.people[k - 1].name}", k) for k in bound]


def candidates(session: Session, examples: int) -> list[Person]:
    """List who may come in: the subjects, and the people of the toy world."""
    own = [person for person in session.people if person.number is None]
    return [*own, *(example(number) for number in range(examples))]


def studied(session: Session) -> Studied:
    """Say what can be chosen for the routing of the drawing on the page."""
    routing = session.entry.drawn.routing if session.entry else {}
    if not routing:
        return Studied([ALL], 0)
    groups = list(dict.fromkeys(map(_group, sorted(routing))))
    return Studied([ALL, *groups], len(next(iter(routing.values()))))


def routing_view(session: Session, layers: str, step: int) -> str:
    """Show who drew what, over the grey picture.

    Args:
        layers: a group of layers, or ALL.
        step: counted from 1; 0 means the mean of all steps.
    """
    entry = session.entry
    if entry is None or not entry.drawn.routing:
        return views.hint(DRAW_FIRST if entry is None else "Plain Stable Diffusion drew all of it.")
    routing = {
        path: maps.astype(np.float32)
        for path, maps in entry.drawn.routing.items()
        if layers in (ALL, _group(path))
    }
    if not routing:
        return views.hint("This drawing has no such layers.")
    steps = len(next(iter(routing.values())))
    if 1 <= step <= steps:
        routing = {path: maps[step - 1 : step] for path, maps in routing.items()}
    weights = mean_weights(routing)
    over = overlay(_enlarged(entry.drawn.images[0]), weights)
    when = f"step {step} of {steps}" if 1 <= step <= steps else "all steps"
    share = 100 * float(weights.mean())
    text = f"{layers}, {when}: the personalized expert draws {share:.0f} % of the picture."
    return views.stage(over, caption=text, alt=f"Routing, {text}")


def routing_sheet(session: Session) -> str:
    """Show every group of layers and five steps in one figure."""
    entry = session.entry
    if entry is None or not entry.drawn.routing:
        return views.hint(DRAW_FIRST)
    figure = routing_figure(_enlarged(entry.drawn.images[0]), entry.drawn.routing)
    alt = "A map for each stage of the U-Net, kind of attention and step: bright is personalized"
    return views.stage(figure, alt=alt)


def setup_of(session: Session, form: dict[str, Any]) -> Setup:
    """Put the form and the session together.

    Args:
        form: the fields of `Setup` that are not in the session.

    Raises:
        InputError: a value is missing or out of range.
    """
    if empty := [name for name, value in form.items() if value is None]:
        raise InputError(f"{empty[0]} is empty: give it a value")
    people = tuple(person.number for person in session.people)
    # A slider gives 1 for 1.0, and a field 3.0 for 3.
    numbers = {name: int(form[name]) for name in ("seed", "steps")}
    numbers |= {name: float(form[name]) for name in ("guidance", "dial")}
    fixed = replace(Setup(""), **{**form, **numbers})
    return replace(fixed, prompt=session.prompt, people=people, bindings=dict(session.bindings))


def _group(path: str) -> str:
    return ", ".join(layer_group(path))


def _enlarged(picture: Image.Image) -> Image.Image:
    """Enlarge a small picture, so that maps over it are smooth."""
    times = -(-LARGE // max(picture.size))
    size = (picture.width * times, picture.height * times)
    return picture if times <= 1 else picture.resize(size, Image.Resampling.LANCZOS)
