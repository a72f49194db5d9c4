import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest

from moa_jax.config import DataConfig
from moa_jax.data.loader import make_loader
from moa_jax.errors import InputError

SIZES = {"max_subjects": 2, "subject_resolution": 16}


def open_loader(path, tokenizer, batch_size=3, seed=0, rows=None, **config):
    config = DataConfig(path=str(path), **({"resolution": 32, "workers": 4} | config))
    sizes = SIZES | {"batch_size": batch_size}
    return make_loader(config, tokenizer, seed=seed, rows=rows, **sizes)


def take(loader, count):
    return [next(loader) for _ in range(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("layout", ["imagefolder", "ffhq"])
def test_the_number_of_threads_changes_nothing(request, layout, tokenizer):
    path = request.getfixturevalue(layout)
    expected = take(open_loader(path, tokenizer, workers=0), 6)
    assert_same(take(open_loader(path, tokenizer, workers=1), 6), expected)
    assert_same(take(open_loader(path, tokenizer, workers=7), 6), expected)
    other = take(open_loader(path, tokenizer, seed=1), 6)
    assert any((a["image"] != b["image"]).any() for a, b in zip(other, expected, strict=True))
    assert expected[0]["image"].shape == (3, 32, 32, 3)
    assert expected[0]["subject_present"].dtype == np.bool_


@pytest.mark.parametrize("done", [0, 1, 2, 5])  # 5 batches of 3 are the middle of the 4th epoch
@pytest.mark.parametrize("workers", [0, 4])
def test_it_resumes_on_the_exact_next_batch(imagefolder, tokenizer, done, workers):
    whole = open_loader(imagefolder, tokenizer, workers=workers)
    take(whole, done)
    state = json.loads(json.dumps(whole.get_state()))
    expected = take(whole, 3)
    fresh = open_loader(imagefolder, tokenizer, workers=workers)
    fresh.set_state(state)
    assert fresh.get_state() == state
    assert_same(take(fresh, 3), expected)
    whole.set_state(state)  # and back, with batches read ahead
    assert_same(take(whole, 3), expected)


def test_orbax_saves_the_state(imagefolder, tokenizer, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    loader = open_loader(imagefolder, tokenizer)
    take(loader, 3)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.Composite(data=ocp.args.JsonSave(loader.get_state())))
        manager.wait_until_finished()
        expected = take(loader, 2)
        restored = manager.restore(3, args=ocp.args.Composite(data=ocp.args.JsonRestore()))
    fresh = open_loader(imagefolder, tokenizer)
    fresh.set_state(restored["data"])
    assert_same(take(fresh, 2), expected)


@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0, 3], [1, 2]], [[0], [1], [2], [3]]])
def test_the_hosts_of_a_step_read_the_same_batch_whatever_their_number(
    imagefolder, tokenizer, shares
):
    whole = take(open_loader(imagefolder, tokenizer, batch_size=4), 3)
    hosts = [open_loader(imagefolder, tokenizer, batch_size=4, rows=rows) for rows in shares]
    for rows, host in zip(shares, hosts, strict=True):
        assert_same(take(host, 3), [{k: v[rows] for k, v in batch.items()} for batch in whole])
    resumed = open_loader(imagefolder, tokenizer, batch_size=4)
    resumed.set_state(hosts[0].get_state())
    following = next(resumed)
    np.testing.assert_array_equal(following["image"][shares[1]], next(hosts[1])["image"])


def test_each_epoch_shows_every_picture_once_in_its_own_order(imagefolder, tokenizer):
    loader = open_loader(imagefolder, tokenizer, 4, augment=False, condition_dropout=0.0)
    epochs = [[ids.tobytes() for ids in batch["input_ids"]] for batch in take(loader, 8)]
    assert all(len(set(epoch)) == 4 and set(epoch) == set(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3


def test_the_seed_moves_the_order(imagefolder, tokenizer):
    still = {"augment": False, "condition_dropout": 0.0}
    loaders = [open_loader(imagefolder, tokenizer, 4, seed, **still) for seed in range(4)]
    orders = {next(loader)["input_ids"].tobytes() for loader in loaders}
    assert len(orders) > 1


def test_a_batch_may_be_larger_than_the_data_set(imagefolder, tokenizer):
    assert next(open_loader(imagefolder, tokenizer, 9))["image"].shape == (9, 32, 32, 3)


@pytest.fixture
def damaged(imagefolder, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(imagefolder, root)
    (root / "chelsea.png").write_bytes(b"no picture")
    return root


def test_a_bad_record_is_skipped_and_named_once(damaged, imagefolder, tokenizer, caplog):
    expected = take(open_loader(damaged, tokenizer, workers=0, max_bad_fraction=0.3), 8)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "moa_jax.data"):
        loader = open_loader(damaged, tokenizer, workers=4, max_bad_fraction=0.3)
        batches = take(loader, 8)
    assert_same(batches, expected)
    messages = [record.message for record in caplog.records if record.name == "moa_jax.data"]
    assert len(messages) == 1
    assert "chelsea.png (metadata.jsonl line 2)" in messages[0]
    assert list(loader.ledger.faults) == ["chelsea.png (metadata.jsonl line 2)"]
    good = take(open_loader(imagefolder, tokenizer), 8)
    same = [  # what is good keeps its place and its augmentation
        (a == b).all()
        for theirs, ours in zip(good, batches, strict=True)
        for a, b in zip(theirs["image"], ours["image"], strict=True)
    ]
    assert same.count(False) == 6  # 24 pictures are 6 epochs of 4


@pytest.mark.parametrize("workers", [0, 4])
def test_too_many_bad_records_stop_the_run(damaged, tokenizer, workers):
    loader = open_loader(damaged, tokenizer, workers=workers)
    with pytest.raises(InputError) as error:
        take(loader, 8)
    message = str(error.value)
    assert "1 of the 4 records" in message and "max_bad_fraction=0.01" in message
    assert "chelsea.png" in message and "is no picture" in message
    assert f"python -m moa_jax.data check {damaged}" in message


def test_every_other_record_may_be_bad(damaged, tokenizer):
    (damaged / "rocket.png").unlink()
    loader = open_loader(damaged, tokenizer, 8, max_bad_fraction=0.5, condition_dropout=0.0)
    captions = {
        tokenizer.decode(ids, skip_special_tokens=True) for ids in next(loader)["input_ids"]
    }
    assert captions == {"a woman smiling in a suit", "a hat and a book"}
    assert len(loader.ledger.faults) == 2


def test_a_data_set_of_bad_records_only(damaged, tokenizer):
    for picture in damaged.glob("*.png"):
        picture.unlink()
    with pytest.raises(InputError, match="every record of .* is bad"):
        next(open_loader(damaged, tokenizer, max_bad_fraction=1.0))


def test_more_subjects_than_supported_are_a_fault_in_an_imagefolder_only(
    imagefolder, ffhq, tokenizer
):
    config = DataConfig(resolution=8, workers=0, condition_dropout=0.0, subject_dropout=0.0)
    sizes = {"max_subjects": 1, "subject_resolution": 4, "batch_size": 4, "seed": 0}
    next(make_loader(replace(config, path=str(ffhq)), tokenizer, **sizes))
    with pytest.raises(InputError, match="2 subjects, but 1 are supported"):
        take(make_loader(replace(config, path=str(imagefolder)), tokenizer, **sizes), 2)


def test_another_number_of_records_is_said(imagefolder, tokenizer, caplog):
    loader = open_loader(imagefolder, tokenizer)
    loader.set_state({"examples": 6, "records": 7})
    assert "7 records at the checkpoint and has 4 now" in caplog.text


def test_wrong_arguments(imagefolder, tokenizer):
    with pytest.raises(InputError, match=r"rows=\[3\] of batch size 3"):
        open_loader(imagefolder, tokenizer, 3, rows=[3])
    with pytest.raises(InputError, match="batch size 0"):
        open_loader(imagefolder, tokenizer, 0)
    with pytest.raises(InputError, match="seed=-1"):
        open_loader(imagefolder, tokenizer, seed=-1)


def test_the_seed_moves_the_augmentation_too(imagefolder, tokenizer, tmp_path):
    shutil.copy(imagefolder / "rocket.png", tmp_path)
    row = {"file_name": "rocket.png", "text": "a forest", "subjects": []}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    first, second = (next(open_loader(tmp_path, tokenizer, 16, seed=seed)) for seed in (0, 1))
    flipped = (first["image"] != first["image"][:1]).any(axis=(1, 2, 3))
    assert 0 < flipped.sum() < 16
    assert (first["image"] != second["image"]).any()


def test_the_loader_and_the_caller_do_not_share_a_tokenizer(imagefolder, tokenizer):
    tokenizer("a man", padding="max_length", truncation=True)
    padding = tokenizer.backend_tokenizer.padding  # what such a call leaves behind
    assert padding is not None
    take(open_loader(imagefolder, tokenizer, workers=4), 2)
    assert tokenizer.backend_tokenizer.padding == padding
