"""References: drawn as configured, shown in place of the crop, and nothing else changes."""

import hashlib
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moa_jax.data.__main__ import main
from moa_jax.data.examples import make_example, read_record
from moa_jax.data.fingerprint import record_digests
from moa_jax.data.loader import make_loader
from moa_jax.data.records import Reference, open_records
from moa_jax.data.references import draw_reference, draw_references
from tests.data.paired import (
    BLUE,
    CAPTION,
    GREEN,
    RED,
    SIZES,
    SMALL,
    STILL,
    read_rows,
    write_pictures,
    write_rows,
)
from tests.data.test_loader import assert_same, take


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("plain"), references=False)


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("paired"))


def open_loader(path, tokenizer, **options):
    sizes = SIZES | {"batch_size": options.pop("batch_size", 4), "rows": options.pop("rows", None)}
    config = replace(STILL, path=str(path), **options)
    return make_loader(config, tokenizer, seed=5, **sizes)


def shown(batch):
    """What shows each subject that is present: a reference by its name, or "crop"."""
    names = []
    for picture in batch["subject_images"][batch["subject_present"]]:
        colours = [tuple(picture[row, 4].tolist()) for row in (0, SMALL - 1)]
        known = {(RED, RED): "red", (GREEN, GREEN): "green"}
        # Of the masked reference only the green half is the subject, padded by black.
        masked = colours[0] == (0, 0, 0) and tuple(picture[SMALL // 2, 4].tolist()) == GREEN
        names.append("both" if masked else known.get(tuple(colours), "crop"))
    return names


def test_without_references_examples_are_those_from_before_there_were_any(plain, tokenizer):
    """Literals from the last version without references, to the bit."""
    digest = hashlib.sha256()
    for batch in take(open_loader(plain, tokenizer), 6):
        for key in sorted(batch):
            digest.update(np.ascontiguousarray(batch[key]).tobytes())
    assert digest.hexdigest() == "acb85233e0a11e7bf1302d915318f9ba1d8fa8849c8e3e1d3c3d5b1180f66753"
    follows = []
    for number, record in enumerate(open_records(plain)):
        random = np.random.default_rng(number)
        drawn = draw_references(record, random, probability=1.0)
        assert drawn is record
        config = replace(STILL, augment=True)
        make_example(read_record(drawn, 2, tokenizer)[0], random, config, tokenizer, **SIZES)
        follows.append(int(random.integers(2**32)))
    assert follows == [323153949, 2018776849, 2088106656, 223581087, 340060246]


def test_only_the_pictures_of_subjects_are_others(plain, paired, tokenizer):
    """The order of records is drawn apart; captions and dropout come after the reference."""
    always = {"condition_dropout": 0.0, "subject_dropout": 0.0}
    with_references = take(open_loader(paired, tokenizer, **always), 6)
    for batch, other in zip(
        take(open_loader(plain, tokenizer, **always), 6), with_references, strict=True
    ):
        for key in batch.keys() - {"subject_images"}:
            np.testing.assert_array_equal(batch[key], other[key])
    names = [name for batch in with_references for name in shown(batch)]
    assert set(names) == {"red", "both", "green", "crop"}
    third = open_records(paired)[2]
    assert [subject.references for subject in third.subjects] == [()]


def test_one_is_drawn_evenly_as_often_as_asked_for(paired):
    record = open_records(paired)[1]
    counts = dict.fromkeys(("red.png", "both.png", None), 0)
    for seed in range(900):
        drawn = draw_references(record, np.random.default_rng(seed), probability=2 / 3)
        man = drawn.subjects[0]
        assert len(man.references) <= 1 and man.mask == record.subjects[0].mask
        counts[man.references[0].image.name if man.references else None] += 1
    np.testing.assert_allclose(np.array([*counts.values()]) / 900, 1 / 3, atol=0.05)
    drawn = {draw_reference(3, np.random.default_rng(seed), 1.0) for seed in range(50)}
    assert drawn == {0, 1, 2}
    assert all(draw_reference(3, np.random.default_rng(s), 0.0) is None for s in range(50))


@pytest.mark.parametrize(
    ("probability", "names"), [(0.0, {"crop"}), (1.0, {"red", "both", "green"})]
)
def test_the_probability_of_the_configuration_is_the_loaders(paired, tokenizer, probability, names):
    loader = open_loader(paired, tokenizer, reference_probability=probability)
    found = {name for batch in take(loader, 8) for name in shown(batch)}
    assert found - {"crop"} == names - {"crop"} and "crop" in found  # the third has no other


def test_a_picture_of_the_subject_alone_is_shown_whole_and_a_masked_one_cut_out(paired, tokenizer):
    record = open_records(paired)[0]
    red, both = record.subjects[0].references
    assert both == Reference(paired / "both.png", paired / "both_mask.png") and red.mask is None
    pictures = []
    for reference in (red, both):
        subject = replace(record.subjects[0], references=(reference,))
        loaded, found = read_record(replace(record, subjects=(subject,)), 2, tokenizer)
        assert found == []
        config = replace(STILL, condition_dropout=0.0, subject_dropout=0.0)
        example = make_example(loaded, np.random.default_rng(0), config, tokenizer, **SIZES)
        pictures.append(example["subject_images"][0])
    np.testing.assert_array_equal(pictures[0], np.full((SMALL, SMALL, 3), RED, np.uint8))
    # The box of the mask is the upper half: 8 x 4 pixels, in the middle of a black square.
    np.testing.assert_array_equal(pictures[1][2:6], np.full((4, SMALL, 3), GREEN, np.uint8))
    assert not pictures[1][[0, 1, 6, 7]].any()


def test_the_subject_of_a_masked_reference_stands_before_noise(tmp_path, tokenizer):
    folder = write_pictures(tmp_path)
    mask = Image.open(folder / "both_mask.png")
    mask.paste(1, (0, 0, 2, SMALL))  # a part of the blue too: the box is the entire picture
    mask.save(folder / "both_mask.png")
    record = open_records(folder)[0]
    subject = replace(record.subjects[0], references=record.subjects[0].references[1:])
    loaded, _ = read_record(replace(record, subjects=(subject,)), 2)
    picture = np.asarray(loaded.subjects[0].references[0].show(np.random.default_rng(0)))
    inside = np.asarray(mask)
    assert (picture[:4] == GREEN).all() and (picture[4:, :2] == BLUE).all()
    assert not (picture[~inside] == BLUE).all(axis=-1).any()


def test_threads_hosts_and_a_new_start_draw_the_same(paired, tokenizer):
    expected = take(open_loader(paired, tokenizer), 6)
    assert_same(take(open_loader(paired, tokenizer, workers=3), 6), expected)
    hosts = [take(open_loader(paired, tokenizer, rows=[i, i + 2]), 6) for i in range(2)]
    for batch, *halves in zip(expected, *hosts, strict=True):
        for row, half in enumerate(halves):
            np.testing.assert_array_equal(half["subject_images"], batch["subject_images"][row::2])
    resumed = open_loader(paired, tokenizer)
    resumed.set_state({"examples": 12, "records": 5})
    assert_same(take(resumed, 3), expected[3:])


def test_only_the_reference_to_show_is_read_and_what_was_met_before_decides_nothing(
    tmp_path, tokenizer, caplog
):
    folder = write_pictures(tmp_path)
    (folder / "red.png").write_bytes(b"no picture")
    options = {"max_bad_fraction": 1.0, "condition_dropout": 0.0, "subject_dropout": 0.0}
    with caplog.at_level(logging.WARNING, "moa_jax.data"):
        loader = open_loader(folder, tokenizer, **options)
        expected = take(loader, 8)
    assert len(caplog.records) == len(loader.ledger.faults) == 4  # each bad record is named once
    assert all("red.png: is no picture" in record.message for record in caplog.records)
    names = [name for batch in expected for name in shown(batch)]
    assert names.count("both") > 4 and "red" not in names
    assert_same(take(open_loader(folder, tokenizer, workers=3, **options), 8), expected)
    late = open_loader(folder, tokenizer, **options)
    late.set_state({"examples": 24, "records": 5})
    assert_same(take(late, 2), expected[6:])


def test_the_forms_of_an_entry(tmp_path):
    folder = write_pictures(tmp_path, references=False)
    (row, *_) = read_rows(folder)
    masked = {"image": "b/2.jpg", "mask": "b/2.png"}
    given = [None, [], "a.jpg", masked, ["a.jpg", masked, {"image": "c.jpg", "mask": None}]]
    subjects = [row["subjects"][0] | {"reference": reference} for reference in given]
    write_rows(folder, [row | {"subjects": [subject]} for subject in subjects])
    records = open_records(folder)
    a, b = Reference(folder / "a.jpg"), Reference(folder / "b/2.jpg", folder / "b/2.png")
    expected = [(), (), (a,), (b,), (a, b, Reference(folder / "c.jpg"))]
    assert [record.subjects[0].references for record in records] == expected
    assert not any(record.faults for record in records)


def test_the_check_names_every_file_that_is_missing_damaged_or_empty(tmp_path, capsys):
    folder = write_pictures(tmp_path)
    assert main(["check", str(folder)]) == 0
    assert "5 records, 7 subjects, 10 references: 0 faults" in capsys.readouterr().out
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
    Image.new("1", (SMALL, SMALL)).save(folder / "black.png")
    Image.new("1", (3, 2), 1).save(folder / "little.png")
    given = [
        "gone.png",
        "empty.png",
        "cut.png",
        {"image": "both.png", "mask": "gone.png"},
        {"image": "both.png", "mask": "black.png"},
        {"image": "both.png", "mask": "little.png"},
        {"mask": "both_mask.png"},
        {"image": "both.png", "mask": 3},
        4,
    ]
    rows = read_rows(folder)[1:2]
    rows[0]["subjects"][1]["reference"] = given
    write_rows(folder, rows)
    assert main(["check", str(folder)]) == 1
    *faults, _, summary = capsys.readouterr().out.splitlines()
    expected = [
        "subject 2, reference 7: no 'image'",
        "subject 2, reference 8: 'mask' is 3, not a string",
        "subject 2, reference 9: is 4, not an object with image",
        f"{folder}/gone.png: no such file",
        f"{folder}/empty.png: is no picture",
        f"{folder}/cut.png: cannot be read as a picture",
        f"{folder}/gone.png: no such file",
        f"{folder}/black.png (the mask of reference 5 of subject 2): is empty",
        f"{folder}/little.png (the mask of reference 6 of subject 2): is 3x2 pixels, but the",
    ]
    for fault, part in zip(faults, expected, strict=True):
        assert fault.startswith(f"1.png (metadata.jsonl line 1): {part}")
    assert summary == "1 records, 2 subjects, 8 references: 9 faults in 1 records"


def test_a_changed_reference_tells_in_the_digest_of_its_record_alone(tmp_path):
    folder = write_pictures(tmp_path)
    before = record_digests(open_records(folder), workers=2)
    (folder / "green.png").write_bytes((folder / "green.png").read_bytes() + b"\0")
    after = record_digests(open_records(folder), workers=2)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, False, True]
    Image.new("1", (SMALL, SMALL), 1).save(folder / "both_mask.png")
    last = record_digests(open_records(folder), workers=2)
    assert [a == b for a, b in zip(after, last, strict=True)] == [False, False, True, False, False]
    # The record's literal from before there were references, where no file is on disk.
    rows = [{"file_name": "gone.png", "text": CAPTION, "subjects": []}]
    rows[0]["subjects"] = [{"mask": "gone_too.png", "word": "man"}]
    write_rows(folder, rows)
    assert record_digests(open_records(folder), workers=1) == ["b0f04a9a"]
