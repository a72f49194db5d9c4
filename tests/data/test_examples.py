import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moa_jax.config import DataConfig
from moa_jax.data.examples import (
    LoadedRecord,
    LoadedSubject,
    bounds,
    faults,
    make_example,
    read_record,
)
from moa_jax.data.records import Record, Subject, open_records

STILL = DataConfig(resolution=64, augment=False, condition_dropout=0.0, subject_dropout=0.0)
SIZES = {"max_subjects": 3, "subject_resolution": 16}


@pytest.fixture
def crowd():
    """Five red subjects in a row, the last one outside the centre crop, each with its own word."""
    image = Image.new("RGB", (120, 40), (0, 0, 255))
    caption = "a man a dog a cat a girl a boy"
    words = ("man", "dog", "cat", "girl", "boy")
    subjects = []
    for place, word in enumerate(words):
        left = 42 + 9 * place if place < 4 else 100
        box = (left, 10, left + 6, 30)
        image.paste((50 * place + 1, 0, 0), box)
        mask = np.zeros((40, 120), bool)
        mask[10:30, left : left + 6] = True
        subjects.append(LoadedSubject(mask, caption.index(word) + len(word), box))
    return LoadedRecord(image, caption, tuple(subjects), sample_subjects=True)


def words_of(tokenizer, example):
    present = example["subject_present"]
    return [tokenizer.decode([example["input_ids"][t]]) for t in example["subject_tokens"][present]]


def draw(record, seed, tokenizer, config=STILL, **sizes):
    return make_example(record, np.random.default_rng(seed), config, tokenizer, **SIZES | sizes)


def test_the_two_layouts_give_the_same_example(imagefolder, ffhq, tokenizer):
    for ours, theirs in zip(open_records(imagefolder), open_records(ffhq), strict=True):
        examples = []
        for record in (ours, theirs):
            loaded, found = read_record(record, 3, tokenizer)
            assert found == []
            examples.append(draw(loaded, 0, tokenizer))
        assert examples[0].keys() == examples[1].keys()
        for key in ("masks", "subject_tokens", "subject_present", "input_ids"):
            np.testing.assert_array_equal(examples[0][key], examples[1][key])
        for key in ("image", "subject_images"):  # one is png, the other jpeg
            difference = np.abs(examples[0][key].astype(int) - examples[1][key])
            assert difference.mean() < (4 if key == "image" else 12)


def test_every_slot_speaks_of_one_subject(crowd, tokenizer):
    for seed in range(10):
        example = draw(crowd, seed, tokenizer, replace(STILL, resolution=40), max_subjects=4)
        assert words_of(tokenizer, example) == ["man", "dog", "cat", "girl"]
        for place in range(4):
            colour = (50 * place + 1, 0, 0)
            here = (example["image"] == colour).all(-1)
            np.testing.assert_array_equal(here, example["masks"][place])
            middle = example["subject_images"][place][8, 8]
            np.testing.assert_array_equal(middle, colour)


def test_what_is_left_of_a_crowd_keeps_its_own_pictures_and_masks(crowd, tokenizer):
    config, words = (
        replace(STILL, resolution=40, subject_dropout=0.5),
        ("man", "dog", "cat", "girl"),
    )
    left = set()
    for seed in range(20):
        example = draw(crowd, seed, tokenizer, config)
        for slot, word in enumerate(words_of(tokenizer, example)):
            colour = (50 * words.index(word) + 1, 0, 0)
            here = (example["image"] == colour).all(-1)
            np.testing.assert_array_equal(here, example["masks"][slot])
            np.testing.assert_array_equal(example["subject_images"][slot][8, 8], colour)
            left.add((slot, word))
    assert {(0, "girl"), (1, "cat")} <= left


def test_bounds_hold_the_mask_and_no_more():
    mask = np.zeros((7, 9), bool)
    mask[2, 3] = mask[4, 6] = True
    assert bounds(mask) == (3, 2, 7, 5)


def test_a_subject_outside_the_crop_counts_as_dropped(crowd, tokenizer):
    example = draw(crowd, 0, tokenizer, max_subjects=5)
    assert example["subject_present"].tolist() == [True] * 4 + [False]
    assert "boy" in tokenizer.decode(example["input_ids"])


def test_too_many_subjects_are_sampled_evenly(crowd, tokenizer):
    counts = dict.fromkeys(("man", "dog", "cat", "girl"), 0)
    for seed in range(200):
        words = words_of(tokenizer, draw(crowd, seed, tokenizer))
        assert len(words) == 3
        assert words == [word for word in counts if word in words]  # in the caption's order
        for word in words:
            counts[word] += 1
    np.testing.assert_allclose([count / 200 for count in counts.values()], 0.75, atol=0.1)


def test_two_segments_of_one_word_take_turns(crowd, tokenizer):
    first, second = (replace(subject, end=5) for subject in crowd.subjects[:2])
    crowd = replace(crowd, subjects=(first, second))
    sides = set()
    for seed in range(20):
        example = draw(crowd, seed, tokenizer)
        assert words_of(tokenizer, example) == ["man"]
        sides.add(int(example["masks"][0].any(axis=0).argmax()))
    assert len(sides) == 2


def test_dropout_rates(crowd, tokenizer):
    config = replace(STILL, condition_dropout=0.2, subject_dropout=0.3, resolution=8)
    empty = draw(crowd, 0, tokenizer, replace(config, condition_dropout=1.0))
    full_ids = draw(crowd, 0, tokenizer)["input_ids"]
    unconditional, present = 0, []
    for seed in range(600):
        example = draw(crowd, seed, tokenizer, config, max_subjects=4, subject_resolution=2)
        if (example["input_ids"] == empty["input_ids"]).all():
            unconditional += 1
            assert not example["subject_present"].any() and not example["masks"].any()
        else:  # the word of a dropped subject stays
            np.testing.assert_array_equal(example["input_ids"], full_ids)
            present.append(example["subject_present"].sum())
    assert abs(unconditional / 600 - 0.2) < 0.05
    assert abs(np.mean(present) / 4 - 0.7) < 0.03
    assert abs(np.var(present) - 4 * 0.7 * 0.3) < 0.15  # each on its own, not all together


def test_an_absent_subject_is_zeros_and_points_past_the_caption(crowd, tokenizer):
    example = draw(crowd, 0, tokenizer, replace(STILL, condition_dropout=1.0))
    expected = tokenizer("", padding="max_length").input_ids
    np.testing.assert_array_equal(example["input_ids"], expected)
    assert (example["subject_tokens"] == 77).all()
    for key in ("masks", "subject_images", "subject_present"):
        assert not example[key].any()


def test_the_batch_of_the_design(crowd, tokenizer):
    example = draw(crowd, 0, tokenizer, replace(STILL, augment=True))
    kinds = {key: (value.dtype, value.shape) for key, value in example.items()}
    assert kinds == {
        "image": (np.uint8, (64, 64, 3)),
        "masks": (np.uint8, (3, 64, 64)),
        "subject_images": (np.uint8, (3, 16, 16, 3)),
        "subject_tokens": (np.int32, (3,)),
        "subject_present": (np.bool_, (3,)),
        "input_ids": (np.int32, (77,)),
    }
    assert set(np.unique(example["masks"])) == {0, 1}


def test_without_augmentation_only_the_noise_is_drawn(crowd, tokenizer):
    some = replace(crowd, subjects=crowd.subjects[:3])
    first, second = (draw(some, seed, tokenizer) for seed in (1, 2))
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
    augmented = [draw(some, seed, tokenizer, replace(STILL, augment=True)) for seed in range(8)]
    flipped = [(example["image"] != first["image"]).any() for example in augmented]
    assert 0 < sum(flipped) < 8
    again = draw(some, 3, tokenizer, replace(STILL, augment=True))
    for key in again:
        np.testing.assert_array_equal(augmented[3][key], again[key])


def test_every_fault_of_a_record_at_once(tmp_path, tokenizer):
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    Image.new("L", (30, 40), 255).save(tmp_path / "turned.png")
    Image.new("L", (40, 30), 0).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no")
    masks = ("turned.png", "black.png", "text.png", "missing.png")
    caption = "a man " * 40
    subjects = tuple(Subject(tmp_path / mask, 5) for mask in masks)
    late = Subject(tmp_path / "black.png", len(caption) - 1)
    record = Record("r", tmp_path / "picture.png", caption, (*subjects, late), faults=("known",))
    found = faults(record, 4, tokenizer)
    expected = [
        "known",
        "5 subjects, but 4 are supported",
        "turned.png (the mask of subject 1): is 30x40 pixels, but the picture is 40x30",
        "black.png (the mask of subject 2): is empty",
        "text.png: is no picture",
        "missing.png: no such file",
        "black.png (the mask of subject 5): is empty",
        "'man', a subject's word, is token 80",
    ]
    assert [part in fault for part, fault in zip(expected, found, strict=True)] == [True] * 8
    assert faults(record, 4) == found[:-1]
    assert faults(replace(record, image=tmp_path / "none.png"), 9)[1].endswith("no such file")


def test_faults_of_the_instance_map(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    instances = np.zeros((30, 40), np.float32)  # as some tools save it
    instances[:10, :10] = 3
    np.save(tmp_path / "map.npy", instances)
    np.save(tmp_path / "flat.npy", instances.ravel())
    np.save(tmp_path / "half.npy", instances + 0.5)
    np.save(tmp_path / "small.npy", instances[:20])
    np.save(tmp_path / "pickle.npy", np.array([[{}]]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no")
    subject = Subject(3, 5, (-5, 0, 10, 99))
    record = Record("r", tmp_path / "picture.png", "a man", (subject,), tmp_path / "map.npy", True)

    def found(name="map.npy", **changes):
        changed = (replace(subject, **changes),)
        return faults(replace(record, instance_map=tmp_path / name, subjects=changed), 4)

    assert found() == []
    loaded, _ = read_record(record, 4)
    assert loaded.subjects[0].box == (0, 0, 10, 30)  # clipped to the picture
    assert "segment id 4 (subject 1): is empty" in found(mask=4)[0]
    assert "its box (20, 20, 30, 30) holds none" in found(box=(20, 20, 30, 30))[0]
    assert "its box (50, 0, 60, 5) holds none" in found(box=(50, 0, 60, 5))[0]
    assert "its box (9, 9, 1, 1) holds none" in found(box=(9, 9, 1, 1))[0]
    for name, part in {
        "flat.npy": "rows and columns",
        "half.npy": "not whole numbers",
        "small.npy": "is 40x20 pixels, but the picture is 40x30",
        "pickle.npy": "cannot be read",
        "text.npy": "cannot be read",
        "missing.npy": "no such file",
    }.items():
        (fault,) = found(name)
        assert part in fault


def test_fastcomposers_example_by_hand(tmp_path, tokenizer):
    """Its literal files, and what its preprocessing makes of them: worked out on paper."""
    (tmp_path / "00000").mkdir()
    pixels = np.full((6, 6, 3), 10, np.uint8)
    instances = np.zeros((6, 6), np.int64)
    instances[1:5, 0:2], instances[0:6, 4:6] = 2, 1
    pixels[instances == 2], pixels[instances == 1] = (200, 0, 0), (0, 200, 0)
    Image.fromarray(pixels).save(tmp_path / "00000" / "00000000.png")
    (tmp_path / "00000" / "00000000.png").rename(tmp_path / "00000" / "00000000.jpg")
    np.save(tmp_path / "00000" / "00000000.npy", instances)
    segments = [
        {"id": 1, "bbox": [4, 0, 6, 6], "coco_label": "person", "end": 15},
        {"id": 2, "bbox": [0, 1, 2, 5], "coco_label": "person", "end": 5},
    ]
    info = {"caption": "a man and a boy reading", "segments": segments}
    (tmp_path / "00000" / "00000000.json").write_text(json.dumps(info))
    (tmp_path / "image_ids.txt").write_text("00000000\n")
    loaded, found = read_record(open_records(tmp_path)[0], 3, tokenizer)
    assert found == []
    example = draw(loaded, 0, tokenizer, replace(STILL, resolution=6), subject_resolution=8)
    # <begin> a man and a boy reading <end>: "man" is token 2, "boy" token 5; segments by `end`
    assert example["subject_tokens"].tolist() == [2, 5, 77]
    np.testing.assert_array_equal(example["masks"][0], instances == 2)
    np.testing.assert_array_equal(example["masks"][1], instances == 1)
    # a box of 2x4 padded to 4x4 and doubled: the red subject in columns 2 to 5, blurred by one
    np.testing.assert_array_equal(example["subject_images"][0][:, 3:5], [[(200, 0, 0)] * 2] * 8)
    assert not example["subject_images"][0][:, [0, 7]].any()
    np.testing.assert_array_equal(example["image"], pixels)
