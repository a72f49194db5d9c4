"""What the applications promise, on the toy world: the person changes, the context stays.

Measured with the readers' masks of who is where, and against the noise and photos it starts from.
"""

import numpy as np
import pytest
from PIL import Image

from moa_jax.applications import edit, morph, timelapse
from moa_jax.evaluation.toy.command import MOA_WEIGHTS
from moa_jax.sampling.pipeline import Pipeline
from moa_jax.sampling.settings import Strength
from moa_jax.toyworld.readers.reading import Readers
from moa_jax.toyworld.world.people import draw_look
from moa_jax.toyworld.world.scenes import render_portrait
from tests.personal import pixels
from tests.toyworld.test_weights import BASE

CONTEXT = "waving with a balloon on the beach at sunset"
PROMPT = f"a woman <|image|> {CONTEXT}"
DRAW = {"num_inference_steps": 15, "guidance_scale": 2.5, "seed": 3}


@pytest.fixture(scope="module")
def pipe():
    return Pipeline.from_pretrained(BASE, MOA_WEIGHTS)


@pytest.fixture(scope="module")
def readers():
    return Readers.load()


def portrait(seed):
    return Image.fromarray(render_portrait(draw_look(np.random.default_rng(seed), "woman")))


ONE, OTHER = portrait(1), portrait(2)


@pytest.fixture(scope="module")
def photo(pipe):
    return pipe(PROMPT, [ONE], **DRAW).images[0]


def masks(readers, pictures):
    return [each.mask for each in readers.read(pictures.astype(np.uint8))]


@pytest.mark.slow
def test_a_morph_goes_from_one_person_to_the_other_before_one_background(pipe, readers):
    frames = pixels(morph(pipe, PROMPT, [ONE], OTHER, frames=5, **DRAW))
    people = np.any(masks(readers, frames), axis=0)
    way = (frames[-1] - frames[0])[people].ravel().astype(float)
    places = [(frame - frames[0])[people].ravel() @ way / (way @ way) for frame in frames]
    assert (np.diff(places) > 0).all(), places
    steps = np.abs(np.diff(frames, axis=0))
    assert steps[:, ~people].mean() < 0.4 * steps[:, people].mean()


@pytest.mark.slow
def test_words_of_age_change_how_tall_the_same_person_is(pipe, readers):
    prompt = PROMPT.replace("woman", "{word}")
    frames = pixels(timelapse(pipe, prompt, ["kid", "woman"], [ONE], frames=3, **DRAW))
    heights = [mask.any(axis=1).sum() for mask in masks(readers, frames)]
    assert heights[0] < heights[-1]


@pytest.mark.slow
def test_a_photo_is_found_again_and_another_person_put_into_it(pipe, readers, photo):
    options = {"source_prompt": PROMPT, "source_subjects": [ONE], "num_inference_steps": 15}
    edited = edit(pipe, photo, PROMPT, [OTHER], iterations=3, **options)
    assert edited.error >= 30.0
    less = edit(pipe, photo, PROMPT, [OTHER], iterations=1, **options)
    assert edited.error > less.error
    # What changes on the way changes on the way back too, at the same steps.
    for dial in (Strength(0.0, end=0.5), Strength(3.0, end=0.34)):
        steered = edit(pipe, photo, PROMPT, [OTHER], iterations=3, moa_strength=[dial], **options)
        assert steered.error >= edited.error - 3.0, dial
    drawn = pixels(edited.result)[0]
    person = np.any(masks(readers, np.stack([photo, drawn])), axis=0)
    change = np.abs(drawn - np.asarray(photo, np.int16))
    assert change[person].mean() > 3 * change[~person].mean()
    # It is the other person who is there now: as in a picture of hers from the same noise.
    hers, mine = (pixels(pipe(PROMPT, [who], **DRAW))[0][person] for who in (OTHER, ONE))
    assert np.abs(drawn[person] - hers).mean() < np.abs(drawn[person] - mine).mean()


def test_the_dial_goes_from_the_priors_picture_to_the_persons(pipe):
    strengths = (0.0, 0.5, 1.0)
    drawn = [pixels(pipe(PROMPT, [ONE], moa_strength=s, **DRAW))[0] for s in strengths]
    away = [np.abs(each - drawn[0]).mean() for each in drawn]
    assert 0 == away[0] < away[1] < away[2]


def test_a_photo_goes_through_less_noise_and_stays_more_of_itself(pipe, photo):
    drawn = [
        pixels(pipe(PROMPT, [OTHER], image=photo, strength=strength, **DRAW))[0]
        for strength in (0.3, 0.9)
    ]
    change = [np.abs(each - np.asarray(photo, np.int16)).mean() for each in drawn]
    assert change[0] < 0.7 * change[1]


def test_a_subject_that_is_no_person_is_drawn_as_well_as_it_can_be(pipe):
    ball = Image.new("RGB", (64, 64), "white")
    ball.paste("red", (16, 16, 48, 48))
    picture = pixels(pipe(PROMPT, [ball], **DRAW))[0]
    prior = pixels(pipe(PROMPT, [ball], moa_strength=0.0, **DRAW))[0]
    top = np.s_[:8]  # sky: the context is there, whoever is asked for
    assert np.abs(picture[top] - prior[top]).mean() < 12
