"""Figures: every panel in its place, colours that follow the numbers, labels that are drawn."""

import numpy as np
import pytest
from PIL import Image

from moa_jax.figures import (
    Preview,
    colorize,
    image_grid,
    layer_group,
    mean_weights,
    overlay,
    picture_table,
    preview_figure,
    routing_figure,
)

RED, GREEN, BLUE = ((255, 0, 0), (0, 200, 0), (0, 0, 255))
DARKEST, HALF, LIGHTEST = (tuple(c.tolist()) for c in colorize(np.array([[0.0, 0.5, 1.0]]))[0])
PATH = "{}.attentions.0.transformer_blocks.0.{}"


def solid(color, size=(40, 40)):
    return Image.new("RGB", size, color)


def constant(value, steps=3, batch=2, size=4):
    return np.full((steps, batch, size, size), value, np.float32)


def boxes(figure, color):
    """Bounding boxes of the connected areas of one colour, top to bottom and left to right."""
    from skimage.measure import label, regionprops

    exact = (np.asarray(figure) == color).all(axis=-1)
    found = [region.bbox for region in regionprops(label(exact)) if region.area > 500]
    return sorted(found, key=lambda box: (box[0], box[1]))


def test_grid_places_pictures_row_by_row():
    grid = image_grid([solid(RED), solid(GREEN), solid(BLUE)], columns=2, padding=10)
    assert grid.size == (90, 90)
    assert grid.getpixel((0, 0)) == RED and grid.getpixel((50, 0)) == GREEN
    assert grid.getpixel((39, 89)) == BLUE
    assert grid.getpixel((45, 20)) == grid.getpixel((89, 89)) == (255, 255, 255)


def test_grid_centres_smaller_pictures_and_takes_arrays():
    small = np.full((20, 10, 3), BLUE, np.uint8)
    grid = image_grid([solid(RED), small], padding=0)
    assert grid.size == (80, 40)
    assert boxes(grid, BLUE) == [] and grid.getpixel((60, 20)) == BLUE
    assert grid.getpixel((54, 20)) == grid.getpixel((60, 9)) == (255, 255, 255)


def test_a_table_has_a_cell_for_each_picture_and_leaves_out_what_is_none():
    table = picture_table([[None, solid(GREEN)], [solid(RED), solid(BLUE)]], ["photo", "beach"])
    (green,), (red,), (blue,) = (boxes(table, color) for color in (GREEN, RED, BLUE))
    assert green[1] == blue[1] > red[1] and blue[0] == red[0] > green[0]
    assert {box[2] - box[0] for box in (red, green, blue)} == {128}
    empty = np.asarray(table)[green[0] : green[2], red[1] : red[3]]
    assert empty.mean() > 230 and empty.min() < 160  # a word on white
    heads = np.asarray(table)[: green[0] - 2]
    assert heads[:, red[1] : red[3]].min() < 160 and heads[:, green[1] : green[3]].min() < 160


def test_colors_are_on_a_fixed_scale():
    pixels = colorize(np.array([[0.0, 0.5, 1.0], [-3.0, np.nan, 7.0]]))
    assert tuple(pixels[0, 0]) == tuple(pixels[1, 0]) == tuple(pixels[1, 1]) == DARKEST
    assert tuple(pixels[0, 2]) == tuple(pixels[1, 2]) == LIGHTEST
    ramp = colorize(np.linspace(0, 1, 50)[None]) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(ramp[0]) > 0).all()  # brighter is always more


def test_overlay_colors_where_the_weight_is_and_keeps_the_picture_visible():
    weights = np.zeros((8, 8), np.float32)
    weights[:, 4:] = 1.0
    picture = solid((90, 90, 90), (64, 32))
    picture.paste((200, 200, 200), (0, 0, 64, 16))
    mixed = np.asarray(overlay(picture, weights)).astype(int)
    assert mixed.shape == (32, 64, 3)
    assert (mixed[:, 60] > mixed[:, 4] + 50).all()  # right is drawn by the personalized expert
    assert (mixed[2] > mixed[30]).all()  # the picture's light upper half still shows
    np.testing.assert_array_equal(overlay(picture, weights, opacity=0.0), picture)


def test_mean_weights_averages_steps_and_layers_of_one_picture():
    fine, coarse = constant(0.2, size=8), constant(0.6, size=2)
    fine[:, 1], fine[2, 0] = 1.0, 0.8  # another picture; another step
    mean = mean_weights({"a": fine, "b": coarse}, index=0)
    assert mean.shape == (8, 8)
    np.testing.assert_allclose(mean, ((0.2 + 0.2 + 0.8) / 3 + 0.6) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("path", "group"),
    [
        (PATH.format("down_blocks.1", "attn2"), ("down 1", "cross-attention")),
        (PATH.format("mid_block", "attn1"), ("mid", "self-attention")),
        (PATH.format("up_blocks.3", "attn1") + ".router", ("up 3", "self-attention")),
    ],
)
def test_layer_group_reads_stage_and_kind(path, group):
    assert layer_group(path) == group


def test_layer_group_refuses_other_paths():
    with pytest.raises(ValueError, match="down_blocks.1.resnets.0"):
        layer_group("down_blocks.1.resnets.0")


def test_routing_panels_stand_by_stage_kind_and_step():
    # One panel of full weight among panels of none: up 0, cross-attention, last step.
    routing = {
        PATH.format(stage, kind): constant(0.0)
        for stage in ("up_blocks.0", "mid_block", "down_blocks.0")
        for kind in ("attn1", "attn2")
    }
    routing[PATH.format("up_blocks.0", "attn2")][2, 1] = 1.0
    figure = routing_figure(solid((128, 128, 128)), routing, index=1)
    (lit,) = boxes(figure, LIGHTEST)
    dark = boxes(figure, DARKEST)
    assert len(dark) == 3 * 3 * 2 - 1  # stages x steps x kinds, but one
    tops, lefts = ({box[axis] for box in dark} for axis in (0, 1))
    assert len(tops) == 3 and len(lefts) == 6
    assert lit[0] == max(tops)  # up is the lowest row
    assert lit[1] == max(lefts)  # cross-attention's last step is rightmost
    assert lit[2] - lit[0] == pytest.approx(lit[3] - lit[1], abs=1)
    # The other picture of the batch has no such panel.
    assert boxes(routing_figure(solid(RED), routing, index=0), LIGHTEST) == []


def test_routing_figure_averages_the_layers_of_a_stage_and_spans_the_steps():
    weights = [constant(value, steps=50) for value in (0.0, 1.0)]
    paths = [f"mid_block.attentions.{i}.transformer_blocks.0.attn2" for i in (0, 1)]
    figure = routing_figure(solid(RED), dict(zip(paths, weights, strict=True)), columns=4)
    assert len(boxes(figure, HALF)) == 4 and boxes(figure, LIGHTEST) == []


def test_routing_panels_are_sharp():
    weights = constant(0.0, steps=1, size=2)
    weights[..., 1] = 1.0
    figure = routing_figure(solid(RED), {PATH.format("mid_block", "attn1"): weights})
    (dark,), (lit,) = boxes(figure, DARKEST), boxes(figure, LIGHTEST)
    assert abs(dark[3] - lit[1]) <= 1  # nothing in between


@pytest.mark.parametrize("size", [(96, 40), (40, 96)])
def test_routing_panels_have_the_pictures_proportions(size):
    routing = {PATH.format("mid_block", "attn1"): constant(1.0)}
    found = boxes(routing_figure(solid(RED, size), routing), LIGHTEST)
    assert found
    for box in found:
        ratio = (box[3] - box[1]) / (box[2] - box[0])
        assert ratio == pytest.approx(size[0] / size[1], rel=0.02)


def test_preview_rows_hold_target_subjects_generated_and_map():
    none, full = np.zeros((4, 4)), np.ones((4, 4))
    first = Preview(solid(RED), [solid(BLUE)] * 3, solid(GREEN), none, "a man in the snow")
    second = Preview(solid(GREEN), [], solid(RED), full)
    figure = preview_figure([first, second], size=100)
    (red, red_below), (green, green_below) = boxes(figure, RED), boxes(figure, GREEN)
    assert red[0] == green[0] < red_below[0] == green_below[0]
    assert red[1] == green_below[1] < green[1] == red_below[1]
    blue = boxes(figure, BLUE)
    assert len(blue) == 3  # subjects share one panel between target and generated
    assert all(red[3] < box[1] and box[3] < green[1] and box[2] <= red[2] for box in blue)
    pixels = np.asarray(figure).astype(int)
    column = green[3] + 10 + 50  # the middle of the fourth panel
    assert pixels[red_below[0] + 50, column].sum() > pixels[red[0] + 50, column].sum() + 200


def test_captions_and_titles_are_drawn():
    def row(caption):
        return Preview(solid(RED), [], solid(RED), np.zeros((4, 4)), caption)

    plain, told = preview_figure([row("")]), preview_figure([row("a kid on a beach")])
    assert told.height > plain.height and told.width == plain.width
    assert preview_figure([row("")], title="step 100").height > plain.height
    # However long a caption is, it stays on its line; a dollar is a dollar, not mathematics.
    assert preview_figure([row("a kid " * 500)]).size == told.size
    assert preview_figure([row("$^$")]).size == told.size
