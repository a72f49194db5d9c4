"""Data on the devices is the loader's: the same examples, once an epoch, with the same dropout."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import Config, DataConfig, MeshConfig
from moa_jax.data.encoded import EncodedRecord, EncodedSubject, write_encoded
from moa_jax.data.loader import make_loader
from moa_jax.errors import InputError
from moa_jax.training.encoding import check_encoded
from moa_jax.training.mesh import make_mesh
from moa_jax.training.resident import ResidentLoader, drop

SIZE, FEATURES, COUNT = 8, 5, 12
CAPTION = "a man and a kid waving in the snow"
MAN, KID = (CAPTION.index(word) + len(word) for word in ("man", "kid"))
ENDS = ((MAN, KID), (KID, MAN), (KID,), ())  # of records in turn: the order is the record's own


def write(folder, records):
    shapes = {"size": (SIZE, SIZE), "downscale": 4, "channels": 8, "features": FEATURES}
    rows = (len(records), 2 * len(records))
    write_encoded(folder, records, {"resolution": SIZE}, rows=rows, **shapes)
    return str(folder)


def record(number, ends, sample_subjects=False):
    """A record of noise; of every fifth, the first subject is outside the picture."""
    random = np.random.default_rng(number)
    masks = random.random((len(ends), SIZE, SIZE)) < 0.5
    masks[: number % 5 == 0] = False
    return EncodedRecord(
        random.standard_normal((2, 2, 8)).astype(np.float16),
        random.standard_normal((len(ends), FEATURES)).astype(np.float16),
        CAPTION,
        tuple(map(EncodedSubject, masks, ends)),
        sample_subjects,
        (SIZE, SIZE),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    records = [record(number, ENDS[number % len(ENDS)]) for number in range(COUNT)]
    folder = write(tmp_path_factory.mktemp("encoded") / "small", records)
    nothing = {"condition_dropout": 0.0, "subject_dropout": 0.0}
    return DataConfig(encoded=folder, resolution=SIZE, augment=False, workers=0, **nothing)


def open_resident(data, tokenizer, batch_size=4, seed=3, devices=1):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    sizes = {"max_subjects": 2, "batch_size": batch_size, "seed": seed}
    return ResidentLoader(data, tokenizer, mesh, **sizes)


def rows_of(batches):
    """The rows of some batches, by their latents."""
    rows = [
        {name: np.asarray(array[row]) for name, array in batch.items()}
        for batch in batches
        for row in range(len(batch["latents"]))
    ]
    return {row["latents"].tobytes(): row for row in rows}


def test_an_epoch_is_every_example_of_the_loader_once(data, tokenizer):
    sizes = {"max_subjects": 2, "subject_resolution": 32, "batch_size": 4, "seed": 3}
    host, ours = make_loader(data, tokenizer, **sizes), open_resident(data, tokenizer)
    expected, found = (rows_of([next(one) for _ in range(3)]) for one in (host, ours))
    host.close()
    assert found.keys() == expected.keys() and len(found) == COUNT
    for latents, row in expected.items():
        assert found[latents].keys() == row.keys()
        for name, array in row.items():
            assert found[latents][name].dtype == array.dtype, name
            np.testing.assert_array_equal(found[latents][name], array, err_msg=name)
    counts = [row["subject_present"].sum() for row in found.values()]
    assert set(counts) == {0, 1, 2}


def test_epochs_differ_in_their_order_and_a_place_is_restored(data, tokenizer):
    data = replace(data, condition_dropout=0.5)
    straight = open_resident(data, tokenizer, batch_size=8, devices=8)
    batches = [next(straight) for _ in range(4)]  # an epoch leaves out what fills no batch
    assert not np.array_equal(batches[0]["latents"], batches[1]["latents"])
    assert (
        len({np.asarray(batch["input_ids"]).tobytes() for batch in batches}) == 4
    )  # what is left out
    assert len(batches[0]["latents"].addressable_shards[0].data) == 1
    resumed = open_resident(data, tokenizer, batch_size=8, devices=8)
    resumed.set_state({"batches": 3})
    for name, array in next(resumed).items():
        np.testing.assert_array_equal(array, batches[3][name], err_msg=name)
    assert straight.get_state() == resumed.get_state() == {"batches": 4}
    other = next(open_resident(data, tokenizer, batch_size=8, seed=4))
    assert not np.array_equal(other["latents"], batches[0]["latents"])


ROWS, NOTHING = 4000, np.array([9, 8, 8, 8], np.int32)
TOKENS = (1, 3)


@pytest.fixture(scope="module")
def dropped():
    """4,000 rows of two subjects, whose features and masks hold their tokens, with dropout."""
    of_subjects = jnp.broadcast_to(jnp.array(TOKENS), (ROWS, 2))
    batch = {
        "latents": jnp.arange(ROWS),
        "features": of_subjects[..., None].astype(jnp.float16),
        "masks": of_subjects[..., None, None].astype(jnp.uint8),
        "subject_tokens": of_subjects,
        "subject_present": jnp.ones((ROWS, 2), bool),
        "input_ids": jnp.full((ROWS, 4), 5),
    }
    leave_out = jax.jit(lambda batch, key: drop(batch, key, NOTHING, 0.2, 0.3))
    return jax.device_get(leave_out(batch, jax.random.key(0)))


def test_captions_and_subjects_are_left_out_as_often_as_asked_for(dropped):
    """Each bound is five standard deviations from the truth."""
    said = dropped["input_ids"][:, 0] == 5
    assert abs(said.mean() - 0.8) < 0.032
    tokens = dropped["subject_tokens"][said]
    shares = [np.mean(np.any(tokens == token, axis=1)) for token in TOKENS]
    both = np.mean(dropped["subject_present"][said].all(axis=1))
    np.testing.assert_allclose([*shares, both], [0.7, 0.7, 0.49], atol=0.045)


def test_subjects_that_stay_move_to_the_front_with_all_that_is_theirs(dropped):
    present, tokens = dropped["subject_present"], dropped["subject_tokens"]
    assert not np.any(present[:, 1] & ~present[:, 0])
    assert np.all(np.isin(tokens[present], TOKENS)) and np.all(tokens[~present] == len(NOTHING))
    assert np.all(tokens[present.all(axis=1)] == TOKENS)
    np.testing.assert_array_equal(dropped["features"][..., 0], np.where(present, tokens, 0))
    np.testing.assert_array_equal(dropped["masks"][..., 0, 0], np.where(present, tokens, 0))


def test_a_caption_that_is_left_out_is_empty_and_without_subjects(dropped):
    said = np.all(dropped["input_ids"] == 5, axis=1)
    assert np.all(dropped["input_ids"][~said] == NOTHING)
    assert not dropped["subject_present"][~said].any()
    np.testing.assert_array_equal(dropped["latents"], np.arange(ROWS))


@pytest.mark.parametrize(
    ("ends", "sampled"), [((MAN, KID), True), ((MAN, KID, len(CAPTION)), False)]
)
def test_subjects_that_are_to_be_chosen_are_refused(data, tokenizer, tmp_path, ends, sampled):
    records = [record(1, (MAN,)), record(2, ends, sampled)]
    folder = write(tmp_path / "sampled", records)
    with pytest.raises(InputError, match="record 1 of .*set data.resident=false"):
        open_resident(replace(data, encoded=folder), tokenizer, batch_size=1)


def test_less_than_a_batch_is_refused(data, tokenizer):
    with pytest.raises(InputError, match="train.batch_size=13: data.resident .* holds 12"):
        open_resident(data, tokenizer, batch_size=13)


def test_without_encoded_data_there_is_nothing_to_keep():
    with pytest.raises(InputError, match="data.resident=True .*name a folder for it by data.enc"):
        check_encoded(Config(data=DataConfig(resident=True)))
