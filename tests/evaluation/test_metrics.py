"""Each number on cases whose answer is known: perfect, wrong, swapped, absent."""

import dataclasses

import numpy as np
import pytest

from moa_jax.evaluation.toy import metrics
from moa_jax.evaluation.toy.protocol import Trial
from moa_jax.toyworld.readers.reading import ATTRIBUTES, PersonReading, Reading
from moa_jax.toyworld.world.people import Look
from moa_jax.toyworld.world.places import Context

MAN = Look(
    word="man",
    skin=(0.9, 0.8, 0.7),
    hair=(0.1, 0.1, 0.1),
    hair_style="short",
    eyes=(0.2, 0.4, 0.6),
    glasses=True,
    beard=True,
    hat="none",
    hat_color=(1.0, 0.0, 0.0),
    shirt=(0.0, 0.0, 1.0),
    trousers=(0.3, 0.3, 0.3),
)
WOMAN = dataclasses.replace(
    MAN, word="woman", beard=False, glasses=False, skin=(0.4, 0.3, 0.2), shirt=(1.0, 0.0, 0.0)
)
BEACH = Context(place="beach", time="day", weather="clear", pose="waving", prop="none")
PAIR = Trial((MAN, WOMAN), BEACH, 0)


def person(look, left=8, pixels=20):
    mask = np.zeros((64, 64), bool)
    mask[20:60, left : left + pixels] = True
    return PersonReading(mask, look.word, {name: getattr(look, name) for name in ATTRIBUTES})


def reading(*people, context=BEACH):
    return Reading(dataclasses.asdict(context), people, np.zeros(3))


def test_identity_counts_only_what_applies():
    """The man without a hat: his hat's colour is not judged; his wrong glasses are one in eight."""
    wrong = person(dataclasses.replace(MAN, glasses=False, hat_color=(0.0, 1.0, 0.0)))
    found = metrics.identity([reading(wrong)], [Trial((MAN,), BEACH, 0)])
    assert found["overall"] == pytest.approx(7 / 8)
    assert found["glasses"] == 0 and found["shirt"] == 1
    assert np.isnan(found["hat_color"])


def test_nobody_agrees_in_nothing():
    assert metrics.identity([reading()], [Trial((MAN,), BEACH, 0)])["overall"] == 0


def test_one_asked_for_alone_is_found_under_the_wrong_word_but_not_one_of_two():
    as_woman = person(dataclasses.replace(MAN, word="woman"))
    assert metrics.find(reading(as_woman), Trial((MAN,), BEACH, 0)) == [as_woman]
    assert metrics.find(reading(as_woman), PAIR) == [None, as_woman]


def test_people_are_found_by_their_word_wherever_they_stand():
    man, woman = person(MAN, left=40), person(WOMAN, left=5)
    assert metrics.find(reading(woman, man), PAIR) == [man, woman]


def test_prompt_consistency_looks_at_every_word():
    other = dataclasses.replace(BEACH, time="night")
    found = metrics.prompt_consistency([reading(person(MAN), context=other)], [PAIR])
    right = {"place": 1, "weather": 1, "pose": 1, "prop": 1, "time": 0, "word": 0, "count": 0}
    assert found == {"overall": pytest.approx(4 / 7), **right}


def test_background_change_does_not_see_people():
    one = np.full((64, 64, 3), 100, np.uint8)
    other = one.copy()
    people = person(MAN).mask
    other[people] = 250
    assert metrics.background_change(one, other, people) == 0
    other[~people] += 7
    assert metrics.background_change(one, other, people) == pytest.approx(7)


def test_changes_leave_out_the_edge_of_people():
    """A person one pixel wider than the reader saw does not count as a change of background."""
    one, other = (np.full((64, 64, 3), 100, np.uint8) for _ in range(2))
    seen = person(MAN)
    other[metrics.grow(seen.mask, 1)] = 0
    found = metrics.changes(np.stack([one, other]), [reading(seen), reading(seen)], [(0, 1)])
    assert found["background"] == 0 and found["pixels"] > 0


def test_grow_is_a_square_around_each_pixel():
    mask = np.zeros((7, 7), bool)
    mask[0, 3] = True
    grown = metrics.grow(mask, 2)
    assert grown.sum() == 3 * 5 and grown[2, 5] and not grown[3, 3]


@pytest.mark.parametrize(("left", "change"), [(8, 0), (18, 2 / 3), (30, 1)])
def test_layout_change_is_what_people_do_not_share(left, change):
    found = metrics.layout_change(person(MAN).mask, person(MAN, left=left).mask)
    assert found == pytest.approx(change)


def test_binding_tells_right_swapped_and_blended_apart():
    right = metrics.binding([reading(person(MAN), person(WOMAN))], [PAIR])
    assert right == {"binding": 1, "own": 1, "other": 0}
    man_as_her = dataclasses.replace(WOMAN, word="man")
    woman_as_him = dataclasses.replace(MAN, word="woman")
    swapped = metrics.binding([reading(person(man_as_her), person(woman_as_him))], [PAIR])
    assert swapped == {"binding": 0, "own": 0, "other": 1}
    blend = dataclasses.replace(MAN, skin=WOMAN.skin)  # one of the three that tell them apart
    found = metrics.binding([reading(person(blend), person(WOMAN))], [PAIR])
    assert found["binding"] == 1
    assert found["other"] == pytest.approx(1 / 6)


def test_a_missing_person_is_not_bound_and_a_stranger_is_chance():
    gone = metrics.binding([reading(person(MAN))], [PAIR])
    assert gone == {"binding": 0.5, "own": 0.5, "other": 0}
    stranger = {"skin": (0.0, 1.0, 0.0), "shirt": (0.0, 1.0, 0.0), "glasses": True}
    first = person(dataclasses.replace(MAN, **{**stranger, "skin": WOMAN.skin}))
    found = metrics.binding([reading(first, person(WOMAN))], [PAIR])
    assert found["binding"] == 0.75  # a tie and a hit


def test_only_what_differs_and_applies_tells_two_people_apart():
    assert set(metrics.differing(MAN, WOMAN)) == {"skin", "glasses", "shirt"}


def test_frechet_distance_is_zero_for_the_same_and_the_shift_for_moved_sets():
    features = np.random.default_rng(0).standard_normal((400, 5))
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    moved = metrics.frechet_distance(features, features + 2.0)
    assert moved == pytest.approx(5 * 4.0)
    scaled = metrics.frechet_distance(features, 3.0 * (features - features.mean(axis=0)))
    spread = np.trace(np.cov(features, rowvar=False)) * (3 - 1) ** 2
    assert scaled == pytest.approx(spread + (features.mean(axis=0) ** 2).sum())


def test_the_way_goes_from_floor_to_ceiling():
    assert metrics.way(0.4, 0.4, 0.9) == 0
    assert metrics.way(0.9, 0.4, 0.9) == 1
