"""What the builder leaves out and refuses, and what it says then."""

import errno
import os
from pathlib import Path

import pytest
import skimage.data
from PIL import Image, ImageFilter

from moa_jax.dataset import Models, Options, build, files
from moa_jax.errors import InputError
from tests.dataset.recorded import Recorded, recorded

LISTING = "metadata.jsonl"


def kinds(report):
    return {name: reason.partition(":")[0] for name, reason in report.dropped.items()}


def test_bad_pictures_are_left_out_with_their_reasons(source, tmp_path):
    astronaut = Image.open(source / "astronaut.jpg")
    (source / "broken.jpg").write_bytes(b"no picture")
    astronaut.resize((100, 100)).save(source / "small.png")
    astronaut.filter(ImageFilter.GaussianBlur(4)).save(source / "soft.png")
    astronaut.resize((500, 500)).save(source / "copy.png")
    Image.fromarray(skimage.data.chelsea()).save(source / "cat.png")
    report = build(
        source,
        tmp_path / "data",
        [recorded()],
        refuse=lambda image: "a cat" if image.size == (451, 300) else None,
    )
    assert kinds(report) == {
        "broken.jpg": "unreadable",
        "small.png": "small picture",
        "soft.png": "blurred",
        "copy.png": "copy",
        "cat.png": "filter",
    }
    assert report.dropped["cat.png"] == "filter: a cat"
    assert report.dropped["copy.png"] == "copy: looks like astronaut.jpg"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (Options(min_area=0.9), "small subject"),
        (Options(min_fill=0.99), "poor mask"),
        (Options(max_subjects=0), "too many"),
    ],
)
def test_subjects_are_left_out_by_the_options(source, tmp_path, options, kind):
    with pytest.raises(InputError, match=f"no picture is left of 1: 1 {kind}"):
        build(source, tmp_path / "data", [recorded()], options)
    assert not (tmp_path / "data" / LISTING).exists()
    assert (tmp_path / "data" / "dropped.png").exists()


def test_of_many_subjects_the_largest_are_kept(six_photographs, tmp_path):
    report = build(six_photographs, tmp_path / "data", [recorded()], Options(max_subjects=1))
    [row] = [row for row in report.rows if row["file_name"] == "images/both.webp"]
    assert [each["word"] for each in row["subjects"]] == ["woman"]
    assert report.left_out == ["too many: 'a man'"]


@pytest.mark.parametrize("names", [("source", "source/data"), ("data/source", "data")])
def test_folders_inside_one_another_are_refused(source, tmp_path, names):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="lie in one another"):
        build(tmp_path / names[0], tmp_path / names[1], [recorded()])


def test_a_folder_of_other_options_or_of_something_else_is_refused(source, tmp_path):
    build(source, tmp_path / "data", [recorded()])
    with pytest.raises(InputError, match=r"another min_side 256 \(now 300\): give the same"):
        build(source, tmp_path / "data", [recorded()], Options(min_side=300))
    network = Recorded()
    network.about = "owner/network, commit 2 (MIT)"
    with pytest.raises(InputError, match="another captioner answers written by hand"):
        build(source, tmp_path / "data", [Models(network, Recorded(), Recorded())])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="is not empty and has no build.json"):
        build(source, tmp_path / "other", [recorded()])


def test_a_full_disk_is_told_and_costs_nothing(source, tmp_path, monkeypatch):
    write, full = os.replace, []

    def replace(before, after):
        if "masks" in Path(after).parts and not full:
            full.append(after)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(after))
        write(before, after)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(
        InputError, match="No space left on device.*make room, and the same command"
    ):
        build(source, tmp_path / "data", [recorded()])
    assert len(build(source, tmp_path / "data", [recorded()]).rows) == 1


def test_a_fault_of_a_network_names_the_picture(source, tmp_path):
    class Broken(Recorded):
        def ground(self, image, caption):
            raise RuntimeError("out of memory")

    network = Broken()
    with pytest.raises(RuntimeError) as raised:
        build(source, tmp_path / "data", [Models(network, network, network)])
    assert raised.value.__notes__ == ["while working on the picture astronaut.jpg"]
