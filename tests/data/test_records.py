import json

import pytest

from moa_jax.data.records import Record, Subject, open_records
from moa_jax.errors import InputError


def test_a_record_as_fastcomposer_wrote_it(tmp_path):
    """A literal of the released files; `end` stands after "man" and after "boy"."""
    (tmp_path / "00012").mkdir()
    (tmp_path / "00012" / "00012345.json").write_text(
        """{"caption": "a man and a boy at the beach", "segments": [
            {"id": 2, "bbox": [300, 120, 480, 512], "coco_label": "person", "end": 15},
            {"id": 7, "bbox": [10, 400, 60, 500], "coco_label": "chair", "score": 0.7, "end": 28},
            {"id": 1, "bbox": [40, 30, 290, 512], "coco_label": "person", "end": 5}]}"""
    )
    (tmp_path / "image_ids.txt").write_text("00012345\n\n")
    stem = tmp_path / "00012" / "00012345"
    expected = Record(
        name="00012345",
        image=stem.with_suffix(".jpg"),
        caption="a man and a boy at the beach",
        subjects=(Subject(2, 15, (300, 120, 480, 512)), Subject(1, 5, (40, 30, 290, 512))),
        instance_map=stem.with_suffix(".npy"),
        sample_subjects=True,
    )
    assert list(open_records(tmp_path, subject_label="person")) == [expected]
    everything = open_records(tmp_path, subject_label=None)[0]
    assert [subject.mask for subject in everything.subjects] == [2, 7, 1]


def test_the_ffhq_splits(ffhq):
    ids = {
        split: [record.name for record in open_records(ffhq, "ffhq", split)]
        for split in ("all", "train", "test")
    }
    assert ids["all"] == ids["train"] + ids["test"]
    assert len(ids["train"]) == 3
    assert [record.name for record in open_records(ffhq)[1:3]] == ids["all"][1:3]


def test_a_line_of_an_imagefolder(tmp_path, save_rows):
    subjects = [
        {"mask": "masks/0.png", "word": "man"},
        {"mask": "masks/1.png", "word": "Big dog"},
        {"mask": "masks/2.png", "word": "man"},
    ]
    save_rows(tmp_path, [{"file_name": "a/1.jpg", "text": "a man", "subjects": []}])
    with (tmp_path / "metadata.jsonl").open("a") as file:
        text = "A man, a big dog and another man"
        file.write("\n" + json.dumps({"file_name": "2.jpg", "text": text, "subjects": subjects}))
    first, second = open_records(tmp_path)
    assert (first.image, first.caption, first.subjects) == (tmp_path / "a/1.jpg", "a man", ())
    assert [text[: subject.end].split()[-1] for subject in second.subjects] == ["man", "dog", "man"]
    assert second.subjects[2].end == len(text)
    assert second.subjects[1].mask == tmp_path / "masks/1.png"
    assert second.faults == ()
    assert "line 3" in second.name


def test_what_is_wrong_with_a_line_names_the_line(tmp_path):
    good = {"file_name": "1.jpg", "text": "a man", "subjects": []}
    twice = [{"mask": "1.png", "word": "man"}, {"mask": "2.png", "word": "man"}]
    same = [{"mask": "1.png", "word": "man"}, {"mask": "2.png", "word": "a man"}]
    lines = [
        b"{'file_name': 1}",
        b'["a list"]',
        b'{"text": 3, "subjects": []}',
        json.dumps(good | {"subjects": [{"mask": "1.png"}, "man"]}).encode(),
        json.dumps(good | {"subjects": twice}).encode(),
        json.dumps(good | {"subjects": same}).encode(),
        json.dumps(good | {"text": "a man <|image|>"}).encode(),
        b'{"file_name": "\xff"}',
        json.dumps(good).encode(),
    ]
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    records = list(open_records(tmp_path))
    assert all(f"line {number}" in record.name for number, record in enumerate(records, start=1))
    expected = [
        ["not JSON"],
        ["not an object"],
        ["no 'file_name'", "'text' is 3, not a string"],
        ["subject 1: no 'word'", 'subject 2: is "man", not an object'],
        ["subject 2: the caption 'a man' has no word 'man' (occurrence 2)"],
        ["subject 2: 'a man' is the word of another subject already"],
        ["the caption has the marker <|image|>"],
        ["not JSON"],
        [],
    ]
    for record, faults in zip(records, expected, strict=True):
        assert len(record.faults) == len(faults), record
        assert all(part in fault for part, fault in zip(faults, record.faults, strict=True))


def test_the_word_before_punctuation_is_the_subjects_in_both_layouts(tmp_path, save_rows):
    caption = "a man's dog, (a boy) \U0001f600"
    (tmp_path / "rows").mkdir()
    subjects = [
        {"mask": f"{word}.png", "word": word}
        for word in ("man's", "dog,", "(a boy)", "\U0001f600", "boy")
    ]
    save_rows(tmp_path / "rows", [{"file_name": "1.jpg", "text": caption, "subjects": subjects}])
    (row,) = open_records(tmp_path / "rows")
    ends = [subject.end for subject in row.subjects[:3]]
    assert [caption[:end].split()[-1] for end in ends] == ["man", "dog", "boy"]
    first, second = row.faults
    assert first == "subject 4: '\U0001f600' has no letter or digit, so it is no word"
    assert second == "subject 5: 'boy' is the word of another subject already"
    (tmp_path / "00000").mkdir()
    (tmp_path / "image_ids.txt").write_text("00000000\n")
    segments = [
        {"id": 1, "bbox": [0, 0, 1, 1], "end": end}
        for end in (caption.index(" dog"), caption.index(" ("), len(caption))
    ]
    info = {"caption": caption, "segments": segments}
    (tmp_path / "00000" / "00000000.json").write_text(json.dumps(info))
    (record,) = open_records(tmp_path, "ffhq")
    assert [subject.end for subject in record.subjects] == ends


def test_what_is_wrong_with_a_segment(tmp_path):
    (tmp_path / "00000").mkdir()
    (tmp_path / "image_ids.txt").write_text("00000000\n00000001\n00000002\n")
    person = {"id": 1, "bbox": [0, 0, 1, 1], "coco_label": "person", "end": 5}
    segments = [
        person | {"end": 99},
        person | {"end": 4},
        person | {"end": 0},
        person | {"bbox": [1, 2, 3]},
        person | {"bbox": [1, 2, 3, None]},
        person | {"id": "1"},
        person | {"end": True},
        {"coco_label": "chair"},
        "man",
    ]
    info = {"caption": "a man", "segments": segments}
    (tmp_path / "00000" / "00000000.json").write_text(json.dumps(info))
    (tmp_path / "00000" / "00000001.json").write_text("{")
    broken, malformed, missing = open_records(tmp_path, subject_label="person")
    expected = [
        "segment 0 (id 1): end 99 is outside",
        "segment 1 (id 1): end 4 is inside a word",
        "segment 2 (id 1): end 0 is outside",
        "segment 3: bbox [1, 2, 3] is not four numbers",
        "segment 4: bbox [1, 2, 3, None] is not four numbers",
        "segment 5: 'id' is \"1\", not a whole number",
        "segment 6: 'end' is true, not a whole number",
        'segment 8: is "man", not an object',
    ]
    assert [found.startswith(part) for found, part in zip(broken.faults, expected, strict=True)]
    assert "00000001.json: not JSON" in malformed.faults[0]
    assert "00000002.json: no such file" in missing.faults[0]


def test_folders_that_are_no_data_set(tmp_path, imagefolder, ffhq):
    def message(*args):
        with pytest.raises(InputError) as error:
            open_records(*args)
        return str(error.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").touch()
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "metadata.jsonl").touch()
    assert "'' is empty" in message("").replace("data.path", "''")
    assert "nowhere' is not a folder" in message(tmp_path / "nowhere")
    assert "is empty: it has neither metadata.jsonl" in message(tmp_path / "empty")
    assert "is no data set: it has neither metadata.jsonl" in message(tmp_path / "other")
    assert "metadata.jsonl lists no pictures" in message(tmp_path / "both")
    (tmp_path / "both" / "image_ids.txt").touch()
    assert "set the layout" in message(tmp_path / "both")
    assert "image_ids.txt lists no pictures" in message(tmp_path / "both", "ffhq")
    assert "no splits" in message(imagefolder, "auto", "train")
    assert "image_ids_test.txt: no such file" in message(imagefolder, "ffhq", "test")
    assert "metadata.jsonl: no such file" in message(ffhq, "imagefolder")
