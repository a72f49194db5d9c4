"""What one visitor has: people, bindings and history hold together, whatever is clicked."""

import pytest
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.page.people import Person, example
from moa_jax.page.session import KEPT, Session, new_seed
from moa_jax.page.setup import Setup
from moa_jax.page.studio import Drawn

OWN = Person(Image.new("RGB", (8, 8)), "me.jpg")
LINKED = Setup("a man and a woman", {1: 1, 4: 2}, (3, 1))


def opened(setup=LINKED):
    session = Session()
    session.open(setup)
    return session


def test_a_link_brings_people_and_words():
    session = opened()
    assert [person.number for person in session.people] == [3, 1]
    assert session.bindings == {1: 1, 4: 2}
    assert not session.wanting


def test_people_whom_a_link_does_not_hold_are_left_out_with_their_words():
    session = opened(Setup("a man and a woman", {1: 1, 4: 2}, (None, 1)))
    assert [person.number for person in session.people] == [1]
    assert session.bindings == {4: 1}
    assert session.wanting


def test_markers_that_are_typed_become_bindings():
    session = opened()
    session.edit("a woman <|image|> and a man <|image|> and a kid <|image|>")
    assert session.prompt == "a woman and a man and a kid"
    assert session.bindings == {1: 1, 4: 2}  # there is no third person


def test_whoever_is_taken_away_leaves_the_words():
    session = opened()
    session.remove(1)
    assert session.bindings == {4: 1}
    session.remove(10**6)
    session.remove(0)
    assert [person.number for person in session.people] == [1]


def test_a_click_on_a_word_needs_somebody_to_be():
    session = opened()
    session.bind(0)
    assert session.bindings[0] == 1
    with pytest.raises(InputError, match="Add a picture of somebody first"):
        opened(Setup("a man")).bind(1)


def test_there_is_room_for_so_many():
    session = opened()
    session.add(OWN, most=3)
    with pytest.raises(InputError, match="room for 3 people"):
        session.add(OWN, most=3)
    with pytest.raises(InputError, match="plain Stable Diffusion"):
        Session().add(OWN, most=0)


def test_the_history_brings_back_what_made_a_drawing():
    session = opened()
    first = Drawn(LINKED, [OWN.picture], {}, 1.0)
    session.keep(first, session.people)
    session.remove(2)
    session.edit("snow")
    session.keep(Drawn(Setup("snow"), [OWN.picture], {}, 1.0), session.people)
    assert session.recall(1) is LINKED
    assert session.entry.drawn is first
    assert (session.prompt, session.bindings) == (LINKED.prompt, {1: 1, 4: 2})
    assert session.people == [example(3), example(1)]
    assert session.recall(5) is None


def test_a_swap_joins_the_history_beside_what_is_shown():
    session = opened()
    first = Drawn(LINKED, [OWN.picture], {}, 1.0)
    session.keep(first, session.people)
    for _ in range(KEPT + 2):
        session.keep(Drawn(LINKED, [OWN.picture], {}, 1.0), [OWN, OWN], show=False)
    assert len(session.history) == KEPT
    assert session.entry is session.history[KEPT - 1]


def test_seeds_differ():
    assert len({new_seed() for _ in range(20)}) > 15
