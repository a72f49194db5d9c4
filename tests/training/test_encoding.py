"""Pictures encoded before training teach what the pictures themselves teach."""

import dataclasses
import json
import logging
import os
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import Config, DataConfig, MeshConfig, MethodConfig
from moa_jax.data.augment import cut_out, prepare_subject
from moa_jax.data.encoded import EncodedRecords, write_encoded
from moa_jax.data.examples import read_record
from moa_jax.data.loader import make_loader
from moa_jax.data.pack import pack
from moa_jax.data.records import open_records
from moa_jax.errors import InputError
from moa_jax.training.encoding import ENCODERS, ensure_encoded
from moa_jax.training.kept import check_kept, describe_source
from moa_jax.training.mesh import make_mesh
from moa_jax.training.objective import encode, encode_batch, loss
from tests.method.variants import Everything
from tests.training.tiny import random_batch

METHOD = MethodConfig(image_encoder_layers=0, max_subjects=2)


def encode_data(tiny, config, identity=None):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    identity = identity or tiny.identity
    arguments = (tiny.model, tiny.params, identity, tiny.base.tokenizer, mesh)
    ensure_encoded(config, *arguments)


def take(tiny, data, count=5):
    loader = make_loader(
        data, tiny.base.tokenizer, max_subjects=2, subject_resolution=32, batch_size=4, seed=3
    )
    batches = [next(loader) for _ in range(count)]
    loader.close()
    return batches


@pytest.fixture(scope="module")
def run(tiny, imagefolder, tmp_path_factory):
    """A small data set, encoded."""
    folder = tmp_path_factory.mktemp("encoded") / "small"
    data = DataConfig(path=str(imagefolder), resolution=64, augment=False, encoded=str(folder))
    config = Config(data=dataclasses.replace(data, workers=2), method=METHOD)
    encode_data(tiny, config)
    return config


def test_batches_say_the_same_in_the_same_order(tiny, run):
    exactly = jax.jit(partial(encode, tiny.model))
    pictures = take(tiny, dataclasses.replace(run.data, encoded=None))
    for encoded, batch in zip(take(tiny, run.data), pictures, strict=True):
        assert encoded.keys() ^ batch.keys() == {"latents", "features", "image", "subject_images"}
        for key in encoded.keys() & batch.keys():
            np.testing.assert_array_equal(encoded[key], batch[key])
        mean, deviation = np.split(encoded["latents"], 2, axis=-1)
        for found, exact in zip(
            (mean, deviation),
            exactly(tiny.params, jnp.array(batch["image"])),
            strict=True,
        ):
            np.testing.assert_allclose(found, exact, rtol=2e-3, atol=2e-3)
        assert not encoded["features"][~batch["subject_present"]].any()


def test_features_are_those_of_the_subjects_pictures(tiny, run):
    pictures, found = [], []
    for index, record in enumerate(open_records(run.data.path)):
        loaded, _ = read_record(record, 2)
        random = np.random.default_rng(index)
        pictures += [
            prepare_subject(cut_out(loaded.image, s.mask, s.box, random), 32)
            for s in loaded.subjects
        ]
        encoded = EncodedRecords(run.data.encoded)[index]
        assert len(encoded.subjects) == len(encoded.features) == len(loaded.subjects)
        found.append(encoded.features)
    exact = jax.jit(tiny.model.encode_subjects)(tiny.params, jnp.array(pictures)[None])[0]
    np.testing.assert_allclose(np.concatenate(found), exact, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_the_loss_is_that_of_the_pictures(tiny):
    batch = {name: jnp.asarray(array) for name, array in random_batch(1).items()}
    encoding = jax.jit(partial(encode_batch, tiny.model))
    mean, deviation, features = encoding(tiny.params, batch)
    encoded = {k: v for k, v in batch.items() if k not in ("image", "subject_images")}
    encoded["latents"] = jnp.concatenate([mean, deviation], -1).astype(jnp.float16)
    encoded["features"] = features.astype(jnp.float16)
    keys = jax.random.split(jax.random.key(0), len(mean))
    step = jax.jit(lambda batch: loss(tiny.model, tiny.schedule, METHOD, tiny.params, batch, keys))
    (total, numbers), (other, others) = step(batch), step(encoded)
    np.testing.assert_allclose(other, total, rtol=1e-3)
    np.testing.assert_allclose(others["loss/denoising"], numbers["loss/denoising"], rtol=1e-3)


def test_what_is_there_is_taken_and_other_pictures_are_refused(tiny, run):
    encode_data(tiny, run)
    larger = dataclasses.replace(run, data=dataclasses.replace(run.data, resolution=128))
    with pytest.raises(InputError, match="made with another resolution 64: delete it"):
        encode_data(tiny, larger)


def test_many_hosts_do_not_encode_but_say_how(tiny, run, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    encode_data(tiny, run)  # is there
    data = dataclasses.replace(run.data, encoded=str(tmp_path / "none"))
    with pytest.raises(InputError, match="none' is not there: .*one host.* train.py --encode"):
        encode_data(tiny, dataclasses.replace(run, data=data))


def test_many_hosts_keep_no_data_on_their_devices(run, monkeypatch):
    resident = dataclasses.replace(run, data=dataclasses.replace(run.data, resident=True))
    check_kept(resident)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    check_kept(run)
    with pytest.raises(InputError, match="data.resident=True makes the batches on one host"):
        check_kept(resident)


@pytest.fixture
def noted(tiny, imagefolder, tmp_path):
    """(configuration, its pictures) of encodings that hold nothing but what they are made of."""
    folder = shutil.copytree(imagefolder, tmp_path / "pictures")
    data = DataConfig(path=str(folder), resolution=64, augment=False, encoded=f"{folder}-encoded")
    config = Config(data=data, method=METHOD)
    source = describe_source(config, open_records(*data.source()), tiny.identity, ENCODERS)
    source["max_subjects"] = 2
    shapes = {"rows": (1, 1), "size": (8, 8), "downscale": 8, "channels": 1, "features": 1}
    write_encoded(Path(data.encoded), [], source, **shapes)
    encode_data(tiny, config)
    return config, folder


def test_encodings_of_pictures_that_changed_since_are_refused(tiny, noted):
    config, folder = noted
    os.utime(folder / "chelsea.png", ns=(0, 0))
    changed = "1 of 4 records or files of theirs changed, 'chelsea.png .*' among them: delete it"
    with pytest.raises(InputError, match=f"since data.encoded=.* was made, {changed}"):
        encode_data(tiny, config)
    listing = folder / "metadata.jsonl"
    listing.write_text(listing.read_text().replace("a hat", "no hat"))
    with pytest.raises(InputError, match="metadata.jsonl changed; 2 of 4 records.*'chelsea.png"):
        encode_data(tiny, config)


def test_encodings_by_another_image_encoder_are_refused(tiny, noted):
    """As when model.moa names weights that hold another one, over the same base."""
    carried = {"image_encoder.visual_projection.kernel": np.ones((2, 2), np.float32)}
    with pytest.raises(InputError, match="made with another encoders .*: delete it"):
        encode_data(tiny, noted[0], tiny.identity.carrying(carried, "runs/first"))


def test_encodings_that_note_no_files_are_refused(tiny, noted):
    index = Path(noted[0].data.encoded) / "index.json"
    values = json.loads(index.read_text())
    del values["source"]["listing"], values["source"]["files"]
    index.write_text(json.dumps(values))
    with pytest.raises(InputError, match="of an earlier version.*: delete it, or name another"):
        encode_data(tiny, noted[0])


def test_a_bad_record_is_left_out(tiny, imagefolder, tmp_path, caplog):
    lines = (imagefolder / "metadata.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        entry["file_name"] = str(imagefolder / entry["file_name"])
        for subject in entry["subjects"]:
            subject["mask"] = str(imagefolder / subject["mask"])
    entries[1]["file_name"] = "gone.png"
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)))
    data = DataConfig(path=str(tmp_path), resolution=64, augment=False, max_bad_fraction=0.5)
    data = dataclasses.replace(data, encoded=str(tmp_path / "encoded"))
    with caplog.at_level(logging.WARNING):
        encode_data(tiny, Config(data=data, method=METHOD))
    assert "gone.png" in caplog.text
    captions = [record.caption for record in EncodedRecords(data.encoded)]
    assert captions == [entry["text"] for entry in entries[:1] + entries[2:]]


def test_pictures_of_nobody_are_encoded_whatever_a_variant_looks_at(tiny, imagefolder, tmp_path):
    entry = json.loads((imagefolder / "metadata.jsonl").read_text().splitlines()[0])
    entry |= {"file_name": str(imagefolder / entry["file_name"]), "subjects": []}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(entry))
    data = DataConfig(path=str(tmp_path), resolution=64, augment=False)
    data = dataclasses.replace(data, encoded=str(tmp_path / "encoded"))
    wider = tiny._replace(model=dataclasses.replace(tiny.model, variant=Everything()))
    encode_data(wider, Config(data=data, method=METHOD))
    (record,) = EncodedRecords(data.encoded)
    width = tiny.model.image_encoder.config.projection_dim
    assert record.features.shape == (0, width + 3)  # the variant adds the mean colour


@pytest.mark.parametrize(
    ("data", "method", "message"),
    [
        ({"augment": True}, {}, "data.augment=True changes the pictures: set it to false"),
        ({}, {"image_encoder_layers": 2}, "method.image_encoder_layers=2 trains"),
    ],
)
def test_what_changes_the_encodings_is_refused(run, data, method, message):
    changed = dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, **data),
        method=dataclasses.replace(run.method, **method),
    )
    with pytest.raises(InputError, match=message):
        check_kept(changed)


@pytest.mark.parametrize("index", ["{", '{"records": []}'])
def test_a_damaged_folder_is_named(tmp_path, index):
    (tmp_path / "index.json").write_text(index)
    for name in ("latents", "masks", "features"):
        np.save(tmp_path / f"{name}.npy", np.zeros(1))
    with pytest.raises(InputError, match="delete it"):
        EncodedRecords(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tiny, run, tmp_path):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "encoded")
    changed = dataclasses.replace(run, data=dataclasses.replace(run.data, encoded=folder))
    with pytest.raises(InputError, match=r"data\.encoded=.*cannot be written"):
        encode_data(tiny, changed)


def test_a_packed_folder_is_encoded_to_the_same(tiny, run, tmp_path):
    pack(run.data, tmp_path / "packed", shard_size=3)
    paths = {"path": str(tmp_path / "packed"), "encoded": str(tmp_path / "encoded")}
    encode_data(tiny, dataclasses.replace(run, data=dataclasses.replace(run.data, **paths)))
    for name in ("latents", "masks", "features"):
        expected = np.load(f"{run.data.encoded}/{name}.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "encoded" / f"{name}.npy"), expected)
