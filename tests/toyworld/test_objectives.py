"""The objectives of the toy world's pretraining, by what they reward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.toyworld.arrays import InTurn, RowBatches
from moa_jax.toyworld.autoencoder import crop, edge_error
from moa_jax.toyworld.contrast import caption_contrast, identity_contrast
from moa_jax.toyworld.looks import describe, looks_batch
from moa_jax.toyworld.people import draw_look, vary_look
from moa_jax.toyworld.readers import applies
from moa_jax.toyworld.scenes import training_scene
from moa_jax.toyworld.views import PERSONS, people_views, resample

SCALE = jnp.float32(10.0)
VIEWS = jnp.array(PERSONS)


def unit(array):
    return array / jnp.linalg.norm(array, axis=-1, keepdims=True)


def people(groups, width=32):
    """Features of as many different people as views show, all views of one alike."""
    features = unit(jax.random.normal(jax.random.key(0), (groups, max(PERSONS) + 1, width)))
    return features[:, VIEWS]


def test_identity_contrast_is_least_where_the_views_of_one_person_agree():
    same = people(6)
    noise = jax.random.normal(jax.random.key(1), same.shape)
    losses, found = zip(
        *(identity_contrast(unit(same + s * noise), VIEWS, SCALE) for s in (0, 0.2, 2)),
        strict=True,
    )
    assert losses[0] < losses[1] < losses[2]
    assert found[0] == 1.0 and found[2] < 0.5


def test_identity_contrast_punishes_taking_the_nearest_stranger_for_the_person():
    apart = people(6)
    blurred = unit(apart + 3 * apart.mean(axis=1, keepdims=True))
    assert identity_contrast(blurred, VIEWS, SCALE)[0] > identity_contrast(apart, VIEWS, SCALE)[0]


def test_identity_contrast_of_features_that_tell_nothing_is_that_of_chance():
    loss, _ = identity_contrast(jnp.ones((4, len(PERSONS), 3)) / 3**0.5, VIEWS, SCALE)
    np.testing.assert_allclose(loss, np.log(4 * len(PERSONS) - 1), rtol=1e-5)


def test_caption_contrast_rewards_the_right_pairs():
    features = unit(jax.random.normal(jax.random.key(0), (8, 32)))
    same = jnp.eye(8, dtype=bool)
    right = caption_contrast(features, features, same, SCALE)
    wrong = caption_contrast(features, jnp.roll(features, 1, axis=0), same, SCALE)
    assert right < 0.1 < np.log(8) < wrong


def test_captions_that_read_the_same_are_no_negatives():
    features = unit(jax.random.normal(jax.random.key(0), (4, 32)))
    twice = jnp.concatenate([features, features])
    same = jnp.tile(jnp.eye(4, dtype=bool), (2, 2))
    kept = caption_contrast(twice, twice, same, SCALE)
    apart = caption_contrast(twice, twice, jnp.eye(8, dtype=bool), SCALE)
    assert apart > kept + 0.5  # else a coin decides for each pair: log 2


def test_a_look_is_described_where_it_can_be_seen():
    """As the evaluation judges it; two looks that differ are written differently."""
    random = np.random.default_rng(0)
    for look in (draw_look(random) for _ in range(50)):
        values, shown = describe(look)
        np.testing.assert_allclose(values[:3], look.skin, rtol=1e-6)
        assert shown[3] == applies("hair", look) and shown[6] == applies("hat_color", look)
        assert shown[15] == applies("hair_style", look)
        changed, _ = describe(vary_look(random, look))
        assert np.abs(shown * (values - changed)).max() > 0.2


def test_looks_stand_with_the_people_of_the_views():
    arrays = {name: np.zeros((8, 1)) for name in ("pictures", "masks", "input_ids", "portraits")}
    batch = looks_batch(arrays, np.array([0, 1]), seed=5)
    for group, version in ((0, 0), (0, 1), (1, 0), (1, 1)):
        people = training_scene(5, 4 * group + 2 * version).people
        for place, look in enumerate(people):
            values, shown = describe(look)
            np.testing.assert_array_equal(batch["looks"][group, version, place], values)
            np.testing.assert_array_equal(batch["shown"][group, version, place], shown)
        assert not batch["shown"][group, version, len(people) :].any()


def test_a_constant_error_is_no_edge():
    assert edge_error(jnp.full((1, 8, 8, 3), 0.3)) == 0
    checks = jnp.indices((8, 8)).sum(0)[None, ..., None] % 2 * 1.0
    assert edge_error(checks) == 1


def test_crops_lie_in_the_picture_and_every_other_one_on_a_head():
    random = np.random.default_rng(0)
    rows, columns = np.indices((64, 64))
    picture = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 40:60, 50:60] = True  # a head at (40, 55), and nobody else
    for _ in range(20):
        on_head = crop(picture, masks, 32, random, anywhere=False)
        assert on_head.shape == (32, 32, 3)
        top, left = on_head[0, 0, :2]
        assert top <= 48 and top + 32 > 40 and left <= 55 < left + 32
    tops = {int(crop(picture, masks, 32, random, anywhere=True)[0, 0, 0]) for _ in range(50)}
    assert min(tops) < 8 and max(tops) > 24


def test_batches_come_in_turn_and_resume_on_either_side_of_the_switch():
    def batches():
        kinds = (lambda rows, kind=kind: {kind: rows} for kind in ("crops", "whole"))
        return InTurn(*(RowBatches(read, 10, 5, seed=0) for read in kinds), switch=3)

    straight = batches()
    given = [next(straight) for _ in range(6)]
    assert [list(batch) for batch in given] == [["crops"]] * 3 + [["whole"]] * 3
    for place in (1, 3, 5):
        resumed = batches()
        resumed.set_state({"place": place})
        (rows,), (expected,) = next(resumed).values(), given[place].values()
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_a_view_of_the_whole_picture_is_the_picture(mirror):
    picture = jax.random.uniform(jax.random.key(0), (16, 16, 3))
    whole = resample(picture, jnp.array([8.0, 8.0]), jnp.float32(16), jnp.array([1.0, mirror]))
    np.testing.assert_allclose(whole, picture[:, :: int(mirror)], atol=1e-5)
    half = resample(picture, jnp.array([0.0, 8.0]), jnp.float32(16), jnp.array([1.0, 1.0]))
    assert np.all(half[:8] == 0) and np.all(half[8:].mean() > 0)


def test_views_show_the_person_large_whatever_is_behind():
    """A red person in one corner of a green picture fills the views; the portrait is its own."""
    masks = np.zeros((2, 4, 2, 32, 32), bool)
    masks[:, :, 0, 4:14, 3:13] = True
    pictures = np.zeros((2, 4, 32, 32, 3), np.uint8)
    pictures[..., 1] = 255
    pictures[masks[:, :, 0]] = (255, 0, 0)
    portraits = np.full((2, 2, 32, 32, 3), 77, np.uint8)
    arrays = {"pictures": pictures, "masks": masks, "portraits": portraits}
    batch = {name: jnp.asarray(array) for name, array in arrays.items()}
    views, people = people_views(batch, jax.random.split(jax.random.key(0), 2))
    assert not people.any()
    assert views.shape == (2, len(PERSONS), 32, 32, 3)
    centre = views[:, :, 12:20, 12:20]
    np.testing.assert_allclose(centre[:, 2], 77, atol=1e-3)
    np.testing.assert_allclose(
        centre[:, np.array([0, 1, 3, 4])],
        np.array([255, 0, 0]) * np.ones(centre[:, :4].shape),
        atol=1e-2,
    )
    assert views.min() >= 0 and views.max() <= 256
