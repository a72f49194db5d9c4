"""Portraits and photos to show something with: the seed's person, and the mask lies on them."""

from dataclasses import replace

import numpy as np
from PIL import ImageFilter

from moa_jax.toyworld.pictures import GARDEN, photo, portrait
from moa_jax.toyworld.world.people import draw_look
from moa_jax.toyworld.world.scenes import draw_scene, render, render_portrait

GREEN = (0.0, 1.0, 0.0)


def test_a_portrait_is_of_the_seeds_person():
    look = draw_look(np.random.default_rng(3), "man")
    drawn = np.asarray(portrait(3, "man"))
    assert np.array_equal(drawn, render_portrait(look))
    assert not np.array_equal(drawn, render_portrait(replace(look, shirt=GREEN)))


def test_the_mask_of_a_photo_is_where_another_shirt_is_seen():
    seen, mask = photo(11)
    random = np.random.default_rng(11)
    scene = draw_scene(random, [draw_look(random, "woman")], GARDEN)
    other = replace(scene, people=(replace(scene.people[0], shirt=GREEN),))
    changed = (np.asarray(seen) != render(other)[0]).any(axis=-1)
    around = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) > 0  # edges are soft
    assert changed.sum() > 30 and not changed[~around].any()
    assert set(np.unique(np.asarray(mask))) == {0, 255}
