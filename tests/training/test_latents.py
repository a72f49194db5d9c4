"""Latents kept of both flips change nothing of the training but what the VAE has to do."""

import dataclasses
import json
import logging
import os
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import Config, DataConfig, MeshConfig, MethodConfig
from moa_jax.data.augment import crop_target
from moa_jax.data.buckets import Buckets
from moa_jax.data.images import load_image
from moa_jax.data.latents import Latents
from moa_jax.data.records import open_records
from moa_jax.errors import InputError
from moa_jax.training.feed import batch_shapes
from moa_jax.training.kept import check_kept
from moa_jax.training.latents import ensure_latents
from moa_jax.training.mesh import make_mesh
from moa_jax.training.objective import encode, loss
from tests.data.paired import write_pictures
from tests.training.test_encoding import take

METHOD = MethodConfig(max_subjects=2)  # the image encoder learns


def keep(tiny, config, identity=None, buckets=None):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    ensure_latents(config, tiny.model, tiny.params, identity or tiny.identity, mesh, buckets)


def with_data(config, **data):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """Pictures with references, augmented, and their latents."""
    folder = write_pictures(tmp_path_factory.mktemp("pictures"))
    data = DataConfig(path=str(folder), resolution=64, latents=f"{folder}-latents", workers=2)
    config = Config(data=data, method=METHOD)
    keep(tiny, config)
    return config


@pytest.fixture(scope="module")
def batches(tiny, run):
    """(with latents, with pictures): the same batches of the stream."""
    return take(tiny, run.data, 3), take(tiny, dataclasses.replace(run.data, latents=None), 3)


def test_a_batch_differs_by_latents_in_place_of_the_picture(tiny, run, batches):
    exactly, flipped = jax.jit(partial(encode, tiny.model)), 0
    for kept, batch in zip(*batches, strict=True):
        assert kept.keys() ^ batch.keys() == {"latents", "image"}
        for key in kept.keys() & batch.keys():
            np.testing.assert_array_equal(kept[key], batch[key])
        exact = np.concatenate(exactly(tiny.params, jnp.array(batch["image"])), axis=-1)
        np.testing.assert_allclose(kept["latents"], exact, rtol=2e-3, atol=2e-3)
        mirrored = exactly(tiny.params, jnp.array(batch["image"][:, :, ::-1]))
        flipped += np.abs(np.concatenate(mirrored, axis=-1) - exact).max() > 0.1
    assert flipped == 3  # so the comparison would have seen a wrong flip


@pytest.mark.parametrize(("kind", "rtol"), [(np.float16, 1e-3), (np.float32, 1e-6)])
def test_the_loss_is_that_of_the_pictures_to_the_rounding_of_what_is_kept(
    tiny, run, batches, tmp_path, kind, rtol
):
    folder = shutil.copytree(run.data.latents, tmp_path / "latents")
    pictures = []
    for record in open_records(run.data.path):
        image, _ = crop_target(load_image(record.image), [], (64, 64), False)
        pictures += [image, image[:, ::-1]]
    exact = jax.jit(partial(encode, tiny.model))(tiny.params, jnp.array(pictures))
    exact = np.concatenate(exact, axis=-1)
    exact = exact.reshape(-1, 2, *exact.shape[1:])  # of each record, both flips
    np.save(folder / "latents.npy", exact.astype(kind))
    (kept,) = take(tiny, dataclasses.replace(run.data, latents=str(folder)), 1)
    assert kept["latents"].dtype == kind
    keys = jax.random.split(jax.random.key(0), 4)
    step = jax.jit(
        lambda batch: loss(tiny.model, tiny.schedule, METHOD, tiny.params, batch, keys)[0]
    )
    np.testing.assert_allclose(step(kept), step(batches[1][0]), rtol=rtol)


def test_a_plan_knows_the_batch(tiny, run, batches):
    train = dataclasses.replace(run.train, batch_size=4)
    shapes = batch_shapes(dataclasses.replace(run, train=train), tiny.base, (64, 64))
    found = {name: (array.shape, array.dtype) for name, array in batches[0][0].items()}
    assert {name: (one.shape, one.dtype) for name, one in shapes.items()} == found


@pytest.mark.slow
def test_each_shape_has_its_latents(tiny, run, tmp_path):
    """The pictures are squares, so half of each is cropped: any shape will do for a bucket."""
    members = {(128, 64): np.array([3, 0]), (64, 64): np.array([1, 2, 4])}
    config = with_data(run, latents=str(tmp_path / "latents"), buckets=True)
    keep(tiny, config, buckets=Buckets(members))
    latents = Latents(config.data.latents)
    for (width, height), rows in members.items():
        for index in rows:
            image = load_image(open_records(run.data.path)[index].image)
            image, _ = crop_target(image, [], (width, height), False)
            both = jnp.array([image, image[:, ::-1]])
            exact = np.concatenate(encode(tiny.model, tiny.params, both), axis=-1)
            found = latents.read(int(index), (width, height))
            np.testing.assert_allclose(found, exact, rtol=2e-3, atol=2e-3)
    assert "has latents of 64x64 pixels, and 128x64 are" in latents.faults(1, (128, 64))[0]


def test_what_is_there_is_taken_and_what_changed_is_refused(tiny, run, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    keep(tiny, run)
    keep(tiny, dataclasses.replace(run, method=MethodConfig(max_subjects=3)))  # of no consequence
    with pytest.raises(InputError, match="data.latents=.*none' is not there: .*train.py --encode"):
        keep(tiny, with_data(run, latents=str(tmp_path / "none")))
    with pytest.raises(InputError, match="data.latents=.* was made with another resolution 64: "):
        keep(tiny, with_data(run, resolution=128))
    carried = {"image_encoder.visual_projection.kernel": np.ones((2, 2), np.float32)}
    keep(tiny, run, tiny.identity.carrying(carried, "runs/first"))  # the VAE is the same
    folder = shutil.copytree(run.data.path, tmp_path / "pictures")
    moved = with_data(run, path=str(folder), latents=str(tmp_path / "latents"))
    monkeypatch.undo()
    keep(tiny, moved)
    os.utime(folder / "0.png", ns=(0, 0))
    with pytest.raises(InputError, match="since data.latents=.* was made, 1 of 5 records or files"):
        keep(tiny, moved)


def test_a_record_without_latents_is_bad(tiny, run, tmp_path, caplog):
    folder = shutil.copytree(run.data.path, tmp_path / "pictures")
    there = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(b"")
    data = {"path": str(folder), "latents": f"{folder}-latents", "max_bad_fraction": 0.5}
    config = with_data(run, **data)
    with caplog.at_level(logging.WARNING):
        keep(tiny, config)
        assert "1.png" in caplog.text
        caplog.clear()
        (folder / "1.png").write_bytes(there)  # as after a disk that failed for a moment
        take(tiny, config.data, 3)
    assert "has latents none, as it could not be read then, and 64x64 are needed" in caplog.text


def test_a_folder_of_another_data_set_or_that_is_damaged_is_refused(tiny, run, tmp_path):
    other = write_pictures(tmp_path / "other")
    listing = other / "metadata.jsonl"
    listing.write_text("".join(listing.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(InputError, match="is of 5 records, and .*other has 3: delete it"):
        take(tiny, dataclasses.replace(run.data, path=str(other)))
    folder = shutil.copytree(run.data.latents, tmp_path / "latents")
    (folder / "index.json").write_text(json.dumps({"source": {}}))
    with pytest.raises(InputError, match="data.latents=.*cannot be read .*--encode"):
        Latents(folder)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"data\.latents=.*cannot be written"):
        keep(tiny, with_data(run, latents=str(tmp_path / "file" / "latents")))


@pytest.mark.parametrize(
    ("data", "encode", "message"),
    [
        ({}, True, "--encode writes .*data.encoded=FOLDER, or by data.latents=FOLDER"),
        ({"encoded": "a", "latents": "b"}, False, "data.encoded='a' keeps the latents too"),
        ({"encoded": "a"}, False, "set it to false, or name the folder by data.latents"),
        ({"latents": "b", "resident": True}, False, "name a folder for it by data.encoded"),
    ],
)
def test_what_does_not_go_together_is_refused(data, encode, message):
    with pytest.raises(InputError, match=message):
        check_kept(Config(data=DataConfig(**data)), encode)
    check_kept(Config(data=DataConfig(latents="b")), encode=True)
