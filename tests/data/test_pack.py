import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from moa_jax.config import DataConfig
from moa_jax.data import pack as pack_module
from moa_jax.data.__main__ import main
from moa_jax.data.examples import read_record
from moa_jax.data.pack import pack
from moa_jax.data.packed import Shards
from moa_jax.data.records import open_records
from moa_jax.errors import InputError

NAMES = ["00000-of-00002.array_record", "00001-of-00002.array_record"]


def pack_folder(source, folder, **options):
    keys = ("split", "layout", "max_bad_fraction")
    data = {key: options.pop(key) for key in keys if key in options}
    data = DataConfig(path=str(source), workers=3, **data)
    return pack(data, folder, **({"shard_size": 3} | options))


def message(function, *args, **options):
    with pytest.raises(InputError) as error:
        function(*args, **options)
    return str(error.value)


def load(path, **options):
    found = [read_record(record, 4) for record in open_records(path, **options)]
    assert not any(faults for _, faults in found)
    return [record for record, _ in found]


def assert_same_records(first, second):
    for a, b in zip(first, second, strict=True):
        assert (a.caption, a.sample_subjects) == (b.caption, b.sample_subjects)
        np.testing.assert_array_equal(np.asarray(a.image), np.asarray(b.image))
        for ours, theirs in zip(a.subjects, b.subjects, strict=True):
            assert (ours.end, ours.box) == (theirs.end, theirs.box)
            np.testing.assert_array_equal(ours.mask, theirs.mask)


@pytest.mark.parametrize("layout", ["imagefolder", "ffhq"])
def test_pictures_masks_boxes_captions_and_names_are_those_of_the_source(request, layout, tmp_path):
    source = request.getfixturevalue(layout)
    packed = pack_folder(source, tmp_path / "new" / "packed")
    assert list(packed.index["shards"]) == NAMES
    assert [shard["records"] for shard in packed.index["shards"].values()] == [3, 1]
    folder = tmp_path / "new" / "packed"
    assert_same_records(load(source), load(folder, subject_label="person"))
    names = [record.name for record in open_records(source)]
    records = open_records(folder, subject_label="person")
    assert [record.name for record in records] == names
    assert [record.name for record in records[1:3]] == names[1:3]
    assert records[-1].name == names[-1]
    with records[0].image.open("rb") as file:  # the picture's own file, to the byte
        assert file.read() == open_records(source)[0].image.read_bytes()


def interrupt_after(count):
    def on_record():
        nonlocal count
        count -= 1
        if count < 0:
            raise KeyboardInterrupt

    return on_record


def test_an_interrupted_run_leaves_whole_shards_and_the_next_makes_the_others(
    imagefolder, tmp_path
):
    whole, folder = tmp_path / "whole", tmp_path / "packed"
    pack_folder(imagefolder, whole, shard_size=1)
    with pytest.raises(KeyboardInterrupt):
        pack_folder(imagefolder, folder, shard_size=1, on_record=interrupt_after(2))
    shards = sorted(path.name for path in folder.glob("*.array_record"))
    assert shards == [f"0000{number}-of-00004.array_record" for number in range(2)]
    unfinished = message(open_records, folder)
    assert "2 of its 4 shards are to be made" in unfinished
    assert f"pack {imagefolder} {folder} --layout imagefolder --shard-size 1" in unfinished
    first = {name: (folder / name).stat().st_mtime_ns for name in shards}
    records, started = [], []
    options = {"on_start": started.append, "on_record": lambda: records.append(1)}
    assert pack_folder(imagefolder, folder, shard_size=1, **options).made == 2
    assert started == [2] and len(records) == 2
    assert first == {name: (folder / name).stat().st_mtime_ns for name in shards}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }
    assert pack_folder(imagefolder, folder, shard_size=1).made == 0


def test_a_killed_run_leaves_whole_shards_only(imagefolder, tmp_path):
    program = f"""
import os, pathlib
from moa_jax.config import DataConfig
from moa_jax.data.pack import pack
from moa_jax.data.packed import Shards
left = iter(range(2))
data = DataConfig(path={str(imagefolder)!r})
kill = lambda: next(left, None) is None and os.kill(os.getpid(), 9)
pack(data, {str(tmp_path / "packed")!r}, shard_size=1, on_record=kill)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    assert len(list((tmp_path / "packed").glob("*.array_record"))) == 2
    assert pack_folder(imagefolder, tmp_path / "packed", shard_size=1).made == 2
    assert_same_records(load(imagefolder), load(tmp_path / "packed"))
    assert not list((tmp_path / "packed").glob("*unfinished*"))


def own_reader(path, split, subject_label):
    return open_records(path, "imagefolder")


def test_a_layout_of_ones_own_is_named_in_the_remedy(imagefolder, tmp_path):
    layout = f"{__name__}:own_reader"
    pack_folder(imagefolder, tmp_path, layout=layout)
    assert_same_records(load(imagefolder), load(tmp_path))
    (tmp_path / NAMES[0]).unlink()
    assert f"--layout {layout}" in message(open_records, tmp_path)


def test_a_truncated_or_missing_shard_is_named_and_made_again(imagefolder, tmp_path):
    pack_folder(imagefolder, tmp_path)
    shard = tmp_path / NAMES[0]
    data = shard.read_bytes()
    shard.write_bytes(data[:-1000])
    found = message(open_records, tmp_path)
    assert f"{shard} has {len(data) - 1000} bytes, not {len(data)}: it is truncated" in found
    assert f"python -m moa_jax.data pack {imagefolder} {tmp_path}" in found
    shard.unlink()
    assert f"{shard} is missing" in message(open_records, tmp_path)
    assert pack_folder(imagefolder, tmp_path).made == 1
    assert shard.read_bytes() == data


def test_a_corrupt_shard_is_named_and_its_records_are_never_read(imagefolder, tmp_path):
    pack_folder(imagefolder, tmp_path)
    shard = tmp_path / NAMES[1]
    data = bytearray(shard.read_bytes())
    data[data.index((imagefolder / "rocket.png").read_bytes()) + 100] ^= 255
    shard.write_bytes(data)
    shards = Shards(tmp_path)
    assert b"coffee" in shards[2]
    found = message(lambda: shards[3])
    assert f"{shard} is damaged" in found and "delete it; to make it again" in found
    # Another process: the type checks of this one read an element of every sequence they meet.
    check = [sys.executable, "-m", "moa_jax.data", "check", str(tmp_path)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 2 and f"error: {shard} is damaged" in done.stderr
    shard.unlink()
    pack_folder(imagefolder, tmp_path)
    assert_same_records(load(imagefolder), load(tmp_path))


def test_other_options_or_another_source_are_refused(ffhq, imagefolder, tmp_path):
    pack_folder(ffhq, tmp_path, split="train")
    for options, part in [
        ({"split": "train", "resolution": 64}, "resolution None (now 64)"),
        ({"split": "train", "shard_size": 4}, "shard_size 3 (now 4)"),
        ({}, "split train (now all)"),
    ]:
        found = message(pack_folder, ffhq, tmp_path, **options)
        assert part in found and "name another folder" in found
    assert "layout ffhq (now imagefolder)" in message(pack_folder, imagefolder, tmp_path)
    assert "is packed already" in message(pack_folder, tmp_path, tmp_path / "again")
    assert len(open_records(tmp_path, "auto", "train", "person")) == 3
    assert "was packed with 'train'" in message(open_records, tmp_path, "packed", "test", "person")
    assert "was packed with 'person'" in message(open_records, tmp_path)


def test_a_source_that_changed_is_refused(imagefolder, tmp_path):
    source, moved = tmp_path / "source", tmp_path / "moved"
    shutil.copytree(imagefolder, source)
    with pytest.raises(KeyboardInterrupt):
        pack_folder(source, tmp_path / "packed", on_record=interrupt_after(3))
    source.rename(moved)
    rows = (moved / "metadata.jsonl").read_text()
    (moved / "metadata.jsonl").write_text(rows.replace("cat", "pet"))
    assert "another listing" in message(pack_folder, moved, tmp_path / "packed")
    (moved / "metadata.jsonl").write_text(rows)
    assert pack_folder(moved, tmp_path / "packed").made == 1


def test_bad_records_are_listed_and_left_out(imagefolder, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(imagefolder, source)
    (source / "chelsea.png").write_bytes(b"no picture")
    (source / "rocket.png").unlink()
    folder = tmp_path / "packed"
    arguments = ["pack", str(source), str(folder), "--shard-size", "1", "--max-bad-fraction"]
    assert main([*arguments, "0.3"]) == 2
    found = capsys.readouterr().err
    assert "2 of the 4 records" in found and "rocket.png" in found
    assert len(list(folder.glob("*.array_record"))) == 3
    assert main([*arguments, "0.3"]) == 2  # those found before count too
    assert main([*arguments, "0.5"]) == 0
    output = capsys.readouterr().out
    assert "chelsea.png (metadata.jsonl line 2): " in output and "is no picture" in output
    assert "rocket.png (metadata.jsonl line 4): " in output and "no such file" in output
    assert "2 records, 3 subjects" in output and "2 bad records left out" in output
    assert [r.name.split(".")[0] for r in open_records(folder)] == ["astronaut", "coffee"]
    index = json.loads((folder / "index.json").read_text())
    assert [shard["records"] for shard in index["shards"].values()] == [1, 0, 1, 0]


def test_nothing_but_bad_records(imagefolder, tmp_path):
    shutil.copytree(imagefolder, tmp_path / "source")
    for picture in (tmp_path / "source").glob("*.png"):
        picture.unlink()
    options = {"max_bad_fraction": 1.0}
    assert "is bad" in message(pack_folder, tmp_path / "source", tmp_path / "packed", **options)


def test_more_subjects_than_training_supports_are_packed(imagefolder, tmp_path):
    pack_folder(imagefolder, tmp_path)
    faults = [read_record(record, 1)[1] for record in open_records(tmp_path)]
    assert faults == [[], [], ["2 subjects, but 1 are supported"], []]


def test_a_shard_that_reads_back_otherwise_is_not_kept(imagefolder, tmp_path, monkeypatch):
    write = pack_module.ArrayRecordWriter

    class Forgetful:
        def __init__(self, *args):
            self.writer, self.close = write(*args), lambda: self.writer.close()

        def write(self, data):
            self.writer.write(data[:-1] + b"?")

    monkeypatch.setattr(pack_module, "ArrayRecordWriter", Forgetful)
    assert "reads back otherwise" in message(pack_folder, imagefolder, tmp_path)
    assert not list(tmp_path.glob("*.array_record"))


def test_a_full_disk_is_said_and_no_shard_appears(imagefolder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pack_folder(imagefolder, tmp_path, on_record=interrupt_after(0))
    unfinished = tmp_path / f"{NAMES[0]}.unfinished"
    unfinished.unlink()
    unfinished.symlink_to("/dev/full")
    found = message(pack_folder, imagefolder, tmp_path)
    assert "cannot be written" in found and "No space left on device" in found
    assert not list(tmp_path.glob("*.array_record"))
    unfinished.unlink()
    assert pack_folder(imagefolder, tmp_path).made == 2


def test_places_that_cannot_be_packed_to(imagefolder, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is not empty and has no index.json" in message(pack_folder, imagefolder, tmp_path)
    assert "is not empty" in message(pack_folder, imagefolder, tmp_path / "file")
    assert "cannot be made" in message(pack_folder, imagefolder, tmp_path / "file" / "packed")
    found = message(pack_folder, imagefolder, "gs://bucket/packed")
    assert "gcloud storage rsync -r FOLDER gs://bucket/packed" in found
    (tmp_path / "index.json").write_text("{")
    assert "index.json is damaged" in message(open_records, tmp_path)
    (tmp_path / "index.json").write_text('{"format": "moa_jax packed pictures, version 9"}')
    assert "version 9" in message(pack_folder, imagefolder, tmp_path)


def test_pack_and_check_as_commands(ffhq, tmp_path, capsys):
    assert main(["pack", str(ffhq), str(tmp_path), "--split", "train", "--workers", "2"]) == 0
    output = capsys.readouterr().out
    assert "3 records, 4 subjects" in output and "1 shards, 1 of them made now" in output
    assert "lost: nothing" in output
    assert main(["check", str(tmp_path)]) == 0
    assert "3 records, 4 subjects: 0 faults" in capsys.readouterr().out
