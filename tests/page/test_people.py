"""Pictures that somebody drops: turned, shrunk, free of EXIF, bounded; the toy world's people."""

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from moa_jax.data.files import Blob
from moa_jax.errors import InputError
from moa_jax.page import people
from moa_jax.page.people import data_url, example, read_person
from moa_jax.page.uploads import VARIABLE, private_folder, take
from moa_jax.toyworld.world.scenes import write_subject


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def test_a_phones_picture_is_turned_and_says_nothing_of_where_it_was_taken():
    image = Image.new("RGB", (1600, 800), "red")
    image.paste("blue", (0, 0, 800, 800))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    exif[0x010E] = "at home"
    person = read_person(Blob("me.jpg", encoded(image, format="JPEG", exif=exif)))
    assert person.picture.size == (384, 768)
    top, bottom = (person.picture.getpixel((190, y)) for y in (100, 700))
    assert top[2] > 200 > 60 > top[0]
    assert bottom[0] > 200 > 60 > bottom[2]
    assert not person.picture.getexif()
    assert not person.picture.info
    assert (person.name, person.number) == ("me.jpg", None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>", "note.txt: is no picture"),
        (encoded(Image.new("RGB", (64, 64)), format="JPEG")[:300], "note.txt: cannot be read"),
        (b"\x00" * (people.MAX_BYTES + 1), "note.txt: it has 20 MB, more than 20"),
        (encoded(Image.new("1", (10_000, 5_001)), format="PNG"), "10000x5001 pixels, more than 50"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused_in_words(data, message):
    with pytest.raises(InputError, match=message):
        read_person(Blob("note.txt", data))


def test_an_example_is_the_person_that_the_command_writes(tmp_path):
    write_subject(tmp_path / "she.png", 10)
    written = np.asarray(Image.open(tmp_path / "she.png"))
    np.testing.assert_array_equal(np.asarray(example(10).picture), written)
    assert (example(10).name, example(11).name) == ("woman", "kid")


def test_a_picture_goes_to_the_page_inside_its_address():
    picture = example(1).picture
    head, _, data = data_url(picture).partition(",")
    assert head == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(picture))
    small = data_url(picture, 32).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(small))).size == (32, 32)
    assert picture.size == (128, 128)


def test_a_file_is_gone_once_it_has_been_read(tmp_path):
    folder = tmp_path / "sum"
    folder.mkdir()
    (folder / "me.jpg").write_bytes(b"pixels")
    assert take(folder / "me.jpg") == b"pixels"
    assert not folder.exists()


def test_the_folder_for_uploads_is_private_and_goes_with_the_page(monkeypatch):
    monkeypatch.setenv(VARIABLE, "before")
    with private_folder() as folder:
        assert os.environ[VARIABLE] == str(folder)
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "left").write_bytes(b"pixels")
    assert not folder.exists()
