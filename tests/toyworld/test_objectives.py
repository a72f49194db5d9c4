"""The objectives of the toy world's pretraining, by what they reward."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.backbone.vae import VAE, VAEConfig
from moa_jax.toyworld.pretraining.autoencoder import crop, edge_error, vae_objective
from moa_jax.toyworld.pretraining.contrast import (
    caption_contrast,
    either_caption,
    identity_contrast,
)
from moa_jax.toyworld.pretraining.looks import _reading_loss
from moa_jax.toyworld.pretraining.recipe import VAERecipe
from moa_jax.toyworld.readers.reading import applies
from moa_jax.toyworld.world.arrays import InTurn, RowBatches, of_groups
from moa_jax.toyworld.world.labels import (
    CONTEXT,
    DESCRIBED,
    SHAPES,
    by_name,
    describe,
    label,
    visible,
)
from moa_jax.toyworld.world.people import COLORS, KINDS, draw_look, vary_look
from moa_jax.toyworld.world.scenes import training_scene
from moa_jax.toyworld.world.views import PERSONS, people_views, resample

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


SCENES = [training_scene(5, index) for index in range(40)]
LABELS = {name: np.stack([label(scene)[name] for scene in SCENES]) for name in SHAPES}


def numbers_of(looks):
    """The kinds of people, by name."""
    return {
        name: jnp.array([values.index(getattr(look, name)) for look in looks])
        for name, values in KINDS.items()
    }


def test_labels_say_what_is_on_a_scene_and_who_is_not_there():
    found = by_name({name: jnp.asarray(array) for name, array in LABELS.items()})
    for row, scene in enumerate(SCENES):
        assert LABELS["present"][row].tolist() == [True, len(scene.people) == 2]
        for field, values in CONTEXT.items():
            assert values[found[field][row]] == getattr(scene.context, field)
        for place, look in enumerate((scene.people * 2)[:2]):
            for name, values in KINDS.items():
                assert values[found[name][row, place]] == getattr(look, name)
            for name in COLORS:
                np.testing.assert_allclose(found[name][row, place], getattr(look, name), 1e-6)


def test_what_can_be_seen_is_what_the_readers_judge():
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(100)]
    for name, seen in visible(numbers_of(looks)).items():
        assert seen.tolist() == [applies(name, look) for look in looks], name


def test_a_look_is_described_where_it_can_be_seen():
    """A colour by three numbers, a kind by a one at its value; looks that differ, differently."""
    random = np.random.default_rng(0)
    looks = [draw_look(random) for _ in range(50)]
    scenes = [replace(SCENES[0], people=(look, vary_look(random, look))) for look in looks]
    found = {name: jnp.array([label(scene)[name] for scene in scenes]) for name in SHAPES}
    values, shown = map(np.asarray, describe(found["kinds"], found["colors"]))
    assert values.shape == shown.shape == (50, 2, DESCRIBED)
    seen, place = visible(numbers_of(looks)), 0
    for name in (*COLORS, *KINDS):
        width = 3 if name in COLORS else len(KINDS[name])
        part, place = slice(place, place + width), place + width
        expected = [
            getattr(look, name)
            if name in COLORS
            else [value == getattr(look, name) for value in KINDS[name]]
            for look in looks
        ]
        np.testing.assert_allclose(values[:, 0, part], expected, rtol=1e-6)
        np.testing.assert_array_equal(shown[:, 0, part], np.repeat(seen[name][:, None], width, 1))
    assert np.all(np.abs(shown[:, 0] * (values[:, 0] - values[:, 1])).max(axis=1) > 0.2)


def test_groups_are_laid_out_whole():
    arrays = {"pictures": np.arange(12), "portraits": np.arange(3)}
    found = of_groups(arrays, np.array([2, 0]))
    np.testing.assert_array_equal(found["pictures"], [[8, 9, 10, 11], [0, 1, 2, 3]])
    np.testing.assert_array_equal(found["portraits"], [2, 0])


def test_looks_are_read_of_the_people_on_the_views():
    """Features that are the looks of the views' people leave no error; of others they do."""
    groups = np.arange(10)
    arrays = {name: LABELS[name] for name in ("kinds", "colors")}
    batch = {name: jnp.asarray(array) for name, array in of_groups(arrays, groups).items()}
    people = jnp.array([len(SCENES[4 * group].people) - 1 for group in groups])
    rows = [
        4 * groups + 2 * (person > 0) for person in PERSONS
    ]  # the third scene shows varied looks
    views = [
        describe(*(jnp.asarray(LABELS[name][row, people]) for name in ("kinds", "colors")))[0]
        for row in rows
    ]
    features = jnp.stack(views, axis=1)
    params = {"reading": {"kernel": jnp.eye(DESCRIBED), "bias": jnp.zeros(DESCRIBED)}}
    assert _reading_loss(params, features, batch, people) == 0
    assert _reading_loss(params, features[:, ::-1], batch, people) > 0.01


@pytest.mark.parametrize(("scenes", "share"), [((), 0.5), ((4,), 0.2)])
def test_each_row_says_its_caption_or_its_description(scenes, share):
    rows = np.broadcast_to(
        np.arange(1, 1001).reshape(-1, *[1] * len(scenes), 1), (1000, *scenes, 6)
    )
    batch = {"input_ids": jnp.asarray(rows), "described_ids": -jnp.asarray(rows)}
    said = either_caption(batch, jax.random.split(jax.random.key(0), 1000), share)
    described = np.sign(np.asarray(said)).reshape(1000, -1)
    np.testing.assert_array_equal(np.abs(said), rows)
    assert np.all(described == described[:, :1])
    assert np.mean(described[:, 0] < 0) == pytest.approx(share, abs=0.05)


class Gray(VAE):
    """An autoencoder that draws everything gray."""

    config: VAEConfig = VAEConfig()

    def encode(self, pixels):
        return pixels[:, :1, :1], jnp.zeros_like(pixels[:, :1, :1])

    def decode(self, latents):
        return jnp.zeros((len(latents), 8, 8, 3))


@pytest.mark.parametrize(
    ("weight", "on_people", "elsewhere"), [(1.0, 1 / 4, 3 / 4), (3.0, 1 / 2, 1 / 2)]
)
def test_an_error_on_a_person_counts_as_often_as_asked_for(weight, on_people, elsewhere):
    """People cover a quarter; an error everywhere counts 1, whatever the weight."""
    masks = np.zeros((1, 2, 8, 8), bool)
    masks[0, 0, :2, :4] = masks[0, 1, 2:4, :4] = True
    recipe = VAERecipe(people_weight=weight, square_weight=0.0, edge_weight=0.0, kl_weight=0.0)
    objective = vae_objective(Gray(), recipe)

    def error(wrong):
        pictures = np.where(wrong[..., None], 0, 127.5).astype(np.float32) * np.ones(3, np.float32)
        batch = {"pictures": jnp.asarray(pictures), "masks": jnp.asarray(masks)}
        return objective({"vae": {}}, {"vae": {}}, batch, jax.random.split(jax.random.key(0), 1))[0]

    seen = masks.any(axis=1)
    np.testing.assert_allclose(error(seen), on_people, rtol=1e-5)
    np.testing.assert_allclose(error(~seen), elsewhere, rtol=1e-5)
    np.testing.assert_allclose(error(seen | ~seen), 1, rtol=1e-5)


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
