"""The routing as it changes while a picture is drawn: frames for an animation."""

from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from moa_jax.figures.canvas import QUIET, Picture, overlay, to_picture
from moa_jax.figures.routing import Routing, mean_weights

SMALLEST = 384  # pixels of a frame's longer side: smaller pictures are enlarged
STRIP, LINE = 34, 4  # pixels: the strip below the picture, and its line of progress


def routing_frames(image: Picture, routing: Routing, index: int = 0) -> list[Image.Image]:
    """Show over one picture, step by step, where the personalized expert draws it.

    Args:
        routing: the personalized expert's weight in each layer.
        index: which picture of the batch `image` is.

    Returns:
        A frame per step: the grey picture under the mean over layers, with the step below.
    """
    picture = to_picture(image)
    larger = max(1, -(-SMALLEST // max(picture.size)))
    size = (picture.width * larger, picture.height * larger)
    picture = picture.resize(size, Image.LANCZOS)
    steps = len(next(iter(routing.values())))
    frames = []
    for step in range(steps):
        now = {path: layer[step : step + 1] for path, layer in routing.items()}
        frames.append(_frame(overlay(picture, mean_weights(now, index)), step + 1, steps))
    return frames


def _frame(picture: Image.Image, step: int, steps: int) -> Image.Image:
    width, height = picture.size
    frame = Image.new("RGB", (width, height + STRIP), "white")
    frame.paste(picture)
    draw = ImageDraw.Draw(frame)
    draw.rectangle((0, height, round(width * step / steps) - 1, height + LINE - 1), QUIET)
    draw.text((8, height + LINE + 6), f"step {step} of {steps}", QUIET, _font())
    return frame


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Load the font of the figures."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 14)
