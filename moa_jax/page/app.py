"""The page: which handler of `actions` each component of `layout` calls."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from moa_jax.data.files import Blob
from moa_jax.errors import InputError
from moa_jax.page import actions, views
from moa_jax.page.layout import Layout, Options
from moa_jax.page.link import from_query, to_query
from moa_jax.page.people import example, read_person
from moa_jax.page.session import Session, new_seed
from moa_jax.page.setup import Setup
from moa_jax.page.studio import Studio

SESSIONS = 100  # visitors whose pictures are in memory at once
SWEEP = (60, 300)  # Gradio looks every so many seconds for files older than so many

# On a phone the picture is below the form.
TO_PICTURE = """() => {
  if (window.innerWidth > 720) return;
  document.querySelector('.moa-stage').scrollIntoView({behavior: 'smooth', block: 'start'});
}"""
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE = {**QUIET, "queue": False}
PRESSED = {**AT_ONCE, "trigger_mode": "multiple"}  # a press counts while the last one is under way
# Visitors do not wait for each other in Gradio's line but in the studio's, which says their place.
DRAWING = {**QUIET, "concurrency_limit": None, "trigger_mode": "once"}
FORM = ("dial", "steps", "guidance", "sampler", "seed", "negative")

Shown = tuple[Any, ...]  # a value for each output


def make_page(studio: Studio, options: Options) -> gr.Blocks:
    """Make the page, which `launch` serves with `layout.look()`."""
    with gr.Blocks(
        title="Put people into pictures", analytics_enabled=False, delete_cache=SWEEP
    ) as blocks:
        _Page(studio, options, Layout(options, studio.places)).connect(blocks)
    return blocks


class _Page:
    """What the components do."""

    def __init__(self, studio: Studio, options: Options, layout: Layout) -> None:
        self._studio, self._options, self._layout = studio, options, layout

    def connect(self, blocks: gr.Blocks) -> None:
        """Say what every component calls."""
        on = self._layout
        form = [on.session, on.prompt, *(getattr(on, name) for name in FORM)]
        people = [on.strip, on.chips, on.swap_to, on.morph_to]
        filled = [on.prompt, *people, *form[2:], on.stage]
        drawn = [on.stage, on.seed, on.go, on.stop, on.swap, on.morph]

        on.uploads.upload(
            self._take_files, [on.session, on.uploads], [on.uploads, *people, on.stage], **AT_ONCE
        )
        on.examples.pick(self._take_example, on.session, [*people, on.stage], **PRESSED)
        on.strip.pick(self._remove, on.session, people, **PRESSED)
        on.prompt.input(
            self._edit, [on.session, on.prompt], [on.prompt, on.chips], trigger_mode="always_last",
            **AT_ONCE,
        )  # fmt: skip
        on.chips.pick(self._bind, on.session, [on.chips, on.stage], **PRESSED)
        for picker in (on.swap_to, on.morph_to):
            picker.pick(self._choose, on.session, [on.swap_to, on.morph_to], **PRESSED)

        opened = blocks.load(self._open, on.session, filled, **AT_ONCE)
        self._follow(opened.then(self._draw_linked, form, drawn, **DRAWING))
        asked = [on.go.click, on.prompt.submit]
        self._follow(gr.on(asked, self._draw, [*form, on.fresh], drawn, **DRAWING))
        gr.on(asked, None, js=TO_PICTURE, **AT_ONCE)
        on.swap.click(
            self._swap, [on.session, on.swapped], [on.pair, *drawn[2:]], **DRAWING
        ).then(self._list, on.session, on.history, **AT_ONCE)  # fmt: skip
        on.morph.click(
            self._morph, [on.session, on.morphed, on.count], [on.frames, *drawn[2:]], **DRAWING
        )
        on.stop.click(self._stop, on.session, None, **AT_ONCE)
        self._follow(on.history.pick(self._recall, on.session, filled, **AT_ONCE))

        looked = [on.session, on.layers, on.step]
        gr.on([on.layers.change, on.step.change], actions.routing_view, looked, on.routing,
            trigger_mode="always_last", **AT_ONCE)  # fmt: skip
        on.all.click(actions.routing_sheet, on.session, on.sheet, **QUIET)

    def _follow(self, event: Any) -> None:
        """After another drawing has come to the page, show what belongs to it."""
        on = self._layout
        outputs = [on.history, on.link, on.layers, on.step, on.routing, on.sheet]
        outputs += [on.swapped, on.morphed, on.pair, on.frames, on.looking, on.all]
        event.then(self._after, on.session, outputs, **AT_ONCE)

    def _people(self, session: Session) -> Shown:
        """Show the people wherever they are seen: in the strip, the words and the pickers."""
        return (
            views.people_strip(session.people, self._studio.places),
            self._words(session),
            *self._choices(session),
        )

    def _words(self, session: Session) -> str:
        return views.chips(session.prompt, session.bindings, len(session.people))

    def _choices(self, session: Session) -> Shown:
        people = actions.candidates(session, self._options.examples)
        chosen = people.index(session.other) if session.other in people else None
        picker = views.picker(people, chosen, "Who comes instead")
        if people:
            shown = views.hint("Who comes instead") + picker
        else:
            shown = views.hint("Add a picture of somebody else first.")
        return shown, shown

    def _take_files(self, session: Session, files: list[Blob] | None) -> Shown:
        error = ""
        for file in files or ():
            try:
                session.add(read_person(file), self._studio.places)
            except InputError as fault:
                error = error or str(fault)
        stage = views.stage(error=error) if error else actions.shown(session)
        return None, *self._people(session), stage

    def _take_example(self, session: Session, event: gr.EventData) -> Shown:
        at = _pressed(event)
        try:
            if at < self._options.examples:
                session.add(example(at), self._studio.places)
        except InputError as fault:
            return *self._people(session), views.stage(error=str(fault))
        return *self._people(session), actions.shown(session)

    def _remove(self, session: Session, event: gr.EventData) -> Shown:
        session.remove(_pressed(event) - views.REMOVE)
        return self._people(session)

    def _edit(self, session: Session, prompt: str | None) -> Shown:
        session.edit(prompt or "")
        # The text under the cursor is left alone unless markers were taken out of it.
        return gr.skip() if session.prompt == prompt else session.prompt, self._words(session)

    def _bind(self, session: Session, event: gr.EventData) -> Shown:
        try:
            session.bind(_pressed(event))
        except InputError as fault:
            return self._words(session), views.stage(error=str(fault))
        return self._words(session), actions.shown(session)

    def _choose(self, session: Session, event: gr.EventData) -> Shown:
        people = actions.candidates(session, self._options.examples)
        at = _pressed(event)
        session.other = people[at] if at < len(people) else None
        return self._choices(session)

    def _open(self, session: Session, request: gr.Request) -> Shown:
        """Fill the form by the link, or as it is at first."""
        start, error = self._options.start, ""
        try:
            query = dict(request.query_params)
            linked = from_query(query, start, self._options.samplers, self._options.examples)
        except InputError as fault:
            linked, error = None, str(fault)
        session.open(linked or start)
        session.linked = linked is not None and not session.wanting
        if session.wanting:
            error = "This link was made with pictures that it does not hold: drop them, click the "
            error += "words that they are, and draw."
        return *self._filled(session, linked or start), views.stage(error=error)

    def _filled(self, session: Session, setup: Setup) -> Shown:
        form = tuple(getattr(setup, name) for name in FORM)
        return session.prompt, *self._people(session), *form

    def _draw_linked(self, session: Session, *form: Any) -> Iterator[Shown]:
        if session.linked:
            session.linked = False
            yield from self._draw(session, *form, False)
        else:  # without a value Gradio would clear every output
            yield (gr.skip(),) * 6

    def _draw(self, session: Session, *form: Any) -> Iterator[Shown]:
        prompt, *values, fresh = form
        session.edit(prompt or "")  # it may have come before the last letter's own event
        asked = dict(zip(FORM, values, strict=True))
        if fresh:
            asked["seed"] = new_seed()
        try:
            setup = actions.setup_of(session, asked)
        except InputError as fault:
            yield views.stage(error=str(fault)), asked["seed"], *_buttons(False)
            return
        for shown in actions.draw(self._studio, session, setup):
            yield shown, setup.seed, *_buttons(session.job is not None)

    def _swap(self, session: Session, subject: int | None) -> Iterator[Shown]:
        for shown in actions.swap(self._studio, session, subject):
            yield shown, *_buttons(session.job is not None)

    def _morph(self, session: Session, subject: int | None, frames: int) -> Iterator[Shown]:
        for shown in actions.morph(self._studio, session, subject, int(frames)):
            yield shown, *_buttons(session.job is not None)

    def _stop(self, session: Session) -> None:
        if session.job is not None:
            session.job.stop()

    def _recall(self, session: Session, event: gr.EventData) -> Shown:
        setup = session.recall(_pressed(event)) or self._options.start
        return *self._filled(session, setup), actions.shown(session)

    def _list(self, session: Session) -> str:
        return views.history(session.history, session.shown)

    def _after(self, session: Session) -> Shown:
        entry, seen = session.entry, actions.studied(session)
        who = actions.subjects(session)

        # Made anew for each output, because Gradio empties an update when it has read it.
        def radio() -> Any:
            return gr.update(choices=who, value=who[0][1] if who else None, visible=bool(who))

        return (
            self._list(session),
            views.link_line(to_query(entry.drawn.setup) if entry else ""),
            gr.update(choices=seen.layers, value=actions.ALL),
            gr.update(maximum=max(seen.steps, 1), value=0),
            actions.routing_view(session, actions.ALL, 0),
            "",
            radio(),
            radio(),
            "",
            "",
            gr.update(visible=seen.steps > 0),
            gr.update(visible=seen.steps > 0),
        )


def _buttons(busy: bool) -> Shown:
    """Draw, stop, swap, morph: which can be pressed."""
    return tuple(gr.update(interactive=each) for each in (not busy, busy, not busy, not busy))


def _pressed(event: gr.EventData) -> int:
    """Give the number of the pressed button, which a browser sent: it may be anything."""
    at = getattr(event, "at", None)
    return at if type(at) is int and at >= 0 else 10**6
