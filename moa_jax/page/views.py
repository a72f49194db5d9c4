"""The HTML of the page, from what is to be shown. Every text is escaped; pictures are in place.

What can be pressed is a button with a number, `data-at`, which the script of `app` sends back.
Subjects have a colour and always a number too, for those who do not see the colour.
"""

from collections.abc import Sequence
from html import escape

from PIL import Image

from moa_jax.page.jobs import Update
from moa_jax.page.people import Person, data_url
from moa_jax.page.prompt import Bindings, find_words
from moa_jax.page.session import Entry
from moa_jax.page.studio import Drawn

HIGH = 500  # pixels of the large picture on the page; a phone shows what fits
THUMB = 160  # pixels of small pictures, which are shown at half of that
REMOVE = 100  # added to a subject's number on the button that removes it


def people_strip(people: Sequence[Person], most: int) -> str:
    """Show the subjects, each with a button to take it away, and the places that are free."""
    slots = []
    for subject, person in enumerate(people, start=1):
        who = f"subject {subject}, {escape(person.name)}"
        slots.append(
            f'<li class="moa-slot moa-subject-{subject}">'
            f'<img src="{data_url(person.picture, THUMB)}" alt="{who}">'
            f'<span class="moa-number" aria-hidden="true">{subject}</span>'
            f'<button type="button" data-at="{REMOVE + subject}" aria-label="Take away {who}">'
            f'<span aria-hidden="true">×</span></button></li>'
        )
    for subject in range(len(people) + 1, most + 1):
        slots.append(f'<li class="moa-slot moa-free"><span>{subject}</span></li>')
    return f'<ul class="moa-strip" aria-label="People in the picture">{"".join(slots)}</ul>'


def picker(people: Sequence[Person], chosen: int | None, label: str) -> str:
    """Show people to choose from, as small buttons.

    Args:
        chosen: the number of the one that is pressed; None for none.
    """
    buttons = [
        f'<button type="button" class="moa-face" data-at="{at}" title="{escape(person.name)}" '
        f'aria-label="{_title(person)}" aria-pressed="{_flag(at == chosen)}">'
        f'<img src="{data_url(person.picture, THUMB)}" alt=""></button>'
        for at, person in enumerate(people)
    ]
    return (
        f'<div class="moa-faces" role="group" aria-label="{escape(label)}">{"".join(buttons)}</div>'
    )


def chips(prompt: str, bindings: Bindings, people: int) -> str:
    """Show the words of the prompt as buttons that say who each of them is."""
    words = find_words(prompt)
    if not words:
        return hint("Write a prompt, and its words appear here.")
    buttons = []
    for at, word in enumerate(words):
        subject = bindings.get(at)
        who = f"subject {subject}" if subject else "nobody"
        badge = f'<b aria-hidden="true">{subject}</b>' if subject else ""
        kind = f" moa-bound moa-subject-{subject}" if subject else ""
        buttons.append(
            f'<button type="button" class="moa-chip{kind}" data-at="{at}" '
            f'aria-label="{escape(word.text)}: {who}" aria-pressed="{_flag(bool(subject))}">'
            f"{escape(word.text)}{badge}</button>"
        )
    if not people:
        text = "Add a picture above, then click the word that it is."
    elif bindings:
        text = "Click a word again for the next person, and once more for nobody."
    else:
        text = "Now click the word that each picture is."
    label = "Who each word is"
    row = f'<div class="moa-chips" role="group" aria-label="{label}">{"".join(buttons)}</div>'
    return row + hint(text)


def stage(
    picture: Image.Image | None = None,
    *,
    caption: str = "",
    alt: str = "",
    update: Update | None = None,
    error: str = "",
    note: str = "",
    download: str = "",
) -> str:
    """Show the picture, large, with what is going on below.

    Args:
        caption: one line below it.
        alt: what the picture shows.
        update: of the drawing that is under way.
        error: what went wrong, in words.
        note: what else should be known.
        download: the file's name, if it can be saved.
    """
    if picture is None:
        says = "Your picture appears here" if update is None else "Noise first, then a picture"
        shown = f'<div class="moa-empty"><span>{says}</span></div>'
    else:
        form = "PNG" if download else "WEBP"
        url = data_url(picture, form=form)
        wide = _width(picture)
        shown = f'<img class="moa-picture" style="{wide}" src="{url}" alt="{escape(alt)}">'
        if download:
            shown += (
                f'<a class="moa-save" download="{escape(download)}" href="{url}">Save as PNG</a>'
            )
    lines = [_progress(update)] if update else []
    if error:
        lines.append(f'<p class="moa-error" role="alert">{escape(error)}</p>')
    if note:
        lines.append(f'<p class="moa-note">{escape(note)}</p>')
    if caption:
        lines.append(f'<p class="moa-caption">{escape(caption)}</p>')
    return f'<div class="moa-frame">{shown}</div><div role="status">{"".join(lines)}</div>'


def _progress(update: Update) -> str:
    if update.place:
        before = "one drawing is" if update.place == 1 else f"{update.place} drawings are"
        text = f"You are number {update.place + 1} in the line: {before} first."
        return f'<p class="moa-wait">{text}</p>'
    if not update.total:
        return (
            '<p class="moa-wait">Starting: the first picture of a kind takes a moment longer.</p>'
        )
    share = round(100 * update.done / update.total)
    text = f"Step {update.done} of {update.total}"
    return (
        f'<div class="moa-bar" role="progressbar" aria-label="Drawing" aria-valuemin="0" '
        f'aria-valuemax="{update.total}" aria-valuenow="{update.done}" aria-valuetext="{text}">'
        f'<i style="width: {share}%"></i></div><p class="moa-wait">{text}</p>'
    )


def side_by_side(pictures: Sequence[tuple[str, Image.Image]]) -> str:
    """Show pictures beside each other under their names."""
    cells = [
        f'<figure><img src="{data_url(picture)}" alt="{escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, picture in pictures
    ]
    return f'<div class="moa-pair">{"".join(cells)}</div>'


def frames(pictures: Sequence[Image.Image]) -> str:
    """Show the frames of a morph under a slider, whose movement needs no server."""
    shown = [
        f'<img style="{_width(picture)}" src="{data_url(picture)}" alt="Frame {i + 1}"'
        f"{'' if i == 0 else ' hidden'}>"
        for i, picture in enumerate(pictures)
    ]
    return (
        f'<div class="moa-frames">{"".join(shown)}</div>'
        f'<label class="moa-way">From one to the other'
        f'<input type="range" min="0" max="{len(pictures) - 1}" value="0" step="1"></label>'
    )


def history(entries: Sequence[Entry], shown: int) -> str:
    """Show what was drawn before; a click brings it back."""
    if not entries:
        return hint("What you draw is kept here until you close the page.")
    buttons = []
    for at, entry in enumerate(entries):
        setup = entry.drawn.setup
        label = f"Seed {setup.seed}: {escape(setup.prompt)}"
        buttons.append(
            f'<button type="button" class="moa-past" data-at="{at}" aria-label="{label}" '
            f'title="{label}" aria-pressed="{_flag(at == shown)}">'
            f'<img src="{data_url(entry.drawn.images[0], THUMB)}" alt="">'
            f"<span>{setup.seed}</span></button>"
        )
    return (
        f'<div class="moa-history" role="group" aria-label="Drawn before">{"".join(buttons)}</div>'
    )


def link_line(query: str) -> str:
    """Show the link that makes a picture again; the page's script completes it.

    Args:
        query: from `to_query`; "" shows nothing.
    """
    if not query:
        return ""
    return (
        '<div class="moa-link"><label>Link to this picture '
        "<span>(it holds all but pictures of your own)</span>"
        f'<input type="text" readonly data-query="{escape(query)}"></label>'
        '<button type="button">Copy</button></div>'
    )


def caption_of(drawn: Drawn) -> str:
    """Say in one line how something was drawn."""
    setup = drawn.setup
    dial = "" if setup.dial == 1 else f", dial {setup.dial:g}"
    return (
        f"Seed {setup.seed}, {setup.steps} steps of {setup.sampler}, guidance "
        f"{setup.guidance:g}{dial}, {drawn.seconds:.1f} s"
    )


def hint(text: str) -> str:
    """Say quietly what to do, where there is nothing yet."""
    return f'<p class="moa-hint">{escape(text)}</p>'


def _width(picture: Image.Image) -> str:
    """Give the style that makes a picture HIGH, whatever its own size is."""
    return f"width: {round(HIGH * picture.width / picture.height)}px"


def _title(person: Person) -> str:
    return escape(
        person.name if person.number is None else f"{person.name}, number {person.number}"
    )


def _flag(value: bool) -> str:
    return "true" if value else "false"
