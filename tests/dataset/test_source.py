"""What is found in a folder of photographs, and which pictures are refused."""

import json

import numpy as np
import pytest
import skimage.data
from PIL import Image

from moa_jax.data import images
from moa_jax.dataset.source import files_of, load_photograph, scan
from moa_jax.errors import InputError

SMALL = Image.fromarray(skimage.data.astronaut()[::8, ::8])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "trip").mkdir()
    SMALL.save(tmp_path / "b.jpg")
    SMALL.save(tmp_path / "trip" / "a.PNG")
    return tmp_path


def write_rows(folder, *rows):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_pictures_are_found_in_the_order_of_their_names(folder):
    (folder / ".thumbs").mkdir()
    SMALL.save(folder / ".thumbs" / "b.jpg")
    (folder / "notes.pdf").write_bytes(b"")
    assert [each.name for each in scan(folder)] == ["b.jpg", "trip/a.PNG"]


def test_captions_that_are_there_are_kept(folder):
    (folder / "b.txt").write_text(" a man \n by <|image|> a tree\n")
    write_rows(folder, {"file_name": "trip/a.PNG", "text": "a woman"})
    found = scan(folder)
    assert [each.caption for each in found] == ["a man by  a tree", "a woman"]
    assert [each.row for each in found] == [None, None]


def test_a_row_with_subjects_is_by_hand_and_its_masks_are_no_pictures(folder):
    SMALL.save(folder / "mask.png")
    SMALL.save(folder / "other.jpg")
    subject = {"mask": "mask.png", "word": "man", "reference": ["other.jpg"]}
    row = {"file_name": "b.jpg", "text": "a man", "subjects": [subject]}
    write_rows(folder, row)
    found = scan(folder)
    assert [each.name for each in found] == ["b.jpg", "trip/a.PNG"] and found[0].row == row


def test_files_of_a_row():
    pair = {"image": "x.jpg", "mask": "y.png"}
    subjects = [{"mask": "m.png", "word": "man", "reference": pair}, {"mask": "n.png"}, "wrong"]
    assert files_of({"subjects": subjects}) == ["x.jpg", "y.png", "m.png", "n.png"]
    assert files_of({}) == []


def test_the_stamp_changes_with_all_that_is_known_of_a_picture(folder):
    SMALL.save(folder / "mask.png")
    subjects = [{"mask": "mask.png", "word": "man"}]
    stamps = [scan(folder)[0].stamp]
    changes = (
        lambda: (folder / "b.txt").write_text("a man"),
        lambda: write_rows(folder, {"file_name": "b.jpg", "text": "a man", "subjects": subjects}),
        lambda: SMALL.resize((9, 9)).save(folder / "mask.png"),
        lambda: SMALL.resize((30, 30)).save(folder / "b.jpg"),
    )
    for change in changes:
        change()
        stamps.append(scan(folder)[0].stamp)
    assert len(set(stamps)) == 5 and scan(folder)[0].stamp == stamps[-1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "an object with file_name"),
        ('{"file_name": "b.jpg", "text": 1}', "text must be a string"),
        ('{"file_name": "b.jpg", "subjects": {}}', "subjects a list"),
        ('{"file_name": "gone.jpg"}', "no picture 'gone.jpg'"),
        ('{"file_name": "b.jpg"}\n{"file_name": "b.jpg"}', "has a row already"),
    ],
)
def test_rows_that_cannot_be_used_are_named(folder, line, message):
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        scan(folder)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        scan(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        scan(tmp_path / "absent")


def test_files_are_copied_if_every_viewer_shows_them(tmp_path):
    kept = {"a.jpg": SMALL, "b.png": SMALL.convert("P"), "c.webp": SMALL}
    converted = {"d.jpg": SMALL.convert("CMYK"), "e.tif": SMALL, "f.bmp": SMALL, "g.gif": SMALL}
    for name, image in {**kept, **converted}.items():
        image.save(tmp_path / name)
        loaded, as_it_is = load_photograph(tmp_path / name)
        assert loaded.mode == "RGB" and loaded.size == SMALL.size
        assert as_it_is == (name in kept), name
    close = np.abs(np.asarray(load_photograph(tmp_path / "d.jpg")[0], int) - np.asarray(SMALL))
    assert close.mean() < 10  # CMYK is shown in its own colours, not inverted


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animated_pictures_are_refused(tmp_path, name):
    still = SMALL.transpose(Image.FLIP_LEFT_RIGHT)
    SMALL.save(tmp_path / name, save_all=True, append_images=[still])
    with pytest.raises(InputError, match="has 2 frames; save the one that you want"):
        load_photograph(tmp_path / name)


def test_a_photo_with_its_preview_is_no_animation(tmp_path):
    SMALL.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[SMALL])
    assert load_photograph(tmp_path / "a.jpg")[0].size == SMALL.size


def test_heic_needs_its_library(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(SMALL).save(tmp_path / "a.HEIC")
    image, as_it_is = load_photograph(tmp_path / "a.HEIC")
    assert image.size == SMALL.size and not as_it_is
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(InputError, match="pip install pillow-heif"):
        load_photograph(tmp_path / "a.HEIC")


def test_damaged_and_huge_pictures_are_refused(tmp_path, monkeypatch):
    SMALL.save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "c.jpg").write_text("no picture")
    for name in ("b.jpg", "c.jpg"):
        with pytest.raises(InputError, match=name):
            load_photograph(tmp_path / name)
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(InputError, match="64x64 pixels, more than"):
        load_photograph(tmp_path / "a.jpg")
