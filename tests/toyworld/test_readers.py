"""The judges: what their parts do on cases made by hand, and how good they are on new renders."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.errors import InputError
from moa_jax.toyworld.readers.networks import CONTEXT, KINDS, MARGIN, SIZE, SMALL, boxes, cut
from moa_jax.toyworld.readers.reading import (
    ATTRIBUTES,
    SAME_COLOR,
    PersonReading,
    Readers,
    Reading,
    agreement,
    applies,
    initial_params,
    same,
)
from moa_jax.toyworld.readers.training import (
    _sorted,
    accuracy,
    blur,
    left_to_right,
    reader_accuracy,
    reader_objective,
    soften,
)
from moa_jax.toyworld.world.labels import SHAPES, label
from moa_jax.toyworld.world.people import draw_look
from moa_jax.toyworld.world.scenes import render, training_scene

LOOK = draw_look(np.random.default_rng(0), "man")


@pytest.fixture(scope="module")
def drawn():
    """Eight scenes, some of two people, with the masks padded to two, and a batch of them."""
    scenes = [training_scene(5, i) for i in range(0, 32, 4)]
    rendered = [render(scene) for scene in scenes]
    masks = np.zeros((len(scenes), 2, SIZE, SIZE), bool)
    for row, (_, seen) in zip(masks, rendered, strict=True):
        row[: len(seen)] = seen
    assert {len(scene.people) for scene in scenes} == {1, 2}
    pictures = np.stack([picture for picture, _ in rendered])
    labels = {name: np.stack([label(scene)[name] for scene in scenes]) for name in SHAPES}
    batch = {"pictures": pictures, "masks": masks, **labels}
    return SimpleNamespace(
        scenes=scenes,
        masks=masks,
        pictures=pictures,
        batch={name: jnp.asarray(array) for name, array in batch.items()},
    )


def perfect(scene, masks):
    """What a reader without fault says."""
    people = [
        PersonReading(
            masks[k], scene.people[k].word, {n: getattr(scene.people[k], n) for n in ATTRIBUTES}
        )
        for k in left_to_right(scene, masks)
    ]
    return Reading(dataclasses.asdict(scene.context), tuple(people), np.zeros(1))


def test_a_perfect_reading_is_right_in_everything(drawn):
    readings = [perfect(s, m) for s, m in zip(drawn.scenes, drawn.masks, strict=True)]
    found = accuracy(drawn.scenes, drawn.masks, readings)
    assert set(found.values()) == {1.0}
    assert {*CONTEXT, "count", "word", "skin", "shirt", "mask"} <= set(found)


def test_a_person_who_was_not_found_counts_as_wrong(drawn):
    readings = [perfect(s, m) for s, m in zip(drawn.scenes, drawn.masks, strict=True)]
    nobody = [dataclasses.replace(reading, people=()) for reading in readings]
    found = accuracy(drawn.scenes, drawn.masks, nobody)
    assert found["place"] == 1
    assert not any(found[name] for name in ("count", "word", "skin", "hat", "mask"))


def test_labels_stand_with_the_person_they_belong_to(drawn):
    """Sorted from left to right, whatever the caption's order."""
    masks, labels = _sorted(drawn.batch)
    moved = 0
    for row, scene in enumerate(drawn.scenes):
        order = left_to_right(scene, drawn.masks[row])
        moved += order != sorted(order)
        for place, k in enumerate(order):
            np.testing.assert_array_equal(masks[row, place], drawn.masks[row, k])
            look = scene.people[k]
            assert KINDS["word"][labels["word"][row, place]] == look.word
            assert KINDS["hat"][labels["hat"][row, place]] == look.hat
            np.testing.assert_allclose(labels["skin"][row, place], look.skin, rtol=1e-6)
        columns = [np.nonzero(mask)[1].mean() for mask in masks[row, : len(order)]]
        assert columns == sorted(columns)
        assert labels["present"][row].tolist() == [True, len(order) == 2]
        assert CONTEXT["place"][labels["place"][row]] == scene.context.place
    assert moved


def test_one_who_is_hidden_is_sorted_last():
    """Wherever the caption names them: their labels go with them."""
    scene = next(s for i in range(40) if len((s := training_scene(5, i)).people) == 2)
    labels = {name: jnp.asarray(array)[None] for name, array in label(scene).items()}
    masks = jnp.zeros((1, 2, 8, 8), bool).at[0, 1, 2:6, 7].set(True)
    found, sorted_labels = _sorted({"masks": masks, **labels})
    assert found[0, 0].sum() == 4 and found[0, 1].sum() == 0
    words = [KINDS["word"][number] for number in sorted_labels["word"][0]]
    assert words == [look.word for look in reversed(scene.people)]


def test_a_box_is_the_square_around_a_mask():
    mask = jnp.zeros((1, 64, 64)).at[0, 10:50, 20:30].set(1.0).at[0, 60, 60].set(1.0)
    np.testing.assert_allclose(boxes(mask)[0], [30, 25, 40 * MARGIN])


def test_cutting_the_whole_picture_changes_nothing_and_a_corner_is_enlarged():
    image = jax.random.uniform(jax.random.key(0), (1, 64, 64, 2))
    np.testing.assert_allclose(cut(image, jnp.array([[32.0, 32.0, 64.0]])), image, atol=1e-5)
    quarter = jnp.zeros((1, 64, 64, 1)).at[:, 32:, :32].set(1.0)
    found = cut(quarter, jnp.array([[48.0, 16.0, 32.0]]))
    np.testing.assert_allclose(found[:, 2:, :-2], np.ones((1, 62, 62, 1)), atol=1e-5)


def test_a_picture_is_cut_to_the_size_that_a_network_looks_at():
    image = jnp.zeros((1, SIZE, SIZE, 1)).at[:, :, SIZE // 2 :].set(1.0)
    whole = cut(image, jnp.array([[SIZE / 2, SIZE / 2, SIZE]]))
    half = np.arange(SMALL) >= SMALL // 2
    np.testing.assert_allclose(whole[0, :, :, 0], np.broadcast_to(half, (SMALL, SMALL)), atol=0.15)


def test_blur_keeps_the_mean_and_spreads_by_its_sigma():
    dot = jnp.zeros((2, 64, 64, 1)).at[:, 32, 32].set(1.0)
    found = blur(dot, jnp.array([0.2, 2.0]))
    np.testing.assert_allclose(found.sum(axis=(1, 2, 3)), [1, 1], atol=1e-4)
    np.testing.assert_allclose(found[0], dot[0], atol=1e-3)
    rows = found[1, :, :, 0].sum(axis=1)
    assert float((rows * (jnp.arange(64) - 32) ** 2).sum()) == pytest.approx(4.0, abs=0.05)


def test_softening_blurs_by_a_share_of_the_picture():
    """An edge is as soft in a large picture as in a small one, once that is enlarged."""
    keys = jax.random.split(jax.random.key(0), 64)
    widths = []
    for size in (SMALL, 2 * SMALL):
        edge = jnp.broadcast_to(jnp.arange(size) >= size // 2, (64, size, size))
        soft = soften(0.2 + 0.6 * edge[..., None] * jnp.ones(3)[None, None, None], keys)
        rows = soft.mean(axis=(0, 1, 3))
        rows = (rows - rows[0]) / (rows[-1] - rows[0])
        widths.append(float((rows * (1 - rows)).sum()) / size)
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_softening_is_mild(drawn):
    pictures = drawn.pictures.astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(0), len(pictures))
    found = soften(jnp.asarray(pictures), keys)
    assert 0.001 < float(jnp.abs(found - pictures).mean()) < 0.08


@pytest.mark.slow
def test_the_objective_reaches_every_weight(drawn):
    params = initial_params(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(drawn.scenes))
    differentiate = jax.jit(jax.grad(reader_objective, has_aux=True))
    gradient, _ = differentiate(params, None, drawn.batch, keys)
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.abs(leaf).max() > 0
    ]
    assert not still


def test_what_is_hidden_is_not_judged():
    cap = dataclasses.replace(LOOK, hat="cap", hair_style="short")
    bare = dataclasses.replace(LOOK, hat="none")
    assert not applies("hair_style", cap) and not applies("hair", cap)
    assert applies("hair", dataclasses.replace(cap, hair_style="long"))
    assert applies("hat_color", cap) and not applies("hat_color", bare)
    assert not applies("beard", dataclasses.replace(bare, word="woman"))


def test_colours_agree_by_their_distance():
    assert same("skin", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5 + 0.99 * SAME_COLOR))
    assert not same("skin", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5 + 1.01 * SAME_COLOR))
    assert same("hat", "cap", "cap") and not same("hat", "cap", "none")


def test_strangers_rarely_agree_in_everything():
    """So that identity can be told at all: two people of one word share half or so."""
    random = np.random.default_rng(1)
    shares = []
    for _ in range(300):
        one, other = (draw_look(random, "man") for _ in range(2))
        person = PersonReading(
            np.ones((64, 64), bool), "man", {n: getattr(other, n) for n in ATTRIBUTES}
        )
        shares.append(np.mean(list(agreement(person, one).values())))
    assert np.mean(shares) < 0.55 and np.mean(np.array(shares) == 1) < 0.01


@pytest.mark.slow
def test_weights_survive_their_file_and_damage_is_named(drawn, tmp_path):
    readers = Readers(initial_params(jax.random.key(2)))
    readers.save(tmp_path / "readers.safetensors")
    again = Readers.load(tmp_path / "readers.safetensors")
    for one, other in zip(readers.read(drawn.pictures), again.read(drawn.pictures), strict=True):
        np.testing.assert_allclose(one.features, other.features, rtol=0.02, atol=0.02)
    (tmp_path / "damaged").write_bytes(b"not weights")
    for name in ("damaged", "missing"):
        with pytest.raises(InputError, match=f"{name}.*--stages readers"):
            Readers.load(tmp_path / name)


def test_the_committed_readers_can_judge():
    """Held-out renders, through segmentation, cutting out and reading."""
    found = reader_accuracy(Readers.load(), count=200, seed=2)
    weak = {name: value for name, value in found.items() if value < 0.93 and name != "mask"}
    assert not weak and found["mask"] > 0.85
