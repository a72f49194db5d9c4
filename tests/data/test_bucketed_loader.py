"""The loader with buckets: what batches hold, whoever reads them and wherever they resume."""

import dataclasses
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from moa_jax.config import DataConfig
from moa_jax.data.loader import make_loader
from moa_jax.data.pack import pack
from moa_jax.data.records import open_records
from moa_jax.data.sizes import find_buckets, read_sizes
from moa_jax.errors import InputError
from tests.data.shapes import (
    FIT,
    RESOLUTION,
    SIZES,
    SQUARE,
    TALL,
    WIDE,
    colour,
    number_of,
    shapes,
    write_shapes,
)
from tests.data.test_loader import assert_same, take

__all__ = ["shapes"]  # a fixture

STILL = {"augment": False, "condition_dropout": 0.0, "subject_dropout": 0.0}
BUCKET_OF = dict(enumerate([WIDE] * 5 + [SQUARE] * 6 + [TALL] * 4))


def open_bucketed(path, tokenizer, batch_size=4, seed=0, rows=None, **config):
    values = {"workers": 3, "buckets": True, "max_bad_fraction": 0.1, "resolution": RESOLUTION}
    config = DataConfig(path=str(path), **values | config)
    records = open_records(path)
    buckets = find_buckets(config, records, read_sizes(records, range(len(records)), 2), FIT)
    sizes = {"max_subjects": 2, "subject_resolution": 16, "batch_size": batch_size}
    return make_loader(config, tokenizer, seed=seed, rows=rows, buckets=buckets, **sizes)


def size_of(batch):
    height, width = batch["image"].shape[1:3]
    return width, height


def test_batches_have_the_size_of_their_bucket_and_nothing_else_changes(shapes, tokenizer):
    for batch in take(open_bucketed(shapes, tokenizer, **STILL), 12):
        width, height = size_of(batch)
        assert {BUCKET_OF[number_of(image)] for image in batch["image"]} == {(width, height)}
        assert batch["masks"].shape == (4, 2, height, width)
        # The left half is the subject, upright as the picture is.
        expected = np.zeros((height, width), np.uint8)
        expected[:, : width // 2] = 1
        for masks in batch["masks"]:
            np.testing.assert_array_equal(masks[0], expected)
        for image in batch["image"]:
            np.testing.assert_array_equal(image[..., 0], colour(number_of(image))[0])
        assert batch["subject_present"].tolist() == [[True, False]] * 4


def test_every_picture_is_seen_equally_often(shapes, tokenizer):
    loader = open_bucketed(shapes, tokenizer, **STILL)
    # In 4 epochs the buckets of 5, 6 and 4 pictures fill 5, 6 and 4 batches of 4: nothing is left.
    seen = Counter(number_of(image) for batch in take(loader, 15) for image in batch["image"])
    assert seen == dict.fromkeys(range(len(SIZES)), 4)
    assert list(loader.ledger.faults) == ["15.png (metadata.jsonl line 16)"]


@pytest.mark.parametrize("workers", [0, 1, 7])
def test_the_number_of_threads_changes_nothing(shapes, tokenizer, workers):
    expected = take(open_bucketed(shapes, tokenizer), 9)
    assert_same(take(open_bucketed(shapes, tokenizer, workers=workers), 9), expected)
    others = take(open_bucketed(shapes, tokenizer, seed=1), 9)
    assert [number_of(a["image"][0]) for a in others] != [
        number_of(b["image"][0]) for b in expected
    ]


@pytest.mark.parametrize("done", [0, 1, 3, 7])
@pytest.mark.parametrize("workers", [0, 4])
def test_it_resumes_on_the_exact_next_batch(shapes, tokenizer, done, workers):
    whole = open_bucketed(shapes, tokenizer, workers=workers)
    take(whole, done)
    state = json.loads(json.dumps(whole.get_state()))
    assert state == {"examples": 4 * done, "records": 16, "buckets": whole.buckets.digest()}
    expected = take(whole, 4)
    fresh = open_bucketed(shapes, tokenizer, workers=workers)
    fresh.set_state(state)
    assert_same(take(fresh, 4), expected)


@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0, 3], [1, 2]], [[0], [1], [2], [3]]])
def test_hosts_read_rows_of_the_same_batches(shapes, tokenizer, shares):
    whole = take(open_bucketed(shapes, tokenizer), 6)
    for rows in shares:
        host = take(open_bucketed(shapes, tokenizer, rows=rows), 6)
        assert_same(host, [{key: array[rows] for key, array in batch.items()} for batch in whole])


def test_another_batch_size_resumes_at_a_whole_batch(shapes, tokenizer):
    loader = open_bucketed(shapes, tokenizer, batch_size=4)
    loader.set_state({"examples": 18, "records": 16})
    assert loader.get_state()["examples"] == 20
    batch = next(loader)
    assert {BUCKET_OF[number_of(image)] for image in batch["image"]} == {size_of(batch)}


def test_other_sizes_than_at_the_checkpoint_are_said(shapes, tokenizer, tmp_path, caplog):
    state = open_bucketed(shapes, tokenizer).get_state()
    open_bucketed(shapes, tokenizer).set_state(state)
    open_bucketed(shapes, tokenizer).set_state({"examples": 4, "records": 16})  # from squares
    assert "sizes at the checkpoint" not in caplog.text
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    open_bucketed(tmp_path, tokenizer).set_state(state)
    assert "other sizes at the checkpoint" in caplog.text


def test_packed_gives_the_very_batches_of_its_source(shapes, tokenizer, tmp_path):
    pack(DataConfig(path=str(shapes)), tmp_path / "packed", shard_size=5)
    expected = take(open_bucketed(shapes, tokenizer), 9)
    assert_same(take(open_bucketed(tmp_path / "packed", tokenizer), 9), expected)


def test_a_bad_picture_is_replaced_by_one_of_its_bucket(shapes, tokenizer, tmp_path):
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    data = bytearray((tmp_path / "6.png").read_bytes())
    data[60:] = b"?" * (len(data) - 60)  # its head is as it was
    (tmp_path / "6.png").write_bytes(data)
    good = take(open_bucketed(shapes, tokenizer, **STILL), 15)
    found = take(open_bucketed(tmp_path, tokenizer, max_bad_fraction=0.2, **STILL), 15)
    for ours, theirs in zip(found, good, strict=True):
        for one, other in zip(ours["image"], theirs["image"], strict=True):
            bad = number_of(other) == 6
            assert number_of(one) == (7 if bad else number_of(other))


def test_a_bucket_of_bad_pictures_alone_does_not_stop_a_run(shapes, tokenizer, tmp_path):
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    for number in range(11, 15):  # all of TALL
        (tmp_path / f"mask{number}.png").unlink()
    batches = take(open_bucketed(tmp_path, tokenizer, max_bad_fraction=0.4, **STILL), 15)
    assert {size_of(batch) for batch in batches} == {WIDE, SQUARE}


def test_a_picture_that_changed_its_shape_since_is_not_cropped_to_the_old_one(tokenizer, tmp_path):
    write_shapes(tmp_path)
    loader = open_bucketed(tmp_path, tokenizer, max_bad_fraction=0.2, **STILL)
    Image.new("RGB", (90, 60), colour(2)).save(tmp_path / "2.png")  # as WIDE it would lose 25%
    Image.new("1", (90, 60), 1).save(tmp_path / "mask2.png")
    seen = Counter(number_of(image) for batch in take(loader, 15) for image in batch["image"])
    assert 2 not in seen and sum(seen.values()) == 60
    assert "90x60 pixels" in loader.ledger.faults["2.png (metadata.jsonl line 3)"][0]


def test_without_buckets_given_sizes_are_read_for_sides_of_64(shapes, tokenizer):
    values = {"buckets": True, "resolution": 128, "workers": 0, "max_bad_fraction": 0.1}
    config = DataConfig(path=str(shapes), max_crop=0.4, **values)
    sizes = {"max_subjects": 2, "subject_resolution": 16, "batch_size": 4, "seed": 0}
    loader = make_loader(config, tokenizer, **sizes)  # 200x50 loses half of it
    assert loader.buckets.sizes == [(128, 128), (128, 64), (64, 128)]
    assert next(loader)["image"].shape == (4, 128, 128, 3)
    check = f"check {shapes} --buckets --resolution 128 --max-crop 0.01"
    with pytest.raises(InputError, match=f"more than data.max_bad_fraction.*{check}"):
        make_loader(dataclasses.replace(config, max_crop=0.01), tokenizer, **sizes)
