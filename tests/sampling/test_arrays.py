"""Inside the network: shares by subject, attention over the picture, frames, arrays on disk."""

import numpy as np
import pytest
from PIL import Image

from moa_jax.errors import InputError
from moa_jax.figures import (
    attention_figure,
    colorize,
    layer_shares,
    overlay,
    routing_frames,
    share_figure,
    subject_regions,
    subject_shares,
)
from moa_jax.sampling.arrays import load_arrays, save_arrays

SELF = "{}.attentions.0.transformer_blocks.0.attn1"
CROSS = "{}.attentions.0.transformer_blocks.0.attn2"
SIZES = {"down_blocks.0": 16, "mid_block": 4, "up_blocks.1": 8}
STEPS, BATCH = 5, 2
GREY = Image.new("RGB", (48, 48), (128, 128, 128))


def left_and_right(size):
    """Masks of two subjects: the left and the right quarter."""
    masks = np.zeros((size, size, 2), np.float32)
    masks[:, : size // 4, 0] = 1
    masks[:, -size // 4 :, 1] = 1
    return masks


@pytest.fixture
def attention():
    """Of the second picture: each word on its quarter, faint and on a floor as real maps are."""
    maps = {}
    for stage, size in SIZES.items():
        layer = np.full((STEPS, BATCH, size, size, 2), 0.01, np.float32)
        layer[:, 1] += 0.1 * left_and_right(size)
        maps[CROSS.format(stage)] = layer
    return maps


@pytest.fixture
def routing():
    """Of the second picture: all personalized on subject 0, all prior elsewhere."""
    maps = {}
    for stage, size in SIZES.items():
        for path in (SELF.format(stage), CROSS.format(stage)):
            layer = np.full((STEPS, BATCH, size, size), 0.5, np.float32)
            layer[:, 1] = left_and_right(size)[..., 0]
            maps[path] = layer
    return maps


def test_a_region_is_where_its_word_is_attended_to_whatever_the_floor(attention):
    regions = subject_regions({key: attention[key] for key in (CROSS.format("up_blocks.1"),)}, 1)
    np.testing.assert_allclose(regions, left_and_right(8), atol=1e-6)


def test_attention_without_difference_is_everywhere(attention):
    assert (subject_regions(attention, 0) == 1).all()


def test_shares_are_those_of_the_regions(routing):
    on_man, on_woman, background = subject_shares(routing, left_and_right(16), 1)
    np.testing.assert_allclose(on_man, 1, atol=1e-6)
    np.testing.assert_allclose(on_woman, 0, atol=1e-6)
    np.testing.assert_allclose(background, 0, atol=1e-6)
    np.testing.assert_allclose(subject_shares(routing, left_and_right(16), 0), 0.5, atol=1e-6)


def test_shares_follow_the_steps_and_weigh_layers_alike(routing):
    fine, coarse = SELF.format("down_blocks.0"), SELF.format("mid_block")
    kept = {
        fine: routing[fine] * np.linspace(0, 1, STEPS)[:, None, None, None],
        coarse: 0 * routing[coarse],
    }
    on_man, *_ = subject_shares(kept, left_and_right(16), 1)
    np.testing.assert_allclose(on_man, np.linspace(0, 0.5, STEPS), atol=1e-6)


def test_from_attention_at_all_sizes_the_shares_come_out_apart(routing, attention):
    on_man, on_woman, background = subject_shares(routing, subject_regions(attention, 1), 1)
    assert (on_man > 0.85).all() and (on_woman < 0.01).all() and (background < 0.1).all()


def test_without_subjects_all_is_background_and_a_region_that_is_nowhere_has_no_share(routing):
    (background,) = subject_shares(routing, np.ones((1, 1, 0), np.float32), 1)
    np.testing.assert_allclose(background, 0.25, atol=1e-6)
    everywhere, nowhere = subject_shares(routing, np.ones((4, 4, 1), np.float32), 1)
    np.testing.assert_allclose(everywhere, 0.25, atol=1e-6)
    assert np.isnan(nowhere).all()


def test_layers_come_as_the_u_net_runs_with_their_mean(routing):
    backwards = dict(reversed(routing.items()))
    backwards[SELF.format("mid_block")][3, 1] = 1.0
    shares = layer_shares(backwards, 1)
    assert [path.split("_")[0] for path in shares] == ["down", "down", "mid", "mid", "up", "up"]
    expected = np.full(STEPS, 0.25)
    np.testing.assert_allclose(shares[CROSS.format("mid_block")], expected)
    expected[3] = 1.0
    np.testing.assert_allclose(shares[SELF.format("mid_block")], expected)


def pixels_of(figure, color):
    """How many pixels have exactly a colour, and their mean row and column."""
    rows, columns = (np.asarray(figure) == color).all(axis=-1).nonzero()
    return len(rows), rows.mean() if len(rows) else None, columns.mean() if len(rows) else None


def test_the_share_figure_shows_a_layer_at_its_place_in_the_color_of_its_share(attention):
    paths = [path.format(stage) for path in (SELF, CROSS) for stage in SIZES]
    routing = {path: np.zeros((STEPS, BATCH, 4, 4), np.float32) for path in paths}
    routing[CROSS.format("up_blocks.1")][:, 1] = 0.75
    lit = tuple(colorize(np.array([[0.75]]))[0, 0].tolist())
    dark = tuple(colorize(np.array([[0.0]]))[0, 0].tolist())
    figure = share_figure(routing, attention, 1, ["man", "woman"])
    count, row, column = pixels_of(figure, lit)
    others, others_row, others_column = pixels_of(figure, dark)
    assert 4 * count < others < 6 * count  # one layer of six
    assert row > others_row and column > others_column  # the last stage; cross-attention is right
    assert pixels_of(share_figure(routing, attention, 0, ["man", "woman"]), lit)[0] < count / 10


def test_the_curve_of_a_subject_rises_with_its_share(routing, attention):
    blue = (37, 99, 235)

    def curve(scale):
        scaled = {path: layer * np.float32(scale) for path, layer in routing.items()}
        figure = share_figure(scaled, attention, 1, ["man", "woman"])
        return pixels_of(figure.crop((0, 0, figure.width - 150, figure.height)), blue)[1]

    assert curve(0.1) > curve(0.5) > curve(0.9)  # rows count downwards


@pytest.mark.parametrize("names", [[], ["man"], ["man", "man"], ["a $^$ of sorts", "x" * 40]])
def test_the_share_figure_takes_any_names(routing, attention, names):
    assert share_figure(routing, attention, 1, names).width > 600


def test_the_attention_figure_lights_each_subject_in_its_row(attention):
    figure = attention_figure(GREY, attention, 1, ["man", "woman"], columns=3)
    flat = overlay(GREY, np.ones((2, 2), np.float32), colors="viridis").getpixel((0, 0))
    lit = (np.abs(np.asarray(figure).astype(int) - flat) <= 2).all(axis=-1)
    from skimage.measure import label, regionprops

    found = sorted(region.bbox for region in regionprops(label(lit)) if region.area > 500)
    rows = sorted({box[0] for box in found})
    assert len(found) == 2 * 4 and len(rows) == 2  # subjects x (all steps, three steps)
    man, woman = ([box[1] for box in found if box[0] == row] for row in rows)
    assert all(left < right for left, right in zip(sorted(man), sorted(woman), strict=True))


def test_attention_is_scaled_to_its_own_maximum(attention):
    faint = {path: layer * np.float32(0.1) for path, layer in attention.items()}
    figures = [attention_figure(GREY, maps, 1, ["man", "woman"]) for maps in (attention, faint)]
    difference = np.subtract(*(np.asarray(figure).astype(int) for figure in figures))
    assert np.abs(difference).max() <= 2


def test_there_is_a_frame_a_step_with_its_weights_over_the_picture(routing):
    path = SELF.format("up_blocks.1")
    layer = np.zeros((STEPS, BATCH, 8, 8), np.float32)
    layer[:, 1] = np.linspace(0, 1, STEPS)[:, None, None]
    frames = routing_frames(GREY, {path: layer}, 1)
    assert len(frames) == STEPS and len({frame.size for frame in frames}) == 1
    for frame, weight in zip(frames, np.linspace(0, 1, STEPS), strict=True):
        expected = overlay(GREY, np.full((2, 2), weight, np.float32)).getpixel((0, 0))
        np.testing.assert_allclose(frame.getpixel((100, 100)), expected, atol=1)
    strips = [np.asarray(frame)[frames[0].width :] for frame in frames]
    assert all((a != b).any() for a, b in zip(strips, strips[1:], strict=False))  # the number
    assert routing_frames(GREY, {path: layer}, 0)[-1].getpixel((100, 100)) == frames[0].getpixel(
        (100, 100)
    )


@pytest.mark.parametrize(("size", "frame"), [((64, 48), (384, 288)), ((512, 768), (512, 768))])
def test_small_pictures_become_frames_large_enough_to_read(routing, size, frame):
    width, height = routing_frames(GREY.resize(size), routing, 1)[0].size
    assert width == frame[0] and frame[1] < height < frame[1] + 50


def test_arrays_come_back_in_half_precision(tmp_path, routing, attention):
    timesteps = np.array([981, 741, 501, 261, 21])
    save_arrays(tmp_path / "inside.npz", routing, attention, timesteps)
    inside = load_arrays(tmp_path / "inside.npz")
    assert inside.routing.keys() == routing.keys() and inside.attention.keys() == attention.keys()
    np.testing.assert_array_equal(inside.timesteps, timesteps)
    for found, given in ((inside.routing, routing), (inside.attention, attention)):
        for path, layer in found.items():
            assert layer.dtype == np.float16
            np.testing.assert_allclose(layer, given[path], rtol=1e-3)
    with np.load(tmp_path / "inside.npz") as file:
        assert f"routing/{SELF.format('mid_block')}" in file and "timesteps" in file
    share_figure(inside.routing, inside.attention, 1, ["man", "woman"])  # what is stored is drawn
    assert len(routing_frames(GREY, inside.routing, 1)) == STEPS


def test_what_cannot_be_read_or_written_is_said(tmp_path, routing, attention):
    with pytest.raises(InputError, match="no such file"):
        load_arrays(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="damaged"):
        load_arrays(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(InputError, match="holds no timesteps but weights"):
        load_arrays(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"\.npz"):
        save_arrays(tmp_path / "inside.json", routing, attention, np.zeros(STEPS))
    with pytest.raises(InputError, match="cannot be written"):
        save_arrays(tmp_path / "missing" / "inside.npz", routing, attention, np.zeros(STEPS))
