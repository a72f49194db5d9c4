"""A data set's state: any change of a record or a file tells, and little is read to see it."""

import os
import shutil

import pytest
from etils import epath
from PIL import Image, ImageOps

from moa_jax.config import DataConfig
from moa_jax.data.fingerprint import listing_digest, record_digests
from moa_jax.data.pack import pack
from moa_jax.data.records import Record, Records, open_records


def digests(folder):
    records = open_records(folder)
    return listing_digest(records), record_digests(records, workers=2)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def replace(path):
    """Put another file of the same size there."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def enlarge(path):
    """Put a larger file of the same time there."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=times)


CHANGES = {
    "imagefolder": {
        "picture": lambda f: replace(f / "chelsea.png"),
        "larger picture": lambda f: enlarge(f / "chelsea.png"),
        "lost picture": lambda f: (f / "chelsea.png").unlink(),
        "mask": lambda f: replace(f / "masks" / "chelsea_cat.png"),
        "caption": lambda f: edit(f / "metadata.jsonl", "photo of a cat", "drawing of a cat"),
        "word": lambda f: edit(f / "metadata.jsonl", '"word": "cat"', '"word": "photo"'),
    },
    "ffhq": {
        "picture": lambda f: replace(f / "00001" / "00001001.jpg"),
        "map": lambda f: replace(f / "00001" / "00001001.npy"),
        "caption": lambda f: edit(f / "00001" / "00001001.json", "photo of", "images of"),
        "word": lambda f: edit(f / "00001" / "00001001.json", '"end": 14', '"end": 5'),
        "instance": lambda f: edit(f / "00001" / "00001001.json", '"id": 1', '"id": 2'),
    },
}


@pytest.mark.parametrize(
    ("layout", "change"), [(layout, change) for layout in CHANGES for change in CHANGES[layout]]
)
def test_a_change_of_one_record_tells_in_its_own_digest(request, layout, change, tmp_path):
    folder = shutil.copytree(request.getfixturevalue(layout), tmp_path / "pictures")
    listing, before = digests(folder)
    assert (listing, before) == digests(folder) and len(set(before)) == 4
    CHANGES[layout][change](folder)
    now, after = digests(folder)
    assert [one == other for one, other in zip(before, after, strict=True)] == [1, 0, 1, 1]
    assert (now == listing) == (layout == "ffhq" or change not in ("caption", "word"))


def test_of_a_packed_folder_the_listing_tells_all(imagefolder, tmp_path):
    """It holds the hash of every shard, so that no picture is read."""
    pack(DataConfig(path=str(imagefolder)), tmp_path / "packed")
    other = shutil.copytree(imagefolder, tmp_path / "other")
    ImageOps.mirror(Image.open(imagefolder / "chelsea.png")).save(other / "chelsea.png")
    pack(DataConfig(path=str(other)), tmp_path / "packed_other")
    one, two = digests(tmp_path / "packed"), digests(tmp_path / "packed_other")
    assert one[0] != two[0] and one[1] == two[1] == []


def test_in_a_bucket_no_file_but_the_listing_is_asked_for():
    root = epath.Path("gs://bucket/pictures")
    records = Records(["a", "b"], lambda n: Record(n, root / n), root / "metadata.jsonl")
    assert record_digests(records, workers=2) == []
