import numpy as np
import pytest
from PIL import Image

from tests.data.test_pack import assert_same_records, load, pack_folder


@pytest.fixture
def unusual(tmp_path, save_rows):
    """Pictures with EXIF rotation, CMYK, transparency, 16 bits and a palette, as people have them.

    The captions are not English, and the masks are of every kind that is read.
    """
    root = tmp_path / "unusual"
    root.mkdir()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (24, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: 24 pixels wide when upright
    transparent = np.dstack([pixels, random.integers(0, 256, (24, 40), np.uint8)])
    deep = random.integers(0, 65536, (24, 40)).astype(np.uint16)
    mask = np.zeros((24, 40), np.uint8)
    mask[5:15, 8:30] = 255
    Image.fromarray(pixels).save(root / "turned.jpg", exif=exif)
    Image.fromarray(pixels).convert("CMYK").save(root / "cmyk.jpg")
    Image.fromarray(transparent).save(root / "alpha.png")
    Image.fromarray(deep).save(root / "deep.png")
    Image.fromarray(pixels).quantize(16).save(root / "palette.gif")
    Image.fromarray(mask).save(root / "grey.png")
    Image.fromarray(mask).save(root / "turned.png", exif=exif)
    Image.fromarray(mask // 255).save(root / "zero_one.png")
    rows = [
        ("turned.jpg", "Ein Mädchen 👩‍🚀 im Schnee", "turned.png", "Mädchen"),
        ("cmyk.jpg", "雪の中の女性 と 犬", "grey.png", "犬"),
        ("alpha.png", "a man", "zero_one.png", "man"),
        ("deep.png", "a man", "grey.png", "man"),
        ("palette.gif", "a man", "grey.png", "man"),
    ]
    rows = [
        {"file_name": file, "text": text, "subjects": [{"mask": mask, "word": word}]}
        for file, text, mask, word in rows
    ]
    save_rows(root, rows)
    return root


def test_unusual_pictures_and_captions_read_as_in_their_folder(unusual, tmp_path):
    pack_folder(unusual, tmp_path / "packed")
    found = load(tmp_path / "packed")
    assert_same_records(load(unusual), found)
    assert found[0].image.size == (24, 40) and found[1].image.size == (40, 24)
    assert found[0].caption.startswith("Ein Mädchen 👩‍🚀")


def test_unusual_pictures_may_be_resized(unusual, tmp_path):
    pack_folder(unusual, tmp_path / "packed", resolution=12)
    found = load(tmp_path / "packed")
    assert [record.image.size for record in found] == [(12, 20)] + [(20, 12)] * 4
    for record, original in zip(found, load(unusual), strict=True):
        expected = original.image.resize(record.image.size, Image.Resampling.BILINEAR)
        error = np.asarray(record.image).astype(float) - np.asarray(expected)
        assert np.sqrt((error**2).mean()) < 8  # of noise, the worst case for JPEG
        (subject,), (source,) = record.subjects, original.subjects
        assert subject.mask.sum() * 4 == source.mask.sum()
        left, top, right, bottom = source.box
        assert subject.box == (left // 2, top // 2, -(-right // 2), -(-bottom // 2))


def test_a_resolution_resizes_what_is_larger_and_nothing_else(tmp_path, imagefolder):
    packed = pack_folder(imagefolder, tmp_path / "packed", resolution=100)
    before, after = load(imagefolder), load(tmp_path / "packed")
    assert [r.image.size for r in before] == [(128, 128), (113, 75), (150, 100), (160, 107)]
    assert [r.image.size for r in after] == [(100, 100), (113, 75), (150, 100), (150, 100)]
    assert_same_records(before[1:3], after[1:3])
    assert (
        "short side is over 100 pixels" in packed.index["lost"] and "JPEG" in packed.index["lost"]
    )
    (subject,), (source,) = after[0].subjects, before[0].subjects
    assert abs(subject.mask.mean() - source.mask.mean()) < 0.01
    assert np.abs(np.array(subject.box) - np.array(source.box) * 100 / 128).max() < 1


def test_a_subject_of_one_pixel_survives_a_resolution(tmp_path, save_rows):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (90, 90, 3), np.uint8)).save(tmp_path / "a.png")
    masks = []
    for place in range(30, 42):
        mask = np.zeros((90, 90), bool)
        mask[place, place] = True
        Image.fromarray(mask).save(tmp_path / f"{place}.png")
        masks.append({"mask": f"{place}.png", "word": "man"})
    save_rows(
        tmp_path, [{"file_name": "a.png", "text": "a man", "subjects": [mask]} for mask in masks]
    )
    pack_folder(tmp_path, tmp_path / "packed", resolution=10)
    assert [record.subjects[0].mask.sum() for record in load(tmp_path / "packed")] == [1] * 12
