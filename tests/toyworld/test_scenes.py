"""The world: its scenes say what their captions say, and its data is read by `moa_jax.data`."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from moa_jax.backbone.tokenizer import WORDS, load_tokenizer, write_tokenizer
from moa_jax.data.check import check_records
from moa_jax.data.records import open_records
from moa_jax.toyworld.world.descriptions import color_word, hair_word, phrases
from moa_jax.toyworld.world.people import WORDS as PEOPLE
from moa_jax.toyworld.world.people import Look, draw_look, vary_look
from moa_jax.toyworld.world.places import CHOICES, Context
from moa_jax.toyworld.world.scenes import (
    Scene,
    draw_scene,
    render,
    render_portrait,
    training_scene,
    write_data,
    write_subject,
)

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, COUNT, seed=3, size=64)
    return folder


@pytest.fixture(scope="module")
def lines(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_captions_use_the_small_tokenizers_words(lines):
    assert {word for line in lines for word in line["text"].split()} <= set(WORDS)


def test_the_data_set_names_no_attribute(lines):
    for number, line in enumerate(lines):
        scene = training_scene(3, number)
        assert line["text"] == scene.caption != scene.description


def test_one_and_two_subjects_occur(lines):
    assert {len(line["subjects"]) for line in lines} == {1, 2}


def test_subjects_are_told_apart_by_their_words_in_the_captions_order(lines):
    for line in lines:
        words = [subject["word"] for subject in line["subjects"]]
        found = [word for word in line["text"].split() if word in ("man", "woman", "kid")]
        assert words == found and len(set(words)) == len(words)


def test_masks_cover_people_and_nothing_twice(folder, lines):
    for line in lines:
        masks = [
            np.asarray(Image.open(folder / subject["mask"])) > 127 for subject in line["subjects"]
        ]
        assert all(mask.shape == (64, 64) and 0.02 < mask.mean() < 0.6 for mask in masks)
        assert np.sum(masks, axis=0).max() == 1
        # A person ends where the mask does: colours jump more across its edge than elsewhere.
        pixels = np.asarray(Image.open(folder / line["file_name"])).astype(int)
        jumps = np.abs(np.diff(pixels, axis=1)).sum(axis=-1)
        edge = np.diff(np.any(masks, axis=0), axis=1)
        assert jumps[edge].mean() > 2 * jumps[~edge].mean()


def test_a_kid_is_smaller_than_a_man_or_woman(folder, lines):
    heights = {"man": [], "woman": [], "kid": []}
    for line in lines:
        for subject in line["subjects"]:
            mask = np.asarray(Image.open(folder / subject["mask"])) > 127
            heights[subject["word"]].append(mask.any(axis=1).sum())
    assert np.mean(heights["kid"]) < 0.85 * np.mean(heights["man"] + heights["woman"])


def test_the_same_seed_gives_the_same_files_and_a_longer_set_begins_alike(folder, tmp_path):
    write_data(tmp_path / "again", 3, seed=3, size=64)
    write_data(tmp_path / "other", 3, seed=4, size=64)
    for name in ("00002.png", "masks/00002_0.png"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    again, other = (tmp_path / name / "00002.png" for name in ("again", "other"))
    assert again.read_bytes() != other.read_bytes()


def test_many_processes_write_the_same_bytes_as_one(folder, tmp_path):
    counts = []
    write_data(tmp_path, COUNT, seed=3, size=64, on_pictures=counts.append, workers=2)
    assert sum(counts) == COUNT and len(counts) > 1
    one, many = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")}
        for root in (folder, tmp_path)
    )
    assert one == many


def test_the_data_check_finds_no_fault(folder, tmp_path):
    write_tokenizer(tmp_path)
    report = check_records(open_records(folder), 2, load_tokenizer(tmp_path))
    assert (report.records, report.faults) == (COUNT, {})
    assert report.subjects > COUNT


def test_portraits_differ_and_hold_a_face(tmp_path):
    pictures = []
    for seed in range(6):
        write_subject(tmp_path / f"new/{seed}.png", seed, size=64)
        pictures.append(np.asarray(Image.open(tmp_path / f"new/{seed}.png")).astype(int))
        colors = pictures[-1][20:55, 20:44].reshape(-1, 3)
        assert colors.std(axis=0).max() > 20  # eyes, mouth and hair on skin
    assert all(np.abs(a - b).mean() > 3 for a, b in zip(pictures, pictures[1:], strict=False))


PLAIN = Context("beach", "day", "clear", "standing", "none")


def scene(context=PLAIN, people=1, seed=0):
    random = np.random.default_rng(seed)
    words = ("man", "kid")[:people]
    return Scene(tuple(draw_look(random, word) for word in words), context, seed)


@pytest.mark.parametrize("field", CHOICES)
def test_every_context_has_its_own_caption_and_picture(field):
    scenes = [scene(replace(PLAIN, **{field: value})) for value in CHOICES[field]]
    assert len({each.caption for each in scenes}) == len(scenes)
    pictures = [render(each)[0].astype(int) for each in scenes]
    for i, first in enumerate(pictures):
        for second in pictures[:i]:
            assert np.abs(first - second).mean() > 0.5


def test_a_caption_tells_people_and_context_and_no_look():
    context = Context("castle", "night", "rain", "waving", "umbrella")
    said = scene(context, people=2)
    assert said.caption == (
        "a man and a kid waving with an umbrella at the castle at night in the rain"
    )
    other = Scene(scene(people=2, seed=5).people, context, seed=9)
    assert other.caption == said.caption


def test_a_description_says_what_the_caption_says_and_some_attributes_of_each_person():
    for scene in (training_scene(0, index) for index in range(200)):
        assert set(scene.description.split()) <= set(WORDS)
        people = scene.description.removesuffix(f" {scene.context.phrase()}")
        assert people != scene.description
        told = re.split(rf"\b({'|'.join(PEOPLE)})\b", people)
        assert told[1::2] == [look.word for look in scene.people]
        for look, said in zip(scene.people, told[2::2], strict=True):
            true = [*phrases(look).values(), *phrases(look, colored=False).values()]
            assert re.fullmatch(rf"( ({'|'.join(true)})){{1,3}}", said.removesuffix(" and a "))


LOOK = Look(
    word="man",
    skin=(0.9, 0.8, 0.7),
    hair=(0.95, 0.82, 0.48),
    hair_style="spiky",
    eyes=(0.2, 0.4, 0.6),
    glasses=False,
    beard=False,
    hat="none",
    hat_color=(0.1, 0.6, 0.1),
    shirt=(1.0, 0.5, 0.0),
    trousers=(0.4, 0.25, 0.05),
)
CLOTHES = {"shirt": "in an orange shirt", "trousers": "in brown trousers"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, {"hair_style": "with spiky blond hair"}),
        ({"hair_style": "bun"}, {"hair_style": "with a blond bun"}),
        (
            {"beard": True, "glasses": True},
            {
                "hair_style": "with spiky blond hair",
                "beard": "with a beard",
                "glasses": "with glasses",
            },
        ),
        ({"hat": "brimmed"}, {"hat": "in a green hat"}),  # which hides the hair
        (
            {"hat": "beanie", "hair_style": "long"},
            {"hair_style": "with long blond hair", "hat": "in a green beanie"},
        ),
    ],
)
def test_a_phrase_says_what_is_seen(change, said):
    look = replace(LOOK, **change)
    assert phrases(look) == said | CLOTHES
    plain = phrases(look, colored=False)
    assert plain == {
        name: phrase.replace("blond ", "").replace("green ", "")
        for name, phrase in (said | CLOTHES).items()
    }


@pytest.mark.parametrize(
    ("color", "word"),
    [
        ((0.8, 0.1, 0.1), "red"),
        ((0.8, 0.1, 0.15), "red"),  # from the hue's upper end
        ((1.0, 0.5, 0.0), "orange"),
        ((0.95, 0.9, 0.1), "yellow"),
        ((0.1, 0.6, 0.1), "green"),
        ((0.1, 0.2, 0.8), "blue"),
        ((0.5, 0.1, 0.8), "purple"),
        ((1.0, 0.4, 0.7), "pink"),
        ((0.5, 0.3, 0.1), "brown"),
        ((0.1, 0.1, 0.15), "black"),
        ((0.95, 0.95, 0.95), "white"),
        ((0.5, 0.5, 0.55), "gray"),
    ],
)
def test_colours_have_their_names(color, word):
    assert color_word(color) == word
    assert hair_word(color) == {"orange": "blond", "yellow": "blond"}.get(word, word)


def test_another_look_changes_the_person_and_nothing_else():
    one = scene()
    other = replace(one, people=(draw_look(np.random.default_rng(7), "man"),))
    (first, mask), (second, other_mask) = render(one), render(other)
    changed = np.any(first != second, axis=-1)
    outside = ~(mask[0] | other_mask[0])
    assert changed[mask[0]].mean() > 0.5
    # Pixels half covered by a person are on nobody's mask: a rim is allowed.
    assert changed[outside].mean() < 0.05


def test_a_varied_look_differs_in_one_attribute_that_is_seen():
    random = np.random.default_rng(0)
    changed = set()
    for _ in range(60):
        look = draw_look(random)
        varied = vary_look(random, look)
        differing = [
            f.name for f in fields(Look) if getattr(look, f.name) != getattr(varied, f.name)
        ]
        assert len(differing) == 1 and differing[0] not in ("word", "eyes")
        assert np.any(render_portrait(look) != render_portrait(varied)), differing
        changed.update(differing)
    assert {"skin", "hair", "shirt", "trousers", "hat", "glasses"} <= changed


def test_groups_of_the_stream_hold_one_identity_twice_and_its_variations():
    for first in range(0, 40, 4):
        group = [training_scene(0, first + i) for i in range(4)]
        assert group[0].people == group[1].people != group[2].people == group[3].people
        assert len({tuple(look.word for look in each.people) for each in group}) == 1
        assert group[0].seed != group[1].seed
    assert training_scene(1, 0).people != training_scene(0, 0).people


def test_the_caption_does_not_tell_who_stands_left():
    left = []
    for seed in range(30):
        _, masks = render(scene(people=2, seed=seed))
        columns = [np.flatnonzero(mask.any(axis=0)).mean() for mask in masks]
        left.append(columns[0] < columns[1])
    assert 5 < sum(left) < 25


def test_scenes_repeat_and_scale():
    drawn = draw_scene(np.random.default_rng(3))
    small, masks = render(drawn, 64)
    assert np.array_equal(small, render(drawn, 64)[0])
    large, large_masks = render(drawn, 128)
    assert large_masks.mean() == pytest.approx(masks.mean(), abs=0.02)
    reduced = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(reduced - small).mean() < 8
