"""The sizes of pictures, read from the heads of their files, and the buckets they go to."""

import logging

import datasets
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from moa_jax.config import DataConfig
from moa_jax.data.images import load_image, read_size
from moa_jax.data.pack import pack
from moa_jax.data.record import Record, Records
from moa_jax.data.records import open_records
from moa_jax.data.sizes import find_buckets, read_sizes
from moa_jax.errors import InputError
from tests.data.shapes import FIT, MISFIT, SIZES, SQUARE, TALL, WIDE, shapes, write_shapes
from tests.data.test_hub_datasets import make, rows_of

__all__ = ["shapes"]  # a fixture


def buckets_of(path, max_bad_fraction=0.1, layout="auto"):
    records = open_records(path, layout)
    config = DataConfig(path=str(path), max_bad_fraction=max_bad_fraction)
    sizes = read_sizes(records, range(len(records)), workers=3)
    return find_buckets(config, records, sizes, FIT)


def as_lists(buckets):
    return {size: found.tolist() for size, found in buckets.members.items()}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff", "mpo"])
def test_a_size_is_that_of_the_upright_picture(format, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"picture.{format}"
    Image.new("RGB", (40, 24), "red").save(file, format=format, exif=exif)
    assert read_size(file) == load_image(file).size == ((40, 24) if orientation < 5 else (24, 40))


def test_a_size_takes_no_pixel_of_a_png(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("pixels were read")

    for name in ("P", "RGBA", "I;16", "1"):
        Image.new(name, (40, 24)).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", never)
    assert {read_size(file) for file in tmp_path.iterdir()} == {(40, 24)}


def test_files_that_have_no_size(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name, reason in (("text.png", "is no picture"), ("none.png", "no such file")):
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            read_size(tmp_path / name)


def test_parts_are_read_as_the_whole(shapes):
    records = open_records(shapes)
    whole = read_sizes(records, range(len(records)), workers=0)
    assert [tuple(size) for size in whole.tolist()] == [*SIZES, MISFIT]
    shown = []
    parts = [
        read_sizes(records, part, workers=2, on_record=lambda: shown.append(1))
        for part in (range(5), range(5, 16), range(16, 16))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(shown) == 16


def test_each_picture_goes_to_its_bucket_and_what_fits_none_is_named(shapes, caplog):
    with caplog.at_level(logging.WARNING, "moa_jax.data"):
        buckets = buckets_of(shapes)
    expected = {WIDE: list(range(5)), SQUARE: list(range(5, 11)), TALL: list(range(11, 15))}
    assert as_lists(buckets) == expected and list(buckets.members) == [WIDE, SQUARE, TALL]
    [(name, [fault])] = buckets.faults.items()
    assert name == "15.png (metadata.jsonl line 16)" and name in caplog.text
    assert fault.startswith("200x50 pixels: to the nearest size of the buckets, 96x48, 50.0% of it")
    with pytest.raises(InputError, match="1 of the 16 records .* more than data.max_bad_fraction"):
        buckets_of(shapes, max_bad_fraction=0.05)


def test_what_cannot_be_read_is_in_no_bucket_and_says_why(tmp_path):
    write_shapes(tmp_path)
    (tmp_path / "3.png").write_bytes(b"no picture")
    (tmp_path / "7.png").unlink()
    buckets = buckets_of(tmp_path, max_bad_fraction=0.5)
    assert as_lists(buckets)[WIDE] == [0, 1, 2, 4] and as_lists(buckets)[SQUARE] == [5, 6, 8, 9, 10]
    said = [" ".join(faults) for faults in buckets.faults.values()]
    assert "3.png: is no picture" in said[0] and "7.png: no such file" in said[1]
    assert "200x50" in said[2] and len(said) == 3


def test_a_record_without_a_picture_says_its_own_fault(tmp_path):
    record = Record("row 1", None, faults=("not JSON",))
    records = Records([record], lambda record: record, tmp_path / "listing")
    sizes = read_sizes(records, range(1), 1)
    assert sizes.tolist() == [[0, 0]]
    config = DataConfig(path="x", max_bad_fraction=1.0)
    assert find_buckets(config, records, sizes, FIT).faults == {"row 1": ["not JSON"]}


@pytest.mark.parametrize("resolution", [None, 40])
def test_a_packed_folder_knows_its_sizes_without_reading_a_record(
    shapes, tmp_path, resolution, monkeypatch
):
    pack(DataConfig(path=str(shapes)), tmp_path / "packed", shard_size=7, resolution=resolution)
    packed = open_records(tmp_path / "packed")
    assert list(packed.sizes) == [load_image(record.image).size for record in packed]
    assert packed[3:9].sizes == packed.sizes[3:9]
    monkeypatch.setattr("moa_jax.data.sizes.read_size", lambda file: pytest.fail("it was read"))
    found = read_sizes(packed, range(2, 16), workers=2)
    assert [tuple(size) for size in found.tolist()] == packed.sizes[2:]
    monkeypatch.undo()
    assert as_lists(buckets_of(tmp_path / "packed")) == as_lists(buckets_of(shapes))


def test_a_folder_packed_by_an_earlier_version_is_read_itself(shapes, tmp_path):
    pack(DataConfig(path=str(shapes)), tmp_path / "packed", shard_size=7)
    index = tmp_path / "packed" / "index.json"
    lines = [line for line in index.read_text().splitlines() if '"sizes"' not in line]
    index.write_text("\n".join(lines))
    assert open_records(tmp_path / "packed").sizes is None
    assert as_lists(buckets_of(tmp_path / "packed")) == as_lists(buckets_of(shapes))


def test_a_data_set_of_the_library_has_the_same_buckets(shapes, tmp_path):
    datasets.disable_progress_bars()
    make(rows_of(shapes)).save_to_disk(tmp_path / "saved")
    assert as_lists(buckets_of(tmp_path / "saved")) == as_lists(buckets_of(shapes))
