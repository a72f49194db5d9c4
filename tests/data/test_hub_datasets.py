"""Data sets of the library `datasets`: what they hold is what an imagefolder of the same holds."""

import json
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from moa_jax.config import DataConfig
from moa_jax.data.__main__ import main
from moa_jax.data.examples import read_record
from moa_jax.data.fingerprint import listing_digest, record_digests
from moa_jax.data.hub_datasets import dataset_records
from moa_jax.data.pack import pack
from moa_jax.data.records import open_records
from moa_jax.errors import InputError
from tests.data.test_loader import assert_same, open_loader, take

IMAGE, TEXT = datasets.Image(), datasets.Value("string")
STRUCTS = {"subjects": [{"mask": IMAGE, "word": TEXT}]}
SEQUENCE = {"subjects": datasets.Sequence({"mask": IMAGE, "word": TEXT})}
COLUMNS = {"masks": datasets.Sequence(IMAGE), "words": datasets.Sequence(TEXT)}


@pytest.fixture(scope="module", autouse=True)
def quiet_and_apart(tmp_path_factory):
    """What `load_dataset` converts goes to a cache of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()


def rows_of(folder):
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        subjects = [(str(folder / each["mask"]), each["word"]) for each in row["subjects"]]
        yield str(folder / row["file_name"]), row["text"], subjects


def make(rows, kind=STRUCTS, caption="text", **more):
    """Build a data set of pictures, captions and subjects in one of the ways to give these."""
    found = {"image": [], caption: [], **{column: [] for column in kind}}
    for image, text, subjects in rows:
        found["image"].append(image)
        found[caption].append(text)
        masks, words = ([subject[part] for subject in subjects] for part in (0, 1))
        if kind is COLUMNS:
            found["masks"].append(masks)
            found["words"].append(words)
        elif kind is SEQUENCE:
            found["subjects"].append({"mask": masks, "word": words})
        else:
            found["subjects"].append([{"mask": mask, "word": word} for mask, word in subjects])
    features = datasets.Features({"image": IMAGE, caption: TEXT, **kind})
    return datasets.Dataset.from_dict(found, features=features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, imagefolder):
    """The imagefolder's content as one data set. Read only."""
    folder = tmp_path_factory.mktemp("saved")
    make(rows_of(imagefolder)).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def splits(tmp_path_factory, imagefolder):
    """The imagefolder's content in two splits. Read only."""
    folder = tmp_path_factory.mktemp("splits")
    whole = make(rows_of(imagefolder))
    parts = {"train": whole.select(range(3)), "test": whole.select([3])}
    datasets.DatasetDict(parts).save_to_disk(folder)
    return folder


def message(function, *args, **options):
    with pytest.raises(InputError) as error:
        function(*args, **options)
    return str(error.value)


def content(record):
    """All that matters of a record, with the bytes of its files."""
    masks = [subject.mask.read_bytes() for subject in record.subjects]
    ends = [subject.end for subject in record.subjects]
    return record.image.read_bytes(), record.caption, masks, ends, record.faults


@pytest.mark.parametrize("caption", ["text", "caption"])
@pytest.mark.parametrize("kind", [STRUCTS, SEQUENCE, COLUMNS], ids=["structs", "sequence", "two"])
def test_it_holds_what_the_imagefolder_holds(imagefolder, tmp_path, kind, caption):
    whole = make(rows_of(imagefolder), kind, caption)
    whole.add_column("other", [1, 2, 3, 4]).save_to_disk(tmp_path)
    found = open_records(tmp_path)
    assert [*map(content, found)] == [*map(content, open_records(imagefolder))]
    assert [record.name for record in found] == [
        f"{name}.png (row {row})"
        for row, name in enumerate(["astronaut", "chelsea", "coffee", "rocket"])
    ]
    assert [record.name for record in found[1:3]] == [found[1].name, found[2].name]


@pytest.mark.parametrize("which", ["saved", "splits"])
def test_training_sees_the_very_batches_and_resumes_on_the_next(
    request, which, imagefolder, tokenizer
):
    folder = request.getfixturevalue(which)
    whole = open_loader(imagefolder, tokenizer)
    expected = take(whole, 6)  # 18 pictures of 4: several epochs
    assert expected[0]["subject_present"].any()
    loader = open_loader(folder, tokenizer, workers=0)
    assert_same(take(loader, 3), expected[:3])
    resumed = open_loader(folder, tokenizer, layout="datasets")
    resumed.set_state(json.loads(json.dumps(loader.get_state())))
    assert_same(take(resumed, 3), expected[3:])


def test_threads_and_processes_may_read_the_same_records(splits):
    records = open_records(splits)
    expected = [*map(content, records)] * 50
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda place: content(records[place]), [*range(4)] * 50)] == expected
    copied = pickle.loads(pickle.dumps(records))
    assert [*map(content, copied)] == expected[:4]
    assert len(pickle.dumps(records)) < 10_000  # the rows stay in their files


def test_splits(splits, saved):
    names = {
        split: [r.name for r in open_records(splits, split=split)] for split in ("all", "test")
    }
    assert names["test"] == ["rocket.png (test row 0)"]
    assert names["all"][2:] == ["coffee.png (train row 2)", *names["test"]]
    assert len(open_records(splits, "datasets", "train")) == 3
    assert "has no splits; set it to" in message(open_records, saved, split="train")
    assert len(open_records(splits / "train")) == 3  # a split by its own folder
    parts = datasets.load_from_disk(splits)
    parts = datasets.DatasetDict(
        one=parts["train"].select([]), two=parts["test"], three=parts["train"].select([])
    )
    assert [record.name for record in dataset_records(parts)] == ["rocket.png (two row 0)"]
    found = message(dataset_records, parts, "test", "mine")
    assert "split 'test': mine has the splits one, two, three; set" in found


def test_a_folder_of_parquet_is_read_as_load_dataset_reads_it(imagefolder, tmp_path):
    whole = make(rows_of(imagefolder))
    for split, places in (("train", [0, 1, 2]), ("test", [3])):
        whole.select(places).to_parquet(tmp_path / f"{split}.parquet")
    records = open_records(tmp_path, "datasets")
    assert [*map(content, records)] == [*map(content, open_records(imagefolder))]
    assert records[3].name == "rocket.png (test row 0)"


def test_pictures_that_are_not_in_the_rows_are_read_at_their_paths(imagefolder):
    whole = make(rows_of(imagefolder))  # not saved: from_dict keeps paths
    records = dataset_records(whole)
    assert records[1].image == imagefolder / "chelsea.png"
    assert [*map(content, records)] == [*map(content, open_records(imagefolder))]


def test_bad_rows_are_reported_like_those_of_other_layouts(imagefolder, tmp_path, capsys):
    good = [*rows_of(imagefolder)]
    picture, caption, [(mask, _)] = good[1]
    other = good[0][2][0][0]  # the mask of a larger picture
    (tmp_path / "text.png").write_text("no")
    rows = [
        (picture, caption, [(mask, "cat")]),
        (None, caption, []),
        (picture, None, []),
        (str(tmp_path / "text.png"), caption, []),
        (picture, caption, [(None, "cat"), ({"path": mask, "bytes": None}, None)]),
        (picture, caption, [(mask, "dog")]),
        (picture, caption, [(other, "cat")]),
    ]
    make(rows).save_to_disk(tmp_path / "bad")
    assert main(["check", str(tmp_path / "bad"), "--workers", "2"]) == 1
    *faults, _, summary = capsys.readouterr().out.splitlines()
    expected = [
        ("row 1", "no 'image'"),
        ("chelsea.png (row 2)", "no 'text'"),
        ("text.png (row 3)", "image: is no picture"),
        ("chelsea.png (row 4)", "subject 1: no 'mask'"),
        ("chelsea.png (row 4)", "subject 2: no 'word'"),
        ("chelsea.png (row 5)", "subject 1: the caption 'photo of a cat' has no word 'dog'"),
        ("chelsea.png (row 6)", "mask 1 (the mask of subject 1): is 128x128 pixels"),
    ]
    assert len(faults) == len(expected)
    for line, (name, fault) in zip(faults, expected, strict=True):
        assert line.startswith(f"{name}: {fault}")
    assert summary == "7 records, 3 subjects: 7 faults in 6 records"


def test_a_picture_without_bytes_and_path_is_a_fault(imagefolder):
    """The library does not write such a row, but a Parquet file may hold it."""
    whole = make([*rows_of(imagefolder)][:1])
    nothing = pa.array([{"bytes": None, "path": None}], whole.data.table.schema.field("image").type)
    table = whole.data.table.set_column(0, "image", nothing)
    other = datasets.Dataset(table, datasets.DatasetInfo(features=whole.features))
    assert dataset_records(other)[0].faults == ("no 'image'",)


def test_lists_that_do_not_match_and_rows_without_any(imagefolder):
    (picture, caption, [(mask, word)]) = [*rows_of(imagefolder)][1]
    whole = make([(picture, caption, [])] * 3, COLUMNS).to_dict()
    whole |= {"masks": [[mask, mask], None, [mask]], "words": [[word], None, [word]]}
    features = datasets.Features({"image": IMAGE, "text": TEXT, **COLUMNS})
    records = dataset_records(datasets.Dataset.from_dict(whole, features=features))
    assert [record.faults for record in records] == [("2 masks, but 1 words",), (), ()]
    assert [len(record.subjects) for record in records] == [1, 0, 1]
    assert read_record(records[2], 1)[1] == []


def test_columns_that_cannot_be_taken_are_listed(imagefolder):
    whole = make(rows_of(imagefolder))
    for other, told in [
        (whole.rename_column("image", "photo"), "has the columns photo Image, text string"),
        (whole.rename_column("text", "prompt"), "prompt string"),
        (whole.remove_columns("subjects"), "it needs image Image, text (or caption) string, and"),
        (whole.cast_column("image", datasets.Image(decode=True)).remove_columns("text"), "image"),
        (make(rows_of(imagefolder), COLUMNS).remove_columns("words"), "masks [Image]; it needs"),
        (whole.cast_column("text", datasets.Value("binary")), "text binary, subjects [{mask: "),
    ]:
        found = message(dataset_records, other, name="mine")
        assert found.startswith("mine has the columns") and told in found
    found = message(dataset_records, datasets.DatasetDict(train=whole.remove_columns("text")))
    assert found.startswith("the data set, train has the columns")


def test_what_cannot_be_opened(tmp_path, monkeypatch):
    found = message(open_records, "owner/pictures", "datasets")
    assert "'owner/pictures' is no folder, and as an id on the Hugging Face Hub cannot be" in found
    assert "needs the layout datasets" in message(open_records, "owner/pictures")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert "cannot be opened (FileNotFoundError" in message(open_records, tmp_path)
    (tmp_path / "metadata.jsonl").touch()
    assert "set the layout to one of datasets, imagefolder" in message(open_records, tmp_path)
    found = message(open_records, "gs://bucket/saved", "datasets")
    assert "does not stream them; copy it to the local disk (gcloud storage rsync" in found
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it raises ImportError
    found = message(open_records, tmp_path, "datasets")
    assert "layout datasets, needs the library datasets: pip install 'moa_jax[datasets]'" in found


def test_a_stream_is_refused_in_words(imagefolder):
    stream = make(rows_of(imagefolder)).to_iterable_dataset()
    for each in (stream, datasets.IterableDatasetDict(train=stream)):
        assert "mine is a stream" in message(dataset_records, each, name="mine")


def test_packing_keeps_every_batch_and_names_the_layout(splits, tmp_path, tokenizer):
    config = DataConfig(path=str(splits), split="train", subject_label="person")
    source = pack(config, tmp_path / "packed").index["source"]
    assert (source["layout"], source["split"], source["subject_label"]) == (
        "datasets",
        "train",
        None,
    )
    expected = take(open_loader(splits, tokenizer, split="train"), 4)
    assert_same(take(open_loader(tmp_path / "packed", tokenizer), 4), expected)
    next((tmp_path / "packed").glob("*.array_record")).unlink()
    found = message(open_records, tmp_path / "packed")
    assert (
        f"{splits} {tmp_path / 'packed'} --layout datasets --shard-size 1000 --split train ("
        in found
    )


def test_the_listing_tells_when_a_file_was_written_again(imagefolder, tmp_path):
    def digest():
        records = open_records(tmp_path / "saved")
        assert record_digests(records, workers=2) == []
        return listing_digest(records)

    rows = [*rows_of(imagefolder)]
    make(rows).save_to_disk(tmp_path / "saved")
    first = digest()
    assert digest() == first
    moved = shutil.copytree(tmp_path / "saved", tmp_path / "moved")  # keeps the times
    assert listing_digest(open_records(moved)) == first
    file = next(Path(tmp_path / "saved").glob("*.arrow"))
    data = file.read_bytes()
    file.write_bytes(data.replace(b"photo of", b"pixel of"))  # the library's fingerprint stays
    assert digest() != first
    make(rows[:3]).save_to_disk(tmp_path / "less")
    assert listing_digest(open_records(tmp_path / "less")) != first


def test_the_benchmark_as_a_command(saved, capsys):
    arguments = ["bench", str(saved), "--resolution", "32", "--seconds", "0.05", "--workers", "2"]
    assert main(arguments) == 0
    assert "examples, augmented" in capsys.readouterr().out
