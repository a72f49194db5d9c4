"""Animations: every frame at its time, in its colours, in each format."""

import builtins

import numpy as np
import pytest
from PIL import Image, ImageSequence

from moa_jax.errors import InputError
from moa_jax.figures.animation import save_animation

COLORS = [(230, 30, 40), (20, 180, 60), (30, 60, 220), (240, 220, 40)]


def frames(count=4, size=(40, 30)):
    """A bar of another colour at another place in each frame, over a gradient that stands still."""
    gradient = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0])
    still = np.repeat(gradient[..., None], 3, axis=2).astype(np.uint8)
    still[..., 2] = 90
    made = []
    for i in range(count):
        pixels = still.copy()
        pixels[:10, 8 * i : 8 * i + 8] = COLORS[i]
        made.append(Image.fromarray(pixels))
    return made


def read(path):
    """The frames of an animation, their times, and how often it repeats (0: for ever)."""
    with Image.open(path) as file:
        found = [frame.convert("RGB") for frame in ImageSequence.Iterator(file)]
        times = []
        for i in range(file.n_frames):
            file.seek(i)
            file.load()  # WebP tells a frame's time when it is decoded
            times.append(file.info["duration"])
        return found, times, file.info["loop"]


@pytest.mark.parametrize(("suffix", "near"), [(".gif", 10), (".webp", 40), (".GIF", 10)])
def test_frames_keep_their_order_time_and_colors(tmp_path, suffix, near):
    path = tmp_path / f"a{suffix}"
    save_animation(frames(), path, milliseconds=150)
    found, times, loop = read(path)
    assert len(found) == 4 and times == [150] * 4 and loop == 0
    for shown, given in zip(found, frames(), strict=True):
        difference = np.abs(np.asarray(shown).astype(int) - np.asarray(given))
        assert difference.mean() < 4
    for i, shown in enumerate(found):
        inside = np.asarray(shown)[3:7, 8 * i + 3 : 8 * i + 5].astype(int)
        assert np.abs(inside - COLORS[i]).max() < near


def test_what_stands_still_does_not_flicker(tmp_path):
    save_animation(frames(), tmp_path / "a.gif")
    still = np.stack([np.asarray(frame)[10:] for frame in read(tmp_path / "a.gif")[0]])
    assert (still == still[0]).all()


def test_a_gif_counts_in_tens_of_milliseconds(tmp_path):
    save_animation(frames(), tmp_path / "a.gif", milliseconds=37)
    assert read(tmp_path / "a.gif")[1] == [40] * 4


def test_bounce_plays_back_without_showing_an_end_twice(tmp_path):
    save_animation(frames(), tmp_path / "a.gif", bounce=True)
    found, *_ = read(tmp_path / "a.gif")
    order = [
        next(
            i
            for i in range(4)
            if np.abs(np.subtract(f.getpixel((8 * i + 4, 4)), COLORS[i])).max() < 12
        )
        for f in found
    ]
    assert order == [0, 1, 2, 3, 2, 1]
    save_animation(frames(1), tmp_path / "one.gif", bounce=True)
    assert len(read(tmp_path / "one.gif")[0]) == 1


def test_many_colors_over_many_frames_stay_near(tmp_path):
    hues = [
        Image.merge(
            "HSV",
            [
                Image.new("L", (32, 32), h),
                Image.linear_gradient("L").resize((32, 32)),
                Image.new("L", (32, 32), 230),
            ],
        ).convert("RGB")
        for h in range(0, 250, 10)
    ]
    save_animation(hues, tmp_path / "a.gif")
    found, *_ = read(tmp_path / "a.gif")
    errors = [np.abs(np.subtract(a, b, dtype=int)).mean() for a, b in zip(found, hues, strict=True)]
    assert max(errors) < 12


@pytest.mark.parametrize("size", [(40, 30), (41, 31), (65, 48)])
def test_an_mp4_has_the_frames_at_an_even_size(tmp_path, size):
    pytest.importorskip("imageio_ffmpeg")
    imageio = pytest.importorskip("imageio.v2")
    save_animation(frames(size=size), tmp_path / "a.mp4", milliseconds=100)
    with imageio.get_reader(tmp_path / "a.mp4") as video:
        meta, found = video.get_meta_data(), list(iter(video))  # its length is infinite
    assert len(found) == 4 and meta["fps"] == pytest.approx(10)
    assert meta["pix_fmt"].startswith("yuv420p")
    assert found[0].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    for shown, given in zip(found, frames(size=size), strict=True):
        expected = np.asarray(given).astype(int)
        assert np.abs(shown[: size[1], : size[0]] - expected).mean() < 12


def test_an_mp4_without_ffmpeg_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_ffmpeg(name, *args, **kwargs):
        if name.startswith("imageio"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_ffmpeg)
    with pytest.raises(InputError, match=r"pip install 'moa_jax\[video\]'"):
        save_animation(frames(), tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()


def test_what_cannot_be_animated_is_said(tmp_path):
    with pytest.raises(InputError, match=r"a\.avi.*\.gif, \.webp, \.mp4"):
        save_animation(frames(), tmp_path / "a.avi")
    with pytest.raises(InputError, match="one size, these are 20x20, 40x30"):
        save_animation([*frames(), Image.new("RGB", (20, 20))], tmp_path / "a.gif")
    with pytest.raises(InputError, match="none at all"):
        save_animation([], tmp_path / "a.gif")
    with pytest.raises(InputError, match="milliseconds=0"):
        save_animation(frames(), tmp_path / "a.gif", milliseconds=0)
    with pytest.raises(InputError, match="cannot be written"):
        save_animation(frames(), tmp_path / "missing" / "a.gif")
