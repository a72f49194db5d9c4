"""The gates: what they read of pictures and features whose answer is known."""

import dataclasses

import numpy as np
import pytest

from moa_jax.evaluation.toy import gates, prior_gates
from moa_jax.evaluation.toy.gates import Gate, gate_page, held_out, probe, reduce, targets, value_of
from moa_jax.evaluation.toy.protocol import Protocol
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.toyworld.readers.reading import ATTRIBUTES, PersonReading, Readers, Reading, same
from moa_jax.toyworld.world.people import COLORS, KINDS

PEOPLE = [trial.people[0] for trial in held_out(9, 300)]


def as_read(look):
    attributes = {name: getattr(look, name) for name in ATTRIBUTES}
    return PersonReading(np.ones((64, 64), bool), look.word, attributes)


def test_a_linear_probe_finds_what_is_linear_in_the_features():
    random = np.random.default_rng(0)
    for name in ("skin", "hair_style"):
        values = targets(name, PEOPLE)
        mixed = np.concatenate([values, random.standard_normal((300, 4))], axis=1)
        features = mixed @ random.standard_normal((mixed.shape[1], 32))
        read = probe(features[:200], values[:200], features[200:])
        right = [
            same(name, value_of(name, said), getattr(look, name))
            for said, look in zip(read, PEOPLE[200:], strict=True)
        ]
        assert np.mean(right) > 0.95
        noise = random.standard_normal((300, 32))
        chance = probe(noise[:200], values[:200], noise[200:])
        assert np.abs(chance - values[:200].mean(axis=0)).mean() < 0.2


def test_an_attribute_is_its_numbers_again():
    for name in (*COLORS, "hat", "glasses"):
        for look, numbers in zip(PEOPLE[:20], targets(name, PEOPLE[:20]), strict=True):
            assert value_of(name, numbers) == getattr(look, name)
    assert targets("hat", PEOPLE).shape == (300, len(KINDS["hat"]))


def test_a_picture_is_reduced_by_its_blocks_means():
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[0, 0] = 100
    found = reduce(picture)
    assert found.shape == (64, 64, 3)
    assert found[0, 0].tolist() == [25, 25, 25] and found.sum() == 75


def test_renders_read_by_a_perfect_reader_are_reached_and_others_missed(monkeypatch):
    """The prior's gates on people read as asked for, and on the same man for everybody."""
    drawn = np.zeros((60, 64, 64, 3), np.uint8)
    monkeypatch.setattr(prior_gates, "draw", lambda pipeline, captions, protocol: drawn)
    monkeypatch.setattr(prior_gates, "redraw", lambda trials: drawn + np.uint8(1))
    trials = held_out(4, 60)

    def reading(trial, look):
        people = (as_read(dataclasses.replace(look, word=trial.people[0].word)),)
        return Reading(dataclasses.asdict(trial.context), people, np.zeros(1))

    def judge(looks):
        readers, pipeline = (kind.__new__(kind) for kind in (Readers, Pipeline))
        readers.read = lambda pictures: [
            reading(trial, trial.people[0] if pictures.any() else look)
            for trial, look in zip(trials, looks, strict=True)
        ]
        found, _ = prior_gates.prior_gates(pipeline, readers, 60, Protocol())
        return {gate.name: gate for gate in found}

    right = judge([trial.people[0] for trial in trials])
    assert all(gate.passed for gate in right.values())
    wrong = judge([trials[0].people[0]] * 60)
    assert wrong["prompt"].passed
    assert sum(not gate.passed for gate in wrong.values()) > 8


def test_the_page_tells_what_is_missed():
    page = gate_page(
        [Gate("prior", "prompt", 0.9, 0.97), Gate("prior", "hat", 0.02, 0.03, most=True)]
    )
    assert "1 of 2 bars are reached." in page
    assert "| prior | prompt | 90.0 % | at least 97 % | missed |" in page
    assert "| prior | hat | 2.0 % | at most 3 % |  |" in page


@pytest.mark.parametrize("value", [0.97, 0.98])
def test_a_bar_that_is_met_is_reached(value):
    assert Gate("readers", "word", value, 0.97).passed
    assert Gate("readers", "word", value, 0.97, most=True).passed == (value == 0.97)


def test_the_held_out_people_differ_by_stream_and_are_no_training_ones():
    assert held_out(1, 6) == held_out(1, 6) != held_out(2, 6)
    assert gates.SEED not in (0, 1)
    assert [trial.people[0].word for trial in held_out(1, 4)] == ["man", "woman", "kid", "man"]
