"""What is written of a result, and what of it can be read again."""

import numpy as np
import pytest
from PIL import Image

from moa_jax import Result, save_result
from moa_jax.errors import InputError
from moa_jax.sampling.arrays import load_arrays
from moa_jax.sampling.record import read_record

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
ROUTING = {f"{BLOCK}.attn1": np.full((3, 2, 4, 4), 0.25, np.float16)}
WATCHED = {f"{BLOCK}.attn2": np.full((3, 2, 4, 4, 1), 0.5, np.float16)}


def result(routing, attention):
    images = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    return Result(images, routing, np.array([900, 500, 100]), attention)


def read(file):
    with Image.open(file) as image:
        image.load()
        return image


def test_pictures_without_a_record_hold_none(tmp_path):
    save_result(result({}, {}), tmp_path, "two")
    assert {file.name for file in tmp_path.iterdir()} == {
        "two-00.png",
        "two-01.png",
        "two-grid.png",
    }
    assert read(tmp_path / "two-01.png").getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(InputError, match="no record"):
        read_record(tmp_path / "two-00.png")


def test_all_that_was_seen_is_written(tmp_path):
    record = {"prompt": "a man", "seed": 4}
    save_result(result(ROUTING, WATCHED), tmp_path, "x", record, subjects=["him"], look=True)
    kinds = ("routing.png", "routing.gif", "share.png", "attention.png")
    figures = {f"x-0{index}-{kind}" for index in (0, 1) for kind in kinds}
    others = {"x-00.png", "x-01.png", "x-grid.png", "x.npz", "x.json"}
    assert {file.name for file in tmp_path.iterdir()} == figures | others
    assert read_record(tmp_path / "x-01.png")["image_index"] == 1
    assert read_record(tmp_path / "x.json")["prompt"] == "a man"
    np.testing.assert_array_equal(load_arrays(tmp_path / "x.npz").timesteps, [900, 500, 100])


def test_frames_are_a_strip_and_an_animation(tmp_path):
    save_result(result(ROUTING, {}), tmp_path, "x", animation="gif")
    assert read(tmp_path / "x-frames.png").width > 2 * 32
    with Image.open(tmp_path / "x.gif") as moving:
        assert moving.n_frames == 2
    assert not (tmp_path / "x-grid.png").exists()
