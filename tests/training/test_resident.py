"""Data on the devices is the loader's: the same examples, once an epoch, with the same dropout."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moa_jax.config import Config, DataConfig, MeshConfig
from moa_jax.data.encoded import EncodedRecord, EncodedRecords, EncodedSubject, write_encoded
from moa_jax.data.loader import make_loader
from moa_jax.errors import InputError
from moa_jax.training.kept import check_kept
from moa_jax.training.mesh import make_mesh
from moa_jax.training.resident import ResidentLoader, drop, show

SIZE, FEATURES, COUNT = 8, 5, 12
CAPTION = "a man and a kid waving in the snow"
MAN, KID = (CAPTION.index(word) + len(word) for word in ("man", "kid"))
ENDS = ((MAN, KID), (KID, MAN), (KID,), ())  # of records in turn: the order is the record's own


def write(folder, records, references=0):
    shapes = {"size": (SIZE, SIZE), "downscale": 4, "channels": 8, "features": FEATURES}
    shapes |= {"rows": (len(records), 2 * len(records)), "references": references}
    write_encoded(folder, records, {"resolution": SIZE}, **shapes)
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


REFERENCES = ((1, 2, 3), (), (4,))  # of three subjects, by the value of their features


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """Records of one subject each, whose own features are 9; and how many references they have."""
    records = []
    for number in range(COUNT):
        values = REFERENCES[number % 3]
        references = tuple(np.full(FEATURES, value, np.float16) for value in values)
        subject = EncodedSubject(np.ones((SIZE, SIZE), bool), MAN, references)
        latents = np.full((2, 2, 8), number, np.float16)
        features = np.full((1, FEATURES), 9, np.float16)
        records.append(EncodedRecord(latents, features, CAPTION, (subject,), False, (SIZE, SIZE)))
    folder = write(tmp_path_factory.mktemp("encoded") / "paired", records, references=99)
    nothing = {"condition_dropout": 0.0, "subject_dropout": 0.0}
    return DataConfig(encoded=folder, resolution=SIZE, augment=False, workers=0, **nothing)


def test_references_are_read_back_as_they_were_written(paired):
    for number, record in enumerate(EncodedRecords(paired.encoded)):
        (subject,) = record.subjects
        assert tuple(each[0] for each in subject.references) == REFERENCES[number % 3]
        assert all((each == each[0]).all() for each in subject.references)


def test_a_subject_is_shown_by_one_of_its_own_references_as_on_the_host(paired, tokenizer):
    sizes = {"max_subjects": 2, "subject_resolution": 32, "batch_size": COUNT, "seed": 3}
    host = make_loader(paired, tokenizer, **sizes)
    for loader in (host, open_resident(paired, tokenizer, batch_size=COUNT)):
        seen = {0: set(), 1: set(), 2: set()}
        for batch in (next(loader) for _ in range(6)):
            features = np.asarray(batch["features"])
            assert not features[:, 1].any()  # nobody
            assert (features == features[..., :1]).all()
            for latents, value in zip(batch["latents"], features[:, 0, 0], strict=True):
                seen[int(latents[0, 0, 0]) % 3].add(float(value))
        assert seen == {0: {1, 2, 3}, 1: {9}, 2: {4}}
    host.close()


def test_references_are_drawn_evenly_and_as_often_as_asked_for():
    batch = {
        "features": jnp.full((ROWS, 2, 1), 9, jnp.float16),
        "first_reference": jnp.broadcast_to(jnp.array([1, 0]), (ROWS, 2)),
        "reference_count": jnp.broadcast_to(jnp.array([3, 0]), (ROWS, 2)),
    }
    references = jnp.arange(5, dtype=jnp.float16)[:, None]
    shown = show(batch, references, jax.random.key(0), 0.6)["features"]
    first, second = np.moveaxis(np.asarray(shown[..., 0]), 1, 0)
    assert (second == 9).all()
    for value, share in {1: 0.2, 2: 0.2, 3: 0.2, 9: 0.4}.items():
        assert abs((first == value).mean() - share) < 0.02


def test_what_is_drawn_of_references_moves_no_other_draw(paired, tokenizer):
    dropout = {"condition_dropout": 0.3, "subject_dropout": 0.4}
    batches = []
    for probability in (0.0, 1.0):
        data = replace(paired, reference_probability=probability, **dropout)
        batches.append([next(open_resident(data, tokenizer)) for _ in range(3)])
    for one, other in zip(*batches, strict=True):
        for name in one.keys() - {"features"}:
            np.testing.assert_array_equal(one[name], other[name])


def test_without_references_examples_are_those_from_before_there_were_any(data, tokenizer):
    """What dropout leaves, a literal from the last version without references."""
    dropout = {"condition_dropout": 0.3, "subject_dropout": 0.4}
    sizes = {"max_subjects": 2, "subject_resolution": 32, "batch_size": 16, "seed": 3}
    loader = make_loader(replace(data, **dropout), tokenizer, **sizes)
    tokens = np.concatenate([next(loader)["subject_tokens"] for _ in range(2)])[:, 0]
    loader.close()
    places = {int(place): int(tokens[place]) for place in np.flatnonzero(tokens < 77)}
    kid, man = dict.fromkeys((3, 10, 13, 18, 28, 29), 5), dict.fromkeys((22, 25, 30, 31), 2)
    assert places == kid | man


def test_dropout_is_that_from_before_there_were_references():
    """Literals from the last version without references."""
    rows = 16
    batch = {
        "latents": jnp.arange(rows),
        "features": jnp.ones((rows, 2, 1), jnp.float16),
        "masks": jnp.ones((rows, 2, 1, 1), jnp.uint8),
        "subject_tokens": jnp.ones((rows, 2), jnp.int32),
        "subject_present": jnp.ones((rows, 2), bool),
        "input_ids": jnp.full((rows, 4), 5),
    }
    kept = drop(batch, jax.random.key(0), NOTHING, 0.3, 0.4)["subject_present"].sum(axis=1)
    assert kept.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 2, 0, 2, 1, 0]


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
        check_kept(Config(data=DataConfig(resident=True)))
