"""Editing a photo: kept where the mask says so. That it is found again is shown on the toy world,

for a random network, steeper than a trained one, cannot be led back.
"""

import numpy as np
import pytest
from PIL import Image

from moa_jax.applications import edit
from moa_jax.errors import InputError
from moa_jax.sampling.settings import Settings
from tests.personal import MARKED, pixels, portrait

SOURCE = {"source_prompt": MARKED, "source_subjects": [portrait(1), portrait(2)]}
OTHER = [portrait(8), portrait(2)]


def test_a_swap_changes_the_photo_only_where_the_mask_allows(personal):
    photo, mask = portrait(3, (64, 64)), Image.new("L", (64, 64))
    mask.paste(255, (8, 24, 40, 64))
    edited = edit(personal, photo, MARKED, OTHER, mask=mask, num_inference_steps=4, **SOURCE)
    drawn, outside = pixels(edited.result)[0], np.ones((64, 64), bool)
    outside[23:64, 7:41] = False  # the mask and its soft edge
    np.testing.assert_array_equal(drawn[outside], np.asarray(photo)[outside])
    assert np.abs(drawn - np.asarray(photo))[24:64, 8:40].mean() > 5


def test_the_latents_on_the_way_are_those_between_the_steps(personal):
    """Not the guesses that lead to them: a step that is left out changes nothing of the others."""
    request = personal.request(MARKED, SOURCE["source_subjects"])
    clean = personal.encode(personal.photo(portrait(3, (64, 64))))
    settings = Settings(2, sampler="ddim", guidance_scale=1.0)
    noise, between, last = personal.invert(request, clean, settings, iterations=3)
    np.testing.assert_array_equal(last, clean)
    alone = personal.invert(request, clean, settings, iterations=3, skip=1)
    np.testing.assert_allclose(between, alone[0], atol=1e-5)
    assert np.abs(noise - between).max() > 1e-3


def test_less_strength_keeps_more_of_the_photo(personal):
    photo = portrait(3, (64, 64))

    def change(strength):
        options = {"strength": strength, "num_inference_steps": 6, **SOURCE}
        edited = edit(personal, photo, MARKED, OTHER, **options)
        return np.abs(pixels(edited.result)[0] - np.asarray(edited.reconstruction)).mean()

    assert change(0.17) < change(1.0)  # one step of six


@pytest.mark.slow
def test_prompts_may_have_weights_and_several_windows(personal):
    """The photo's own prompt and the new one need not be equally long."""
    photo = portrait(3, (64, 64))
    source = {**SOURCE, "source_prompt": f"{MARKED}, {'a happy day, ' * 20}"}

    def drawn(prompt, **options):
        options |= {"num_inference_steps": 2, "iterations": 1, **source}
        return pixels(edit(personal, photo, prompt, OTHER, **options).result)

    weighted = MARKED.replace("snow", "(snow:3)")
    found = drawn(weighted)
    assert np.abs(found - drawn(MARKED)).mean() > 0.05
    with pytest.warns(UserWarning, match="longer than 77 tokens"):
        assert np.abs(found - drawn(weighted, plain_prompt=True)).mean() > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "unipc"}, "sampler='unipc'.*only DDIM"),
        ({"eta": 0.5}, "eta=0.5.*only DDIM"),
        ({"iterations": 0}, "iterations=0"),
        ({"source_subjects": []}, "has 2 <|image|> and 0 subject"),
        ({"image": "nowhere.jpg"}, "nowhere.jpg: no such file"),
    ],
)
def test_a_wrong_argument_is_named(options, message, personal):
    arguments = {"image": portrait(3), "prompt": MARKED, "subjects": OTHER, **SOURCE, **options}
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        edit(personal, **arguments)
