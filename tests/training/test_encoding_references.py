"""References are encoded beside the crops, once, and drawn as of the pictures themselves."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import Config, DataConfig
from moa_jax.data.augment import cut_out, prepare_subject
from moa_jax.data.encoded import EncodedRecords, write_encoded
from moa_jax.data.examples import read_record
from moa_jax.data.records import open_records
from moa_jax.errors import InputError
from moa_jax.training.encoding import ENCODERS
from moa_jax.training.kept import describe_source
from tests.data.paired import write_pictures
from tests.training.test_encoding import METHOD, encode_data, take


@pytest.fixture(scope="module")
def paired(tiny, tmp_path_factory):
    """Pictures with references, encoded; and the same without."""
    configs = []
    for name in ("paired", "plain"):
        folder = write_pictures(tmp_path_factory.mktemp(name), references=name == "paired")
        data = DataConfig(path=str(folder), resolution=64, augment=False, workers=2)
        data = dataclasses.replace(data, encoded=str(folder / "encoded"))
        configs.append(Config(data=data, method=METHOD))
        encode_data(tiny, configs[-1])
    return configs


def test_features_of_references_are_kept_beside_those_of_the_crops(tiny, paired):
    with_references, without = (EncodedRecords(config.data.encoded) for config in paired)
    pictures, found = [], []
    for number, (one, other) in enumerate(zip(with_references, without, strict=True)):
        np.testing.assert_array_equal(one.features, other.features)
        loaded, _ = read_record(open_records(paired[0].data.path)[number], 2)
        random = np.random.default_rng(number)
        for subject in loaded.subjects:  # the noise behind the crops is drawn first
            cut_out(loaded.image, subject.mask, subject.box, random)
        for subject, kept in zip(loaded.subjects, one.subjects, strict=True):
            assert len(kept.references) == len(subject.references)
            pictures += [prepare_subject(each.show(random), 32) for each in subject.references]
            found += kept.references
    assert len(found) == 10
    exact = jax.jit(tiny.model.encode_subjects)(tiny.params, jnp.array(pictures)[None])[0]
    np.testing.assert_allclose(np.stack(found), exact, rtol=2e-3, atol=2e-3)
    assert len(np.unique(np.stack(found), axis=0)) == 3  # the red, the masked and the green one


def test_without_references_nothing_is_kept_of_them(paired):
    folder = Path(paired[1].data.encoded)
    assert not (folder / "references.npy").exists()
    records = json.loads((folder / "index.json").read_text())["records"]
    assert all(len(record) == 4 for record in records)


def test_a_folder_that_lost_its_references_is_refused(paired, tmp_path):
    folder = shutil.copytree(paired[0].data.encoded, tmp_path / "copy")
    (folder / "references.npy").unlink()
    with pytest.raises(InputError, match="references.npy.*: delete it, and training encodes"):
        EncodedRecords(folder)


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_the_draw_is_that_of_the_pictures(tiny, paired, probability):
    data = dataclasses.replace(paired[0].data, reference_probability=probability)
    exactly = jax.jit(tiny.model.encode_subjects)
    compared = 0
    for encoded, batch in zip(
        take(tiny, data), take(tiny, dataclasses.replace(data, encoded=None)), strict=True
    ):
        pictures = batch["subject_images"]
        exact = np.asarray(exactly(tiny.params, jnp.array(pictures)))
        # Without noise are those of one colour: the references that need no mask.
        still = (pictures == pictures[:, :, :1, :1]).all(axis=(2, 3, 4)) & batch["subject_present"]
        np.testing.assert_allclose(encoded["features"][still], exact[still], rtol=2e-3, atol=2e-3)
        compared += still.sum()
    assert compared > 3


def test_encodings_of_references_that_changed_since_are_refused(tiny, paired, tmp_path):
    folder = Path(shutil.copytree(paired[0].data.path, tmp_path / "copy"))
    paths = {"path": str(folder), "encoded": str(folder / "encoded")}
    config = dataclasses.replace(paired[0], data=dataclasses.replace(paired[0].data, **paths))
    shutil.rmtree(folder / "encoded")
    source = describe_source(config, open_records(*config.data.source()), tiny.identity, ENCODERS)
    source["max_subjects"] = 2
    shapes = {"size": (8, 8), "downscale": 8, "channels": 1, "features": 1}
    write_encoded(folder / "encoded", [], source, rows=(1, 1), **shapes)
    encode_data(tiny, config)
    os.utime(folder / "green.png", ns=(0, 0))
    with pytest.raises(InputError, match="2 of 5 records or files of theirs changed, '1.png"):
        encode_data(tiny, config)
