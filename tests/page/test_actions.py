"""What the page's handlers keep of a drawing, whatever the visitor does meanwhile."""

from threading import Event

from PIL import Image

from moa_jax.page.actions import swap
from moa_jax.page.jobs import Desk
from moa_jax.page.people import example
from moa_jax.page.session import Session
from moa_jax.page.setup import Setup
from moa_jax.page.studio import Drawn, Studio


class Waiting(Studio):
    """Its pictures are finished when it is told so."""

    def __init__(self):
        self.finish, self._line = Event(), Desk()

    def draw(self, setup, pictures):
        self.asked = pictures
        return self._line.add(lambda _: self.finish.wait(30) and drawn(setup))


def drawn(setup):
    return Drawn(setup, [Image.new("RGB", (8, 8))], {}, 0.1)


def test_a_swap_keeps_who_was_drawn_though_somebody_else_is_chosen_meanwhile():
    before, chosen, later = (example(number) for number in range(3))
    session, studio = Session(other=chosen), Waiting()
    session.keep(drawn(Setup("a man", {1: 1}, people=(0,))), [before])
    views = swap(studio, session, 1)
    next(views)
    session.other = later
    studio.finish.set()
    *_, last = views
    kept = session.history[0]
    assert studio.asked == [chosen.picture] and kept.people == (chosen,)
    assert kept.drawn.setup.people == (1,) and f"Now: {chosen.name}" in last
    assert session.entry.people == (before,)  # the page still shows what was swapped
