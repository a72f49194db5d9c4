import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from moa_jax.backbone.tokenizer import write_tokenizer
from moa_jax.data.__main__ import main
from moa_jax.data.check import check_records
from moa_jax.data.records import open_records
from tests.data.shapes import shapes

__all__ = ["shapes"]  # a fixture


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder / "tokenizer")
    return str(folder)


@pytest.mark.parametrize("layout", ["imagefolder", "ffhq"])
def test_a_clean_data_set(request, layout, model, capsys):
    path = str(request.getfixturevalue(layout))
    for named in (["--base", model], ["--base", "a.safetensors", "--tokenizer", model]):
        assert main(["check", path, *named]) == 0
        assert capsys.readouterr().out == "4 records, 4 subjects: 0 faults in 0 records\n"
    assert main(["check", path]) == 0
    assert "not checked, for want of --base" in capsys.readouterr().out


def test_every_fault_of_an_imagefolder_in_one_run(
    imagefolder, tmp_path, save_rows, model, capsys, monkeypatch
):
    monkeypatch.setattr("moa_jax.data.images.MAX_PIXELS", 40_000)  # the astronaut has 16384
    shutil.copytree(imagefolder, tmp_path, dirs_exist_ok=True)
    Image.new("L", (10, 10), 255).save(tmp_path / "masks" / "small.png")
    Image.new("L", (113, 75)).save(tmp_path / "masks" / "black.png")
    Image.new("1", (300, 200)).save(tmp_path / "huge.png")
    (tmp_path / "text.png").write_text("no")

    def row(file_name="chelsea.png", text="photo of a cat", **subject):
        subject = {"mask": "masks/chelsea_cat.png", "word": "cat"} | subject
        return {"file_name": file_name, "text": text, "subjects": [subject]}

    cases = [
        (row(), None),
        (row(file_name="[none].png"), "[none].png: no such file"),
        (row(file_name="text.png"), "is no picture"),
        (row(file_name="huge.png"), "it has 300x200 pixels"),
        (row(mask="none.png"), "none.png: no such file"),
        (row(mask="masks/small.png"), "is 10x10 pixels, but the picture is 113x75"),
        (row(mask="masks/black.png"), "is empty"),
        (row(word="dog"), "has no word 'dog'"),
        (row(text="the " * 90 + "cat"), "is token 91 of the caption, but 75 fit"),
        (row() | {"subjects": row()["subjects"] * 5}, "5 subjects, but 4 are supported"),
        ({"file_name": "chelsea.png"}, "no 'text'"),
    ]
    save_rows(tmp_path, [case for case, _ in cases])
    assert main(["check", str(tmp_path), "--base", model]) == 1
    lines = capsys.readouterr().out.splitlines()
    for number, (_, fault) in enumerate(cases, start=1):
        found = [line for line in lines if f"line {number})" in line or f"line {number}:" in line]
        assert bool(found) == (fault is not None)
        assert fault is None or any(fault in line for line in found), (fault, found)
    assert lines[-1].endswith("faults in 10 records")
    assert len(lines) == 1 + int(lines[-1].split(": ")[1].split()[0])


def test_every_fault_of_the_ffhq_layout_in_one_run(ffhq, tmp_path, capsys):
    shutil.copytree(ffhq, tmp_path, dirs_exist_ok=True)
    ids = (tmp_path / "image_ids.txt").read_text().split()
    stems = [tmp_path / id[:5] / id for id in ids]
    stems[0].with_suffix(".jpg").unlink()
    stems[1].with_suffix(".npy").unlink()
    info = json.loads(stems[2].with_suffix(".json").read_text())
    info["segments"][0]["id"], info["segments"][1]["end"] = 9, 1000
    stems[2].with_suffix(".json").write_text(json.dumps(info))
    stems[3].with_suffix(".json").unlink()
    np.save(stems[3].with_suffix(".npy"), np.zeros(3))
    assert main(["check", str(tmp_path)]) == 1
    *faults, _, summary = capsys.readouterr().out.splitlines()
    expected = [
        (ids[0], f"{stems[0]}.jpg: no such file"),
        (ids[1], f"{stems[1]}.npy: no such file"),
        (ids[2], "end 1000 is outside the caption"),
        (ids[2], "segment id 9 (subject 1): is empty, no pixel belongs"),
        (ids[3], f"{stems[3]}.json: no such file"),
        (ids[3], f"{stems[3]}.npy: is not an array of rows and columns"),
    ]
    for line, (id, fault) in zip(faults, expected, strict=True):
        assert line.startswith(f"{id}: ") and fault in line
    assert summary == "4 records, 4 subjects: 6 faults in 4 records"


def test_a_label_that_nobody_has(ffhq, capsys):
    assert main(["check", str(ffhq), "--subject-label", "giraffe"]) == 1
    assert "no picture has a subject (try --subject-label none)" in capsys.readouterr().out
    assert main(["check", str(ffhq), "--subject-label", "none"]) == 0


def test_progress_comes_once_a_record_and_threads_change_nothing(imagefolder):
    calls = []
    records = open_records(imagefolder)
    one = check_records(records, 1, workers=1, on_record=lambda: calls.append(1))
    assert len(calls) == 4
    assert check_records(records, 1, workers=3) == one
    assert list(one.faults) == ["coffee.png (metadata.jsonl line 3)"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["check", "nowhere"], "'nowhere' is not a folder"),
        (["check", "{imagefolder}", "--base", "nowhere"], "'nowhere'"),
        (
            ["check", "{imagefolder}", "--layout", "coco"],
            "data.layout='coco': must be one of auto, imagefolder",
        ),
        (
            ["check", "{imagefolder}", "--workers", "0"],
            "--workers: '0' is not a whole number above 0",
        ),
        (["check"], "required: DIR"),
        ([], "required: build"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments, part, imagefolder, capsys):
    arguments = [argument.format(imagefolder=imagefolder) for argument in arguments]
    try:
        code = main(arguments)
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert part in captured.err


def test_as_a_command_without_jax(imagefolder):
    program = (
        "import runpy, sys; sys.modules['jax'] = None; sys.modules['torch'] = None;"
        f"sys.argv = ['moa_jax.data', 'check', {str(imagefolder)!r}];"
        "runpy.run_module('moa_jax.data', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 faults" in done.stdout


def test_buckets_are_counted_and_what_fits_none_is_a_fault(shapes, capsys):
    options = ["--buckets", "--resolution", "64", "--side-unit", "16"]
    assert main(["check", str(shapes), *options]) == 1
    fault, unchecked, buckets, total = capsys.readouterr().out.splitlines()
    assert fault.startswith("15.png (metadata.jsonl line 16): 200x50 pixels: to the nearest size")
    assert "not checked, for want of --base" in unchecked
    assert buckets == (
        "15 pictures in buckets: 96x48 5, 64x64 6, 48x80 4; left out: 1, for the reasons above"
    )
    assert total == "16 records, 16 subjects: 1 faults in 1 records"
    assert main(["check", str(shapes), *options, "--max-crop", "0.5"]) == 0
    assert "16 pictures in buckets: 96x48 6," in capsys.readouterr().out
    assert main(["check", str(shapes)]) == 0  # squares crop whatever there is
    assert "buckets" not in capsys.readouterr().out
    assert main(["check", str(shapes), *options, "--max-crop", "2"]) == 2
    assert "data.max_crop=2.0: must be from 0 to 1" in capsys.readouterr().err
    assert main(["check", str(shapes), *options[:3], "--side-unit", "24"]) == 2
    assert "resolution 64: the sides of buckets" in capsys.readouterr().err
