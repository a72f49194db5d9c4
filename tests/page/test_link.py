"""Links: what is written is read again, and what anybody may write into one is refused in words."""

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from moa_jax.errors import InputError
from moa_jax.page.link import from_query, to_query
from moa_jax.page.setup import MAX_PROMPT, Setup
from moa_jax.sampling.settings import Settings

START = Setup("anything", steps=25, guidance=2.5, sampler="ddim")
SETUP = Setup(
    prompt='a man & a "woman" ü',
    bindings={1: 1, 3: 2},
    people=(7, None),
    seed=2**32 - 1,
    steps=3,
    guidance=7.5,
    dial=0.35,
    sampler="dpm++2m",
    negative="rain?",
)
SAMPLERS = ["ddim", "dpm++2m"]


def read(query, people=12):
    return from_query(query, START, SAMPLERS, people)


def test_a_link_holds_everything_but_the_pictures():
    query = to_query(SETUP)
    assert query.startswith("?prompt=a+man+%26+a+%22woman%22+%C3%BC&")
    assert read(dict(parse_qsl(query[1:]))) == SETUP


def test_what_a_link_does_not_say_is_as_at_first():
    assert read({"prompt": "snow", "utm": "x", "__theme": "dark"}) == replace(START, prompt="snow")
    assert read({"seed": "3"}) is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"seed": "-1"}, "seed='-1' is no number"),
        ({"seed": "1.5"}, "seed='1.5' is no whole number"),
        ({"seed": "99999999999"}, "seed=1e.11: must lie between 0 and"),
        ({"steps": "0"}, "steps=0: must lie between 1 and 100"),
        ({"steps": "1000000"}, "steps=1e.06"),
        ({"guidance": "nan"}, "guidance='nan' is no number"),
        ({"dial": "9"}, "dial=9: must lie between 0 and 4"),
        ({"sampler": "os:system(command=1)"}, "sampler='os:system"),
        ({"people": "12"}, "people='12': this page has people 0 to 11"),
        ({"people": "1.2.3.4.5"}, "people: there are 5, at most 4"),
        ({"people": "../x"}, "people="),
        ({"words": "2-1"}, "there is no subject 1"),
        ({"words": "9-1", "people": "1"}, "there is no word 9"),
        ({"words": "0-1", "people": "1"}, "there is no word 0"),
        ({"words": "a-b"}, "words='a-b'"),
        ({"prompt": "x" * (MAX_PROMPT + 1)}, "prompt has 2001 characters"),
    ],
)
def test_what_cannot_be_is_refused(query, message):
    with pytest.raises(InputError, match=message):
        read({"prompt": "a man", **query})


def test_another_base_has_no_people_by_number():
    with pytest.raises(InputError, match="this page has no people"):
        read({"prompt": "a man", "people": "1"}, people=0)


def test_what_only_one_sampler_takes_does_not_go_to_another():
    given = Settings(sampler="ddim", eta=0.5, guidance_rescale=0.3)
    assert replace(SETUP, sampler="ddim").settings(given).eta == 0.5
    other = SETUP.settings(given)
    assert (other.eta, other.guidance_rescale, other.moa_strength) == (None, 0.3, 0.35)
