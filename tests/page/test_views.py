"""HTML: what anybody types, or names a file, is never markup; states are told, not only shown."""

from html.parser import HTMLParser

import pytest
from PIL import Image

from moa_jax.page import views
from moa_jax.page.jobs import Update
from moa_jax.page.people import Person
from moa_jax.page.session import Entry
from moa_jax.page.setup import Setup
from moa_jax.page.studio import Drawn

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
SOMEBODY = Person(Image.new("RGB", (8, 8)), NASTY)
DRAWN = Drawn(Setup(NASTY, sampler=NASTY), [SOMEBODY.picture], {}, 1.25, NASTY)


class Seen(HTMLParser):
    """Tags and attributes as a browser reads them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "html",
    [
        views.people_strip([SOMEBODY], 4),
        views.picker([SOMEBODY], 0, NASTY),
        views.chips(NASTY, {0: 1}, 1),
        views.stage(SOMEBODY.picture, caption=NASTY, alt=NASTY, error=NASTY, note=NASTY),
        views.stage(SOMEBODY.picture, download=NASTY),
        views.side_by_side([(NASTY, SOMEBODY.picture)]),
        views.frames([SOMEBODY.picture] * 3),
        views.history([Entry(DRAWN, (SOMEBODY,))], 0),
        views.stage(caption=views.caption_of(DRAWN), update=Update(0, 1, 2)),
        views.link_line("?" + NASTY),
        views.hint(NASTY),
    ],
)
def test_texts_stay_texts(html):
    seen = Seen(html)
    assert "script" not in seen.tags
    for name, value in seen.attributes:
        assert not name.startswith("on")
        if name == "src":
            assert value.startswith("data:image/")


def test_every_word_says_who_it_is():
    seen = Seen(views.chips("a man reads", {1: 2}, 2))
    labels = [value for name, value in seen.attributes if name == "aria-label"]
    assert labels == ["Who each word is", "a: nobody", "man: subject 2", "reads: nobody"]
    pressed = [value for name, value in seen.attributes if name == "aria-pressed"]
    assert pressed == ["false", "true", "false"]


@pytest.mark.parametrize(
    ("update", "text"),
    [
        (Update(1), "You are number 2 in the line: one drawing is first."),
        (Update(3), "You are number 4 in the line: 3 drawings are first."),
        (Update(0), "Starting: the first picture of a kind takes a moment longer."),
        (Update(0, 3, 12), "Step 3 of 12"),
    ],
)
def test_a_drawing_says_how_far_it_is(update, text):
    seen = Seen(views.stage(update=update))
    assert text in seen.text
    values = dict(seen.attributes)
    if update.total:
        assert (values["role"], values["aria-valuenow"], values["aria-valuemax"]) == (
            "progressbar", "3", "12",
        )  # fmt: skip
        assert "width: 25%" in values["style"]
