"""Morphing: the ends are the two subjects, what lies between is on the way, the rest stays."""

import re

import numpy as np
import pytest

from moa_jax.applications import interpolate, morph
from moa_jax.errors import InputError
from tests.personal import MARKED, pixels, portrait

DRAW = {"num_inference_steps": 3, "seed": 4}
SUBJECTS = [portrait(1), portrait(2)]


@pytest.mark.parametrize("spherical", [False, True])
def test_interpolation_starts_and_ends_where_it_should(spherical):
    one, other = np.random.default_rng(0).normal(size=(2, 3, 16))
    for share, expected in ((0.0, one), (1.0, other)):
        np.testing.assert_allclose(interpolate(one, other, share, spherical), expected, rtol=1e-12)
        same = interpolate(one, one, 0.3, spherical)
        np.testing.assert_allclose(same, one, rtol=1e-6)


def test_the_spherical_way_turns_at_constant_speed_and_keeps_the_length():
    one, other = np.array([3.0, 0.0]), np.array([0.0, 3.0])
    for share in (0.25, 0.5, 0.75):
        angle = share * np.pi / 2
        expected = 3.0 * np.array([np.cos(angle), np.sin(angle)])
        np.testing.assert_allclose(interpolate(one, other, share, True), expected, atol=1e-12)
    np.testing.assert_allclose(interpolate(one, other, 0.5), [1.5, 1.5])


@pytest.mark.parametrize("which", [0, 1])
def test_the_ends_of_a_morph_are_the_pictures_of_its_subjects(which, personal):
    to = portrait(9)
    frames = pixels(morph(personal, MARKED, SUBJECTS, to, frames=4, which=which, **DRAW))
    ends = [list(SUBJECTS), list(SUBJECTS)]
    ends[1][which] = to
    for frame, subjects in zip(frames[[0, -1]], ends, strict=True):
        assert np.abs(frame - pixels(personal(MARKED, subjects, **DRAW))[0]).max() <= 1
    steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert 0 < steps.max() < np.abs(frames[0] - frames[-1]).mean()


def test_the_words_of_a_morph_may_have_weights(personal):
    prompt = MARKED.replace("a man", "a (man:1.4)").replace("snow", "(snow:1.5)")
    subjects = SUBJECTS[:1], [portrait(9)]
    prompt = prompt.replace(" and a woman <|image|>", "")
    ends = {}
    for plain in (False, True):
        options = {"plain_prompt": plain, **DRAW}
        frames = pixels(morph(personal, prompt, *subjects[:1], portrait(9), frames=2, **options))
        ends[plain] = np.concatenate([pixels(personal(prompt, s, **options)) for s in subjects])
        assert np.abs(frames - ends[plain]).max() <= 1
    assert np.abs(ends[False] - ends[True]).mean() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "frames=1: must be 2 or more"),
        ({"which": 2}, "which=2: there are 2 subject(s)"),
        ({"to": "nowhere.png"}, "nowhere.png: no such file"),
    ],
)
def test_a_wrong_argument_is_named(options, message, personal):
    with pytest.raises(InputError, match=re.escape(message)):
        morph(personal, MARKED, SUBJECTS, **{"to": portrait(3), **options})


def test_there_is_nothing_to_morph_without_moa(plain):
    with pytest.raises(InputError, match="no MoA weights are loaded"):
        morph(plain, "a man <|image|>", [portrait(1)], portrait(2))
