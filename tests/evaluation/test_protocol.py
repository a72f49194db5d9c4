"""What is drawn: held out, comparable, and the same every time."""

from collections import Counter

import numpy as np

from moa_jax.data.captions import IMAGE_MARKER
from moa_jax.evaluation.toy.protocol import (
    Protocol,
    make_trials,
    pairs_within,
    redraw,
    references,
    same_noise,
    same_scene,
    strangers,
)
from moa_jax.toyworld.world.scenes import training_scene

PROTOCOL = Protocol()
TRIALS = make_trials(PROTOCOL)
ALONE = [trial for trial in TRIALS if len(trial.people) == 1]


def test_the_counts_are_those_of_the_protocol():
    assert len(ALONE) == 3 * 4 * 6 * 3
    assert len(TRIALS) - len(ALONE) == 30 * 2
    assert len({trial.people for trial in ALONE}) == 3 * 4
    assert make_trials(PROTOCOL) == TRIALS


def test_people_are_not_those_of_the_training_data():
    trained = {look for i in range(0, 4000, 2) for look in training_scene(0, i).people}
    assert not trained & {look for trial in TRIALS for look in trial.people}


def test_pictures_that_differ_only_in_the_person_share_the_noise():
    for i, j in pairs_within(ALONE, same_noise):
        one, other = ALONE[i], ALONE[j]
        assert one.people != other.people and one.people[0].word == other.people[0].word
        assert one.context == other.context
    assert len(pairs_within(ALONE, same_noise)) == 3 * 6 * 3 * (4 * 3 // 2)
    for i, j in pairs_within(ALONE, same_scene):
        assert ALONE[i].noise != ALONE[j].noise
    assert len(pairs_within(ALONE, same_scene)) == 3 * 4 * 6 * (3 * 2 // 2)
    assert set(Counter(trial.noise for trial in TRIALS).values()) == {4, 1}


def test_pairs_have_two_words_in_either_order():
    orders = {tuple(look.word for look in t.people) for t in TRIALS if len(t.people) == 2}
    assert all(one != other for one, other in orders)
    assert any((other, one) in orders for one, other in orders)


def test_the_prompt_marks_each_person_in_order():
    for trial in TRIALS:
        marked = [piece.split()[-1] for piece in trial.prompt.split(IMAGE_MARKER)[:-1]]
        assert marked == [look.word for look in trial.people]
        assert trial.prompt.replace(f" {IMAGE_MARKER}", "") == trial.caption


def test_strangers_have_the_same_words_and_nothing_else():
    for trial, other in zip(TRIALS, strangers(TRIALS, PROTOCOL), strict=True):
        assert trial.people != other.people and trial.caption == other.caption


def test_a_redraw_shows_the_same_scene_elsewhere():
    one, other = redraw(TRIALS[:3], seed=1), redraw(TRIALS[:3], seed=2)
    np.testing.assert_array_equal(one, redraw(TRIALS[:3], seed=1))
    assert (one != other).any(axis=(1, 2, 3)).all()


def test_there_is_a_portrait_of_each_person():
    assert [len(references(trial)) for trial in (ALONE[0], TRIALS[-1])] == [1, 2]
