"""sample.py from the command line to files: every mode, its figures, and its record."""

import re

import numpy as np
import pytest
from PIL import Image

from moa_jax.commands import sample
from moa_jax.sampling.arrays import load_arrays
from moa_jax.sampling.record import read_record
from tests.personal import MARKED, portrait


@pytest.fixture(scope="module")
def common(tiny_folder, moa_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subjects")
    for number in range(4):
        portrait(number, (64, 64)).save(folder / f"{number}.png")
    options = ["--base", str(tiny_folder), "--moa", str(moa_folder), "--steps", "3"]
    options += ["--prompt", MARKED, "--subject", str(folder / "0.png")]
    return folder, [*options, "--subject", str(folder / "1.png")]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_pictures_with_a_look_inside_and_again_from_their_record(common, tmp_path, capsys):
    out, again = tmp_path / "out", tmp_path / "again"
    command = ["--num-images", "2", "--seed", "7", "--look", "--out", str(out)]
    command += [
        "--moa-strength",
        "up=1.5",
        "--guidance-rescale",
        "0.5",
        "--negative-prompt",
        "(snow:1.5)",
        "--delay",
        "0.4",
    ]
    assert sample.main([*common[1], *command]) == 0
    assert "wrote 2 picture(s) of 64x64 pixels" in capsys.readouterr().out
    each = ("", "-routing", "-share", "-attention")
    pictures = {f"00007-{index:02d}{kind}.png" for index in range(2) for kind in each}
    animated = {f"00007-{index:02d}-routing.gif" for index in range(2)}
    assert names(out) == pictures | animated | {"00007-grid.png", "00007.json", "00007.npz"}
    inside = load_arrays(out / "00007.npz")
    assert len(inside.routing) == 8 and len(inside.attention) == 4
    record = read_record(out / "00007-01.png")
    assert record["image_index"] == 1 and record["delay"] == 0.4
    assert record["negative_prompt"] == "(snow:1.5)" and record["plain_prompt"] is False

    assert sample.main(["--from-json", str(out / "00007-01.png"), "--out", str(again)]) == 0
    for index in range(2):
        one, two = (folder / f"00007-{index:02d}.png" for folder in (out, again))
        assert read_record(one) == read_record(two)
        np.testing.assert_array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(two)))


def test_plain_prompts_are_drawn_without_weights(tiny_folder, tmp_path, capsys):
    command = ["--base", str(tiny_folder), "--steps", "2", "--num-images", "1"]
    command += ["--prompt", "a man (born 1999:12)", "--out", str(tmp_path)]
    assert sample.main(command) == 2
    assert "the weight 12 of '(born 1999:12)' must lie between" in capsys.readouterr().err
    assert sample.main([*command, "--plain-prompt"]) == 0
    assert read_record(tmp_path / "00000.json")["plain_prompt"] is True


def test_a_photo_with_a_mask(common, tmp_path):
    folder, options = common
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(folder / "mask.png")
    command = ["--image", str(folder / "2.png"), "--mask", str(folder / "mask.png")]
    assert sample.main([*options, *command, "--num-images", "1", "--out", str(tmp_path)]) == 0
    drawn = np.asarray(Image.open(tmp_path / "00000-00.png"))
    beyond = np.s_[:, 33:]  # the mask, and its soft edge of a pixel
    np.testing.assert_array_equal(drawn[beyond], np.asarray(Image.open(folder / "2.png"))[beyond])


@pytest.mark.slow
def test_a_morph_and_a_timelapse_are_frames_and_an_animation(common, tmp_path):
    folder, options = common
    morph = ["morph", *options, "--to", str(folder / "3.png"), "--frames", "3", "--look"]
    lapse = ["timelapse", *options, "--words", "kid", "man", "--animation", "webp"]
    lapse[lapse.index(MARKED)] = MARKED.replace("man", "{word}", 1)
    for command, count, suffix in ((morph, 3, "gif"), (lapse, 2, "webp")):
        out = tmp_path / command[0]
        assert sample.main([*command, "--out", str(out)]) == 0
        frames = {f"00000-{index:02d}.png" for index in range(count)}
        assert names(out) >= frames | {"00000-frames.png", f"00000.{suffix}", "00000.json"}
        with Image.open(out / f"00000.{suffix}") as animation:
            assert animation.n_frames >= count
    assert len(load_arrays(tmp_path / "morph" / "00000.npz").attention) == 4


def test_an_edit_says_how_near_the_photo_was_found_again(common, tmp_path, capsys):
    folder, options = common
    source = ["--source-prompt", "a man in the snow", "--image", str(folder / "2.png")]
    assert sample.main(["edit", *options, *source, "--out", str(tmp_path)]) == 0
    assert "the photo drawn again from its noise: " in capsys.readouterr().out
    expected = {"00000-00.png", "00000-photo.png", "00000-reconstruction.png", "00000.json"}
    assert names(tmp_path) >= expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--moa-strength", "lots"], "--moa-strength 'lots': write"),
        (["--lora", "nowhere.safetensors:0.5"], "nowhere.safetensors"),
        (["--controlnet", "nowhere"], "nowhere"),
        (["--control", "edges.png"], "1 control.* 0 ControlNet"),
        (["--strength", "0.5"], "give image"),
        (["--batch-size", "-1"], "batch_size=-1: must be 1 or more"),
        (["--guidance-interval", "0.9", "0.1"], "needs 0 <= start < end"),
        (["--sampler", "unipc", "--eta", "0.5"], "sampler='unipc' does not take eta"),
        (["--subject", "third.png"], "2 <.image.> and 3 subject"),
    ],
)
def test_what_is_wrong_is_named(change, message, common, tmp_path, capsys):

    assert sample.main([*common[1], "--out", str(tmp_path), *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and re.search(message, error), error
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    "mode",
    [
        ["morph", "--to", "3.png"],
        ["timelapse", "--words", "kid", "man", "--prompt", MARKED.replace("man", "{word}", 1)],
        ["edit", "--image", "2.png", "--source-prompt", "a man in the snow"],
    ],
    ids=lambda mode: mode[0],
)
def test_no_mode_leaves_a_control_unread(mode, common, tmp_path, capsys):
    folder, options = common
    own = [str(folder / each) if each.endswith(".png") else each for each in mode[1:]]
    command = [mode[0], *options, *own, "--control", "edges.png", "--out", str(tmp_path)]
    assert sample.main(command) == 2
    assert "1 control(s) are given and 0 ControlNet(s) are loaded" in capsys.readouterr().err
