"""What is drawn is what the pipeline draws; previews, stopping, and what is told in words."""

from dataclasses import replace

import numpy as np
import pytest

from moa_jax.applications import morph
from moa_jax.errors import InputError
from moa_jax.page.jobs import Stopped
from moa_jax.page.people import example
from moa_jax.page.setup import Setup
from moa_jax.page.studio import Studio, with_person
from moa_jax.sampling.settings import Settings

SETUP = Setup("a man and a woman", {1: 2, 4: 1}, (0, 1), seed=3, steps=4, guidance=2.0)
PICTURES = [example(0).picture, example(1).picture]
OPTIONS = {"seed": 3, "num_inference_steps": 4, "guidance_scale": 2.0}
MARKED = "a man <|image|> and a woman <|image|>"


def studio(pipe):
    return Studio(pipe, Settings())


def finish(job):
    updates = list(job.updates())
    return job.result(), updates


def test_a_drawing_is_the_pipelines_with_the_people_in_the_order_of_their_words(personal):
    drawn, updates = finish(studio(personal).draw(SETUP, PICTURES))
    expected = personal(MARKED, PICTURES[::-1], **OPTIONS)
    np.testing.assert_array_equal(drawn.images[0], expected.images[0])
    assert drawn.routing.keys() == expected.routing.keys()
    for path, maps in expected.routing.items():
        np.testing.assert_allclose(drawn.routing[path], maps, atol=1e-3)
    assert drawn.setup is SETUP
    assert drawn.note == ""
    assert all(update.place == 0 for update in updates)


def test_previews_are_of_the_latents_on_the_way(personal):
    on_the_way = []
    personal(MARKED, PICTURES[::-1], **OPTIONS, on_step=lambda _, x: on_the_way.append(x))
    job = studio(personal).draw(SETUP, PICTURES)
    reported, report = [], job.report
    job.report = lambda *what: (reported.append(what), report(*what))[1]
    finish(job)
    previews = [what for what in reported if len(what) == 3]
    assert previews
    for done, total, picture in previews:
        assert total == 4
        np.testing.assert_array_equal(picture, personal.decode(on_the_way[done - 1])[0])
    assert [what[0] for what in reported if len(what) == 2] == [1, 2, 3, 4]


def test_a_drawing_is_stopped_between_two_steps(personal):
    job = studio(personal).draw(replace(SETUP, steps=50), PICTURES)
    for update in job.updates():
        if update.done:
            job.stop()
    with pytest.raises(Stopped):
        job.result()


def test_a_morph_is_the_applications(personal):
    other = example(2).picture
    job = studio(personal).morph(SETUP, PICTURES, subject=1, to=other, frames=3)
    drawn, _ = finish(job)
    expected = morph(personal, MARKED, PICTURES[::-1], other, 3, which=1, **OPTIONS)
    assert len(drawn.images) == 3
    for one, two in zip(drawn.images, expected.images, strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_has_no_effect_is_told(personal):
    bound = replace(SETUP, bindings={1: 1})
    drawn, _ = finish(studio(personal).draw(bound, PICTURES))
    assert drawn.note == "No word is subject 2: click the one that it is."
    long = replace(SETUP, prompt=SETUP.prompt + " rain" * 320)
    drawn, _ = finish(studio(personal).draw(long, PICTURES))
    assert drawn.note.startswith("The prompt is too long, and this was not read: 'rain")


def test_what_cannot_be_drawn_is_refused_in_words(personal, plain):
    with pytest.raises(InputError, match="prompt is empty"):
        studio(personal).draw(Setup("  "), [])
    with pytest.raises(InputError, match="frames=99: must lie between 2 and 16"):
        studio(personal).morph(SETUP, PICTURES, 1, PICTURES[0], 99)
    with pytest.raises(InputError, match="no word of the drawn prompt is subject 3"):
        studio(personal).morph(SETUP, PICTURES, 3, PICTURES[0], 4)
    many = Setup("a man and a man and a man and a man and a man", people=(0,), steps=2)
    many = replace(many, bindings=dict.fromkeys((1, 4, 7, 10, 13), 1))
    with pytest.raises(InputError, match="5 words are somebody: these weights draw at most"):
        studio(personal).draw(many, PICTURES[:1])
    assert studio(plain).places == 0
    with pytest.raises(InputError, match="at most 0 people"):
        studio(plain).draw(SETUP, PICTURES)


def test_a_swap_changes_one_person_alone():
    assert with_person(SETUP, 2, 7) == replace(SETUP, people=(0, 7))
    assert with_person(SETUP, 1, None) == replace(SETUP, people=(None, 1))
