"""The drawn data set: read through `moa_jax.data`, masks on their people, looks that vary."""

import json

import numpy as np
import pytest
from PIL import Image

from moa_jax.backbone.tokenizer import load_tokenizer
from moa_jax.data.check import check_records
from moa_jax.data.records import open_records
from moa_jax.toyworld.pictures import PLACES, write_data, write_subject
from moa_jax.toyworld.tokenizer import WORDS, write_tokenizer

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


def test_every_place_and_one_and_two_subjects_occur(lines):
    assert {len(line["subjects"]) for line in lines} == {1, 2}
    assert all(any(line["text"].endswith(place) for line in lines) for place in PLACES)


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
        assert all(mask.shape == (64, 64) and 0.03 < mask.mean() < 0.6 for mask in masks)
        assert np.sum(masks, axis=0).max() == 1
        # A person ends where the mask does: colours jump more across its edge than elsewhere.
        pixels = np.asarray(Image.open(folder / line["file_name"])).astype(int)
        jumps = np.abs(np.diff(pixels, axis=1)).sum(axis=-1)
        edge = np.diff(np.any(masks, axis=0), axis=1)
        assert jumps[edge].mean() > 3 * jumps[~edge].mean()


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
