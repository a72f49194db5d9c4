"""References in packed folders and in data sets of `datasets`: as those of the imagefolder."""

import json

import datasets
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from moa_jax.config import DataConfig
from moa_jax.data.examples import read_record
from moa_jax.data.hub_datasets import dataset_records
from moa_jax.data.pack import WRITER_OPTIONS, pack
from moa_jax.data.packed import encode_record
from moa_jax.data.records import open_records
from moa_jax.errors import InputError
from tests.data.paired import CAPTION, GREEN, read_rows, write_pictures
from tests.data.test_loader import assert_same, take
from tests.data.test_references import open_loader, shown

IMAGE, TEXT = datasets.Image(), datasets.Value("string")
MASKED = {"image": IMAGE, "mask": IMAGE}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("plain"), references=False)


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("paired"))


def packed(source, folder, **options):
    return pack(DataConfig(path=str(source), workers=2), folder, shard_size=2, **options).index


def test_a_packed_folder_gives_the_very_batches(paired, tmp_path, tokenizer):
    index = packed(paired, tmp_path / "packed")
    expected = take(open_loader(paired, tokenizer), 6)
    assert {"red", "both", "green"} < {name for batch in expected for name in shown(batch)}
    assert_same(take(open_loader(tmp_path / "packed", tokenizer, workers=3), 6), expected)
    assert [shard.get("references") for shard in index["shards"].values()] == [5, 3, 2]
    stored = open_records(tmp_path / "packed")[0].subjects[0].references
    assert stored[0].image.read_bytes() == (paired / "red.png").read_bytes()  # the file, as it is
    assert str(stored[1].mask) == "mask of packed reference 2 of subject 1"


def test_a_folder_with_references_has_a_format_that_older_readers_refuse(paired, plain, tmp_path):
    written = {}
    for source in (paired, plain):
        index = packed(source, tmp_path / source.name)
        written[source] = json.loads((tmp_path / source.name / "index.json").read_text())
        assert written[source] == index
    assert written[plain]["format"] == "moa_jax packed pictures, version 1"
    assert written[paired]["format"] == "moa_jax packed pictures, version 2"
    assert "references" not in json.dumps(written[plain])


def test_a_stopped_run_goes_on_with_references_too(paired, tmp_path):
    left = iter(range(3))

    def stop():
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed(paired, tmp_path / "twice", on_record=stop)
    assert packed(paired, tmp_path / "twice") == packed(paired, tmp_path / "once")


def test_a_folder_of_version_1_is_read(plain, tmp_path, tokenizer):
    """Written here as that version wrote it: no subject has an entry for references."""
    ends = {"man": 5, "kid": 15}
    name = "00000-of-00001.array_record"
    writer = ArrayRecordWriter(str(tmp_path / name), WRITER_OPTIONS)
    for row in read_rows(plain):
        subjects = [
            {
                "mask": (plain / subject["mask"]).read_bytes(),
                "end": ends[subject["word"]],
                "box": (2 + 10 * place, 4, 10 + 10 * place, 12),
            }
            for place, subject in enumerate(row["subjects"])
        ]
        image = (plain / row["file_name"]).read_bytes()
        record = {"name": row["file_name"], "caption": CAPTION, "image": image}
        writer.write(encode_record(record | {"subjects": subjects, "sample_subjects": False}))
    writer.close()
    size = (tmp_path / name).stat().st_size
    shard = {"records": 5, "subjects": 7, "bytes": size, "sha256": "", "skipped": {}}
    source = {"layout": "imagefolder", "split": "all", "resolution": None, "shard_size": 1000}
    index = {"format": "moa_jax packed pictures, version 1", "source": source}
    (tmp_path / "index.json").write_text(json.dumps(index | {"shards": {name: shard}}))
    expected = take(open_loader(plain, tokenizer), 4)
    assert_same(take(open_loader(tmp_path, tokenizer), 4), expected)


def test_a_resolution_shrinks_a_reference_and_its_mask(tmp_path):
    folder = write_pictures(tmp_path / "large")
    for name in ("red", "green", "both", "both_mask"):
        with Image.open(folder / f"{name}.png") as image:
            larger = image.resize((80, 60), Image.Resampling.NEAREST)
        larger.save(folder / f"{name}.png")
    packed(folder, tmp_path / "small", resolution=30)
    loaded, found = read_record(open_records(tmp_path / "small")[0], 2)
    assert found == []
    red, both = loaded.subjects[0].references
    assert red.image.size == both.image.size == (40, 30) and red.mask is None
    np.testing.assert_array_equal(both.mask, np.arange(30)[:, None] < np.full(40, 15))
    inside = np.asarray(both.image)[:13].astype(int)  # above the edge, where JPEG mixes colours
    assert np.abs(inside - GREEN).max() < 6


def test_a_bad_reference_leaves_its_record_out_by_name(tmp_path):
    folder = write_pictures(tmp_path / "bad")
    (folder / "green.png").unlink()
    data = DataConfig(path=str(folder), workers=2, max_bad_fraction=0.5)
    (shard,) = pack(data, tmp_path / "packed").index["shards"].values()
    assert [*shard["skipped"]] == [f"{n}.png (metadata.jsonl line {n + 1})" for n in (1, 3)]
    assert all("green.png: no such file" in str(found) for found in shard["skipped"].values())


def listed(reference):
    """The references of a subject, as a list of (image, mask)."""
    entries = reference if isinstance(reference, list) else [] if reference is None else [reference]
    pairs = [(e, None) if isinstance(e, str) else (e["image"], e["mask"]) for e in entries]
    return pairs


def make(folder, way, form):
    """Build the data set, with references as masked pictures or as the first one's image alone."""
    found = {"image": [], "text": [], "masks": [], "words": [], "references": []}
    for row in read_rows(folder):
        found["image"].append(str(folder / row["file_name"]))
        found["text"].append(row["text"])
        found["masks"].append([str(folder / each["mask"]) for each in row["subjects"]])
        found["words"].append([each["word"] for each in row["subjects"]])
        given = [listed(each.get("reference")) for each in row["subjects"]]
        masked = [
            [{"image": str(folder / i), "mask": m and str(folder / m)} for i, m in each] or None
            for each in given
        ]
        alone = [each and each[0]["image"] for each in masked]
        found["references"].append(masked if form == [MASKED] else alone)
    if way == "columns":
        kinds = {"masks": [IMAGE], "words": [TEXT], "references": [form]}
    else:
        names = {"masks": "mask", "words": "word", "references": "reference"}
        columns = [found.pop(name) for name in names]
        structs = [
            [dict(zip(names.values(), each, strict=True)) for each in zip(*row, strict=True)]
            for row in zip(*columns, strict=True)
        ]
        kinds = {"subjects": [{"mask": IMAGE, "word": TEXT, "reference": form}]}
        if way == "sequence":
            structs = [
                {key: [each[key] for each in row] for key in names.values()} for row in structs
            ]
            kinds = {"subjects": datasets.Sequence(kinds["subjects"][0])}
        found["subjects"] = structs
    features = datasets.Features({"image": IMAGE, "text": TEXT, **kinds})
    return datasets.Dataset.from_dict(found, features=features)


@pytest.mark.parametrize("way", ["structs", "sequence", "columns"])
def test_training_sees_the_very_batches_of_the_imagefolder(paired, way, tmp_path, tokenizer):
    make(paired, way, [MASKED]).save_to_disk(tmp_path)
    expected = take(open_loader(paired, tokenizer), 6)
    assert_same(take(open_loader(tmp_path, tokenizer, workers=2), 6), expected)


@pytest.mark.parametrize("way", ["structs", "columns"])
def test_one_picture_serves_where_it_shows_the_subject_alone(paired, way):
    records = dataset_records(make(paired, way, IMAGE))
    found = [[each.references for each in record.subjects] for record in records]
    man, kid = found[1]
    assert [each.image for each in man + kid] == [paired / "red.png", paired / "green.png"]
    assert found[2] == [()] and not any(each.mask for each in man + kid)


def test_faults_of_rows_name_the_subject_and_the_reference(paired):
    rows = make(paired, "columns", [MASKED]).to_dict()
    rows["references"][0] = [[{"image": None, "mask": None}, None]]
    rows["references"][1] = rows["references"][1][:1]
    rows["references"][3] = None
    broken = {"bytes": b"no picture", "path": None}
    rows["references"][4] = [[{"image": rows["image"][0], "mask": broken}]]
    kinds = {"masks": [IMAGE], "words": [TEXT], "references": [[MASKED]]}
    features = datasets.Features({"image": IMAGE, "text": TEXT, **kinds})
    records = dataset_records(datasets.Dataset.from_dict(rows, features=features))
    assert records[0].faults == (
        "subject 1, reference 1: no 'image'",
        "subject 1, reference 2: is null, not an object with image",
    )
    assert records[1].faults == ("2 masks, but 1 references",)
    assert records[3].faults == ()
    assert read_record(records[4], 2)[1] == [
        "mask of reference 1 of subject 1: is no picture, or of a kind that Pillow cannot read"
    ]


@pytest.mark.parametrize("form", [TEXT, [[IMAGE]], {"image": IMAGE}])
@pytest.mark.parametrize("way", ["structs", "columns"])
def test_references_of_another_type_are_refused(way, form):
    fields = {"mask": IMAGE, "word": TEXT, "reference": form}
    kinds = {"subjects": [fields]}
    if way == "columns":
        kinds = {"masks": [IMAGE], "words": [TEXT], "references": [form]}
    features = datasets.Features({"image": IMAGE, "text": TEXT, **kinds})
    empty = datasets.Dataset.from_dict({name: [] for name in features}, features=features)
    with pytest.raises(
        InputError, match="the reference of a subject, where there is one, is Image"
    ):
        dataset_records(empty)
