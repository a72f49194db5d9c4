"""The whole builder, on six six_photographs with answers written by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from moa_jax.data.__main__ import main
from moa_jax.data.images import load_mask
from moa_jax.dataset import Models, Options, build
from moa_jax.errors import InputError
from tests.dataset.recorded import WOMAN, Recorded, recorded, write_photographs

ROOT = Path(__file__).parents[2]
NETWORK = "tests.dataset.recorded:Recorded"
LISTING = "metadata.jsonl"


def rows_of(folder):
    lines = (folder / LISTING).read_text().splitlines()
    return {row["file_name"]: row for row in map(json.loads, lines)}


def kinds(report):
    return {name: reason.partition(":")[0] for name, reason in report.dropped.items()}


def is_clean(folder):
    return main(["check", str(folder), "--tokenizer", "moa_jax/toyworld/weights/base"]) == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory, six_photographs):
    folder = tmp_path_factory.mktemp("built") / "data"
    return folder, build(six_photographs, folder, [recorded()], Options(subjects="people,cat"))


def test_the_rows_say_what_the_networks_saw(built):
    rows = rows_of(built[0])
    words = {name: [each["word"] for each in row["subjects"]] for name, row in rows.items()}
    assert words == {
        "images/astronaut.jpg": ["woman"],
        "images/both.webp": ["woman", "man"],
        "images/camera.png": ["man"],
        "images/chelsea.jpg": ["cat"],
    }
    # The first caption of this picture named two men, so it got another.
    assert rows["images/camera.png"]["text"] == "A man with a camera on a field."


def test_the_masks_are_those_of_the_boxes(built):
    mask = load_mask(built[0] / "masks/astronaut.jpg.0.png")
    rows, columns = np.nonzero(mask)
    bounds = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert mask.shape == (512, 512) and np.abs(np.subtract(bounds, WOMAN)).max() <= 1
    ellipse = np.pi / 4 * (WOMAN[2] - WOMAN[0]) * (WOMAN[3] - WOMAN[1])
    assert mask.sum() == pytest.approx(ellipse, rel=0.01)


def test_what_is_dropped_has_its_reason(built):
    assert kinds(built[1]) == {"coffee.jpg": "no subject", "rocket.jpg": "ambiguous"}
    assert built[1].dropped["rocket.jpg"] == "ambiguous: 'A man' was found in 2 places"


def test_the_check_finds_no_fault(built, capsys):
    assert is_clean(built[0])
    assert "4 records, 5 subjects: 0 faults" in capsys.readouterr().out


def test_the_card_names_networks_options_and_counts(built):
    card = (built[0] / "README.md").read_text()
    for told in (
        "4 pictures with 5 subjects; 0 of the rows were made by hand",
        "| captioner | answers written by hand (no licence) |",
        "| subjects | people,cat |",
        "| no subject | 1 |",
        "| ambiguous | 1 |",
    ):
        assert told in card, told


def test_the_sheets_show_pictures_and_masks(built):
    sheet = np.asarray(Image.open(built[0] / "sheet.png").convert("RGB"), int)
    photo = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((300, 300)), int)
    tile = sheet[:300, :300]
    near = np.abs(tile - photo).sum(-1) < 30
    assert near[:290, 260:].mean() > 0.9  # beside the mask the photograph is as it was
    assert near[100:250, 60:180].mean() < 0.1  # and on it, it is coloured
    assert (built[0] / "dropped.png").exists() and not (built[0] / "pairs.png").exists()


def test_the_same_command_again_asks_no_network(built, six_photographs):
    before = (built[0] / LISTING).read_bytes()
    network = Recorded()
    models = Models(network, network, network)
    again = build(six_photographs, built[0], [models], Options(subjects="people,cat"))
    assert again.made == network.asked == 0 and (built[0] / LISTING).read_bytes() == before


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, six_photographs, built):
    """It is killed when the first masks are there; the result is that of a run left alone."""
    folder = tmp_path / "data"
    given = [
        "build",
        str(six_photographs),
        str(folder),
        "--subjects",
        "people,cat",
        "--devices",
        "cpu",
    ]
    slow = f"{NETWORK}(delay=2.0)"
    given += ["--devices", "cpu"]
    command = [*given, "--captioner", slow, "--grounder", slow, "--segmenter", slow]
    run = subprocess.Popen([sys.executable, "-m", "moa_jax.data", *command], cwd=ROOT)
    for _ in range(2400):
        if (folder / "build.log").exists() and b'["annotate"' in (
            folder / "build.log"
        ).read_bytes():
            break
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not (folder / LISTING).exists()
    assert main(["check", str(folder)]) == 2  # an unfinished folder is no data set
    network = Recorded()
    report = build(
        six_photographs, folder, [Models(network, network, network)], Options(subjects="people,cat")
    )
    assert 0 < report.made < 6
    assert (folder / LISTING).read_bytes() == (built[0] / LISTING).read_bytes()
    for name in ("astronaut.jpg.0.png", "both.webp.1.png"):
        same = [(each / "masks" / name).read_bytes() for each in (folder, built[0])]
        assert same[0] == same[1]


def test_several_devices_give_the_same(tmp_path, six_photographs, built):
    build(
        six_photographs, tmp_path / "data", [recorded(), recorded()], Options(subjects="people,cat")
    )
    assert (tmp_path / "data" / LISTING).read_bytes() == (built[0] / LISTING).read_bytes()


def test_a_deleted_picture_goes_and_a_changed_one_is_done_again(tmp_path, six_photographs):
    source, folder = tmp_path / "source", tmp_path / "data"
    write_photographs(source)
    build(source, folder, [recorded()])
    (source / "camera.png").unlink()
    (source / "astronaut.txt").write_text("An astronaut, a woman.")
    os.utime(source / "both.webp", (1, 1))
    report = build(source, folder, [recorded()])
    assert report.made == 2 and kinds(report)["astronaut.jpg"] == "no subject"
    assert list(rows_of(folder)) == ["images/both.webp"]
    assert [each.name for each in sorted((folder / "masks").iterdir())] == [
        "both.webp.0.png",
        "both.webp.1.png",
    ]


def test_a_caption_that_is_there_is_kept(source, tmp_path):
    caption = "A woman in an orange suit smiling in front of a flag."
    (source / "astronaut.txt").write_text(caption)
    network = Recorded()
    report = build(source, tmp_path / "data", [Models(network, network, network)])
    assert network.asked == 0 and report.rows[0]["text"] == caption


def test_a_row_by_hand_wins(source, tmp_path):
    mask = np.zeros((512, 512), bool)
    mask[100:200, 100:200] = True
    Image.fromarray(mask).save(source / "mine.png")
    subject = {"mask": "mine.png", "word": "pilot", "reference": ["mine.png"]}
    row = {"file_name": "astronaut.jpg", "text": "my pilot", "subjects": [subject], "me": 1}
    (source / LISTING).write_text(json.dumps(row))
    options = Options(min_side=9999, min_area=1.0)  # judge it no more than they would
    network = Recorded()
    report = build(source, tmp_path / "data", [Models(network, network, network)], options)
    assert network.asked == 0 and report.by_hand == 1
    [found] = report.rows
    assert found["text"] == "my pilot" and found["me"] == 1
    assert found["subjects"][0]["word"] == "pilot"
    assert (load_mask(tmp_path / "data" / found["subjects"][0]["mask"]) == mask).all()
    assert (tmp_path / "data" / found["subjects"][0]["reference"][0]).exists()
    assert is_clean(tmp_path / "data")


def test_a_row_by_hand_that_training_could_not_read_is_told(source, tmp_path):
    Image.new("1", (9, 9), 1).save(source / "mine.png")
    for mask, fault in (("mine.png", "9x9"), ("../astronaut.jpg", "is no file in SRC")):
        row = {"file_name": "astronaut.jpg", "text": "a man"}
        row["subjects"] = [{"mask": mask, "word": "man"}]
        (source / LISTING).write_text(json.dumps(row))
        with pytest.raises(InputError, match="1 row by hand"):
            build(source, tmp_path / "data", [recorded()])
        assert fault in (tmp_path / "data/build.log").read_text().splitlines()[-1]


def test_a_turned_photo_has_masks_as_it_is_shown(six_photographs, tmp_path):
    """A camera held upright writes the pixels as they lie, and how to turn them."""
    (tmp_path / "source").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image = Image.open(six_photographs / "both.webp")
    lying = image.transpose(Image.ROTATE_90)
    lying.save(tmp_path / "source/both.jpg", quality=95, exif=exif)
    report = build(tmp_path / "source", tmp_path / "data", [recorded()])
    assert [each["word"] for each in report.rows[0]["subjects"]] == ["woman", "man"]
    assert load_mask(tmp_path / "data/masks/both.jpg.0.png").shape == (512, 1024)
    assert is_clean(tmp_path / "data")
